"""The folder of layers: a row per layer, whole or not at all, and names are text."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from ppp_jax.analysis import compare_layers, write_layers
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
    ]  # fmt: skip
    assert [line.split("|")[1].strip() for line in body] == ["noise", "signs", "dead"]
    assert re.fullmatch(r"\| dead +\| 4 +\| 0 +\| 5 +\| – +\| – +\|", body[2])
    assert re.search(r"-\d\.\d+ \(0\.05, 0\.1\) +\|$", body[1])
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
    assert long_tests(opened) == ["wide"]
    assert long_tests(opened, rotations=19) == []
