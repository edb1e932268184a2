"""Other views of latents, and matches between networks, on constructed cases with known answers."""

import itertools

import numpy as np
import pytest
import xarray as xr

from ppp_jax import bases
from ppp_jax.analysis import alignment_c4, embeddings
from ppp_jax.analysis.inference import downstream, unit_matching
from ppp_jax.analysis.results import layers
from ppp_jax.analysis.results.measure import thinned
from ppp_jax.analysis.synthetic import known_clouds
from ppp_jax.errors import InputError
from ppp_jax.networks import interpolated

RNG = np.random.default_rng(0)


def haar(units, seed):
    return bases.rotations(units, 1, np.random.default_rng(seed))[0]


def clumps(centres, *, each=40, width=0.05, seed=0):
    rng = np.random.default_rng(seed)
    points = centres[:, None] + width * rng.normal(size=(len(centres), each, centres.shape[1]))
    return points.reshape(-1, centres.shape[1]), np.repeat(np.arange(len(centres)), each)


AXES, OWN = clumps(np.eye(6))


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("cloud", ["axis clusters", "Laplace"])
def test_embeddings_are_the_same_for_a_seed_and_blind_to_rotations(cloud, method):
    x, q = known_clouds(samples=90)[cloud], haar(16, 1)
    first, second = (embeddings.embed(x, method=method, embedding_seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (len(x), 2)
    # Distances and the start from PCA, in single precision, are the same: so is all that follows.
    turned = embeddings.embed(x @ q, method=method, embedding_seed=3)
    assert embeddings.difference(first, turned) < 1e-6
    assert abs(alignment_c4(x) - alignment_c4(x @ q)) > 0.2
    assert embeddings.difference(first, 3 * first @ haar(2, 2) + 5) < 1e-9
    if method == "tsne":
        assert embeddings.difference(first, embeddings.embed(2 * x[::-1], method=method)) > 0.1


def test_umap_runs_or_says_what_to_install():
    if embeddings.importlib.util.find_spec("umap") is None:
        with pytest.raises(InputError, match="pip install"):
            embeddings.embed(AXES, method="umap")
    else:
        first, second = (embeddings.embed(AXES, method="umap", embedding_seed=1) for _ in range(2))
        np.testing.assert_array_equal(first, second)


def test_clusters_and_their_agreement():
    found = embeddings.find_clusters(AXES)
    assert embeddings.agreement(found, OWN) == (1.0, 1.0, 1.0)
    assert set(embeddings.find_clusters(RNG.normal(size=(300, 6)))) <= {-1, 0, 1}
    # Names do not matter; half the samples told apart; nothing in common; no groups at all.
    assert embeddings.agreement(OWN, 5 - OWN).information == 1
    merged = embeddings.agreement(OWN, OWN // 2).information
    assert 0.5 < merged < 0.95
    assert abs(embeddings.agreement(OWN, RNG.permutation(OWN)).information) < 0.1
    assert np.isnan(embeddings.agreement(OWN, np.zeros_like(OWN)).information)
    hidden = np.where(OWN < 3, OWN, -1)
    half = embeddings.agreement(OWN, hidden)
    assert (half.information, half.fraction) == (1.0, 0.5)
    assert 0.5 < half.overall < 0.9  # what is not grouped counts as one group
    assert np.isnan(embeddings.agreement(OWN[:0], OWN[:0])).all()


def test_the_fullest_plane_is_the_one_with_the_clusters():
    x, _ = clumps(np.eye(6)[[1, 4]], each=100)
    view = embeddings.fullest_plane(np.concatenate([x, RNG.normal(size=(50, 6))]), epsilon=0.9)
    assert view.plane == (1, 4)
    assert set(range(200)) <= set(view.sample.tolist())
    np.testing.assert_allclose(view.points[:200], x[:, [1, 4]][: len(view.points)], atol=1e-12)


def test_corners_are_structure_that_no_plane_shows():
    """The blind spot (docs/method.md §2): clusters in the full space, none in any plane."""
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=6)))[:12] / np.sqrt(6)
    x, own = clumps(signs, width=0.01)
    assert embeddings.agreement(embeddings.find_clusters(x), own).information > 0.99
    assert len(embeddings.fullest_plane(x, epsilon=0.9).sample) == 0


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: embeddings.embed(AXES, method="tsna"), "did you mean tsne"),
        (lambda: embeddings.embed(AXES[:5], method="pca"), "of at least 10 samples"),
        (lambda: embeddings.find_clusters(np.full((20, 2), np.nan)), "must be a finite matrix"),
        (lambda: embeddings.agreement(OWN, OWN[:3]), "the same length as b"),
        (lambda: unit_matching.match(AXES, AXES[:, :3]), "one shape"),
        (lambda: unit_matching.match(AXES, np.ones_like(AXES)), "does not vary"),
        (lambda: unit_matching.convergence(AXES), "two seeds or more"),
        (lambda: unit_matching.convergence([AXES, AXES], basis="simplex"), "orthonormal"),
        (lambda: downstream.quantise(AXES, bits=0), "at least 1"),
    ],
)
def test_bad_input_is_one_clear_error(call, problem):
    with pytest.raises(InputError, match=problem):
        call()


