"""Names from a stranger's run folder are text and nothing else, wherever they go."""

import csv
import html.parser
import json
import re
import shutil
import urllib.parse

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure

from ppp_jax.analysis import plot_curves, ppp, texts, write_report
from ppp_jax.analysis.plots import evidence, strips
from ppp_jax.analysis.report.evidence import certificate_block
from ppp_jax.cli import experiment, study
from ppp_jax.errors import printable
from ppp_jax.files.integrity import sealed
from ppp_jax.grid import Grid
from ppp_jax.sweep import sweep

pytestmark = pytest.mark.usefixtures("quick_compilation")

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
FORMULA = '=HYPERLINK("http://x";"y")'
BROKEN = r"$\frac{$ \notacommand $x^$"
TERMINAL = "\x1b]0;owned\x07\x1b[31m\u202e"
PATH = "../../../" + "long" * 100
TINY = Grid(activations=["tanh", "relu"], widths=[6], latent_widths=[3], optimizers=["sgd"],
            seeds=[0, 1], epochs=1, probe_samples=30)  # fmt: skip


SCRIPTS = ["(() => {"]  # how each script of our own pages begins
ATTRIBUTES = {"class", "alt", "src", "lang", "charset", "open", "name", "content", "id", "href"}
ATTRIBUTES |= {"role", "tabindex", "scope", "width", "height", "loading", "decoding"}
ATTRIBUTES |= {"aria-label", "aria-labelledby"}


class Tags(html.parser.HTMLParser):
    """Collects the scripts of a page, its attributes, and where its links and pictures lead."""

    def __init__(self, text):  # noqa: D107
        super().__init__()
        self.scripts, self.attributes, self.links = [], set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes |= {name for name, _ in attrs}
        if tag == "script":
            assert not attrs
        for name, value in attrs:
            if name == "href":
                self.links.add(value)
            if name == "src":
                assert re.match("data:image/(png|webp);base64,", value)

    def handle_data(self, data):
        if self.lasttag == "script" and data.strip():
            self.scripts.append(data.strip())


