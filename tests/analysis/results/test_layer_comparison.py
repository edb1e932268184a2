"""Layers side by side: each tested as if alone, and q over all of them."""

import re

import numpy as np
import pytest
import xarray as xr

from ppp_jax import bases
from ppp_jax.analysis import compare_layers, false_discovery, pool, rotation_test
from ppp_jax.analysis.io.layer_files import open_layers
from ppp_jax.analysis.io.rows import LongRowWarning
from ppp_jax.analysis.results.layer_comparison import (
    NUMBERS,
    default_statistics,
    main_statistics,
)
from ppp_jax.analysis.statistics import registry
from ppp_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_compilation")

PARTS = ["covariance", "shape", "axis_quantisation"]
RNG = np.random.default_rng(0)
LAYERS = {
    "noise": RNG.normal(size=(200, 5)),
    "bits": np.tanh(4 * RNG.normal(size=(200, 5))).astype(np.float32),
    "relu": np.maximum(RNG.normal(size=(150, 8)), 0),
}


def compared(layers, **options):
    return compare_layers(layers, **{"statistics": PARTS, "rotations": 39} | options)


@pytest.fixture(scope="module")
def found():
    return compared(LAYERS)


def test_each_layer_has_the_numbers_that_it_has_alone(found):
    for name, latents in LAYERS.items():
        alone = rotation_test(latents, statistics=PARTS, rotations=39)
        for key in NUMBERS:
            xr.testing.assert_equal(alone[key], found[key].sel(layer=name, drop=True))
        assert found["rows"].sel(layer=name) == alone.attrs["rows"] == len(latents)
        assert found["units"].sel(layer=name) == latents.shape[1]


def test_q_is_that_of_each_statistic_over_the_layers(found):
    for name in PARTS:
        one = found.sel(statistic=name)
        assert np.array_equal(one["q"], false_discovery(one["p"]))


def test_layers_in_another_order_are_the_same_rows(found):
    turned = compared({name: LAYERS[name] for name in reversed(LAYERS)})
    assert list(turned["layer"].values) == list(LAYERS)[::-1]
    xr.testing.assert_equal(turned.isel(layer=slice(None, None, -1)), found)


def test_names_are_names_and_nothing_else(found):
    odd = dict(zip(["<b>|", "=1+1", "\x1b[31m"], LAYERS.values(), strict=True))
    named = compared(odd)
    assert list(named["layer"].values) == list(odd)
    xr.testing.assert_equal(named.drop_vars("layer"), found.drop_vars("layer"))


def test_files_have_the_numbers_of_their_arrays(found, tmp_path):
    for place, (name, latents) in enumerate(LAYERS.items()):
        np.save(tmp_path / f"{place}_{name}.npy", latents)
    there = compared(tmp_path)
    assert list(there["layer"].values) == ["0_noise", "1_bits", "2_relu"]
    xr.testing.assert_equal(there.drop_vars("layer"), found.drop_vars("layer"))


def test_the_quantised_layer_is_found_among_rotated_gaussians_and_no_other():
    rng = np.random.default_rng(1)
    spread = np.diag([3.0, 1, 1, 1, 0.3, 0.1])
    turns = bases.rotations(6, 11, rng)
    layers = {f"layer_{k}": rng.normal(size=(200, 6)) @ spread @ turns[k]
              for k in range(11)}  # fmt: skip
    layers["bits"] = np.sign(rng.normal(size=(200, 6))) + 0.1 * rng.normal(size=(200, 6))
    found = compared(layers, rotations=None)
    assert found.attrs["rotations"] == 239  # 12 layers: one alone can be told
    told = found["q"] <= 0.05
    assert told.sel(layer="bits", statistic="axis_quantisation")
    assert told.sel(layer="bits", statistic="shape")
    assert not told.drop_sel(layer="bits").any()


def test_networks_along_seed_are_tested_together():
    clouds = xr.DataArray(np.random.default_rng(2).laplace(size=(3, 120, 4)),
                          dims=("seed", "sample", "unit"))  # fmt: skip
    together = compared({"a": clouds, "b": clouds[0]})
    tested = rotation_test(clouds, statistics=PARTS, rotations=39)
    pooled = pool(tested)
    one = together.sel(layer="a")
    assert np.array_equal(one["p"], pooled["p_networks"])
    assert np.array_equal(one["value"], pooled["value"])
    assert (one["networks"], one["rows"]) == (3, 360)
    # The band is narrower by about √3, since it is that of a mean of three.
    width = (together["high"] - together["low"]).sel(statistic="covariance").values
    assert 1.3 < width[1] / width[0] < 2.3
    assert (one["low"] <= one["mean"]).all()
    assert (one["mean"] <= one["high"]).all()


