"""The documents' Python runs as written, their commands and links exist, no result stands twice."""

import contextlib
import functools
import importlib
import importlib.util
import io
import itertools
import re
import runpy
import shlex
import sys

import pytest

import ppp_jax
import ppp_jax.analysis as pa
from ppp_jax.analysis.statistics import registry
from ppp_jax.cli import experiment
from ppp_jax.data import datasets
from ppp_jax.networks import activations, architectures, functional, optimizers
from tests import ROOT

pytestmark = pytest.mark.usefixtures("quick_compilation")

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = [*PAGES, ROOT / "BUILD_NOTES.md", ROOT / "CHANGELOG.md"]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in DOCUMENTS}
PAGE_TEXTS = {name: TEXTS[name] for name in (str(path.relative_to(ROOT)) for path in PAGES)}
SOURCES = [path for room in ("ppp_jax", "tests", "experiments")
           for path in sorted((ROOT / room).rglob("*.py"))]  # fmt: skip
MOST_LINES = {"README.md": 150, "BUILD_NOTES.md": 300}
# Commands of others, with flags of their own.
OTHERS = {"pip", ".venv/bin/pip", "python3", "gcloud"}


def blocks(text, language):
    """Returns the contents of a document's fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)


EXAMPLES = {f"{name}-{number}": example for name, text in PAGE_TEXTS.items()
            for number, example in enumerate(blocks(text, "python"))}  # fmt: skip


REGISTRIES = (activations.ACTIVATIONS, architectures.ARCHITECTURES, datasets.DATASETS,
              functional.INITIALIZERS, optimizers.OPTIMIZERS, registry.STATISTICS,
              experiment.EXPERIMENTS)  # fmt: skip


@pytest.fixture
def registries():
    """Takes out again what an example adds to a registry."""
    before = [dict(table) for table in REGISTRIES]
    yield
    for table, entries in zip(REGISTRIES, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("name", EXAMPLES)
def test_python_example_runs_as_written(name, tmp_path, monkeypatch):
    example = EXAMPLES[name]
    if "import torch" in example:
        pytest.importorskip("torch", reason="the bench extra has it")
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    for made in re.findall(r'"([a-z]+\.(?:png|gif|npz))"', example):
        assert (tmp_path / made).stat().st_size > 0


def test_every_kind_of_example_is_among_them():
    readme = [example for name, example in EXAMPLES.items() if name.startswith("README")]
    assert len(readme) == 3
    assert len(EXAMPLES) > 6
    assert "plot_srm" in readme[0]  # tests/fresh_install.sh runs the first


def commands():
    """Returns (document, words) of every command in a block of shell."""
    found = []
    for name, text in TEXTS.items():
        for block in blocks(text, "sh"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(name, shlex.split(part)) for line in lines for part in line.split(" && ")
                      if "gcloud" not in block]  # fmt: skip
    return found


@functools.cache
def flags_of(module):
    """Returns the flags that a main's help names."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", [module, "--help"])
        patch.delitem(sys.modules, module, raising=False)  # another test may have imported it
        with pytest.raises(SystemExit) as left:  # here: a process each would import all anew
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert not left.value.code, module
    return set(re.findall(r"^  --(?:\[no\])?([a-z_]+)", said.getvalue(), re.M))


def test_every_command_names_a_module_and_flags_that_exist():
    found = commands()
    assert len(found) > 40
    for document, words in found:
        if "-m" not in words or words[0] in OTHERS:
            assert words[0] in OTHERS or (ROOT / words[0]).is_file(), (document, words)
            continue
        assert words[0] in ("python", ".venv/bin/python"), (document, words)
        module, *rest = words[words.index("-m") + 1 :]
        assert importlib.util.find_spec(module), (document, module)
        named = {re.match("--([a-z_]+)", word)[1] for word in rest if word.startswith("--")}
        assert not named or named <= flags_of(module), (document, module)


def test_every_flag_named_anywhere_exists():
    known = {"worker", "command", "zone", "version", "help"}  # gcloud's, absl's
    known |= {"cluster", "workload", "logdir"}  # of xpk and TensorBoard
    for main in ("ablation", "analyze", "certify", "pretrained", "results_pages",
                 "torch_transformer", "benchmarks.dadapy_peaks",
                 "benchmarks.import_time"):  # fmt: skip
        known |= flags_of(f"experiments.{main}")
    for name, text in PAGE_TEXTS.items():
        assert set(re.findall(r"--([a-z_]+)[=`, ]", text)) <= known, name


