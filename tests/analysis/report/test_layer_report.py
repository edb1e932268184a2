"""The folder of layers: a row per layer, whole or not at all, and names are text."""

import base64
import csv
import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from ppp_jax.analysis import compare_layers, layer_table, write_layers
from ppp_jax.analysis.io.layer_files import open_layers
from ppp_jax.analysis.report.layer_report import long_tests
from ppp_jax.analysis.statistics import registry
from ppp_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_compilation")

FILES = [".written.json", "analysis.json", "index.html", "layers.csv", "layers.md", "layers.png",
         "layers_long.csv"]  # fmt: skip
ODD = ["<script>alert(1)</script>", "=HYPERLINK(1)|*_`", "\x1b[31m\nred"]
RNG = np.random.default_rng(0)
CLOUDS = [RNG.normal(size=(60, 4)), np.sign(RNG.normal(size=(60, 4))), np.zeros((5, 4))]
OPTIONS = {"statistics": ["shape", "covariance"], "rotations": 19}


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def layers():
    return dict(zip(["noise", "signs", "dead"], CLOUDS, strict=True))


@pytest.fixture(scope="module")
def folder(layers, tmp_path_factory):
    return write_layers(layers, tmp_path_factory.mktemp("written") / "out", **OPTIONS)


def test_the_tables_hold_what_was_found(folder, layers):
    assert sorted(path.name for path in folder.iterdir()) == FILES
    found = compare_layers(layers, **OPTIONS)
    wide = rows(folder / "layers.csv")
    assert [row["layer"] for row in wide] == list(layers)
    for row in wide:
        for name in ("shape", "covariance"):
            one = found.sel(layer=row["layer"], statistic=name)
            for column, key in ((name, "value"), (f"{name}_p", "p"), (f"{name}_q", "q")):
                assert float(row[column] or "nan") == pytest.approx(one[key].item(), nan_ok=True)
    assert wide[2]["not_judged"] == "no row is a sample"
    long = rows(folder / "layers_long.csv")
    assert len(long) == 3 * 2
    assert list(long[0]) == ["layer", "statistic", "value", "null", "low", "high", "z", "p", "q"]
    made = json.loads((folder / "analysis.json").read_text())
    assert (made["layers"], made["rotations"]) == (list(layers), 19)
    with Image.open(folder / "layers.png") as image:
        assert min(image.size) > 300


def test_the_page_has_a_row_per_layer_and_says_what_is_missing(folder):
    text = (folder / "layers.md").read_text(encoding="utf-8")
    table, notes = text.split("\n\n")
    header, _, *body = table.splitlines()
    assert re.split(r" *\| *", header.strip("| ")) == [
        "layer", "units", "rows", "left out", "covariance (p, q)", "shape: C4 (p, q)",
        "top units",
    ]  # fmt: skip
    assert [line.split("|")[1].strip() for line in body] == ["noise", "signs", "dead"]
    assert re.fullmatch(r"\| dead +\| 4 +\| 0 +\| 5 +\| – +\| – +\| – +\|", body[2])
    assert re.search(r"-\d\.\d+ \(0\.05, 0\.1\) +\| ", body[1])
    assert "p against 19 random bases" in notes
    below, above = registry.STATISTICS["shape"].sides
    assert f"shape: C4, below the null: {below}; above it: {above}\n" in notes
    # The dead layer has no p, and makes no q of another larger.
    assert "one layer alone among 2 cannot reach q ≤ 0.05 with 19 rotations; 39 suffice" in notes
    assert "not judged of dead: no row is a sample" in notes


def test_names_are_text_in_every_file(tmp_path):
    out = write_layers(dict(zip(ODD, CLOUDS, strict=True)), tmp_path / "out", **OPTIONS)
    text = (out / "layers.md").read_text(encoding="utf-8")
    assert "\x1b" not in text
    assert sum(line.startswith("| ") for line in text.splitlines()) == 2 + len(ODD)
    assert r"=HYPERLINK(1)\|*_`" in text
    for name in ("layers.csv", "layers_long.csv"):
        for row in rows(out / name):
            assert row["layer"].isprintable()
            assert row["layer"][0] not in "=\x1b"


def test_an_earlier_analysis_is_replaced_and_nothing_else_is(layers, tmp_path):
    out = write_layers(layers, tmp_path / "out", **OPTIONS)
    before = (out / "layers.md").read_text()
    bad = layers | {"last": np.full((4, 4), np.inf), "bad": np.where(CLOUDS[0] > 3, np.inf, 1)}
    bad["bad"][0, 0] = np.nan
    with pytest.raises(InputError, match=r"layers=bad: array .* not finite"):
        write_layers(bad, out, **OPTIONS)
    assert (out / "layers.md").read_text() == before
    write_layers({"other": CLOUDS[0]}, out, **OPTIONS)
    assert "other" in (out / "layers.md").read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="mine exists and was not written by ppp_jax"):
        write_layers(layers, tmp_path / "mine", **OPTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]
    with pytest.raises(InputError, match="was written by an earlier analysis"):
        write_layers(out, tmp_path / "again", **OPTIONS)


def test_layers_whose_tests_take_minutes_are_named():
    wide = np.broadcast_to(np.ones(2048, np.float32), (200, 2048))
    opened = open_layers({"small": CLOUDS[0], "wide": wide})
    assert long_tests(opened, null="full") == ["wide"]
    assert long_tests(opened) == long_tests(opened, null="full", rotations=19) == []