def assert_harmless(page):
    text = page.read_text(encoding="utf-8")
    found = Tags(text)
    assert [script[: len(SCRIPTS[0])] for script in found.scripts] == SCRIPTS
    assert text.count("<script") == len(SCRIPTS)
    assert found.attributes <= ATTRIBUTES
    for link in found.links:  # to a place on this page, or to a file beside it
        assert (
            f'id="{link[1:]}"' in text
            or f"id={link[1:]}>" in text
            or (
                ":" not in link.partition("_")[0]
                and (page.parent / urllib.parse.unquote(link)).parent == page.parent
                and (page.parent / urllib.parse.unquote(link)).is_file()
            )
        )
    assert not set(TERMINAL) & set(text) - set("]0;owned[31m")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The report of a folder whose every name was chosen by a stranger."""
    workdir = sweep.train(TINY, tmp_path_factory.mktemp("h") / "run", progress=False)
    store = workdir / "latents.zarr"
    tree = xr.open_datatree(store, engine="zarr").load()
    tree = xr.DataTree.from_dict({
        path: node.to_dataset(inherit=False) if path == "/" else
        node.to_dataset(inherit=False).assign_coords(
            activation=[FORMULA + BROKEN, SCRIPT + TERMINAL], optimizer=[PATH + IMAGE])
        .assign_attrs(architecture=IMAGE + "/" + TERMINAL)
        for path, node in tree.subtree_with_keys
        for path in ["/" if path == "." else path]
    })  # fmt: skip
    manifest = json.loads(tree.attrs["manifest"])
    manifest["created"] = IMAGE + SCRIPT + TERMINAL
    manifest["config"]["data"] = SCRIPT
    manifest[SCRIPT] = IMAGE
    tree.attrs["manifest"] = json.dumps(manifest)
    del tree.attrs["checksums"]  # as of a store that never had a ledger
    shutil.rmtree(store)
    tree.to_zarr(store, zarr_format=2)
    rows = {SCRIPT: {IMAGE: 0.5, TERMINAL: SCRIPT}, FORMULA: {IMAGE: True, TERMINAL: 1}}
    (workdir / "certificates.json").write_text(json.dumps(sealed({SCRIPT: rows})))
    return write_report(workdir, rotations=19, progress=False)


def test_a_strangers_names_are_text_on_the_page(hostile):
    assert_harmless(hostile)
    text = hostile.read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "onerror=alert(1)&gt;" in text


def test_no_cell_of_a_table_is_a_formula_and_no_name_leads_out(hostile):
    folder = hostile.parent
    assert sorted(path.name for path in folder.parent.iterdir() if "report" in path.name) == [
        "report"
    ]
    tables = sorted(folder.glob("*.csv"))
    assert len(tables) >= 4
    for path in tables:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                for text in row:
                    assert text[:1] not in set("=@\t\r")
                    assert printable(text) == text
    for path in folder.iterdir():
        assert len(path.name.encode()) <= 255
        assert printable(path.name) == path.name
    for path in folder.glob("*.md"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert printable(line) == line


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {"b": 2}}',
                                  '{"a": {}, "sha256": 1}', "\udcff", "[" * 100_000])  # fmt: skip
def test_damaged_certificates_are_not_shown_as_computed(tmp_path, text):
    (tmp_path / "certificates.json").write_bytes(text.encode(errors="surrogateescape"))
    assert "not shown" in certificate_block(tmp_path, {})


def test_a_study_s_page_and_tables_are_text(tmp_path, capsys):
    given = experiment.command("width", argv=["width.py", f"--data={SCRIPT}{TERMINAL}"])
    rows = [{"activation": SCRIPT, IMAGE: FORMULA, "=head|er": TERMINAL, "p": -0.5}]
    results = study.Results(study.frames(table=rows), {}, notes=(TERMINAL,))
    with study.writing(tmp_path) as folder:
        study.keep(results, folder, asked=SCRIPT, documented=IMAGE,
                   this_run=study.this_run(given, tmp_path))  # fmt: skip
    assert_harmless(tmp_path / "study" / "index.html")
    with (tmp_path / "study" / "table.csv").open() as file:
        header, row = csv.reader(file)
    assert header == ["activation", IMAGE, "'=head|er", "p"]
    assert row == [SCRIPT, "'" + FORMULA, printable(TERMINAL), "-0.5"]
    out = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\u202e"} & set(out)


@pytest.mark.parametrize(("value", "want"), [
    ("=1+1", "'=1+1"), ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"), ("-2+3", "'-2+3"),
    ("@SUM(1)", "'@SUM(1)"), ("\t=1", "'\\t=1"), ("\r=1", "'\\r=1"), ("  =1", "'  =1"),
    ("\uff1d1", "'\uff1d1"), ("-", "'-"), ("-0.5", "-0.5"), ("+1e-3", "+1e-3"), ("-inf", "-inf"),
    ("tanh", "tanh"), ("", ""), (-0.5, -0.5), (None, None), (True, True), ("a\nb", "a\\nb"),
])  # fmt: skip
def test_cells_are_no_formulas_and_numbers_stay_numbers(value, want):
    assert texts.cell(value) == want


def test_numbers_of_a_table_are_written_as_they_are(tmp_path):
    table = pd.DataFrame({"a": [0.1 + 0.2, np.nan], "b": [-1, 2], "c": ["=x", None]})
    texts.write_csv(table, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "a,b,c\n0.30000000000000004,-1,'=x\n,2,\n"
    assert table["c"][0] == "=x"  # the caller's table is not touched


@pytest.mark.parametrize("text", [PATH, "..", ".", "", "/", "a/b", "a\0b", ".hidden", "ü" * 200,
                                  "con\n", SCRIPT])  # fmt: skip
def test_stems_of_files_stay_in_their_folder(text, tmp_path):
    stem = texts.file_stem(text)
    path = tmp_path / f"{stem}-{stem}-pre-every-seed.png"
    path.write_text("")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert stem != texts.file_stem(text + "x")


def test_labels_with_broken_formulas_are_drawn_as_they_are():
    rows = ppp(np.random.default_rng(0).normal(size=(200, 3)), bins=8)
    figure = strips.plot_strip([[rows]], rows=[BROKEN], columns=[BROKEN], title=BROKEN)
    assert texts.drawn(BROKEN) in {text.get_text() for text in figure.findobj(lambda x: hasattr(
        x, "get_text"))}  # fmt: skip
    figure.canvas.draw()
    values = xr.DataArray(np.ones((1, 1, 2)), dims=("activation", "seed", "step"),
                          coords={"activation": [BROKEN], "epoch": ("step", [0, 1])},
                          attrs={"long_name": BROKEN})  # fmt: skip
    figure = Figure()
    axes = figure.add_subplot()
    plot_curves(values, ax=axes)
    evidence.plot_z({BROKEN: {BROKEN: 1.0}}, ax=axes)
    evidence.plot_seeds({BROKEN: np.ones(3)}, ax=axes, label=BROKEN)
    axes.legend()
    figure.canvas.draw()
