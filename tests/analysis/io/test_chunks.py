"""Dask arrays: counted where their chunks are, on threads and on a cluster of processes."""

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
import xarray as xr

import ppp_jax.analysis as pa
from ppp_jax.analysis.io import chunks, sources
from ppp_jax.errors import InputError

LATENTS = np.random.default_rng(0).laplace(size=(3, 700, 12)).astype(np.float32) + 0.5
LATENTS[1, 5] = 0  # no sample


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    """Small arrays would be read as a whole."""
    monkeypatch.setattr(sources, "LOAD_BYTES", 0)


@pytest.fixture
def cluster():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as two,
        distributed.Client(two) as client,
    ):
        yield client


def chunked(latents=LATENTS):
    return da.from_array(latents, chunks=(1, 300, 5))


def measured(latents):
    counted = pa.count_planes(latents, epsilon=[0.6, 0.8])
    picture = pa.ppp(latents, epsilon=0.7, by="axis_0", bins=20, extent=4.0)
    curves = pa.srm(latents, epsilon=0.7, angles=40, signed=True)
    return {
        "counts": counted["counts"],
        "ratio": picture["ratio"],
        "density": picture["density"],
        "srm": curves["srm"],
        "acceptance": pa.acceptance_ratio(latents, epsilon=0.7),
    }


def agree_exactly(found, expected):
    for name, values in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(values), err_msg=name)


def test_threads_count_what_numpy_counts():
    agree_exactly(measured(chunked()), measured(LATENTS))


def test_a_cluster_of_processes_counts_what_numpy_counts(cluster):
    agree_exactly(measured(chunked()), measured(LATENTS))
    names = cluster.run(lambda: __import__("os").getpid())
    assert len(set(names.values())) == 2
    for function in (pa.alignment_c4, pa.alignment_kurtosis, pa.unit_kurtosis):
        np.testing.assert_allclose(function(chunked()), function(LATENTS[:]), rtol=1e-5)


def test_the_scheduler_that_is_set_runs_the_chunks():
    ran = []

    def scheduler(graph, keys, **options):
        ran.append(len(keys))
        return dask.get(graph, keys, **options)

    with dask.config.set(scheduler=scheduler):
        pa.count_planes(chunked(), epsilon=0.7)
    assert ran == [9, 1]  # the lengths of nine chunks, and then the sum of what is in them


@pytest.mark.parametrize("function", [pa.alignment_c4, pa.alignment_kurtosis, pa.unit_kurtosis])
@pytest.mark.parametrize("basis", [None, "haar:2", "simplex"])
def test_moments_of_chunks_are_those_of_the_array(function, basis):
    expected = function(np.ascontiguousarray(LATENTS), basis=basis)
    np.testing.assert_allclose(function(chunked(), basis=basis), expected, rtol=2e-5, atol=3e-6)
    stored = xr.DataArray(chunked(), dims=("seed", "sample", "unit"))
    found = function(stored, basis=basis)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=3e-6)
    assert found.attrs["rows"] == 3 * 700 - 1
    assert found.attrs["rows_zero"] == 1


def test_rows_are_left_out_of_chunks_as_of_arrays():
    spoilt = LATENTS.copy()
    spoilt[2, 300] = np.inf
    spoilt[0, 3] *= 1e4
    for array in (spoilt, chunked(spoilt)):
        with pytest.raises(InputError, match="1 row that is not finite"):
            pa.alignment_c4(array)
        with pytest.warns(pa.LongRowWarning):
            pa.unit_kurtosis(array, nonfinite="drop")
    options = {"nonfinite": "drop", "drop_outliers": 100}
    expected = pa.unit_kurtosis(spoilt, **options)
    np.testing.assert_allclose(pa.unit_kurtosis(chunked(spoilt), **options), expected, rtol=2e-5)
    with pytest.raises(InputError, match="not finite"):
        pa.count_planes(chunked(spoilt))


def test_large_chunks_are_divided(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 100 * 12 * 4)
    source = sources.open_source(da.from_array(LATENTS, chunks=-1))
    sizes = chunks.rows_of(source).chunks[0]
    assert max(sizes) <= 100
    assert sum(sizes) == 2100
    agree_exactly(measured(da.from_array(LATENTS, chunks=-1)), measured(LATENTS))
