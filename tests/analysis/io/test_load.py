"""Latents from anywhere: files, run folders, arrays that do not fit into memory."""

import numpy as np
import pytest
import xarray as xr
import zarr

from ppp_jax.analysis import load, ppp, project, srm
from ppp_jax.analysis.io import sources
from ppp_jax.errors import InputError

VALUES = np.random.default_rng(0).standard_t(2, size=(3, 40, 5)).astype(np.float32)


def write(kind, folder):
    """Writes the values in one of the ways to keep them, and returns what `load` takes."""
    path = folder / f"latents.{kind.split('_')[0]}"
    if kind == "npy":
        np.save(path, VALUES)
    elif kind == "npz":
        np.savez(path, latents=VALUES, labels=np.arange(40))
    elif kind == "zarr_array":
        zarr.save_array(str(path), VALUES, zarr_format=2)
    elif kind == "zarr_group":
        dataset = xr.Dataset({"latents": (("seed", "sample", "unit"), VALUES)})
        dataset.to_zarr(path, zarr_format=2)
    return path


KINDS = ["npy", "npz", "zarr_array", "zarr_group"]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same(kind, lazy, tmp_path, monkeypatch):
    if lazy:
        monkeypatch.setattr(sources, "LOAD_BYTES", 0)
        monkeypatch.setattr("ppp_jax.analysis.projection.kernel.WINDOW_ELEMENTS", 5 * 17)
    latents = load(write(kind, tmp_path))
    assert latents.dims[1:] == ("sample", "unit")
    np.testing.assert_array_equal(latents.values, VALUES)
    expected = project(VALUES, epsilon=0.8)
    got = project(latents, epsilon=0.8)
    for name in ("points", "sample", "plane"):
        np.testing.assert_array_equal(got[name], expected[name])


@pytest.mark.parametrize("make", ["zarr", "memmap", "lazy_xarray"])
def test_arrays_on_disk_are_read_in_parts(make, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "LOAD_BYTES", 0)
    monkeypatch.setattr("ppp_jax.analysis.projection.kernel.WINDOW_ELEMENTS", 5 * 17)
    path = tmp_path / "latents"
    if make == "memmap":
        np.save(f"{path}.npy", VALUES)
        latents = np.load(f"{path}.npy", mmap_mode="r")
    elif make == "zarr":
        zarr.save_array(str(path), VALUES, zarr_format=2)
        latents = zarr.open_array(str(path), mode="r")
    else:
        xr.Dataset({"x": (("a", "sample", "unit"), VALUES)}).to_zarr(path, zarr_format=2)
        latents = xr.open_zarr(path, chunks=None)["x"]
    read, most = sources.read, []

    def spy(source, start, stop):
        most.append(stop - start)
        return read(source, start, stop)

    monkeypatch.setattr("ppp_jax.analysis.projection.kernel.read", spy)
    got = ppp(latents, epsilon=0.7, by="a" if make == "lazy_xarray" else "axis_0")
    expected = ppp(VALUES, epsilon=0.7, by="axis_0")
    np.testing.assert_array_equal(got.density, expected.density)
    assert max(most) == 17
    np.testing.assert_array_equal(srm(latents).pooled, srm(VALUES).pooled)


def test_arrays_in_memory_are_labelled():
    assert load(VALUES).dims == ("axis_0", "sample", "unit")
    named = xr.DataArray(VALUES, dims=("seed", "sample", "unit"))
    assert load(named) is named


def test_one_of_several_is_chosen_by_name(tmp_path):
    np.savez(tmp_path / "two.npz", a=VALUES, b=2 * VALUES, c=np.arange(3))
    with pytest.raises(InputError, match=r"name=None: .* has 2 arrays; name one of \['a', 'b'\]"):
        load(tmp_path / "two.npz")
    with pytest.raises(InputError, match=r"name=c: is no array of vectors in .*\['a', 'b'\]"):
        load(tmp_path / "two.npz", name="c")
    np.testing.assert_array_equal(load(tmp_path / "two.npz", name="b").values, 2 * VALUES)
    np.save(tmp_path / "one.npy", VALUES)
    with pytest.raises(InputError, match=r"name=a: .* is one array without names"):
        load(tmp_path / "one.npy", name="a")


