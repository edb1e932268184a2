"""Odd calls: what cannot be used is one line that names the argument, before anything is written.

The calls are data, `tests/data/odd_calls.json`: rows of a function, an argument, odd values by name
(the table below), and the name that the error must give.
"""

import contextlib
import functools
import json
import pathlib
import warnings
from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from flax import nnx
from matplotlib.figure import Figure

import ppp_jax.analysis as pa
from ppp_jax import bases
from ppp_jax.analysis import embeddings, synthetic
from ppp_jax.analysis.inference import (
    calibration,
    dose_response,
    downstream,
    seeds,
    special_directions,
    unit_matching,
)
from ppp_jax.analysis.projection import kernel
from ppp_jax.data import datasets
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.sweep import sweep
from tests import ROOT

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
X = RNG.laplace(size=(24, 4))
SEEDS = xr.DataArray(RNG.normal(size=(6, 24, 4)), dims=("seed", "sample", "unit"))
TABLE = RNG.normal(size=(3, 8))
FOUND = xr.DataArray(
    RNG.normal(size=(1, 2, 3)),
    dims=("activation", "seed", "step"),
    coords={"activation": ["tanh"], "epoch": ("step", [0, 1, 2])},
)
PLANES = np.array([0, 0, 1, 1, 2, 2])
RUN = pathlib.Path("run")  # of the grid below, where calls are to be good
TINY = Grid(activations=["tanh"], widths=[6], latent_widths=[4], seeds=[0], epochs=1,
            probe_samples=32, optimizers=["sgd"])  # fmt: skip
CLASSES = np.arange(24) % 2


class Later(NamedTuple):
    """A value that is computed when a test asks for it, because every worker imports this file."""

    make: Callable


@functools.cache
def made(make):
    return make()


def now(value):
    """Returns the value that a table's entry stands for."""
    return made(value.make) if isinstance(value, Later) else value


def filled(arguments):
    """Returns arguments, each as it is given to a function."""
    return {name: now(value) for name, value in arguments.items()}


def linear():
    return nnx.Linear(4, 2, rngs=nnx.Rngs(0))


def laws():
    return calibration.law_tests(laws=["normal"], samples=12, units=3, draws=2, rotations=3)


def p_values():
    return calibration.null_p_values(samples=12, units=3, draws=6, rotations=9)


def panels():
    return [[now(PICTURE)]]


TESTED = Later(lambda: pa.rotation_test(SEEDS, rotations=9))
COUNTED = Later(lambda: pa.count_planes(X, epsilon=[0.5, 0.8]))
PICTURE = Later(lambda: pa.ppp(X, epsilon=0.3, bins=8))
TURNED = Later(lambda: pa.ppp(X, epsilon=0.3, bins=8, rotated=0))
PICTURES = Later(lambda: pa.ppp(SEEDS, epsilon=0.3, bins=8, by="seed"))
CURVES = Later(lambda: pa.srm(X, epsilon=0.3, angles=8))
LAYERS = Later(
    lambda: pa.compare_layers({"a": X, "b": X[:, :3]}, statistics=["shape"], rotations=3)
)


class Refuses:
    """Becomes no array."""

    def __array__(self, *_, **__):
        raise RuntimeError("not I")


with warnings.catch_warnings():
    warnings.simplefilter("ignore", PendingDeprecationWarning)
    MATRIX = np.matrix(X)

