"""Layers of a network, wherever they lie: in their order, and none is lost in silence."""

import itertools
import os
import shutil

import numpy as np
import pytest
import xarray as xr
import zarr

from ppp_jax.analysis.io.layer_files import holds_layers, open_layers
from ppp_jax.analysis.io.layer_sources import natural
from ppp_jax.errors import InputError
from ppp_jax.files import atomic

X = np.random.default_rng(0).normal(size=(9, 4))


def names(layers):
    return [layer.name for layer in open_layers(layers).layers]


def refused(layers, text):
    with pytest.raises(InputError, match=text) as caught:
        open_layers(layers)
    assert caught.value.field == "layers"
    assert str(caught.value).isprintable()


@pytest.fixture
def folder(tmp_path):
    """A folder of layers as people have them, with other things beside."""
    path = tmp_path / "layers"
    path.mkdir()
    np.save(path / "layer_10.npy", X)
    np.save(path / "layer_2.npy", X[:, :3].astype(np.float16))
    np.savez(path / "layer_1.npz", latents=X[:5], tokens=np.arange(5))
    zarr.save_array(path / "embedding.zarr", X, zarr_format=2)
    (path / ".DS_Store").write_text("")
    (path / "notes.txt").write_text("")
    (path / "plots").mkdir()
    return path


def test_files_are_layers_in_natural_order_and_the_rest_is_told(folder):
    found = open_layers(folder)
    assert [(one.name, one.shape) for one in found.layers] == [
        ("embedding", (9, 4)), ("layer_1", (5, 4)), ("layer_2", (9, 3)), ("layer_10", (9, 4)),
    ]  # fmt: skip
    assert found.left_aside == ("notes.txt", "plots")
    for layer in found.layers:
        assert np.array_equal(layer.open(), X[: layer.shape[0], : layer.units].astype(
            np.float16 if layer.name == "layer_2" else float))  # fmt: skip
    assert open_layers(found) is found
    assert names(str(folder)) == names(folder)


def test_any_names_have_a_natural_order():
    """Also where one begins as another does, and goes on with a number or ends."""
    pieces = ["", "a", "_", "2", "10", "010"]
    names = ["".join(three) for three in itertools.product(pieces, repeat=3)]
    turned = sorted(sorted(names, reverse=True), key=natural)
    assert turned == sorted(names, key=natural)
    assert turned.index("a2") < turned.index("a2a") < turned.index("a10")
    assert turned.index("a") < turned.index("a2")


def test_files_and_mappings_keep_their_own_order(tmp_path):
    arrays = {"embed": X, "block_10": X, "block_2": X[:, :2]}
    np.savez(tmp_path / "layers.npz", labels=np.arange(9), **arrays)
    assert names(tmp_path / "layers.npz") == names(arrays) == list(arrays)
    assert open_layers(tmp_path / "layers.npz").left_aside == ("labels",)
    with np.load(tmp_path / "layers.npz") as opened:
        assert names({key: opened[key] for key in arrays}) == list(arrays)
    np.save(tmp_path / "one.npy", X)
    assert names({0: tmp_path / "one.npy", 1: X.tolist()}) == ["0", "1"]  # paths and lists, too
    assert names(xr.Dataset({"a": (("sample", "unit"), X)})) == ["a"]


def test_a_mapping_is_read_one_layer_at_a_time():
    class Counting(dict):
        read = ()

        def __getitem__(self, key):
            self.read += (key,)
            return super().__getitem__(key)

    given = Counting(a=X, b=X)
    found = open_layers(given)
    given.read = ()
    found.layers[1].open()
    assert given.read == ("b",)


def test_mappings_in_a_mapping_are_models():
    found = open_layers({"m": {"a": X, 1: X[:, :2]}, 2: {"b": X, "a": X}})
    assert found.models == ("m", "2")
    assert found.names == ("a", "1", "b")
    assert [one.told for one in found.layers] == ["m/a", "m/1", "2/b", "2/a"]
    assert np.array_equal(found.layers[1].open(), X[:, :2])


