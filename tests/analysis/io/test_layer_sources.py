"""Files of several arrays: each kind holds what the same arrays in a mapping are, and no more."""

import sys

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import xarray as xr
import zarr

from ppp_jax.analysis import compare_layers
from ppp_jax.analysis.io import layer_sources
from ppp_jax.analysis.io.layer_files import holds_layers, open_layers
from ppp_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4))
LAYERS = {
    "block_2": X,
    "block_10": RNG.laplace(size=(60, 3)).astype(np.float16),
    "embed": np.maximum(RNG.normal(size=(50, 4)), 0).astype(np.float32),
}
MODELS = {"base": LAYERS, "tuned": {"block_2": X[:30], "head": X[:, :2].astype(np.float32)}}


def npz(path, layers):
    np.savez(path.with_suffix(".npz"), **layers)
    return path.with_suffix(".npz")


def h5(path, layers):
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for name, value in layers.items():
            file[name] = value
    return path.with_suffix(".h5")


def tensors(path, layers):
    safetensors.numpy.save_file(dict(layers), path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def zarrs(path, layers, zarr_format=2):
    group = zarr.open_group(path.with_suffix(".zarr"), mode="w", zarr_format=zarr_format)
    for name, value in layers.items():
        group.create_array(name, data=value)
    return path.with_suffix(".zarr")


def zarrs_3(path, layers):
    return zarrs(path, layers, zarr_format=3)


def folder(path, layers, write=None):
    path.mkdir()
    for name, value in layers.items():
        if write is None:
            np.save(path / f"{name}.npy", value)
        else:
            write(path / name, {"x": value})
    return path


KINDS = {
    "npz": npz, "h5": h5, "safetensors": tensors, "zarr": zarrs, "zarr 3": zarrs_3,
    "folder": folder,
    **{f"folder of {write.__name__}": lambda path, layers, write=write: folder(path, layers, write)
       for write in (npz, h5, tensors, zarrs)},
}  # fmt: skip


def compared(layers, **options):
    defaults = {"statistics": ["shape", "covariance", "axis_quantisation"], "rotations": 9}
    return compare_layers(layers, **defaults | options)


@pytest.fixture(scope="module")
def found():
    return compared(LAYERS)


@pytest.fixture(scope="module")
def of_models():
    return compared(MODELS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_has_the_numbers_of_its_arrays_bit_for_bit(found, tmp_path, kind):
    path = KINDS[kind](tmp_path / "layers", LAYERS)
    assert holds_layers(path)
    xr.testing.assert_identical(compared(path), found)


@pytest.mark.parametrize("kind", ["h5", "zarr", "zarr 3", "folders", "paths", "npz", "safetensors"])
def test_a_second_level_of_a_file_holds_models(of_models, tmp_path, kind):
    slashed = {f"{model}/{name}": value for model, layers in MODELS.items()
               for name, value in layers.items()}  # fmt: skip
    path = tmp_path / "models"
    match kind:
        case "h5" | "zarr" | "zarr 3":
            path = KINDS[kind](path, slashed)
        case "folders":
            path.mkdir()
            for model, layers in MODELS.items():
                folder(path / model, layers)
        case "paths":
            path = {"base": str(npz(tmp_path / "a", LAYERS)), "tuned": h5(path, MODELS["tuned"])}
        case _:
            path.mkdir()
            for model, layers in MODELS.items():
                KINDS[kind](path / model, layers)
    xr.testing.assert_identical(compared(path), of_models)


def test_objects_that_hold_arrays_by_name_are_mappings(found, of_models, tmp_path):
    class Cache:  # as those of libraries that capture activations
        keys, items, __getitem__ = LAYERS.keys, LAYERS.items, LAYERS.__getitem__

    xr.testing.assert_identical(compared(Cache()), found)
    with h5py.File(h5(tmp_path / "a", LAYERS)) as file:
        xr.testing.assert_identical(compared(file), found.sortby("layer"))
    group = zarr.open_group(zarrs(tmp_path / "b", LAYERS), mode="r")
    xr.testing.assert_identical(compared(group), found)
    with np.load(npz(tmp_path / "c", LAYERS)) as file:
        xr.testing.assert_identical(compared(file), found)

    def dataset(layers):
        return xr.Dataset({name: ((f"sample_{name}", f"unit_{name}"), value)
                           for name, value in layers.items()})  # fmt: skip

    xr.testing.assert_identical(compared(dataset(LAYERS)), found)
    each = {name: dataset(layers) for name, layers in MODELS.items()}
    xr.testing.assert_identical(compared(xr.DataTree.from_dict(each)), of_models)


def test_numbers_of_16_bits_are_those_of_their_32_bits(tmp_path):
    half = {"b": X.astype(ml_dtypes.bfloat16), "h": X.astype(np.float16)}
    single = {name: value.astype(np.float32) for name, value in half.items()}
    expected = compared(single)
    xr.testing.assert_identical(compared(half), expected)
    xr.testing.assert_identical(compared(tensors(tmp_path / "a", half)), expected)


def test_bfloat16_that_lost_its_name_is_one_line(tmp_path):
    half = {"b": X.astype(ml_dtypes.bfloat16), "x": X}
    for write in (npz, folder):
        refused(write(tmp_path / "a", half), r"array of \|V2 .*as NumPy saves bfloat16.*float32")


def test_groups_in_groups_are_a_part_of_the_name(tmp_path):
    nested = {"m/block_10/mlp": X, "m/block_9/mlp": X, "n/a": X}
    for write in (h5, zarrs):
        opened = open_layers(write(tmp_path / "a", nested))
        assert [one.told for one in opened.layers] == ["m/block_9.mlp", "m/block_10.mlp", "n/a"]
    # Beside an array in no group, groups are no models.
    mixed = open_layers(h5(tmp_path / "b", {"block_0/mlp": X, "embed": X, "labels": X[:, 0]}))
    assert [one.told for one in mixed.layers] == ["block_0.mlp", "embed"]
    assert (mixed.models, mixed.left_aside) == ((), ("labels",))


def test_labels_of_axes_are_kept(tmp_path):
    with h5py.File(h5(tmp_path / "a", {"x": np.stack([X, X[::-1]]), "y": X}), "a") as file:
        for axis, name in zip(file["x"].dims, ("seed", "sample", "unit"), strict=True):
            axis.label = name
    assert compared(tmp_path / "a.h5")["networks"].values.tolist() == [2, 1]


def test_layers_are_opened_without_being_read(tmp_path, monkeypatch):
    paths = [h5(tmp_path / "a", LAYERS), tensors(tmp_path / "a", LAYERS)]
    monkeypatch.setattr(layer_sources.Stored, "__getitem__", None)
    for path in paths:
        opened = open_layers(path)
        assert [one.shape for one in opened.layers] == [(40, 4), (60, 3), (50, 4)]


def refused(path, text):
    with pytest.raises(InputError, match=text) as caught:
        open_layers(path)
    assert caught.value.field == "layers"
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_what_an_hdf5_file_says_of_other_files_is_refused(tmp_path):
    h5(tmp_path / "other", {"x": X})
    path = h5(tmp_path / "a", {"y": X})
    with h5py.File(path, "a") as file:
        file["x"] = h5py.ExternalLink("other.h5", "x")
    refused(path, r"a\.h5: has an array x that lies in another file")
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout(X.shape, "f8")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "x", X.shape)
        file.create_virtual_dataset("v", layout)
    refused(path, "has an array v that lies in another file")
    with h5py.File(path, "w") as file:
        file.create_dataset("e", X.shape, "f8", external=[("raw.bin", 0, X.nbytes)])
    refused(path, "has an array e that lies in another file")
    with h5py.File(path, "w") as file:
        file["s"] = h5py.SoftLink("/nowhere")
    refused(path, "has a link s that leads nowhere")


def test_links_that_go_round_end(tmp_path):
    path = h5(tmp_path / "a", {"m/x": X})
    with h5py.File(path, "a") as file:
        file["m/again"] = file["m"]
        file["m/root"] = file["/"]
    assert [one.told for one in open_layers(path).layers] == ["m/x"]


@pytest.mark.parametrize(("kind", "value", "text"), [
    ("h5", np.array([["a", "b"]], dtype="S1"), r"x of .*a\.h5: array of .* must be real"),
    ("h5", np.zeros((3, 2), [("a", "f4")]), "must be real"),
    ("h5", np.zeros((3, 2), complex), "must be real"),
    ("h5", X[None], r"has the shape \(1, 40, 4\)"),
    ("h5", X[:0], "not empty"),
    ("safetensors", X[None], r"has the shape \(1, 40, 4\)"),
    ("safetensors", X[:, 0], "holds no array of vectors"),
    ("safetensors", X.astype(ml_dtypes.float8_e4m3fn), r"a\.safetensors: does not open \("),
])  # fmt: skip
def test_arrays_that_are_no_layers_are_one_line(tmp_path, kind, value, text):
    refused(KINDS[kind](tmp_path / "a", {"x": value}), text)


def test_a_claim_beyond_memory_is_refused_before_it_is_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (2**40, 64), "f4", chunks=(1024, 64))
    refused(tmp_path / "a.h5", "claims 256.0 TiB, more than")


