"""Clouds on few places and others, told apart by dips and by valleys of the density."""

import diptest
import numpy as np
import pytest
import xarray as xr

import ppp_jax.analysis as pa
from experiments import results_pages
from ppp_jax import bases
from ppp_jax.analysis import synthetic
from ppp_jax.analysis.statistics import quantisation
from tests import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::ppp_jax.analysis.RepeatedRowWarning")

SAMPLES, UNITS = 600, 16


CONTINUOUS, QUANTISED, CLUSTERS = synthetic.density_clouds(samples=SAMPLES, units=UNITS).values()
# The rotation z of docs/method.md §8. Another draw of a cloud is off by some 7 %, and so is the
# deviation of a null of 99 rotations.
DIP_Z = {
    "corners, noise 0.1": 356,
    "corners, noise 0.5": 80,
    "three levels": 185,
    "tanh(3·normal)": 255,
}


def dip_test(cloud, rotations=99):
    found = pa.rotation_test(cloud, statistics=["axis_quantisation"], rotations=rotations)
    return found["p"].item(), found["z"].item()


@pytest.mark.parametrize("name", QUANTISED)
def test_levels_along_the_axes_have_their_known_dips(name):
    p, z = dip_test(QUANTISED[name])
    assert p == 0.01
    assert abs(z / DIP_Z[name] - 1) < 0.35


def test_a_law_that_knows_no_axes_is_rejected_in_five_of_a_hundred_draws():
    rng = np.random.default_rng(1)
    laws = {
        "normal": lambda: rng.normal(size=(200, 8)),
        "rotated corners": lambda: (
            (np.sign(rng.normal(size=(200, 8))) + 0.2 * rng.normal(size=(200, 8)))
            @ bases.rotations(8, 1, rng)[0]
        ),
        "elliptical": lambda: rng.normal(size=(200, 8)) * rng.gamma(1, size=(200, 1)) / SPECTRUM,
    }
    for law, draw in laws.items():
        drawn = xr.DataArray(
            np.stack([draw() for _ in range(100)]), dims=("seed", "sample", "unit")
        )
        p = pa.rotation_test(drawn, statistics=["axis_quantisation"], rotations=19)["p"]
        assert float((p <= 0.05).mean()) <= 0.13, law


SPECTRUM = np.arange(1, 9)


@pytest.mark.parametrize("basis", ["standard", "frame"])
def test_dips_are_those_of_each_vector(basis):
    cloud = QUANTISED["three levels"]
    vectors = (
        np.eye(UNITS) if basis == "standard" else np.random.default_rng(4).normal(size=(5, UNITS))
    )
    onto = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)) @ cloud.T
    each = [diptest.diptest(row) for row in onto]
    mean = np.mean([dip for dip, _ in each])
    np.testing.assert_allclose(quantisation.mean_dip(onto), mean)
    fraction = quantisation.dipped_fraction(onto)
    np.testing.assert_allclose(fraction, np.mean([p < 0.05 for _, p in each]))
    assert (fraction == 1) == (basis == "standard")
    np.testing.assert_allclose(pa.axis_quantisation(cloud, basis=vectors), mean, rtol=1e-6)
    tested = pa.rotation_test(
        cloud, basis=vectors, statistics=["axis_quantisation", "quantised_fraction"], rotations=2
    )
    np.testing.assert_allclose(tested["value"].values[0], mean, rtol=1e-6)
    assert tested["value"].values[1] == fraction


def test_a_dip_does_not_see_scale_order_or_a_common_rotation():
    z, turn = CONTINUOUS["normal"], bases.haar(UNITS, rotation_seed=5)
    cloud = np.sign(z) + 0.5 * z[:, ::-1]
    expected = float(pa.axis_quantisation(cloud))
    for other in (1e-30 * cloud, 1e9 * cloud, cloud[::-1], cloud + 3, -cloud[:, ::-1]):
        np.testing.assert_allclose(pa.axis_quantisation(other), expected, rtol=1e-6)
    np.testing.assert_allclose(pa.axis_quantisation(cloud @ turn, basis=turn), expected, rtol=1e-6)
    assert pa.axis_quantisation(cloud @ turn) < expected / 2
    assert np.isnan(pa.axis_quantisation(cloud[:1]))


def test_units_that_do_not_vary_have_no_dip():
    onto = QUANTISED["three levels"].T
    some = np.concatenate([onto, np.full((5, SAMPLES), 0.1)])
    assert quantisation.mean_dip(some) == quantisation.mean_dip(onto)
    assert quantisation.dipped_fraction(some) == quantisation.dipped_fraction(onto)
    for measure in (quantisation.mean_dip, quantisation.dipped_fraction):
        assert np.isnan(measure(np.ones((2, 30))))
    dead = CONTINUOUS["normal"] * (np.arange(UNITS) > 2)
    assert dip_test(dead)[0] > 0.05