def slugs(text):
    """Returns the anchors that GitHub makes of a document's headings."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", TEXTS)
def test_every_linked_file_and_section_exists(name):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", TEXTS[name]):
        file, _, section = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), target
        assert not section or section in slugs(path.read_text(encoding="utf-8")), target


def test_every_page_is_linked_from_the_index():
    linked = set(re.findall(r"\]\(([^)#]+)\)", TEXTS["docs/README.md"]))
    results = re.findall(r"\]\(([^)#]+)\)", TEXTS["docs/results/README.md"])
    linked |= {f"results/{target}" for target in results}
    for name in PAGE_TEXTS:
        if name not in ("README.md", "docs/README.md", "docs/index.md"):  # the last is the site's
            assert name.removeprefix("docs/") in linked, name


def test_the_site_has_every_page_and_every_public_name():
    index, reference = (TEXTS[f"docs/{name}.md"] for name in ("index", "api/index"))
    entries = set(re.findall(r"^([a-z_]+(?:/[A-Za-z_*]+)?)$", index, re.M))
    for name in PAGE_TEXTS:
        page = name.removeprefix("docs/").removesuffix(".md")
        if name not in ("README.md", "docs/README.md", "docs/index.md"):
            assert page in entries or f"{page.partition('/')[0]}/*" in entries, page
    listed = re.findall(r"^   ([A-Za-z]\w*)$", reference, re.M)
    public = [name for name in ppp_jax.__all__ if name != "analysis"]
    assert sorted(listed) == sorted([*pa.__all__, *public])
    # Beside them stand the entries that registers take, and errors, with their modules.
    for module, name in re.findall(r"^   ([a-z_.]+)\.([A-Z]\w*)$", reference, re.M):
        assert hasattr(importlib.import_module(f"ppp_jax.{module}"), name), name


def test_sections_of_the_method_that_the_code_names_exist():
    numbers = {int(k) for k in re.findall(r"^## (\d+)\. ", TEXTS["docs/method.md"], re.M)}
    assert len(numbers) > 10
    named = set()
    for path in SOURCES:
        for listed in re.findall(r"docs/method\.md ((?:§?\d+(?:–|, (?=§))?|§)+)", path.read_text()):
            named |= {int(k) for k in re.findall(r"\d+", listed)}
    assert len(named) > 5
    assert named <= numbers


def results(text):
    """Returns the rows of a document's tables that hold two numbers with decimals."""
    return {row for row in re.findall(r"^\|.*\|$", text, re.M)
            if len(re.findall(r"\d\.\d", row)) > 1}  # fmt: skip


def intervals(text):
    """Returns numbers with their intervals, such as 0.10 [0.05, 0.15]."""
    number = r"[−+]?\d\.\d+"
    found = re.findall(rf"{number}\s\[{number},\s{number}\]", text)
    return {" ".join(one.split()) for one in found}


def test_no_row_of_results_stands_in_two_places():
    found = {name: results(text) for name, text in TEXTS.items()}
    assert sum(map(len, found.values())) > 100
    for (first, one), (second, other) in itertools.combinations(found.items(), 2):
        assert not one & other, (first, second)


def test_intervals_stand_among_the_results_alone():
    """Two experiments may find the same one by chance."""
    assert sum(len(intervals(text)) for text in TEXTS.values()) > 100
    for name, text in TEXTS.items():
        assert name.startswith("docs/results/") or not intervals(text), name


@pytest.mark.parametrize("name", MOST_LINES)
def test_entrance_and_notes_are_short(name):
    assert len(TEXTS[name].splitlines()) <= MOST_LINES[name]


@pytest.mark.parametrize("part", ['pip install --quiet -e ".[test]"', "-m pytest"])
def test_ci_runs_the_test_command(part):
    ci = (ROOT / ".ci" / "run").read_text()
    assert part in ci
    assert part.replace("--quiet ", "") in TEXTS["README.md"]


def test_the_page_of_statistics_is_the_registry():
    assert registry.reference() in (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