ODD = {
    "none": None,
    "true": True,
    "numpy_false": np.False_,
    "nan": float("nan"),
    "inf": float("inf"),
    "numpy_nan": np.float32("nan"),
    "minus_one": -1,
    "zero": 0,
    "one": 1,
    "half": 0.5,
    "two": 2,
    "three_halves": 1.5,
    "minus_half": -0.5,
    "tiny": 1e-320,
    "hundred_million": 10**8,
    "digits_25": 10**25 - 1,
    "digits_400": 10**400,
    "digits_5000": 10**5000,
    "two_to_63": 2**63,
    "text": "text",
    "text_number": "3",
    "empty_text": "",
    "control_text": "a\x1b[31m\nb",
    "arabic_digits": "haar:\u0663",
    "bytes": b"text",
    "complex_number": 1 + 2j,
    "empty_list": [],
    "list_of_none": [None, None],
    "list_of_texts": ["a", "b"],
    "list_of_huge": [10**25, 1],
    "nested_epsilon": [[0.5, 0.8]],
    "ragged": [[1.0, 2.0], [3.0]],
    "ragged_arrays": [X[:10], X[:7]],
    "ragged_widths": [X, X[:, :3]],
    "one_dim": X[:, 0],
    "zero_dim": np.array(1.0),
    "three_dim": np.ones((2, 3, 4)),
    "empty_array": np.zeros((0, 4)),
    "no_units": np.zeros((4, 0)),
    "one_unit": np.ones((24, 1)),
    "object_array": np.array([[{}, None], [1, 2]], dtype=object),
    "complex": X + 1j,
    "texts_array": np.full((24, 4), "a"),
    "bytes_array": np.full((24, 4), b"a"),
    "structured": np.zeros(24, [("a", "f4"), ("b", "f4")]),
    "timedelta": np.ones((24, 4), "m8[s]"),
    "datetime": np.ones((24, 4), "i8").astype("M8[s]"),
    "void": np.zeros((24, 4), "V2"),
    "masked_texts": np.ma.array(np.full((24, 4), "a")),
    "masked_times": np.ma.array(np.ones((24, 4), "m8[s]")),
    "not_finite": np.full((24, 4), np.nan),
    "one_nan": np.where(np.arange(96).reshape(24, 4) == 5, np.nan, X),
    "zeros": np.zeros((24, 4)),
    "ones": np.ones((24, 4)),
    "other_width": np.ones((24, 5)),
    "mapping": {"layer": X},
    "empty_mapping": {},
    "bad_layer": {"a": X, "b": X[:, 0]},
    "deep_layer": {"a": X[None]},
    "nested_mapping": {"a": {"b": {"c": X}}},
    "mixed_mapping": {"a": X, "b": {"c": X}},
    "same_layers": {1: X, "1": X},
    "not_finite_layer": {"a": np.where(np.arange(96).reshape(24, 4) == 5, np.nan, X)},
    "set": {1.0, 2.0},
    "generator": (x for x in X),
    "iterator": iter([1, 2]),
    "callable": len,
    "type": np.float64,
    "object": object(),
    "refuses": Refuses(),
    "path": pathlib.Path("somewhere.npy"),
    "path_text": "somewhere.npy",
    "missing_npy": pathlib.Path("nowhere") / "x.npy",
    "long_name": "n" * 300 + ".npz",
    "long_path": pathlib.Path("n" * 300) / "x.npz",
    "zero_byte": "a\0b.npz",
    "no_user": "~nosuchuser/x.npz",
    "dataset": xr.Dataset({"a": (("sample", "unit"), X)}),
    "tree": xr.DataTree(xr.Dataset({"a": (("sample", "unit"), X)})),
    "labelled_vector": xr.DataArray(X[:, 0], dims="sample"),
    "labelled_scalar": xr.DataArray(1.0),
    "labelled_texts": xr.DataArray(np.full((24, 4), "a"), dims=("sample", "unit")),
    "sample_first": xr.DataArray(np.ones((5, 3, 4)), dims=("sample", "layer", "neuron")),
    "unit_first": xr.DataArray(np.ones((4, 3, 5)), dims=("unit", "layer", "time")),
    "picture": PICTURE,
    "counted": COUNTED,
    "curves": CURVES,
    "range": range(3),
    "slice": slice(3),
    "ellipsis": ...,
    "decimal_text": "0.85",
    "thomson_huge": "thomson:9999999",
    "thomson_digits": "thomson:" + "9" * 25,
    "thomson_5000": "thomson:" + "9" * 5000,
    "thomson_seed": "thomson:20:99999999999",
    "thomson_one": "thomson:1",
    "haar_huge": "haar:" + "9" * 23,
    "haar_negative": "haar:-1",
    "haar_underscore": "haar:1_0",
    "haar_plus": "haar:+1",
    "haar_space": "haar: 1",
    "simplex_number": "simplex:3",
    "standard_number": "standard:1",
    "colons": "::::",
    "tuple": (1, 2),
    "duplicate": ("seed", "seed"),
    "by_sample": "sample",
    "by_unit": ["unit"],
    "by_number": [1],
    "by_none": [None],
    "by_nested": [["seed"]],
    "share_above": [0.1, 1.5],
    "labels_floats": np.linspace(0, 1, 24),
    "labels_short": np.arange(3),
    "labels_one": np.zeros(24, int),
    "three_doses": [0.0, 1.0, 2.0],
    "descending": [3.0, 2.0, 1.0, 0.0],
    "p_above": [0.5, 1.5],
    "axes_plain": Later(lambda: Figure().add_subplot()),
}

