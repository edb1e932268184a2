"""The kernel: pruned, dense and plain accept the same samples, whatever they look like."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppp_jax import bases
from ppp_jax.analysis import count_planes, project, top_planes
from ppp_jax.analysis.projection import candidates, kernel
from ppp_jax.analysis.projection.planes import resolve_basis
from ppp_jax.errors import InputError
from tests import plain

pytestmark = pytest.mark.filterwarnings("ignore::ppp_jax.analysis.EmptyPPPWarning")


def force(monkeypatch, way):
    """Makes the kernel search one way only, and returns how often it did."""
    calls = []
    original = getattr(candidates, f"_{way}")

    def counted(*arguments):
        calls.append(way)
        return original(*arguments)

    monkeypatch.setattr(candidates, f"_{way}", counted)
    # Dense if a pruned pair is infinitely dear, pruned if it is free.
    monkeypatch.setattr(candidates, "PRUNED_COST", 10**12 if way == "dense" else 0)
    monkeypatch.setattr(candidates, "DENSE_START", 0)
    return calls


def triples(latents, basis, epsilon, order):
    projection = project(latents, basis=basis, epsilon=epsilon, planes=order)
    pairs = projection.planes.values[projection.plane.values]
    return [(*pair, s) for pair, s in zip(pairs.tolist(), projection.sample.values, strict=True)]


def made(kind, samples, units, rng):
    """Latents of every kind that could trip a kernel, thresholds met exactly among them."""
    latents = {
        "normal": rng.normal(size=(samples, units)),
        "heavy": rng.standard_t(1, size=(samples, units)),
        # Squared plane fractions 1, ½, 4⁄5, …: sums of few small squares are met exactly.
        "integer": rng.integers(-2, 3, size=(samples, units)).astype(float),
        "axes": np.eye(units)[rng.integers(units, size=samples)],
        "equal": np.sign(rng.normal(size=(samples, units))),
    }[kind]
    latents[rng.random(samples) < 0.2] = 0
    return latents


def made_basis(kind, units, rng):
    if kind == "standard":
        return np.eye(units)
    if kind == "rotated":
        return bases.haar(units, rotation_seed=int(rng.integers(100)))
    if kind == "needle":  # nearly parallel: planes that are just planes
        return np.eye(units)[0] + 3e-3 * rng.normal(size=(units + 2, units))
    basis = rng.integers(-2, 3, size=(units + 3, units)) if kind == "integer" else rng.normal(
        size=(units + 3, units)
    )  # fmt: skip
    basis = basis.astype(float)
    basis[~basis.any(axis=1), 0] = 1
    basis[0, 0] += 0.25
    basis[-1], basis[-2] = -2 * basis[0], 3 * basis[1]  # antiparallel and repeated
    return basis


@settings(max_examples=150)
@given(
    kind=st.sampled_from(["normal", "heavy", "integer", "axes", "equal"]),
    basis=st.sampled_from(["standard", "rotated", "frame", "integer", "needle"]),
    samples=st.integers(1, 12),
    units=st.integers(2, 6),
    epsilon=st.sampled_from([0.0, 0.3, 0.5, np.sqrt(0.5), np.sqrt(0.8), 0.85, 0.99, 1.0]),
    order=st.sampled_from(["combinations", "permutations"]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 10_000),
)
def test_pruned_dense_and_plain_accept_the_same(
    kind, basis, samples, units, epsilon, order, dtype, seed
):
    rng = np.random.default_rng(seed)
    latents = made(kind, samples, units, rng).astype(dtype)
    vectors = made_basis(basis, units, rng)
    try:
        resolve_basis(vectors, units)
    except InputError:
        return  # all its vectors are parallel
    expected, _ = plain.ppp(latents, vectors, epsilon, order=getattr(itertools, order))
    for way in ("dense", "pruned"):
        with pytest.MonkeyPatch.context() as monkeypatch:
            calls = force(monkeypatch, way)
            got = triples(latents, vectors, epsilon, order)
        assert got == [(i, j, s) for i, j, s, *_ in expected], way
        assert calls or not got


@pytest.mark.parametrize("units", [3, 16, 40])
@pytest.mark.parametrize("epsilon", [0.2, 0.6, 0.85])
@pytest.mark.parametrize("name", ["standard", "haar:1", "simplex", "cross_polytope"])
def test_ways_agree_on_larger_clouds(units, epsilon, name, monkeypatch):
    rng = np.random.default_rng(units)
    latents = rng.standard_t(2, size=(200, units)).astype(np.float32)
    latents[:units] += 20 * bases.build(name, units)[:units]
    results = []
    for way in ("dense", "pruned"):
        calls = force(monkeypatch, way)
        results.append(project(latents, basis=name, epsilon=epsilon))
        assert calls
        monkeypatch.undo()
    dense, pruned = results
    assert dense.sizes["point"] > 0
    for key in ("plane", "sample", "counts", "points"):
        np.testing.assert_array_equal(dense[key], pruned[key])


def test_each_way_is_taken_where_it_pays(monkeypatch):
    taken = []
    for way in ("dense", "pruned"):
        original = getattr(candidates, f"_{way}")
        monkeypatch.setattr(
            candidates, f"_{way}", lambda *a, way=way, run=original: taken.append(way) or run(*a)
        )
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(200, 600)).astype(np.float32)
    wide[:, 0] = 40
    project(wide, epsilon=0.8)
    assert set(taken) == {"pruned"}
    taken.clear()
    project(rng.normal(size=(20_000, 16)).astype(np.float32), epsilon=0.3)
    assert set(taken) == {"dense"}


@pytest.mark.parametrize("epsilon", [0.5, 0.75, 0.9])
def test_few_vectors_lead(epsilon):
    """At most ⌊2/ε²⌋ coordinates of a sample reach the bound, so most are dropped unseen."""
    latents = np.random.default_rng(0).normal(size=(500, 64))
    latents[:50, :3] += 15
    prepared = kernel.prepare(latents, None, epsilon)
    square = np.square(latents)
    leads = square >= prepared.frame.bound * epsilon**2 * square.sum(axis=1, keepdims=True)
    assert leads.sum(axis=1).max() <= np.floor(2 / epsilon**2)
    counted = np.flatnonzero(leads.any(axis=1))
    np.testing.assert_array_equal(prepared.survey.candidates, counted)
    assert set(project(latents, epsilon=epsilon).sample.values) <= set(counted.tolist())


@pytest.mark.parametrize("way", ["dense", "pruned"])
def test_windows_and_blocks_change_nothing(monkeypatch, way):
    latents = np.random.default_rng(0).standard_t(2, size=(300, 6))
    whole = project(latents, epsilon=0.5, basis="simplex", planes="permutations")
    force(monkeypatch, way)
    for elements in (70, 700):
        monkeypatch.setattr(kernel, "WINDOW_ELEMENTS", elements)
        monkeypatch.setattr(candidates, "CANDIDATES", 50)
        cut = project(latents, epsilon=0.5, basis="simplex", planes="permutations")
        for key in whole.data_vars:
            np.testing.assert_array_equal(whole[key], cut[key])


def test_dense_search_compiles_once_for_blocks_of_every_length(monkeypatch):
    force(monkeypatch, "dense")
    candidates._reach.clear_cache()
    rng = np.random.default_rng(0)
    for samples in (130, 200, 256):
        project(rng.normal(size=(samples, 5)), epsilon=0.5)
    assert candidates._reach._cache_size() == 1


def test_planes_drawn_by_a_seed_without_replacement():
    frames = [resolve_basis(None, 10, max_planes=7, plane_seed=seed) for seed in (0, 0, 1)]
    assert len({tuple(pair) for pair in frames[0].planes.tolist()}) == 7
    np.testing.assert_array_equal(frames[0].planes, frames[1].planes)
    assert not np.array_equal(frames[0].planes, frames[2].planes)
    assert len(resolve_basis(None, 4, max_planes=100).planes) == 6


@pytest.mark.parametrize("order", ["combinations", "permutations"])
@pytest.mark.parametrize("way", ["dense", "pruned"])
def test_some_planes_hold_what_they_hold_among_all(monkeypatch, order, way):
    latents = np.random.default_rng(3).standard_t(2, size=(200, 9))
    everything = project(latents, epsilon=0.6, planes=order, basis="cross_polytope")
    force(monkeypatch, way)
    some = project(latents, epsilon=0.6, planes=order, basis="cross_polytope", max_planes=20)
    assert some.sizes["row"] == 20
    where = {tuple(pair): k for k, pair in enumerate(everything.planes.values.tolist())}
    for k, pair in enumerate(some.planes.values.tolist()):
        whole = everything.isel(point=everything.plane == where[tuple(pair)])
        part = some.isel(point=some.plane == k)
        np.testing.assert_array_equal(whole.points, part.points)
        np.testing.assert_array_equal(whole["sample"], part["sample"])


def test_counts_and_top_planes_at_several_epsilons():
    latents = np.random.default_rng(0).standard_t(2, size=(400, 7))
    counted = count_planes(latents, epsilon=[0.85, 0.5])
    np.testing.assert_array_equal(counted.epsilon, [0.5, 0.85])
    for epsilon in (0.5, 0.85):
        alone = project(latents, epsilon=epsilon).counts
        np.testing.assert_array_equal(counted.counts.sel(epsilon=epsilon), alone)
    best = top_planes(counted, 3, epsilon=0.5)
    assert (
        best.counts.sel(epsilon=0.5).values.tolist()
        == sorted(counted.counts.sel(epsilon=0.5).values.tolist(), reverse=True)[:3]
    )
    at = counted.counts.sel(epsilon=0.5).values[best.row.values]
    np.testing.assert_array_equal(at, best.counts.sel(epsilon=0.5))
    for bad, text in (({"number": 0}, "number=0"), ({"number": 1, "epsilon": 0.6}, "epsilon=0.6")):
        with pytest.raises(InputError, match=text):
            top_planes(counted, **bad)
