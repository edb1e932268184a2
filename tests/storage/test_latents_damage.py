"""Flipped, truncated, lost and mixed-up files of `latents.zarr`: never another number.

The store is laid out and written by the project's own functions, of numbers that nobody trained;
the last tests train.
"""

import dataclasses
import functools
import itertools
import json
import os
import random
import shutil
import time

import numpy as np
import pytest
import xarray as xr

from ppp_jax.analysis import load, load_run
from ppp_jax.analysis.io.runs import saved_groups
from ppp_jax.analysis.results.layers import measure_layers
from ppp_jax.data import datasets
from ppp_jax.engine.training import NEVER, Observation
from ppp_jax.errors import InputError
from ppp_jax.files import integrity, ledger
from ppp_jax.grid import Grid
from ppp_jax.networks import functional
from ppp_jax.storage import latents, manifest, run_dir
from ppp_jax.sweep import sweep
from tests import commands

pytestmark = pytest.mark.usefixtures("quick_compilation")

GRID = Grid(
    activations=["tanh", "isotropic_tanh"],
    widths=[6],
    latent_widths=[3],
    optimizers=["sgd"],
    seeds=[0, 1],
    epochs=2,
    probe_samples=30,
)
LARGER = dataclasses.replace(GRID, seeds=[5, 0, 1], latent_widths=[3, 4])
NEGATIVE_NAN = np.uint32(0xFFC00001).view(np.float32)  # as processors make them


def numbers(shape, epoch, rng):
    values = (rng.normal(size=shape) + epoch).astype(np.float32)
    values[-1] = NEGATIVE_NAN if epoch == 2 else values[-1]  # a run that has diverged
    return values


def observed(grid, epoch, *, seed=0):
    """Returns numbers for every run of a grid, as training gathers them."""
    rng, runs = np.random.default_rng([seed, epoch]), grid.runs_per_cell
    found = {}
    for cell in grid.cells:
        pre, post = (numbers((runs, 30, cell.latent_width), epoch, rng) for _ in range(2))
        errors = [numbers((runs,), epoch, rng) for _ in range(3)]
        steps = np.full(runs, NEVER, np.int32)
        found[cell.name] = Observation(*errors, steps, functional.Latents(pre, post), {})
    return found


@pytest.fixture(scope="module")
def dataset():
    return datasets.load("digits")


def text(dataset, grid=GRID):
    return manifest.create(grid, dataset, manifest.conditions({})).to_text()


def write(path, dataset, *, grid=GRID, part=GRID, epochs=GRID.snapshot_epochs):
    for epoch in epochs:
        latents.write_snapshot(path, latents.groups(grid, dataset.shape), part, epoch,
                               observed(part, epoch))  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, dataset):
    """A run folder with latents alone."""
    path = tmp_path_factory.mktemp("run")
    latents.fit(path / "latents.zarr", GRID, dataset, text(dataset))
    write(path / "latents.zarr", dataset)
    return path


@pytest.fixture(scope="module")
def whole(folder):
    return load_run(folder).load()


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "run")


def files(folder):
    return sorted(path for path in (folder / "latents.zarr").rglob("*") if path.is_file())


def outcome(folder, whole):
    """Returns what becomes of a damaged folder: `same`, the file named, or what is wrong."""
    try:
        found = load_run(folder).load()
    except InputError as error:
        line = str(error)
        named = line.startswith(f"path={folder}/latents.zarr/") and "\n" not in line
        remedies = ("trains it again", "train", "checkpoints/0")
        return line if named and any(word in line for word in remedies) else f"WRONG: {line}"
    except Exception as error:
        return f"WRONG: {error!r}"
    return "same" if found.identical(whole) else "WRONG: other numbers"


def damaged(folder, whole, path, content):
    """Returns the outcome with a file's content replaced (None: removed), and puts it back."""
    before = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    try:
        return outcome(folder, whole)
    finally:
        path.write_bytes(before)


def flipped(content, rng):
    place = rng.randrange(len(content))
    return bytes([*content[:place], content[place] ^ 1 << rng.randrange(8), *content[place + 1 :]])


def test_what_was_written_is_read(whole):
    for cell, epoch in itertools.product(GRID.cells, GRID.snapshot_epochs):
        wanted = observed(GRID, epoch)[cell.name]
        found = whole.sel(activation=cell.activation).squeeze().set_index(step="epoch")
        found = found.sel(step=epoch)
        for name in ("pre", "post"):
            np.testing.assert_array_equal(found[name], getattr(wanted.latents, name))
        for name in latents.SCALARS:
            np.testing.assert_array_equal(found[name], getattr(wanted, name))
    assert np.isnan(whole["pre"].isel(step=-1, seed=-1)).all()