CALLS = {
    "alignment_c4": (pa.alignment_c4, {"latents": X}),
    "alignment_kurtosis": (pa.alignment_kurtosis, {"latents": X}),
    "unit_kurtosis": (pa.unit_kurtosis, {"latents": X}),
    "acceptance_ratio": (pa.acceptance_ratio, {"latents": X}),
    "angles": (pa.angles, {"latents": X}),
    "neighbour_ratio": (pa.neighbour_ratio, {"latents": X}),
    "axis_quantisation": (pa.axis_quantisation, {"latents": X}),
    "density_peaks": (pa.density_peaks, {"latents": X}),
    "project": (pa.project, {"latents": X}),
    "count_planes": (pa.count_planes, {"latents": X}),
    "ppp": (pa.ppp, {"latents": SEEDS, "bins": 8}),
    "plane_pictures": (pa.ppp, {"latents": X, "bins": 8, "planes_apart": True, "epsilon": 0.3}),
    "whitened": (pa.ppp, {"latents": X, "bins": 8, "whiten": True, "epsilon": 0.3}),
    "srm": (pa.srm, {"latents": X}),
    "rotation_test": (pa.rotation_test, {"latents": X, "rotations": 5}),
    "capture_cache": (pa.capture_cache, {"cache": {"a": X[None]}}),
    "capture_flax": (
        pa.capture_flax,
        {"model": Later(linear), "batches": [X], "names": {"end": ""}},
    ),
    "compare_layers": (
        pa.compare_layers, {"layers": {"a": X}, "statistics": ["shape"], "rotations": 3}
    ),
    "plot_layers": (pa.plot_layers, {"found": LAYERS}),
    "layer_table": (pa.layer_table, {"found": LAYERS}),
    "write_layers": (
        pa.write_layers,
        {"layers": {"a": X}, "out": "layers_out", "statistics": ["shape"], "rotations": 3},
    ),
    "pool": (pa.pool, {"tested": TESTED}),
    "top_planes": (pa.top_planes, {"counted": COUNTED, "number": 2}),
    "top_units": (pa.top_units, {"latents": X}),
    "check_epsilon": (kernel.check_epsilon, {"epsilon": 0.8}),
    "known_clouds": (pa.known_clouds, {"samples": 20, "units": 3}),
    "load": (pa.load, {"latents": X}),
    "load_run": (pa.load_run, {"path": RUN}),
    "table": (pa.table, {"path": RUN}),
    "write_report": (pa.write_report, {"workdir": RUN, "rotations": 19, "progress": False}),
    "summary": (pa.summary, {"latents": X, "rotations": 9}),
    "interquartile_mean": (pa.interquartile_mean, {"values": [1.0, 2.0]}),
    "bootstrap_interval": (pa.bootstrap_interval, {"values": [1.0, 2.0, 3.0]}),
    "plot_ppp": (pa.plot_ppp, {"picture": PICTURE}),
    "plot_beside": (pa.plot_ppp, {"picture": PICTURE, "beside": TURNED}),
    "plot_srm": (pa.plot_srm, {"curves": CURVES}),
    "plot_curves": (pa.plot_curves, {"values": FOUND}),
    "plot_strip": (
        pa.plot_strip, {"panels": Later(panels), "rows": ["a"], "columns": ["b"], "title": ""}
    ),
    "animate": (pa.animate, {"pictures": PICTURES, "path": "film.gif", "over": "seed"}),
    "embed": (embeddings.embed, {"latents": X, "method": "pca"}),
    "find_clusters": (embeddings.find_clusters, {"points": X}),
    "agreement": (embeddings.agreement, {"a": PLANES, "b": PLANES}),
    "difference": (embeddings.difference, {"a": X[:, :2], "b": X[:, :2]}),
    "fullest_plane": (embeddings.fullest_plane, {"latents": X}),
    "paired_difference": (seeds.paired_difference, {"first": [1.0, 2], "second": [0.0, 0]}),
    "sign_flip": (seeds.sign_flip, {"differences": np.arange(8.0)}),
    "sign_flip_interval": (seeds.sign_flip_interval, {"differences": np.arange(8.0)}),
    "seeds_needed": (seeds.seeds_needed, {"tests": 3}),
    "attainable": (seeds.attainable, {"p": [0.5, 0.1], "seeds": [8, 6]}),
    "smallest_p": (seeds.smallest_p, {"seeds": 6}),
    "false_discovery": (seeds.false_discovery, {"p": [0.5, 0.1]}),
    "mixture": (
        synthetic.mixture, {"rng": np.random.default_rng(0), "fraction": 0.5, "samples": 9}
    ),
    "draw_law": (
        synthetic.draw_law,
        {"rng": np.random.default_rng(0), "law": "normal", "samples": 9, "units": 3},
    ),
    "heavy_rows": (
        synthetic.heavy_rows,
        {"rng": np.random.default_rng(0), "freedom": 5, "samples": 9, "units": 3},
    ),
    "density_clouds": (synthetic.density_clouds, {"samples": 9, "units": 4}),
    "isotropic_clouds": (synthetic.isotropic_clouds, {"rng": np.random.default_rng(0)}),
    "null_p_values": (
        calibration.null_p_values, {"samples": 9, "units": 3, "draws": 1, "rotations": 3}
    ),
    "law_tests": (calibration.law_tests, {"samples": 9, "units": 3, "draws": 1, "rotations": 3}),
    "heavy_tailed": (
        calibration.heavy_tailed,
        {"samples": 30, "units": 3, "freedom": 5, "draws": 1, "rotations": 3},
    ),
    "sizes": (calibration.sizes, {"tested": Later(laws)}),
    "false_positives": (calibration.false_positives, {"p": Later(p_values)}),
    "power": (calibration.power, {"samples": 9, "units": 3, "draws": 1, "rotations": 3}),
    "interval_coverage": (calibration.interval_coverage, {"seeds": 6, "draws": 2}),
    "kink": (dose_response.kink, {"doses": [0.0, 1, 2, 3], "values": TABLE[[0, 1, 2, 0]]}),
    "match": (unit_matching.match, {"a": X, "b": X}),
    "convergence": (unit_matching.convergence, {"latents": SEEDS.values, "rotations": 3}),
    "quantise": (downstream.quantise, {"latents": X, "bits": 3}),
    "add_noise": (downstream.add_noise, {"latents": X, "fraction": 0.1}),
    "probe_accuracy": (
        downstream.probe_accuracy,
        {"train": X, "train_labels": CLASSES, "test": X, "test_labels": CLASSES},
    ),
    "rank_correlation": (
        downstream.rank_correlation, {"first": TABLE, "second": TABLE, "permutations": 9}
    ),
    "nearest": (special_directions.nearest, {"vectors": X, "basis": np.eye(4)}),
    "positions": (
        special_directions.positions, {"vectors": SEEDS.values, "basis": np.eye(4), "rotations": 2}
    ),
    "build": (bases.build, {"name": "standard", "units": 4}),
    "standard": (bases.standard, {"units": 4}),
    "haar": (bases.haar, {"units": 4}),
    "rotations": (bases.rotations, {"units": 4, "count": 1, "rng": np.random.default_rng(0)}),
    "simplex": (bases.simplex, {"units": 4}),
    "cross_polytope": (bases.cross_polytope, {"units": 4}),
    "thomson": (bases.thomson, {"vectors": 5, "units": 4}),
    "data": (datasets.load, {"name": "digits"}),
}  # fmt: skip