@pytest.mark.parametrize("name", ["a.h5", "a.safetensors"])
def test_damaged_files_are_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    refused(tmp_path / name, r"does not open \(.*\); it is truncated or damaged")
    (tmp_path / name).write_bytes(b"\x93NUMPY" * 99)
    refused(tmp_path / name, "does not open")
    whole = KINDS[name[2:]](tmp_path / "whole", LAYERS)
    (tmp_path / name).write_bytes(whole.read_bytes()[:-200])
    refused(tmp_path / name, "does not open")
    (tmp_path / name).unlink()
    refused(tmp_path / name, "is not there")
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    refused(tmp_path / name, "is not there")


@pytest.mark.parametrize(("name", "library"), [
    ("a.h5", "h5py"), ("a.safetensors", "safetensors"), ("a.hdf5", "h5py"),
])  # fmt: skip
def test_a_library_that_is_missing_is_one_line(tmp_path, monkeypatch, name, library):
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, library, None)  # importing it raises ImportError
    refused(tmp_path / name, rf"{library} is not installed; pip install {library}")


def test_levels_that_are_too_deep_are_one_line(tmp_path):
    folder(tmp_path / "m", {"a": X})
    (tmp_path / "top").mkdir()
    h5(tmp_path / "top" / "n", {"g/a": X, "g/b": X})
    refused(tmp_path / "top", r"layers=n: holds models by itself, such as g")
    refused({"n": tmp_path / "top" / "n.h5"}, r"layers=n: holds models by itself")
