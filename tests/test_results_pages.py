"""The tables of the result pages are what run folders hold, and nobody types one."""

import re

import pandas as pd
import pytest

from experiments import results_pages
from ppp_jax.errors import InputError
from tests import ROOT, forks

RESULTS = ROOT / "docs" / "results"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(RESULTS.glob("*.md"))}
COMMAND = "python -m experiments.width --workdir=runs/wide"
PAGE = f"""# How wide?

```sh
{COMMAND}
```

<!-- table: wide/study/widths.csv
where: latents == 'pre'
rows: activation = {{activation}}
columns: C4 = {{c4:.2}} ({{z:.1}}){{q:*}}
across: {{units}}
-->
something old
<!-- end -->

Prose stays.
"""
ROWS = [
    {"activation": "tanh", "units": 4, "latents": "pre", "c4": -0.123, "z": -4.56, "q": 0.01},
    {"activation": "tanh", "units": 8, "latents": "pre", "c4": 0.004, "z": 0.04, "q": 0.9},
    {"activation": "tanh", "units": 8, "latents": "post", "c4": 0.5, "z": 9.0, "q": 0.01},
    {"activation": "relu", "units": 4, "latents": "pre", "c4": None, "z": None, "q": None},
]
TABLE = """\
| activation | 4              | 8          |
| ---------- | -------------- | ---------- |
| tanh       | −0.12 (−4.6)*  | 0.00 (0.0) |
| relu       |                |            |"""


@pytest.fixture
def runs(tmp_path):
    """A folder of runs with one study, as its command leaves it."""
    study = tmp_path / "runs" / "wide" / "study"
    study.mkdir(parents=True)
    pd.DataFrame(ROWS).to_csv(study / "widths.csv", index=False)
    told = f"{COMMAND}\n2026-01-02, ppp_jax 9.8, jax 7.6\nseeds: [0]"
    (study / "index.html").write_text(f"<h2>This run</h2><pre>{told}</pre>")
    return tmp_path / "runs"


@pytest.fixture
def page(tmp_path):
    """A page with one table, which is out of date."""
    (tmp_path / "pages").mkdir()
    path = tmp_path / "pages" / "wide.md"
    path.write_text(PAGE)
    return path


def generate(runs, page, *more):
    return forks.run("experiments.results_pages", f"--runs={runs}", f"--pages={page.parent}", *more)


def refusal(page, runs, *edits):
    """Returns the one line with which an edited page is refused."""
    text = PAGE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    page.write_text(text)
    with pytest.raises(InputError) as caught:
        results_pages.fill(page, runs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_page_is_filled_once_and_then_stays(runs, page):
    assert generate(runs, page, "--check").returncode == 1
    assert page.read_text() == PAGE
    done = generate(runs, page)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in TABLE.splitlines():
        shown = " ".join(line.split())
        assert shown in lines or "---" in shown
    assert f"*Made by `{COMMAND}` with ppp_jax 9.8, jax 7.6.*" in text
    assert "something old" not in text
    assert text.startswith(PAGE[: PAGE.index("something old")])
    assert text.endswith("Prose stays.\n")
    assert results_pages.fill(page, runs) == text
    assert generate(runs, page, "--check").returncode == 0
    assert [path.name for path in page.parent.iterdir()] == [page.name]


def test_check_names_the_page_in_one_line(runs, page):
    done = generate(runs, page, "--check")
    assert done.stderr.count("\n") == 1
    assert "wide.md" in done.stderr


def test_a_missing_run_folder_is_named_with_its_page_and_command(page, tmp_path):
    done = generate(tmp_path, page)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    for part in (str(tmp_path / "wide"), str(page), f"`{COMMAND}`"):
        assert part in done.stderr
    assert page.read_text() == PAGE


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ([("{c4:.2}", "{C4:.2}")], "there is no column C4"),
        ([("{c4:.2}", "{c4:round}")], "there is no format round"),
        ([("latents == 'pre'", "kind == 'pre'")], "kind"),
        ([("latents == 'pre'", "units == 5")], "no row has units == 5"),
        ([("where: latents == 'pre'\n", "")], "2 rows fall into one cell"),
        ([("across: ", "over: ")], "is no line of where, sort, rows, columns, across"),
        ([("rows: activation = {activation}\n", "")], "say rows and columns"),
        ([("<!-- end -->", "")], "has a block without an end"),
        ([(COMMAND, "python -m experiments.depth")], "states no command that makes runs/wide"),
        ([(COMMAND, f"{COMMAND} --seeds=0:3")], "but it was made by"),
        ([("widths.csv", "trends.csv")], "which is missing; make it by"),
    ],
)
def test_what_a_page_cannot_ask_is_refused_in_one_line(edits, words, runs, page):
    assert words in refusal(page, runs, *edits)


def test_rows_are_counted_and_ranked_and_printed_tables_are_read(runs, page):
    (runs / "printed.md").write_text("share\n\n| a | b |\n| --- | --- |\n| x | 5% |\n| y | 6% |\n")
    page.write_text(
        "```sh\npython -m experiments.certify > runs/printed.md\n"
        "python -m experiments.width \\\n    --workdir=runs/wide\n```\n"
        "<!-- table: printed.md#1\nrows: a = {a}\ncolumns: share = {b}\n-->\n<!-- end -->\n"
        "<!-- table: wide/study/widths.csv\nsort: units, z\nrows: units = {units}\n"
        "columns: tests = # q <= 0.05\n-->\n<!-- end -->\n"
    )
    text = results_pages.fill(page, runs)
    assert re.search(r"^\| x +\| 5% +\|$", text, re.M)
    assert re.search(r"^\| 4 +\| 1 of 2 +\|\n\| 8 +\| 1 of 2 +\|$", text, re.M)
    assert "*Made by `python -m experiments.certify > runs/printed.md`.*" in text
    assert f"*Made by `{COMMAND}` with" in text


def test_a_run_folder_without_a_study_has_the_versions_of_its_manifest(tmp_path):
    (tmp_path / "manifest.json").write_text('{"ppp_jax": "1.0", "packages": {"jax": "2.0"}}')
    assert results_pages.made(tmp_path) == ("", "ppp_jax 1.0, jax 2.0")


@pytest.mark.parametrize("name", PAGES)
def test_a_result_page_has_generated_tables_alone(name):
    rest = results_pages.BLOCK.sub("", PAGES[name])
    assert "<!-- " not in rest
    if name != "README.md":  # which lists the pages
        assert not re.search(r"^\|", rest, re.M)


@pytest.mark.parametrize("name", PAGES)
def test_a_result_page_states_the_commands_of_its_tables(name, tmp_path):
    stated = results_pages.commands(PAGES[name])
    for found in results_pages.BLOCK.finditer(PAGES[name]):
        spec = results_pages.parse(tmp_path, found)
        assert spec.folder in stated, spec.file
        assert f"*Made by `{stated[spec.folder]}`" in found.group(), spec.file
        assert re.search(r"^\| ", found.group(), re.M), spec.file


def test_pages_are_many_and_have_tables():
    tables = {name: len(results_pages.blocks(text)) for name, text in PAGES.items()}
    assert sum(tables.values()) > 20
    assert {name for name, count in tables.items() if not count} == {"README.md", "gallery.md"}
