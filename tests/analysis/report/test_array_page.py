"""What the page of an array says in plain words, against planted clouds and tables by hand."""

import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from ppp_jax.analysis import write_analysis
from ppp_jax.analysis.report import array_page

PLAIN = {"basis": "standard", "orthonormal": True, "rotations": 99, "long": False,
         "networks": False, "special": {}}  # fmt: skip
ALIGNED, QUANTISED, BELIEVED = (
    "Are the latents aligned with the axes?",
    "Are they quantised along the axes?",
    "May I believe it?",
)


def row(statistic, *, p=0.002, rank=0.5, z=9.0, why=""):
    return {"statistic": statistic, "p": p, "rank": rank, "z": z, "not_judged": why}


def asked(tests, **changes):
    told = array_page.Told(**PLAIN | changes)
    return dict(array_page.sentences(array_page.findings(tests, orthonormal=True), told))


def test_a_single_group_is_answered_with_the_words_of_the_side():
    said = asked({"": [row("shape"), row("covariance", p=0.3), row("mean_axes", p=np.nan, why="w"),
                       row("axis_quantisation", rank=-0.4, z=-3.0)]})  # fmt: skip
    assert said[ALIGNED] == (
        "Yes: whitened samples nearer the axes than after rotations (q = 0.004). There is no "
        "evidence in covariance (q = 0.300). The mean cannot be judged: w."
    )
    # Fewer levels than in random bases are evidence, and no levels.
    assert said[QUANTISED].startswith("No: projections nearer to unimodal")


def test_the_side_is_that_of_the_ranks_also_where_z_has_another_sign():
    said = asked({"": [row("shape", rank=-0.3, z=0.4)]})
    assert "nearer the diagonals" in said[ALIGNED]


def test_several_groups_are_counted_and_named():
    said = asked({"a": [row("shape"), row("axis_quantisation")],
                  "b": [row("shape", p=0.2), row("axis_quantisation", rank=-0.5)],
                  "c": [row("shape", rank=-0.5), row("axis_quantisation", p=0.9)]})  # fmt: skip
    assert said[ALIGNED] == (
        "Yes in 2 of 3 groups. In detail, whitened samples nearer the axes than after rotations: a;"
        " whitened samples nearer the diagonals than after rotations: c."
    )
    assert said[QUANTISED].startswith("Yes in 1 of 3 groups.")
    said = asked({name: [row("shape", p=0.5)] for name in "ab"})
    assert said[ALIGNED] == "There is no evidence of it in any of 2 groups."
    said = asked({f"group {k}": [row("shape")] for k in range(12)})
    assert said[ALIGNED].endswith("group 7 and 4 more.")


def test_what_cannot_be_judged_is_no_missing_evidence():
    lost = row("shape", p=np.nan, why="1 of 1 clouds (nothing varies)")
    said = asked({"a": [lost], "b": [lost]})
    assert said[ALIGNED] == "The shape cannot be judged in 1 of 1 clouds (nothing varies): a, b."
    said = asked({"a": [lost], "b": [row("shape", p=0.5)]})
    assert said[ALIGNED] == (
        "There is no evidence of it in any of 1 groups. "
        "The shape cannot be judged in 1 of 1 clouds (nothing varies): a."
    )


def test_all_tests_of_a_question_are_one_family():
    rows = [row("mean_axes", p=0.9), row("mean_ones", p=0.02), row("covariance", p=0.9)]
    assert asked({"": rows})[ALIGNED].startswith("There is no evidence in mean (q = 0.060)")
    assert asked({"": [row("mean_axes", p=0.02)]})[ALIGNED].startswith("Yes")


