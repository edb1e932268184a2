"""What somebody else put into a run folder, or beside it, is neither deleted nor written to."""

import dataclasses
import os
import shutil

import numpy as np
import pytest

from ppp_jax.analysis import write_analysis
from ppp_jax.errors import InputError
from ppp_jax.files import atomic
from ppp_jax.grid import Grid
from ppp_jax.storage import run_dir
from ppp_jax.sweep import sweep

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = Grid(activations=["tanh"], widths=[6], latent_widths=[3], optimizers=["sgd"],
            seeds=[0, 1], epochs=2, probe_samples=30)  # fmt: skip
GROWN = dataclasses.replace(TINY, epochs=3)
OTHER = dataclasses.replace(TINY, seeds=[7])
WAYS = {
    "again": (TINY, False),
    "grown": (GROWN, False),
    "overwritten": (OTHER, True),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return sweep.train(TINY, tmp_path_factory.mktemp("trained") / "run", progress=False)


@pytest.fixture
def workdir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def train(workdir, way):
    grid, overwrite = WAYS[way]
    return sweep.train(grid, workdir, overwrite=overwrite, progress=False)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}  # fmt: skip


def assert_refused(workdir, way, text):
    before = content(workdir)
    with pytest.raises(InputError, match=text) as caught:
        train(workdir, way)
    assert caught.value.field == "workdir"
    assert "\n" not in str(caught.value)
    assert content(workdir) == before


@pytest.mark.parametrize("way", WAYS)
def test_backups_are_left(way, workdir):
    names = ["latents.old", "latents.partial", "report.partial", "checkpoints.trash"]
    for name in names:
        (workdir / name).mkdir()
        (workdir / name / "notes.txt").write_text("mine")
    (workdir / "metrics.old").write_text("mine")
    train(workdir, way)
    for name in names:
        assert (workdir / name / "notes.txt").read_text() == "mine"
    assert not list(workdir.glob(".*"))


@pytest.mark.parametrize("way", WAYS)
def test_a_file_with_the_name_of_a_backup_is_left(way, workdir):
    (workdir / "latents.old").write_text("mine")
    train(workdir, way)
    assert (workdir / "latents.old").read_text() == "mine"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [".latents.zarr.aside", ".checkpoints.aside"])
def test_our_names_are_refused_where_somebody_else_has_them(way, name, workdir):
    (workdir / name).mkdir()
    (workdir / name / "notes.txt").write_text("mine")
    assert_refused(workdir, way, f"{name} exists and was not written by ppp_jax; move it away")


@pytest.mark.parametrize("text", ["mine", "", "x" * len(atomic.LOCKED)])
def test_a_lock_file_of_somebody_else_is_left(text, workdir):
    (workdir / ".lock").write_text(text)
    for _ in range(2):
        train(workdir, "again")
        assert (workdir / ".lock").read_text() == text