# ------------------------------------------------------------------------------ convergence


def test_matches_are_invariant_as_they_should_be():
    x, y = RNG.normal(size=(2, 200, 5))
    y = x @ haar(5, 3) + 0.5 * y
    signed = np.eye(5)[[3, 0, 4, 1, 2]] * np.array([1, -1, 1, -1, -1])
    plain = unit_matching.match(x, y)
    assert plain.units <= plain.orthogonal <= 1
    np.testing.assert_allclose(unit_matching.match(x, 3 * y @ signed + 7), plain, rtol=1e-9)
    turned = unit_matching.match(x, y @ haar(5, 4))
    np.testing.assert_allclose(turned.orthogonal, plain.orthogonal, rtol=1e-9)
    assert abs(turned.units - plain.units) > 1e-3


def test_units_match_is_the_best_of_all_signed_permutations():
    a, b = RNG.normal(size=(2, 30, 4))
    product = unit_matching.cross_product(a, b)
    best = max(
        sum(abs(product[i, j]) for i, j in enumerate(order))
        for order in itertools.permutations(range(4))
    )
    np.testing.assert_allclose(unit_matching.match(a, b).units, best, rtol=1e-12)


def made_seeds(kind, seed):
    """Sixteen networks that see the same structure: turned at random, or only shuffled."""
    rng = np.random.default_rng(seed)
    base = rng.laplace(size=(150, 6)) * np.array([1.0, 1.2, 1.4, 1.6, 1.8, 2.0])
    maps = bases.rotations(6, 16, rng) if kind == "rotated" else [
        np.eye(6)[rng.permutation(6)] * rng.choice([-1, 1], 6) for _ in range(16)
    ]  # fmt: skip
    noise = 0.3 * rng.normal(size=(16, 150, 6))
    return np.stack([base @ m for m in maps]) + noise


def test_shared_axes_are_found_and_a_shared_shape_is_not_taken_for_them():
    found = unit_matching.convergence(made_seeds("shuffled", 0), rotations=99)
    assert found.p == 2 / 2**8
    assert found.z > 5
    np.testing.assert_allclose(found.units, found.orthogonal, rtol=0.02)
    p = [unit_matching.convergence(made_seeds("rotated", k), rotations=19).p for k in range(40)]
    assert 0.3 < np.mean(p) < 0.75  # uniform on 0.05, …, 1: 0.525 ± 0.046
    assert np.mean(np.array(p) <= 0.1) <= 0.25


def test_a_basis_that_is_turned_with_the_latents_changes_nothing():
    x, q = made_seeds("shuffled", 1), haar(6, 5)
    plain = unit_matching.convergence(x, rotations=19)
    np.testing.assert_allclose(
        unit_matching.convergence(x @ q, basis=q, rotations=19).units, plain.units, rtol=1e-9
    )
    assert unit_matching.convergence(x @ q, rotations=99).z < plain.z


# ----------------------------------------------------------------------------- consequences