def test_what_does_not_open_is_named_with_the_remedy(tmp_path):
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and nothing more")
    (tmp_path / "table.csv").write_text("1,2")
    np.save(tmp_path / "flat.npy", np.arange(4.0))
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "none.npz", a=np.arange(3))
    wrong = {
        "missing.npy": "is not there; give a run folder",
        "text.npy": "does not open",
        "cut.npz": r"cannot be read as \.npz",
        "table.csv": "is of no known kind; give a run folder",
        "objects.npy": "holds Python objects, which only pickle could read",
        ".": r"holds no latents\.zarr; give a run folder",
    }
    for name, text in wrong.items():
        with pytest.raises(InputError, match=text) as caught:
            load(tmp_path / name)
        assert caught.value.field == "path"
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"must be real, \(samples, units\)"):
        load(tmp_path / "flat.npy")
    with pytest.raises(InputError, match="0 arrays; give a file that has an array"):
        load(tmp_path / "none.npz")


@pytest.mark.parametrize("which", [{"layer": "encoder_0"}, {"units": 3}, {"architecture": "mlp"}])
def test_what_chooses_in_run_folders_is_refused_of_anything_else(which, tmp_path):
    ((name, value),) = which.items()
    for latents in (VALUES, write("npy", tmp_path)):
        with pytest.raises(InputError, match=f"{name}={value}: chooses in run folders, and this"):
            load(latents, **which)


NAMES = {  # as a file states them, and as they are taken
    "the other way round": (["unit", "sample"], ("unit", "sample")),
    "others": (["word", "feature"], ("word", "feature")),
    "one of ours": (["unit", "word"], ("unit", "sample")),
    "one": (["unit", None], ("unit", "sample")),
    "none": (None, ("sample", "unit")),
    "of nothing": ([None, None], ("sample", "unit")),
}


def write_zarr(path, values, axes, version, *, by_attribute, **attributes):
    """Writes a group with one array whose axes have names, in either place that there is."""
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    named = {} if by_attribute else {"dimension_names": axes}
    array = group.create_array("acts", data=values, fill_value=0, **named)
    array.attrs.update({"_ARRAY_DIMENSIONS": axes} if by_attribute else {}, **attributes)
    return path


@pytest.mark.parametrize("attributes", [{}, {"scale_factor": 0.5}, {"units": "days since 2000"}])
@pytest.mark.parametrize(("version", "by_attribute"), [(2, True), (3, False), (3, True)])
@pytest.mark.parametrize("names", NAMES)
def test_names_of_axes_count_by_any_path(names, version, by_attribute, attributes, tmp_path):
    stated, dims = NAMES[names]
    path = write_zarr(tmp_path / "a.zarr", VALUES[0], stated, version, by_attribute=by_attribute,
                      **attributes)  # fmt: skip
    in_group, alone = load(path), load(path / "acts")
    assert in_group.dims == alone.dims
    np.testing.assert_array_equal(alone.values, in_group.values)
    expected = VALUES[0] * attributes.get("scale_factor", 1)
    np.testing.assert_array_equal(alone.transpose(*dims).values, expected)


@pytest.mark.parametrize("stated", [["unit"], ["a", "b", "c"], ["a", "a"], "ab", [1, 2], {"a": 1}])
def test_names_that_no_axes_can_have_are_one_line(stated, tmp_path):
    path = write_zarr(tmp_path / "a.zarr", VALUES[0], stated, 2, by_attribute=True)
    for given in (path, path / "acts"):
        with pytest.raises(InputError, match=r"names its axes .*; mend _ARRAY_DIM") as caught:
            load(given)
        assert caught.value.field == "path"
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("version", [2, 3])
def test_names_of_an_opened_array_count_too(version, small, tmp_path, monkeypatch):
    if not small:
        monkeypatch.setattr(sources, "LOAD_BYTES", 0)
    values = np.ascontiguousarray(VALUES[0].T)
    path = write_zarr(tmp_path / "a.zarr", values, ["unit", "sample"], version,
                      by_attribute=version == 2)  # fmt: skip
    expected = ppp(load(path), epsilon=0.8).acceptance_ratio
    opened = zarr.open_array(str(path / "acts"), mode="r")
    for given in (
        opened,
        load(opened),
        load(path / "acts"),
        xr.Variable(("unit", "sample"), values),
    ):
        np.testing.assert_array_equal(ppp(given, epsilon=0.8).acceptance_ratio, expected)
    assert load(opened).dims == ("unit", "sample")
    plain = zarr.create_array(str(tmp_path / "b.zarr"), data=VALUES[0], zarr_format=version)
    np.testing.assert_array_equal(ppp(plain, epsilon=0.8).acceptance_ratio, expected)


def test_names_that_no_axes_of_an_opened_array_can_have_are_one_line(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", VALUES[0], ["a", "a"], 2, by_attribute=True)
    for read in (load, ppp):
        with pytest.raises(InputError, match="names its axes") as caught:
            read(zarr.open_array(str(path / "acts"), mode="r"))
        assert caught.value.field == "latents"