def test_of_flipped_bits_none_changes_a_number(copy, whole):
    rng, paths = random.Random(0), files(copy)
    outcomes = []
    for path in [*paths, *rng.choices(paths, k=220 - len(paths))]:
        outcomes.append((path, damaged(copy, whole, path, flipped(path.read_bytes(), rng))))
    assert [pair for pair in outcomes if pair[1].startswith("WRONG")] == []
    noticed = [path for path, what in outcomes if what != "same"]
    assert len(noticed) > 190  # what is harmless: `saved`, which the ledger knows, and NaNs alone
    assert {path.parent.name for path in noticed} >= {"pre", "post", "test_mse", "activation",
                                                      "inputs", "labels", "latent_3"}  # fmt: skip


def test_a_damaged_file_is_the_one_that_is_named(copy, whole):
    for name in ("pre/1.0.0.0.0.0.0.1.0.0", "test_mse/0.0.0.0.0.0.0.0", "seed/0", "rate/0",
                 "pre/.zarray", ".zattrs", "../.zmetadata", "../checksums.json"):  # fmt: skip
        path = (copy / "latents.zarr" / "latent_3" / name).resolve()
        content = path.read_bytes()
        for bad in (None, b"", content[: len(content) // 2], flipped(content, random.Random(1))):
            what = damaged(copy, whole, path, bad)
            assert what.startswith(f"path={path}: is {'missing' if bad is None else 'damaged'}"), (
                what
            )


@pytest.mark.parametrize("name", [".zattrs", ".zgroup", ".zmetadata", "checksums.json"])
def test_the_store_opened_by_itself_is_checked_too(name, copy):
    path = copy / "latents.zarr" / name
    for content in (path.read_bytes()[:9], None):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(InputError, match=f"path={path}: is (damaged|missing)"):
            load_run(copy / "latents.zarr")


@pytest.mark.parametrize("kind", ["removed", "emptied", "halved"])
def test_no_file_can_be_lost_unnoticed(kind, copy, whole):
    outcomes = {}
    for path in files(copy):
        content = path.read_bytes()
        bad = {"removed": None, "emptied": b"", "halved": content[: len(content) // 2]}[kind]
        outcomes[path] = damaged(copy, whole, path, bad)
    assert [pair for pair in outcomes.items() if pair[1].startswith("WRONG")] == []
    assert {path.parent.name for path, what in outcomes.items() if what == "same"} <= {"saved"}


def test_chunks_that_were_mixed_up_are_noticed(copy, whole):
    rng = random.Random(0)
    paths = [path for path in files(copy) if not path.name.startswith(".")]
    for _ in range(30):
        path, other = rng.sample(paths, 2)
        what = damaged(copy, whole, path, other.read_bytes())
        harmless = path.read_bytes() == other.read_bytes() or path.parent.name == "saved"
        assert what == "same" if harmless else what.startswith(f"path={path}"), (path, other, what)


def test_zarr_itself_notices_flips_of_chunks(copy):
    """Whoever reads with xarray alone is told, though in zarr's words."""
    before = xr.open_datatree(copy / "latents.zarr").load()
    rng, noticed = random.Random(0), 0
    paths = [path for path in files(copy) if not path.name.startswith((".", "checksums"))]
    for path in rng.choices(paths, k=40):
        content = path.read_bytes()
        path.write_bytes(flipped(content, rng))
        try:
            assert xr.open_datatree(copy / "latents.zarr").load().identical(before)
        except RuntimeError:
            noticed += 1
        path.write_bytes(content)
    assert noticed > 35


def test_whatever_is_read_of_a_damaged_chunk_is_refused(copy):
    """Part of it, another layer of code, by position or by name: the error comes with reading."""
    path = copy / "latents.zarr" / "latent_3" / "post" / "0.0.0.0.0.0.0.2.0.0"
    path.unlink()
    dataset = load_run(copy)
    np.testing.assert_array_equal(dataset["post"].isel(step=0), load_run(copy)["post"].isel(step=0))
    np.testing.assert_array_equal(dataset["post"].isel(activation=1, seed=[1, 0]).sel(step=118),
                                  load(copy, name="post")[1, ..., ::-1, 2, :, :])  # fmt: skip
    for read in (
        lambda: dataset["post"].isel(activation=0, step=-1, seed=0, sample=3, unit=1).values,
        lambda: dataset["post"].sel(activation="tanh").mean(),
        lambda: np.asarray(load(copy, name="post")),
        lambda: measure_layers(copy, rotations=9),
    ):
        with pytest.raises(InputError, match=rf"path={path}: is missing; .*checkpoints/0 "):
            read()


LEDGERS = {
    "nothing": {},
    "no files": {"format": 1, "groups": {}},
    "files in a list": {"format": 1, "files": [], "groups": {}},
    "a device": {"format": 1, "files": {"/dev/zero": ["0" * 64]}, "groups": {}},
    "a file elsewhere": {"format": 1, "files": {"../manifest.json": ["0" * 64]}, "groups": {}},
    "no digests": {"format": 1, "files": {".zattrs": 1}, "groups": {}},
    "huge": {"format": 1, "files": {}, "groups": {"latent_3": {"shape": [2**31], "saved": "00"}}},
    "negative": {"format": 1, "files": {}, "groups": {"latent_3": {"shape": [-1], "saved": ""}}},
    "nothing saved": {"format": 1, "files": {}, "groups": {"latent_3": {"shape": [2]}}},
}


@pytest.mark.parametrize("kind", LEDGERS)
def test_a_sealed_ledger_that_no_run_wrote_is_one_line(kind, copy):
    path = copy / "latents.zarr" / ledger.FILE
    path.write_text(json.dumps(integrity.sealed(LEDGERS[kind])))
    for call in (lambda: load_run(copy), lambda: latents.check(path.parent)):
        with pytest.raises(InputError, match=r"checksums\.json:? is ") as caught:
            call()
        assert "\n" not in str(caught.value)


def reshaped(change):
    """Changes how the numbers of a group stand, of which there are as many before and after."""

    def edit(entries):
        entries["groups"]["latent_3"]["shape"] = change(entries["groups"]["latent_3"]["shape"])

    return edit


def emptied(entries):
    table = entries["groups"]["latent_3"]
    table.update(dict.fromkeys(table, ""), shape=[0, *table["shape"][1:]])


def renamed(entries):
    entries["groups"]["latent_4"] = entries["groups"].pop("latent_3")


def doubled(entries):
    entries["groups"]["latent_4"] = entries["groups"]["latent_3"]


EDITS = {
    **{f"no {name}": lambda e, name=name: e["groups"]["latent_3"].pop(name)
       for name in ("pre", "test_mse", "diverged_step", "saved")},
    "another variable": lambda e: e["groups"]["latent_3"].update(
        other=e["groups"]["latent_3"]["pre"]
    ),
    "no group": lambda e: e["groups"].clear(),
    "another group": renamed,
    "one group more": doubled,
    "permuted": reshaped(lambda shape: shape[::-1]),
    "flat": reshaped(lambda shape: [int(np.prod(shape))]),
    "one axis more": reshaped(lambda shape: [*shape, 1]),
    "nothing": emptied,
    "no files": lambda e: e["files"].clear(),
    "no metadata": lambda e: e["files"].pop(".zmetadata"),
    "no coordinate": lambda e: e["files"].pop("latent_3/seed/0"),
    "no probe": lambda e: e["files"].pop("inputs/0.0"),
    "a zero byte": lambda e: e["files"].update({"a\0b": ["0"]}),
    "half a character": lambda e: e["files"].update({"a\ud800b": ["0"]}),
    "no name": lambda e: e["files"].update({"": ["0"]}),
    "another entry": lambda e: e.update(other=1),
    "a truth value": lambda e: e.update(format=True),
}  # fmt: skip


@pytest.mark.parametrize("kind", EDITS)
def test_a_ledger_edited_and_sealed_again_is_one_line(kind, copy):
    path = copy / "latents.zarr" / ledger.FILE
    entries = json.loads(path.read_text())
    EDITS[kind](entries)
    path.write_text(json.dumps(integrity.sealed(entries)))
    for call in (lambda: load_run(copy), lambda: latents.check(path.parent)):
        with pytest.raises(InputError, match=r"checksums\.json:? is ") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [f"latents.zarr/{ledger.FILE}", "latents.zarr/.zattrs"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(name, copy):
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(InputError, match=r"regular|neither file nor folder"):
        load_run(copy)


def test_a_pipe_in_the_place_of_the_manifest_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(InputError, match="not a regular file"):
        manifest.read(tmp_path)


def test_a_lost_group_is_named_and_not_grown_over(copy, dataset):
    before = {path: path.read_bytes() for path in files(copy)}
    shutil.rmtree(copy / "latents.zarr" / "latent_3")
    with pytest.raises(InputError, match=r"latents.zarr/latent_3/.*is missing"):
        saved_groups(copy)
    for grow in (latents.check_growth, lambda *args: latents.fit(*args, text(dataset, LARGER))):
        with pytest.raises(InputError, match=r"workdir=.*its latents.zarr/latent_3/.*missing"):
            grow(copy / "latents.zarr", LARGER, dataset)
    left = {path: path.read_bytes() for path in files(copy)}
    assert left == {path: text for path, text in before.items() if "latent_3" not in path.parts}


@pytest.mark.parametrize("bad", [None, b"", "flip"])
def test_damaged_latents_are_not_copied_into_a_larger_store(bad, copy, dataset):
    path = copy / "latents.zarr" / "latent_3" / "pre" / "1.0.0.0.0.0.0.1.0.0"
    content = flipped(path.read_bytes(), random.Random(0)) if bad == "flip" else bad
    path.unlink() if content is None else path.write_bytes(content)
    before = {path: path.read_bytes() for path in files(copy)}
    with pytest.raises(InputError, match=r"workdir=.*pre/1\.0\.0\.0\.0\.0\.0\.1\.0\.0 is "):
        latents.check_growth(copy / "latents.zarr", LARGER, dataset)
    assert {path: path.read_bytes() for path in files(copy)} == before


def without_ledger(folder):
    """Makes the store one of before there were ledgers."""
    path = folder / "latents.zarr"
    (path / ledger.FILE).unlink()
    for name in (".zattrs", ".zmetadata"):
        entries = json.loads((path / name).read_text())
        attributes = entries if name == ".zattrs" else entries["metadata"][".zattrs"]
        del attributes[ledger.MARK]
        (path / name).write_text(json.dumps(entries))
    return path


@pytest.mark.parametrize("old", [False, True])
def test_a_grown_store_keeps_what_was_there(old, copy, dataset, whole):
    path = without_ledger(copy) if old else copy / "latents.zarr"
    latents.check_growth(path, LARGER, dataset)
    latents.fit(path, LARGER, dataset, text(dataset, LARGER))
    part = dataclasses.replace(LARGER, seeds=[5])
    wide = dataclasses.replace(GRID, latent_widths=[4])
    write(path, dataset, grid=LARGER, part=part)
    write(path, dataset, grid=LARGER, part=wide)
    for name, grid, seeds in ((3, GRID, [0, 1]), (4, wide, [0, 1]), (3, part, [5])):
        found = load_run(copy, latent_width=name).sel(seed=seeds).load()
        for cell in (cell for cell in grid.cells if cell.latent_width == name):
            at = found.sel(activation=cell.activation).isel(step=1).squeeze()
            wanted = observed(grid, 1)[cell.name].latents
            np.testing.assert_array_equal(at["pre"], np.squeeze(wanted.pre))
    kept = load_run(copy, latent_width=3).sel(seed=[0, 1]).load()
    xr.testing.assert_identical(kept.drop_attrs(), whole.drop_attrs())


def test_a_store_of_before_is_read_and_its_decoding_errors_are_one_line(copy, whole):
    path = without_ledger(copy)
    xr.testing.assert_identical(load_run(copy).load(), whole)
    chunk = path / "latent_3" / "pre" / "0.0.0.0.0.0.0.0.0.0"
    for bad, where in ((chunk, "pre/0"), (path / ".zmetadata", ""),
                       (path / "latent_3" / "seed" / "0", "")):  # fmt: skip
        content = bad.read_bytes()
        bad.write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=rf"path={path}.*{where}"):
            load_run(copy).load()
        bad.write_bytes(content)


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"parts": [1]}', '{"config": {}, "parts": 1}'])
def test_a_store_of_before_with_another_manifest_is_one_line(text, copy):
    path = without_ledger(copy)
    for name in (".zattrs", ".zmetadata"):
        entries = json.loads((path / name).read_text())
        attributes = entries if name == ".zattrs" else entries["metadata"][".zattrs"]
        attributes["manifest"] = text
        (path / name).write_text(json.dumps(entries))
    with pytest.raises(InputError, match="its attribute manifest is damaged") as caught:
        load_run(copy)
    assert "\n" not in str(caught.value)


def test_untrained_means_epoch_0(copy):
    """Of a store of before: with a ledger, no snapshot is lost unnoticed."""
    path = without_ledger(copy)
    saved = latents._array(latents._opened(path, mode="r+"), "latent_3/saved")
    saved[..., 0] = False
    for read in (load_run, functools.partial(load, name="post"), measure_layers):
        with pytest.raises(InputError, match=r"untrained networks are lost.* is of epoch 1; train"):
            read(copy)


class KilledError(Exception):
    """Stands for SIGKILL where a test wants it at one place."""


def kill_at(moment, patch, *places):
    calls = iter(range(1000))

    def killing(original):
        def call(*args, **kwargs):
            if next(calls) == moment:
                raise KilledError
            return original(*args, **kwargs)

        return call

    for module, name in places:
        patch.setattr(module, name, killing(getattr(module, name)))


@pytest.mark.parametrize("moment", range(4))
def test_killed_while_the_manifest_is_replaced(moment, copy, dataset, whole, monkeypatch):
    path = copy / "latents.zarr"
    new = text(dataset).replace('"created"', '"was created"')
    kill_at(moment, monkeypatch, (ledger, "write_text"), (latents.atomic, "write_text"))
    with pytest.raises(KilledError):
        latents.fit(path, GRID, dataset, new)
    monkeypatch.undo()
    assert load_run(copy).load().drop_attrs().identical(whole.drop_attrs())
    latents.fit(path, GRID, dataset, new)
    assert load_run(copy).attrs["manifest"] == new
    assert all(len(digests) == 1 for digests in ledger.read(path).files.values())


@pytest.mark.parametrize("moment", range(8))
def test_killed_while_a_snapshot_is_written_again(moment, copy, dataset, monkeypatch):
    """As after an inexact resume, with other numbers: they are the old, or none, or the new."""
    path, groups = copy / "latents.zarr", latents.groups(GRID, dataset.shape)
    new = observed(GRID, 2, seed=1)
    places = [(ledger, "write"), (latents, "_write_chunks"), (latents, "_write_numbers")]
    kill_at(moment, monkeypatch, *places)
    with pytest.raises(KilledError):
        latents.write_snapshot(path, groups, GRID, 2, new)
    monkeypatch.undo()
    found = load_run(copy).load()
    assert found["epoch"].values.tolist() == ([0, 1, 2] if moment == 0 else [0, 1])
    latents.write_snapshot(path, groups, GRID, 2, new)
    found = load_run(copy).load()
    last = found.isel(step=-1, activation=1).squeeze()
    np.testing.assert_array_equal(last["pre"], new[GRID.cells[1].name].latents.pre)


def test_lost_numbers_are_written_anew_by_the_command_that_trained_them(copy, dataset, whole):
    path = copy / "latents.zarr"
    for name in ("test_mse", "saved"):
        bad = path / "latent_3" / name / "0.0.0.0.0.0.0.0"
        content = bad.read_bytes()
        for damage in (bad.unlink, lambda bad=bad: bad.write_bytes(b"x")):
            damage()
            latents.fit(path, GRID, dataset, whole.attrs["manifest"])
            assert bad.read_bytes() == content
    xr.testing.assert_identical(load_run(copy).load(), whole)


def test_places_of_many_runs_are_looked_up_once():
    grid = dataclasses.replace(GRID, seeds=range(20_000))
    part = dataclasses.replace(GRID, seeds=range(19_999, -1, -1))
    begun = time.process_time()
    assert latents._indices(grid, part)[-1] == list(part.seeds)
    assert time.process_time() - begun < 0.5  # 3.7 s if each is looked for among all


def test_what_the_line_says_trains_the_runs_again(tmp_path):
    """The remedy for a damaged chunk works, and gives the same bits."""
    grid = dataclasses.replace(GRID, activations=["tanh"], epochs=1)
    workdir = sweep.train(grid, tmp_path / "run", seed_batch=2, progress=False)
    before = shutil.copytree(workdir, tmp_path / "before")
    chunk = workdir / "latents.zarr" / "latent_3" / "pre" / "0.0.0.0.0.0.0.1.0.0"
    chunk.write_bytes(flipped(chunk.read_bytes(), random.Random(0)))
    sweep.train(grid, workdir, seed_batch=2, progress=False)  # finished: latents are not read
    with pytest.raises(InputError, match="remove this file and checkpoints/0 from the run folder"):
        load_run(workdir).load()
    with pytest.raises(InputError, match=r"workdir=.*pre/0\.0\.0\.0\.0\.0\.0\.1\.0\.0 is damaged"):
        sweep.train(dataclasses.replace(grid, seeds=[0, 1, 2]), workdir, seed_batch=2)
    chunk.unlink()
    shutil.rmtree(workdir / run_dir.CHECKPOINTS / "0")
    sweep.train(grid, workdir, seed_batch=2, progress=False)
    commands.assert_same(before, workdir, runs=2)