def test_rounding_to_many_bits_is_exact_and_to_one_is_the_ends():
    x = RNG.normal(size=(3, 50, 4)).astype(np.float32)
    np.testing.assert_allclose(downstream.quantise(x, bits=20), x, atol=1e-5)
    coarse = downstream.quantise(x, bits=1)
    ends = np.stack([x.min(axis=1), x.max(axis=1)], axis=1)
    assert (abs(coarse[:, :, None] - ends[:, None]).min(axis=2) < 1e-6).all()
    for bits in (2, 4):
        assert max(len(np.unique(one)) for one in downstream.quantise(x, bits=bits)[0].T) <= 2**bits
    whole_numbers = downstream.quantise(np.array([[0], [1], [2], [10]]), bits=2)
    np.testing.assert_allclose(whole_numbers.ravel(), [0, 0, 10 / 3, 10])
    constant = np.ones((5, 2))
    np.testing.assert_array_equal(downstream.quantise(constant, bits=4), constant)


def test_noise_is_as_long_as_it_says_and_isotropic():
    x = RNG.normal(size=(4000, 5)) * np.array([1, 2, 3, 4, 5]) + 100
    noise = downstream.add_noise(x, fraction=0.1) - x
    scale = np.sqrt(((x - x.mean(axis=0)) ** 2).mean())
    np.testing.assert_allclose(np.sqrt((noise**2).mean(axis=0)), 0.1 * scale, rtol=0.05)


def test_a_probe_reads_what_is_there():
    train, labels = clumps(np.eye(4), each=30)
    test, test_labels = clumps(np.eye(4), each=10, seed=1)
    assert downstream.probe_accuracy(train, labels, test, test_labels) == 1
    # Neither where the units' means are, nor how large the latents are, makes the probe stricter.
    noisy, held = (x + np.random.default_rng(2).normal(size=x.shape) for x in (train, test))
    plain = downstream.probe_accuracy(noisy, labels, held, test_labels)
    moved = np.array([300.0, -200, 50, 0])
    for change in (lambda x: x + moved, lambda x: 100 * x):
        again = downstream.probe_accuracy(change(noisy), labels, change(held), test_labels)
        assert again == plain < 1
    shuffled = np.random.default_rng(1).permutation(labels)
    assert downstream.probe_accuracy(train, shuffled, test, test_labels) < 0.6


def test_what_goes_together_from_seed_to_seed_is_found_and_cells_do_not_fake_it():
    rng = np.random.default_rng(2)
    seeds = rng.normal(size=12)
    a = seeds + 0.1 * rng.normal(size=(5, 12))
    found = downstream.rank_correlation(a, 10 * a + rng.normal(size=(5, 1)))
    np.testing.assert_allclose([found.mean, found.low, found.high], 1)
    assert (found.p, found.seeds, found.cells) == (1e-4, 12, 5)
    against = downstream.rank_correlation(a, -a)
    np.testing.assert_allclose([against.mean, against.low, against.high], -1)
    # Differences between cells alone: nothing goes together within them.
    far = np.arange(5)[:, None] * 100
    b, c = rng.normal(size=(2, 5, 12))
    found = downstream.rank_correlation(far + b, far + c)
    assert -0.5 < found.low < found.mean < found.high < 0.5
    assert found.p > 0.01


def test_intervals_of_correlations_hold_where_cells_share_their_seeds():
    """Cells that are one and the same are no evidence but one's."""
    covered, narrow = [], 0
    for k in range(60):
        rng = np.random.default_rng(k)
        a, b = rng.normal(size=(2, 1, 16))
        one = downstream.rank_correlation(a, b, permutations=99)
        eight = downstream.rank_correlation(a.repeat(8, 0), b.repeat(8, 0), permutations=99)
        np.testing.assert_allclose(eight, one._replace(cells=8), rtol=1e-12)
        covered.append(one.low <= 0 <= one.high)
        narrow += one.p <= 0.05
    assert 0.83 <= np.mean(covered) <= 1  # 0.95 ± 0.03, and the percentile is a little narrow
    assert narrow <= 8