def test_a_pipe_named_like_the_lock_stops_nothing(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    with atomic.locked(tmp_path):
        pass
    assert (tmp_path / ".lock").is_fifo()


@pytest.mark.parametrize("way", WAYS)
def test_no_link_is_written_through(way, workdir, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    names = [f"{name}.partial" for name in
             ("manifest.json", "metrics.jsonl", "certificates.json")]  # fmt: skip
    for name in names:
        (workdir / name).symlink_to(precious)
    train(workdir, way)
    assert precious.read_text() == "mine"
    for name in names:
        assert (workdir / name).is_symlink()


def test_a_file_is_placed_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    atomic.write_text(path, "1")

    def fail():
        with atomic.new_file(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert content(tmp_path) == {"a.json": b"1"}


def test_what_killed_processes_left_of_files_is_removed(workdir):
    ours = [".manifest.json.partial-0123abcd", "latents.zarr/.checksums.json.partial-0123abcd"]
    others = [".manifest.json.partial-thesis", ".notes.txt.partial-0123abcd"]
    for name in (*ours, *others):
        (workdir / name).write_text("half")
    train(workdir, "again")
    assert not any((workdir / name).exists() for name in ours)
    assert all((workdir / name).exists() for name in others)


@pytest.mark.parametrize("way", ["grown", "overwritten"])
@pytest.mark.parametrize("name", [
    "latents.zarr/notes.txt", "latents.zarr/latent_3/notes.txt", "latents.zarr/latent_3/pre/a.txt",
    "latents.zarr/latent_3/2024", "latents.zarr/mine/.zgroup", "latents.zarr/mine/x/0.0",
    "latents.zarr/latent_3/pre/2024", "latents.zarr/latent_3/pre/0.0", "latents.zarr/inputs/00.0",
    "latents.zarr/latent_3/pre/0.0.0.0.0.0.0.0.9.0", "latents.zarr/latent_3/seed/2024",
    f"latents.zarr/latent_3/pre/2024.{'0' * 32}.partial", f"latents.zarr/a.{'0' * 32}.partial",
])  # fmt: skip
def test_what_no_run_wrote_into_the_latents_is_refused(way, name, workdir):
    (workdir / name).parent.mkdir(parents=True, exist_ok=True)
    (workdir / name).write_text("mine")
    doing = {"grown": "growing", "overwritten": "overwriting"}[way]
    assert_refused(workdir, way, f"{name} was not written by a run, and {doing} would delete it")
    train(workdir, "again")  # which deletes nothing
    assert (workdir / name).read_text() == "mine"


@pytest.mark.parametrize("way", ["grown", "overwritten"])
@pytest.mark.parametrize("name", [
    "59/notes.txt", "59/state/notes.txt", "59/state/d/notes.txt", "59/_notes.txt",
    "59/state/_notes.txt", "59/state/d/1234", "59/state/array_metadatas/notes", "59/meta/_METADATA",
    "59/state.mine/_METADATA", "59/state/ocdbt.process_mine/manifest.ocdbt",
    "59.orbax-checkpoint-tmp/notes.txt",
])  # fmt: skip
def test_what_no_run_wrote_into_the_checkpoints_is_refused(way, name, workdir):
    (workdir / "checkpoints" / "0" / name).parent.mkdir(parents=True, exist_ok=True)
    (workdir / "checkpoints" / "0" / name).write_text("mine")
    assert_refused(
        workdir, way, f"checkpoints/0/{name} was not written by a run, and .* would delete it"
    )
    train(workdir, "again")  # which deletes nothing
    assert (workdir / "checkpoints" / "0" / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["59.backup", "59.thesis", "059", "0.old/59", "0.damaged/59.a"])
def test_copies_of_checkpoints_are_refused(name, workdir):
    checkpoints = workdir / "checkpoints"
    copy = checkpoints / name if "/" in name else checkpoints / "0" / name
    shutil.copytree(checkpoints / "0" / "59", copy)
    assert_refused(
        workdir, "overwritten", f"{copy.name}/.* was not written by a run, and overwriting"
    )


# What orbax was seen to write, with `<>` for 32 hexadecimal digits: 0.11.25 and 0.12.8.
SAVED = [
    "_CHECKPOINT_METADATA", "commit_success.txt", "meta/metadata", "meta/commit_success.txt",
    "state/_METADATA", "state/_sharding", "state/array_metadatas/process_0", "state/d/<>",
    "state/commit_success.txt", "state/manifest.ocdbt", "state/ocdbt.process_11/d/<>",
    "state/ocdbt.process_0/manifest.ocdbt",
]  # fmt: skip
TMP = ".orbax-checkpoint-tmp"
SAVING = [
    f"meta{TMP}/metadata", f"state{TMP}/_METADATA", f"state{TMP}/_sharding.__lock",
    f"state{TMP}/d/<>.__lock", f"state{TMP}/manifest.ocdbt.__lock",
    f"state{TMP}/ocdbt.process_0/d/<>.__lock", f"state{TMP}/array_metadatas/process_0",
]  # fmt: skip


def test_what_a_killed_save_left_is_of_a_run(workdir):
    checkpoints = workdir / "checkpoints"
    folders = {"0/59": SAVED, f"0/118{TMP}": [*SAVED, *SAVING], "0.damaged/59.1": SAVED}
    for folder, names in folders.items():
        for name in names:
            file = checkpoints / folder / name.replace("<>", 32 * "a")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    pre = workdir / "latents.zarr" / "latent_3" / "pre"
    for killed in (pre / f"0.0.0.0.0.0.0.0.0.{32 * 'a'}.partial",
                   pre.with_name("seed") / f"0.{32 * 'a'}.partial",
                   workdir / "latents.zarr" / f".zattrs.{32 * 'a'}.partial"):  # fmt: skip
        killed.touch()
    train(workdir, "overwritten")


def test_a_strangers_file_beside_damaged_metadata_is_refused(workdir):
    (workdir / "latents.zarr" / "checksums.json").write_text("damaged")
    (workdir / "latents.zarr" / "latent_3" / "pre" / "2024").write_text("mine")
    assert_refused(workdir, "overwritten", "pre/2024 was not written by a run")


def test_a_damaged_store_can_be_overwritten(workdir):
    latents = workdir / "latents.zarr"
    (latents / "checksums.json").write_text("damaged")
    (latents / "latent_3" / "pre" / ".zarray").unlink()
    (latents / ".zmetadata").unlink()
    train(workdir, "overwritten")


@pytest.mark.parametrize(("way", "name"), [
    ("grown", "latents.zarr"), ("overwritten", "latents.zarr"), ("overwritten", "checkpoints"),
])  # fmt: skip
def test_folders_on_another_disk_are_not_replaced(way, name, workdir, tmp_path):
    (workdir / name).rename(tmp_path / name)
    (workdir / name).symlink_to(tmp_path / name)
    before = content(tmp_path / name)
    assert_refused(workdir, way, f"its {name} is a link, and .* would not follow it; replace the")
    assert content(tmp_path / name) == before
    train(workdir, "again")  # which replaces no folder
    assert (workdir / name).is_symlink()


def test_training_further_through_a_link_to_checkpoints_works(workdir, tmp_path):
    (workdir / "checkpoints").rename(tmp_path / "checkpoints")
    (workdir / "checkpoints").symlink_to(tmp_path / "checkpoints")
    train(workdir, "grown")
    assert (workdir / "checkpoints").is_symlink()
    assert run_dir.last_step(workdir, 0) == 3 * (1438 // 24)


def put(folder, name, kind):
    with atomic.replacing(folder, field="out", value=folder, kind=kind) as partial:
        (partial / name).write_text(name)


@pytest.mark.parametrize("kind", ["report", "study", "analysis"])
def test_a_folder_of_another_kind_is_not_replaced(kind, tmp_path):
    out = tmp_path / "report"
    put(out, "index.html", kind)
    before = content(tmp_path)
    for other in {"report", "study", "analysis"} - {kind}:
        with pytest.raises(InputError, match=f"report is of another kind \\({kind}, not"):
            put(out, "ppp.png", other)
    assert content(tmp_path) == before
    put(out, "new.html", kind)
    assert "index.html" not in content(out)
    (out / "notes.txt").write_text("mine")
    atomic.remove(out)  # the kind stays with what is left
    with pytest.raises(InputError, match="of another kind"):
        put(out, "ppp.png", "report" if kind != "report" else "study")


def test_an_analysis_does_not_replace_a_report(workdir):
    put(workdir / "report", "index.html", "report")
    with pytest.raises(InputError, match=r"\(report, not analysis\); choose another path"):
        write_analysis(np.eye(4), workdir / "report")
    assert (workdir / "report" / "index.html").exists()


def test_a_folder_whose_record_says_no_kind_is_replaced(tmp_path):
    put(tmp_path / "out", "index.html", None)
    put(tmp_path / "out", "ppp.png", "analysis")
    assert "index.html" not in content(tmp_path / "out")