def test_a_statistic_that_is_not_the_first_of_its_family_is_named():
    rows = [row("mean_axes", p=0.9, z=-1.4), row("mean_ones", p=0.01, z=2.1)]
    _, body = array_page.matrix(array_page.findings({"a": rows}, orthonormal=True))
    assert body == [["a", "● +2.1 (mean: sum)"]]
    rows = [row("mean_axes", p=0.01, z=-1.4), row("mean_ones", p=0.9, z=2.1)]
    _, body = array_page.matrix(array_page.findings({"a": rows}, orthonormal=True))
    assert body == [["a", "● −1.4"]]


@pytest.mark.parametrize(("groups", "rotations", "suffice"), [(1, 19, None), (3, 19, 59)])
def test_too_few_rotations_for_one_group_are_told(groups, rotations, suffice):
    tests = {str(k): [row("shape")] for k in range(groups)}
    said = asked(tests, rotations=rotations)[BELIEVED]
    assert (suffice is None) == ("suffice" not in said)
    assert suffice is None or f"{suffice} rotations suffice" in said
    assert "suffice" not in asked(tests, rotations=rotations, networks=True)[BELIEVED]


def test_untested_latents_are_said_to_be_untested():
    for long, why in ((True, "take minutes"), (False, "no rotations were asked for")):
        said = asked({}, rotations=0, long=long)
        assert list(said) == [ALIGNED, QUANTISED]
        assert all(why in text for text in said.values())


def test_the_matrix_has_a_symbol_and_a_number_for_each_family():
    tests = {"a": [row("shape", z=-2.25), row("covariance", p=0.4, z=1.04)],
             "b": [row("shape", p=np.nan, why="too few"), row("covariance")]}  # fmt: skip
    header, body = array_page.matrix(array_page.findings(tests, orthonormal=True))
    assert header == ["group", "covariance", "shape"]
    assert body == [["a", "○ +1.0", "● −2.2"], ["b", "● +9.0", "–"]]


@pytest.mark.usefixtures("quick_compilation")
def test_groups_of_one_name_are_all_there(tmp_path):
    clouds = np.random.default_rng(0).normal(size=(2, 60, 3))
    labelled = xr.DataArray(clouds, dims=("layer", "sample", "unit"), coords={"layer": ["a", "a"]})
    out = write_analysis(labelled, tmp_path / "out", by="layer", epsilon=0.5, rotations=19)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "<td>a</td>" in page
    assert "<td>a (2)</td>" in page


@pytest.mark.usefixtures("quick_compilation")
def test_the_page_of_planted_clouds_says_what_they_are_and_leads_to_every_file(tmp_path):
    rng = np.random.default_rng(0)
    cubes = np.sign(rng.normal(size=(600, 6))) + 0.1 * rng.normal(size=(600, 6))
    clouds = np.stack([rng.normal(size=(600, 6)), cubes])
    labelled = xr.DataArray(clouds, dims=("kind", "sample", "unit"),
                            coords={"kind": ["noise", "<cube>"]})  # fmt: skip
    out = write_analysis(labelled, tmp_path / "out", by="kind", epsilon=[0.5, 0.7], rotations=99)
    page = (out / "index.html").read_text(encoding="utf-8")
    answers = dict(re.findall(r"<strong>(.*?)</strong></dt><dd>(.*?)</dd>", page, re.S))
    assert answers[ALIGNED].startswith("Yes in 1 of 2 groups.")
    assert "nearer the diagonals than after rotations: &lt;cube&gt;" in answers[ALIGNED]
    assert answers[QUANTISED].startswith("Yes in 1 of 2 groups.")
    assert page.index("<dl>") < page.index("<img")
    for file in out.iterdir():
        if file.suffix in (".png", ".csv"):
            assert f'href="{file.name}"' in page
    for alt in re.findall(r'<img alt="([^"]*)"', page):
        assert alt.endswith(".")
        assert "noise" in alt
    table = pd.read_csv(out / "tests.csv")
    assert "rank" not in table
    assert len(table) == page.count("<td>noise</td>") + page.count("<td>&lt;cube&gt;</td>") - 2 - 4