def test_what_is_left_out_is_counted_and_what_is_not_judged_says_why():
    odd = RNG.normal(size=(60, 4))
    odd[:7] = 0
    odd[7:9] = np.nan
    layers = {"odd": odd, "few": odd[10:25], "zeros": np.zeros((9, 4)), "same": np.ones((30, 4))}
    found = compared(layers, nonfinite="drop", statistics=["covariance", "shape"])
    counts = found[["rows", "rows_left_out", "rows_nonfinite", "rows_zero"]].to_dataframe()
    assert counts.loc["odd"].tolist() == [51, 9, 2, 7]
    assert counts.loc["zeros"].tolist() == [0, 9, 0, 9]
    assert found["not_judged"].values.tolist() == [
        "", "shape: 15 samples, 20 needed", "no row is a sample",
        "covariance, shape: nothing varies",
    ]  # fmt: skip
    # What is missing is no test: the others' q does not change with it.
    without = compared({name: layers[name] for name in ("odd", "few")}, nonfinite="drop",
                       statistics=["covariance", "shape"])  # fmt: skip
    xr.testing.assert_equal(found["q"].sel(layer=["odd", "few"]), without["q"])


def test_rows_that_are_not_finite_are_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr("ppp_jax.analysis.results.layer_comparison.judge_clouds", None)
    last = LAYERS["noise"].copy()
    last[3, 1] = np.inf
    with pytest.raises(InputError, match=r"layers=z: array .* has 1 row that is not finite"):
        compared(LAYERS | {"z": last})


def test_long_rows_are_told_of_once_with_the_names_of_the_layers():
    sink = LAYERS["noise"] * np.where(np.arange(200) == 0, 1e3, 1)[:, None]
    with pytest.warns(LongRowWarning, match=re.escape("of a (1), c (1); drop_outliers")) as told:
        found = compared({"a": sink, "b": LAYERS["noise"], "c": sink}, statistics=["shape"])
    assert len(told) == 1
    assert told[0].filename == __file__
    assert found["rows_long"].values.tolist() == [1, 0, 1]
    dropped = compared({"a": sink}, statistics=["shape"], drop_outliers=100)
    assert dropped["rows_left_out"].item() == 1


def test_bases_follow_the_widths_and_an_array_must_fit_them_all():
    named = compared(LAYERS, basis="haar:0", statistics=["shape"])
    alone = rotation_test(LAYERS["relu"], basis="haar:0", statistics=["shape"], rotations=39)
    assert named["p"].sel(layer="relu").item() == alone["p"].item()
    assert named.attrs["basis"] == "haar:0"
    with pytest.raises(InputError, match=r"basis=.*\(layer relu, 8 units\)"):
        compared(LAYERS, basis=np.eye(5))
    with pytest.raises(InputError, match=r"layers=thin: .*at least 2 units"):
        compared(LAYERS | {"thin": np.ones((9, 1))})


def test_statistics_are_those_of_the_registry():
    assert {*PARTS, "c4", "mean_axes", "mean_ones", "shape_kurtosis"} < set(default_statistics())
    with pytest.raises(InputError, match="statistics=acceptance_ratio: needs an ε"):
        compared(LAYERS, statistics=["acceptance_ratio"])
    of_clouds = registry.names(of=[registry.CLOUD])[0]
    with pytest.raises(InputError, match=f"statistics={of_clouds}: does not change"):
        compared(LAYERS, statistics=[of_clouds])


def test_frames_are_shown_by_statistics_that_mean_something_on_them():
    of_frames = main_statistics(default_statistics(), orthonormal=False)
    assert {"shape_kurtosis", "covariance", "axis_quantisation"} <= set(of_frames)
    assert not [name for name in of_frames if "c4" in registry.STATISTICS[name].function.__name__]
    few = {"rotations": 3, "statistics": ["covariance"]}
    for basis, orthonormal in ((None, 1), ("haar:0", 1), ("simplex", 0)):
        assert (
            compared({"a": LAYERS["noise"]}, basis=basis, **few).attrs["orthonormal"] == orthonormal
        )


def test_a_progress_bar_is_shown_on_stderr(capsys):
    compared(LAYERS, statistics=["covariance"], rotations=3, progress=True)
    assert "layers" in capsys.readouterr().err


MODELS = {
    "trained": {"a": LAYERS["noise"], "b": LAYERS["bits"]},
    "random": {"c": LAYERS["relu"], "b": LAYERS["noise"], "a": LAYERS["noise"][:100]},
}


@pytest.fixture(scope="module")
def of_models():
    return compared(MODELS)


def test_each_model_has_the_numbers_that_it_has_alone(of_models):
    assert of_models["value"].dims == ("model", "layer", "statistic")
    assert of_models["units"].dims == of_models["not_judged"].dims == ("model", "layer")
    assert of_models["model"].values.tolist() == list(MODELS)
    assert of_models["layer"].values.tolist() == ["a", "b", "c"]  # in order of first appearance
    for model, layers in MODELS.items():
        alone = compared(layers).drop_vars("q")
        one = of_models.drop_vars("q").sel(model=model, layer=list(layers)).drop_vars("model")
        xr.testing.assert_equal(one, alone)