class Interrupted(dict):
    """A mapping that counts how often a layer is read, and stops the work at one of these times."""

    def __init__(self, layers, stop=None):
        """Takes the name of the layer, and the time at which its reading is interrupted."""
        super().__init__(layers)
        self.stop, self.read = stop, dict.fromkeys(layers, 0)

    def __getitem__(self, key):
        self.read[key] += 1
        if (key, self.read[key]) == self.stop:
            raise KeyboardInterrupt
        return super().__getitem__(key)


def test_what_was_finished_before_an_interrupt_is_not_measured_again(layers, folder, tmp_path):
    out = tmp_path / "out"
    whole = Interrupted(layers)
    write_layers(whole, tmp_path / "whole", **OPTIONS)
    times = whole.read["noise"]  # opened, looked at, digested, tested
    with pytest.raises(KeyboardInterrupt):
        write_layers(Interrupted(layers, ("dead", times)), out, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir() if path.name != "whole"] == [".out.aside"]
    again = Interrupted(layers)
    write_layers(again, out, **OPTIONS)
    assert again.read == {"noise": times - 1, "signs": times - 1, "dead": times}
    for path in folder.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_a_file_in_the_way_of_what_is_kept_is_one_line(layers, tmp_path):
    (tmp_path / ".out.aside").write_text("mine")
    with pytest.raises(InputError, match=r"out=.*: \.out\.aside exists and was not written by"):
        write_layers(layers, tmp_path / "out", **OPTIONS)
    assert (tmp_path / ".out.aside").read_text() == "mine"


def test_one_page_shows_the_table_the_figure_and_the_notes(folder, tmp_path):
    page = (folder / "index.html").read_text(encoding="utf-8")
    (encoded,) = re.findall(r'src="data:image/(?:png|webp);base64,([^"]*)"', page)
    with (
        Image.open(io.BytesIO(base64.b64decode(encoded))) as shown,
        Image.open(folder / "layers.png") as exact,
    ):
        assert shown.size == exact.size
    assert '<a href="layers.png">' in page
    for text in ("<td>noise</td>", "<th scope=col>shape: C4 (p, q)</th>", "19 random bases",
                 "not judged of dead: no row is a sample"):  # fmt: skip
        assert text in page
    out = write_layers({name: {"x<": CLOUDS[0]} for name in ODD}, tmp_path / "out", **OPTIONS)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert ODD[0] not in page
    assert html.escape(ODD[0]) in page
    assert "\x1b" not in page


def test_models_have_a_row_for_each_layer_that_they_have(tmp_path):
    models = {"a": {"x": CLOUDS[0], "y": CLOUDS[1]}, "b": {"y": CLOUDS[0], "z": CLOUDS[2]}}
    groups = {"x": "first", "y": "first", "z": "last"}
    out = write_layers(models, tmp_path / "out", groups=groups, **OPTIONS)
    wide = rows(out / "layers.csv")
    assert [(row["model"], row["layer"], row["group"]) for row in wide] == [
        ("a", "x", "first"), ("a", "y", "first"), ("b", "y", "first"), ("b", "z", "last"),
    ]  # fmt: skip
    found = compare_layers(models, groups=groups, **OPTIONS)
    for row in wide:
        one = found.sel(model=row["model"], layer=row["layer"], statistic="shape")
        assert float(row["shape_q"] or "nan") == pytest.approx(one["q"].item(), nan_ok=True)
    long = rows(out / "layers_long.csv")
    assert len(long) == 4 * 2
    assert list(long[0])[:4] == ["model", "layer", "group", "statistic"]
    table, notes = (out / "layers.md").read_text(encoding="utf-8").split("\n\n")
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["a", "a", "b", "b"]
    assert "q over the layers of all models of each group" in notes
    assert "not judged of b/z: no row is a sample" in notes
    assert "among 3 cannot reach" in notes
    made = json.loads((out / "analysis.json").read_text())
    assert (made["models"], made["groups"]) == (["a", "b"], ["first", "first", "last"])


def test_the_table_of_a_notebook_has_what_was_found(layers):
    found = compare_layers(layers, **OPTIONS)
    table = layer_table(found)
    assert table.index.tolist() == list(layers)
    assert table.columns.tolist() == [
        "units", "rows", "left out", "covariance (p, q)", "shape: C4 (p, q)", "top units",
        "not judged",
    ]  # fmt: skip
    assert table.loc["dead", "not judged"] == "no row is a sample"
    value = found["value"].sel(layer="signs", statistic="shape").item()
    assert table.loc["signs", "shape: C4 (p, q)"].startswith(f"{value:.2g} (0.05, ")
    assert "<b>" not in layer_table(compare_layers({"<b>": CLOUDS[0]}, **OPTIONS))._repr_html_()
    both = compare_layers({"m": layers, "n": {"other": CLOUDS[0]}}, **OPTIONS)
    assert layer_table(both).index.tolist() == [*(("m", name) for name in layers), ("n", "other")]
    for one in (found, both):  # what a Dataset offers by itself
        assert "not_judged" in one._repr_html_()
        frame = one.to_dataframe()
        assert len(frame) == one["p"].size
        assert frame["p"].tolist() == pytest.approx(one["p"].values.ravel().tolist(), nan_ok=True)