def test_missing_seeds_and_cells_are_left_out_of_correlations():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 3, 12))
    plain = downstream.rank_correlation(a[:, 1:], b[:, 1:], permutations=99)
    a[1, 0] = np.nan
    assert downstream.rank_correlation(a, b, permutations=99) == plain
    lost = np.concatenate([a, np.full((1, 12), np.nan)])
    more = np.concatenate([b, rng.normal(size=(1, 12))])
    assert downstream.rank_correlation(lost, more, permutations=99) == plain
    few = downstream.rank_correlation(a[:, 1:6], b[:, 1:6])
    assert np.isfinite(few.mean)
    assert np.isnan([few.low, few.high, few.p]).all()
    assert (few.seeds, few.cells) == (5, 3)
    constant = downstream.rank_correlation(np.ones((2, 6)), b[:2, :6])
    assert np.isnan(constant[:4]).all()
    assert constant.cells == 0
    assert downstream.rank_correlation(np.full((2, 6), np.nan), b[:2, :6]).seeds == 0


# ------------------------------------------------------------------------------ trends


def test_a_trend_is_its_slope_and_a_seed_that_is_missing_is_left_out():
    offset = np.arange(8.0)
    values = [2 * x + offset for x in (1, 3, 4)]
    found = layers.trend(values, [1, 3, 4])
    np.testing.assert_allclose(found.mean, 2)
    assert found.p == 2 / 2**8
    values[1][3] = np.nan
    np.testing.assert_allclose(layers.trend(values, [1, 3, 4]).mean, 2)
    rng = np.random.default_rng(3)
    assert layers.trend(rng.normal(size=(4, 16)), [1, 2, 3, 4]).p > 0.05


def made_rows(**axes):
    """Rows as `measure_layers` gives them, the shape ten times the first axis, plus the seed."""
    rows = []
    for values in itertools.product(*axes.values()):
        names = dict(zip(axes, values, strict=True))
        shape = 10.0 * names["depth"] + len(rows) * 1e-3 + np.arange(8.0)
        facts = interpolated.get(names.get("activation", "tanh"))
        rows.append({"architecture": "mlp", "activation": "tanh", "optimizer": "sgd",
                     "facts": facts,
                     "site": "pre", "layer": "bottleneck", "latent_width": 3, **names,
                     "shape_excess_seeds": shape, "covariance_excess_seeds": -shape,
                     "axis_quantisation_excess_seeds": -shape})  # fmt: skip
    return rows


def test_cells_that_differ_in_anything_are_apart_in_every_table():
    axes = {"activation": ["tanh", "isotropic_tanh"], "depth": [1, 2], "width": [4, 8],
            "initializer": ["a", "b"], "learning_rate": [0.1, 0.01]}  # fmt: skip
    slopes = layers.trends(made_rows(**axes), axis="depth").to_dict("records")
    assert len(slopes) == 2 * 2**3 * 3  # activations; width, initialiser, rate; quantities
    names = [{k: v for k, v in row.items() if k in layers.NAMES} for row in slopes]
    assert len({tuple(name.items()) for name in names}) == 2 * 2**3
    assert "depth" not in names[0]
    assert "latent_width" not in names[0]
    for row in slopes:
        assert row["slope"] == pytest.approx(
            10 if row["quantity"] == "shape_excess" else -10, rel=0.01
        )
        assert row["seeds"] == 8
    apart = layers.differences(made_rows(**axes)).to_dict("records")
    assert len(apart) == 2**4 * 3
    assert {(row["activation"], row["against"]) for row in apart} == {("tanh", "isotropic_tanh")}


def test_one_point_has_no_trend():
    assert layers.trends(made_rows(depth=[2]), axis="depth").empty
    assert layers.differences(made_rows(depth=[2])).empty


def test_vectors_are_thinned_at_all_positions():
    """Of 16 positions, a stride of 4 would keep the left column of every image."""
    position = np.tile(np.arange(16), 50)
    image = np.repeat(np.arange(50), 16)
    clouds = xr.DataArray(np.stack([position, image], 1)[None], dims=("seed", "sample", "unit"))
    kept = thinned(clouds, 200)
    assert kept.sizes["sample"] == 200
    assert np.bincount(kept[0, :, 0], minlength=16).min() >= 4
    assert (np.diff(kept[0, :, 1]) >= 0).all()
    assert len(np.unique(kept[0].values, axis=0)) == 200
    xr.testing.assert_identical(kept, thinned(clouds, 200))
    assert thinned(kept, 200) is kept