def test_a_layer_that_a_model_lacks_is_missing_and_says_so(of_models):
    lacks = of_models.sel(model="trained", layer="c")
    assert lacks["not_judged"].item() == "no such layer"
    for key in (*NUMBERS, "q"):
        assert lacks[key].isnull().all()
    assert (lacks["rows"], lacks["units"], lacks["networks"]) == (0, 0, 0)
    assert (of_models["not_judged"] == "no such layer").sum() == 1


def test_q_counts_over_all_models_and_within_each_group(of_models):
    for name in PARTS:
        one = of_models.sel(statistic=name)
        assert np.array_equal(one["q"].values.ravel(), false_discovery(one["p"].values.ravel()),
                              equal_nan=True)  # fmt: skip
    grouped = compared(MODELS, groups={"a": "early", "c": "late", "b": "late"})
    assert grouped["group"].dims == ("layer",)
    assert grouped["group"].values.tolist() == ["early", "late", "late"]
    xr.testing.assert_equal(grouped.drop_vars(["q", "group"]), of_models.drop_vars("q"))
    for layers in (["a"], ["b", "c"]):
        for name in PARTS:
            one = grouped.sel(layer=layers, statistic=name)
            q = false_discovery(one["p"].values.ravel())
            assert np.array_equal(one["q"].values.ravel(), q, equal_nan=True)
    assert compared(MODELS, statistics=["covariance"], rotations=None).attrs["rotations"] == 200


def test_rotations_suffice_for_the_largest_family():
    many = {f"layer_{k}": LAYERS["noise"][:30, :2] for k in range(8)}
    options = {"statistics": ["covariance"], "rotations": None}
    two = {"m": many, "n": many}
    assert compared(two, **options).attrs["rotations"] == 16 * 20 - 1
    groups = {name: "odd" if k % 2 else "even" for k, name in enumerate(many)}
    groups["layer_0"] = "odd"
    assert compared(two, groups=groups, **options).attrs["rotations"] == 200
    groups |= {f"layer_{k}": "odd" for k in range(6)}
    assert compared(two, groups=groups, **options).attrs["rotations"] == 14 * 20 - 1


@pytest.mark.parametrize(("groups", "text"), [
    ({"a": "x", "b": "x"}, "must give the group of every layer, as a text, and gives none of c"),
    ({"a": "x", "b": "x", "c": 1}, "gives none of c"),
    ({"a": "x", "b": "x", "c": "y", "d": "y"}, "groups=d: is no layer; the layers are a, b, c"),
    (["x"], "groups=list: must be a mapping"), ("x", "groups=str: must be a mapping"),
])  # fmt: skip
def test_groups_that_cannot_be_are_one_line(monkeypatch, groups, text):
    monkeypatch.setattr("ppp_jax.analysis.results.layer_comparison.judge_clouds", None)
    with pytest.raises(InputError, match=text):
        compared(MODELS, groups=groups)


class Vanishing(dict):
    """A mapping whose layers can be read so many times, as a store that is removed meanwhile."""

    def __init__(self, layers, times):
        """Takes the times by name; others can always be read."""
        super().__init__(layers)
        self.left = times

    def __getitem__(self, key):
        self.left[key] = self.left.get(key, 99) - 1
        if self.left[key] < 0:
            raise OSError("the disk\nis gone")
        return super().__getitem__(key)


def test_a_layer_that_disappears_half_way_is_not_judged_and_the_others_are_kept():
    there = compared(Vanishing(LAYERS, {"bits": 2}))
    lost = there.sel(layer="bits")
    assert lost["not_judged"].item() == "cannot be read (the disk is gone)"
    assert lost[[*NUMBERS, "q"]].to_array().isnull().all()
    assert (lost["units"], lost["rows"], lost["rows_left_out"]) == (5, 0, 200)
    rest = ["noise", "relu"]
    xr.testing.assert_identical(
        there.sel(layer=rest), compared({name: LAYERS[name] for name in rest})
    )


def test_a_file_that_is_removed_is_not_judged(tmp_path):
    for name, latents in LAYERS.items():
        np.save(tmp_path / f"{name}.npy", latents)
    opened = open_layers(tmp_path)
    (tmp_path / "noise.npy").unlink()
    there = compared(opened, nonfinite="drop")
    assert there["not_judged"].sel(layer="noise").item() == "cannot be read (is not there)"
    assert there["p"].sel(layer=["bits", "relu"]).notnull().all()
    with pytest.raises(InputError, match=r"layers=.*noise\.npy: is not there"):
        compared(opened)  # rows are looked at first, and nothing is measured yet


def test_where_no_layer_can_be_read_there_is_no_result():
    times = dict.fromkeys(LAYERS, 2)
    with pytest.raises(InputError, match=r"layers=noise: cannot be read \(the disk is gone\); nor"):
        compared(Vanishing(LAYERS, times))