@pytest.mark.parametrize(("file", "text"), [
    ("short.npy", r"short\.npy: claims .* truncated or damaged"),
    ("flat.npy", r"flat\.npy: array of float64 \(9,\) must be real, \(samples, units\)"),
    ("deep.npy", r"deep\.npy: has the shape \(2, 9, 4\).*reshape\(-1, 4\).*'seed'"),
    ("text.npy", r"text\.npy: does not open, because its content is not that of an \.npy"),
    ("objects.npy", r"objects\.npy: holds Python objects"),
    ("two.npz", r"two\.npz: holds several arrays of vectors, and beside it"),
    ("none.npz", r"none\.npz: holds no array of vectors"),
    ("bad.npz", r"bad\.npz: has an array o that holds Python objects"),
    ("gone.npy", r"gone\.npy: is not there"),
    ("layer_2.npz", r"layer_2\.npz: is a second layer called layer_2"),
    ("empty.zarr", r"empty\.zarr: holds no latents\.zarr"),
])  # fmt: skip
def test_one_bad_file_is_one_line_that_names_it(folder, file, text):
    path = folder / file
    match file:
        case "short.npy":
            np.save(path, X)
            os.truncate(path, path.stat().st_size - 8)
        case "flat.npy":
            np.save(path, X[:, 0])
        case "deep.npy":
            np.save(path, np.stack([X, X]))
        case "text.npy":
            path.write_text("0.1 0.2")
        case "objects.npy":
            np.save(path, np.array([[None]]), allow_pickle=True)
        case "two.npz":
            np.savez(path, a=X, b=X)
        case "none.npz":
            np.savez(path, a=X[0])
        case "bad.npz":
            np.savez(path, o=np.array([[None]]), x=X)
        case "gone.npy":
            path.symlink_to(folder / "nowhere")
        case "layer_2.npz":
            np.savez(path, x=X)
        case "empty.zarr":
            path.mkdir()
    refused(folder, text)


def test_folders_without_layers_are_one_line(tmp_path):
    refused(tmp_path, r"holds no \.npy, .* or zarr array \(it is empty\)")
    (tmp_path / "a.pt").write_text("")
    refused(tmp_path, r"it holds a\.pt\)")
    (tmp_path / atomic.RECORD).write_text("{}")
    refused(tmp_path, "was written by an earlier analysis")
    (tmp_path / "latents.zarr").mkdir()
    refused(tmp_path, "is a run folder")
    refused(tmp_path / "nowhere", "is not there")
    np.save(tmp_path / "one.npy", X)
    refused(tmp_path / "one.npy", "is one array, which rotation_test tests")
    np.savez(tmp_path / "labels.npz", y=X[0])
    refused(tmp_path / "labels.npz", "holds no array of vectors")


def test_an_archive_with_an_array_that_cannot_be_read_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=X, b=X, o=np.array([[None]]))
    assert holds_layers(tmp_path / "a.npz")
    refused(tmp_path / "a.npz", r"a\.npz: has an array o that holds Python objects")
    np.savez(tmp_path / "b.npz", a=X, o=np.array([[None]]))
    assert not holds_layers(tmp_path / "b.npz")  # its one array opens, as it does alone


@pytest.mark.parametrize(("layers", "text"), [
    ({}, "holds no layer"), (X, "ndarray: must be a mapping"), ([X, X], "list: must be a mapping"),
    ({"a": X, "b": X[0]}, r"layers=b: array of float64 \(4,\) must be"),
    ({"a": X, "b": {"c": X}}, "layers=b: is a mapping, and values before it are none"),
    ({"b": {"c": X}, "a": X}, "layers=a: is an array, and values before it are none"),
    ({"b": {"c": {"d": X}}}, "layers=b/c: is a mapping in a mapping in a mapping"),
    ({"b": {}}, "layers=b: holds no layer"), ({"": {"c": X}}, "layers=: is no name of a single"),
    ({1: {"c": X}, "1": {"c": X}}, "layers=1: is no name of a single model"),
    ({"m": {1: X, "1": X}}, "layers=m/1: is a second layer called 1"),
    ({"m": {"a": X, "b": X[0]}}, r"layers=m/b: array of float64 \(4,\) must be"),
    ({"a": [[1.0], [1.0, 2.0]]}, "layers=a: list has rows of unequal lengths"),
    ({1: X, "1": X}, "layers=1: is a second layer called 1"),
    ({"<b>\n": X[None]}, r"layers=<b>\\n: has the shape \(1, 9, 4\)"),
    ({"a": xr.DataArray(np.ones((2, 3, 4)), dims=("head", "sample", "unit"))}, r"\['head'\]"),
])  # fmt: skip
def test_other_things_are_one_line(layers, text):
    refused(layers, text)


def test_networks_along_seed_are_taken():
    networks = xr.DataArray(np.ones((2, 9, 4)), dims=("seed", "sample", "unit"))
    (layer,) = open_layers({"a": networks}).layers
    assert (layer.shape, layer.units) == ((2, 9, 4), 4)


def test_what_holds_layers_is_told_from_one_array_and_from_a_run(folder, tmp_path):
    assert holds_layers(folder)
    assert not holds_layers(folder / "layer_2.npy")
    assert not holds_layers(folder / "layer_1.npz")
    assert not holds_layers(folder / "embedding.zarr")
    assert not holds_layers(tmp_path / "nowhere")
    np.savez(tmp_path / "two.npz", a=X, b=X)
    assert holds_layers(tmp_path / "two.npz")
    group = zarr.open_group(tmp_path / "group.zarr", mode="w")
    for name in ("b_10", "b_9", "a"):
        group.create_array(name, data=X)
    assert holds_layers(tmp_path / "group.zarr")
    assert names(tmp_path / "group.zarr") == ["a", "b_9", "b_10"]
    shutil.rmtree(folder / "plots")
    (folder / "latents.zarr").mkdir()
    assert not holds_layers(folder)