@pytest.mark.parametrize("name", [*CONTINUOUS, *QUANTISED])
def test_continuous_clouds_and_corners_of_many_units_have_no_deep_valley(name):
    found = pa.density_peaks({**CONTINUOUS, **QUANTISED}[name])
    assert found.number == 1
    assert 0 <= found.depth < 1
    assert 0 <= found.reference < 1


@pytest.mark.parametrize(("name", "peaks"), [("eight clusters", 8), ("axis clusters", UNITS)])
def test_clusters_are_found_wherever_they_are(name, peaks):
    found = pa.density_peaks(CLUSTERS[name] @ bases.haar(UNITS, rotation_seed=2))
    assert found.number == peaks
    assert 3.6 < found.depth < 45
    assert found.reference < 1


def test_peaks_are_those_of_an_independent_implementation():
    """As the page holds DADApy's; its Z of 3 joins two of the clusters on sixteen axes."""
    page = (ROOT / "docs" / "results" / "calibration.md").read_text(encoding="utf-8")
    block = page[page.index("<!-- table: dadapy_peaks.md#1") :]
    table = results_pages.read_markdown(block, 1).set_index("cloud")
    known = {**dict.fromkeys([*CONTINUOUS, *QUANTISED], 1), "eight clusters": 8}
    assert set(table.index) == {*known, *CLUSTERS}
    for name, peaks in known.items():
        assert table.loc[name, "ours"] == table.loc[name, "DADApy, Z 3"] == str(peaks), name
    assert table.loc["axis clusters", "ours"] == "16"
    assert table.loc["axis clusters", "DADApy, Z 3"] == "15"


def plain_valleys(cloud):
    """All of it by hand: Kruskal's algorithm over all pairs, groups as sets."""
    apart = np.linalg.norm(cloud[:, None] - cloud, axis=-1)
    ordered = np.sort(apart, axis=1)
    core = ordered[:, 8]
    ratio = np.sort(np.log(ordered[:, 2] / ordered[:, 1]))
    count = int(0.9 * len(ratio))
    y = -np.log(1 - np.arange(1, count + 1) / len(ratio))
    dimension = np.sum(ratio[:count] * y) / np.sum(ratio[:count] ** 2)
    pairs = [
        (max(apart[i, j], core[i], core[j]), i, j) for i in range(len(cloud)) for j in range(i)
    ]
    group, depths = {k: {k} for k in range(len(cloud))}, []
    for height, i, j in sorted(pairs):
        a, b = group[i], group[j]
        if a is b:
            continue
        if min(len(a), len(b)) >= max(10, 0.01 * len(cloud)):
            high = max(np.median([core[k] for k in side]) for side in (a, b))
            depths.append(dimension * np.log(height / high))
        union = a | b
        for k in union:
            group[k] = union
    return max([0.0, *depths]), dimension


@pytest.mark.parametrize(
    ("name", "rtol"),
    [
        ("eight clusters", 1e-6),
        ("axis clusters", 1e-6),
        # Pairs that are as far apart as one core distance are joined in either order, which moves
        # the medians of shallow valleys a little.
        ("ring", 0.05),
        ("rank 2", 0.05),
    ],
)
def test_valleys_are_those_of_a_plain_search_over_all_pairs(name, rtol):
    cloud = {**CLUSTERS, **CONTINUOUS}[name][:240]
    found, (depth, dimension) = pa.density_peaks(cloud), plain_valleys(cloud)
    assert depth > 0.1
    np.testing.assert_allclose(found.depth, depth, rtol=rtol)
    np.testing.assert_allclose(found.dimension, dimension, rtol=1e-6)


def test_peaks_do_not_see_rotation_scale_order_or_copies():
    cloud = CLUSTERS["eight clusters"]
    expected = pa.density_peaks(cloud)
    turned = cloud @ bases.haar(UNITS, rotation_seed=4)
    for other in (turned, 1e-6 * cloud, cloud[::-1], cloud + 3, np.repeat(cloud, 2, axis=0)):
        found = pa.density_peaks(other)
        np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-6)
        assert found.number == expected.number


def test_labels_come_out_and_what_cannot_be_told_is_missing():
    cloud = np.stack([CONTINUOUS["normal"][:60], np.full((60, UNITS), np.nan)])
    found = pa.density_peaks(xr.DataArray(cloud, dims=("seed", "sample", "unit")))
    assert found.number.dims == ("seed",)
    assert np.isnan(found.depth.values).tolist() == [False, True]
    assert np.isnan(pa.density_peaks(np.ones((50, 3))).number)