ROWS = [
    pytest.param(function, argument, value, row.get("field", argument),
                 id=f"{function}-{argument}-{value}")
    for row in json.loads((ROOT / "tests" / "data" / "odd_calls.json").read_text())
    for function in row["functions"]
    for argument in row["arguments"]
    for value in row["values"]
]  # fmt: skip


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """One folder for all calls, in which they run: a folder each would take most of the time."""
    folder = tmp_path_factory.mktemp("empty")
    with contextlib.chdir(folder):
        yield folder


@pytest.mark.parametrize(("function", "argument", "value", "field"), ROWS)
def test_an_odd_call_is_one_line_that_names_the_argument(function, argument, value, field, empty):
    call, arguments = CALLS[function]
    given = filled(arguments | {argument: ODD[value]})
    with pytest.raises(InputError) as caught:
        call(**given)
    text = str(caught.value)
    assert caught.value.field == field
    assert text.startswith(f"{field}=")
    assert text.isprintable()
    assert len(text) < 1000
    assert not list(empty.iterdir())


def test_there_are_five_hundred_of_them():
    assert len({param.id for param in ROWS}) == len(ROWS) >= 500


def test_the_same_calls_without_the_odd_value_are_good(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep.train(TINY, RUN, progress=False)
    for call, arguments in CALLS.values():
        call(**filled(arguments))
    plt.close("all")


RIGHT = {
    "matrix": MATRIX,
    "list": X.tolist(),
    "tuple_of_rows": tuple(map(tuple, X)),
    "other_names": xr.DataArray(X, dims=("sample", "neuron")),
    "other_sample_name": xr.DataArray(X.T, dims=("unit", "token")),
    "no_names_known": xr.DataArray(X, dims=("token", "neuron")),
    "fortran": np.asfortranarray(X),
    "reversed_view": X[::-1],
    "long_double": X.astype(np.longdouble),
    "unmasked": np.ma.array(X),
}


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("kind", sorted(RIGHT))
def test_what_is_the_same_array_gives_the_same_number(kind):
    assert float(pa.alignment_c4(RIGHT[kind])) == pytest.approx(float(pa.alignment_c4(X)), 1e-6)
    assert pa.ppp(RIGHT[kind], epsilon=0.3, bins=8).attrs["units"] == 4
    assert pa.load(RIGHT[kind]).shape == X.shape
