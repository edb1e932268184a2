"""Run folders in a bucket: killed, continued elsewhere, grown, of two processes, under a lease."""

import json
import shutil
import signal
import sys
import threading

import pytest
import xarray as xr

import ppp_jax.analysis as pa
from ppp_jax.errors import InputError
from ppp_jax.files import buckets, leases, mirrors
from ppp_jax.files.integrity import sealed
from ppp_jax.grid import Grid
from ppp_jax.sweep import plan, sweep
from tests import commands, emulators, train_in_bucket

AXES = {
    "activations": ["isotropic_tanh"],
    "optimizers": ["adam"],
    "widths": [6],
    "latent_widths": [3],
    "seeds": [0, 1],
    "snapshots": [1, 2, 3],
    "epochs": 6,
    "probe_samples": 50,
}
GROWN = {**AXES, "seeds": [0, 1, 2]}
FLAGS = ["--seed_batch=2", *commands.flags(AXES)]
MAIN = "tests.train_in_bucket"
# Of aiohttp, for each object of more than a megabyte that gcsfs sends.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


@pytest.fixture(autouse=True)
def soon_stale(monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", train_in_bucket.HEARTBEAT_SECONDS)
    monkeypatch.setattr(leases, "STALE_SECONDS", train_in_bucket.STALE_SECONDS)
    monkeypatch.setattr(buckets, "PATIENCE", 3.0)


@pytest.fixture(scope="module", params=list(emulators.STORES))
def store(request):
    """The protocol of a store with an empty bucket named `bucket`."""
    with emulators.emulator(request.param):
        yield request.param


@pytest.fixture(scope="module")
def whole(tmp_path_factory, quick_compilation):  # noqa: ARG001
    """The run in a folder of this machine, which nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return sweep.train(Grid(**AXES), folder, seed_batch=2, progress=False)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that moves on to a machine on which no copy of any run is."""

    def another(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    another("first")
    return another


def died(address, at):
    """Runs the command until it kills itself; returns what it wrote to stderr."""
    environment = {**commands.environment(), "DIE_AT": at}
    process = commands.start(address, FLAGS, module=MAIN, environment=environment)
    _, stderr = process.communicate(timeout=commands.TIMEOUT)
    assert process.returncode == -9, stderr
    return stderr


def test_killed_at_any_moment_another_machine_continues(store, whole, machine):
    """In an upload, before the commit, after it; then two processes; then the grid grows."""
    address, uninterrupted = f"{store}://bucket/runs/killed", pa.load_run(whole).load()
    for number, at in enumerate(("upload:4", "create:2", "remove:2")):
        machine(f"trains {number}")
        assert ("is taken over" in died(address, at)) == (number > 0)
        machine(f"reads {number}")
        kept = pa.load_run(address).load()
        same = uninterrupted.isel(step=slice(len(kept["step"])))
        xr.testing.assert_identical(kept.drop_attrs(), same.drop_attrs())
        assert len(kept["step"]) < len(uninterrupted["step"])

    machine("two")
    with commands.several(address, FLAGS, count=2, module=MAIN) as processes:
        for process in processes:
            commands.finish(process)
    machine("reads it all")
    found = mirrors.located("workdir", address)
    commands.assert_same(whole, found, runs=2)

    grown = shutil.copytree(whole, found.parent / "grown")
    for folder in (grown, address):
        sweep.train(Grid(**GROWN), folder, seed_batch=2, progress=False)
    commands.assert_same(grown, found, runs=2)
    # Nothing is left of the killed ones.
    index, *rest = emulators.filesystem(store).find("bucket/runs/killed/index")
    referred = json.loads(emulators.filesystem(store).cat_file(index))["files"].values()
    assert rest == emulators.filesystem(store).find("bucket/runs/killed/lease") == []
    objects = emulators.filesystem(store).find("bucket/runs/killed/objects")
    assert {name.rpartition("/")[2] for name in objects} == {sha256 for sha256, _ in referred}


def waited(*_):
    """Stands for the wait for a sign of life."""
    raise AssertionError("it waits for a lease of its own")


def test_asked_to_stop_it_uploads_and_the_same_machine_goes_on_at_once(
    store, whole, machine, monkeypatch
):
    address = f"{store}://bucket/runs/stopped"
    process = commands.start(address, FLAGS, module=MAIN)
    assert commands.wait_until(commands.reached(mirrors.copy_of(address), 2), process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=commands.TIMEOUT)
    assert process.returncode == 130, stderr
    assert "the same command continues" in stderr
    assert emulators.filesystem(store).find("bucket/runs/stopped/lease") == []
    machine("dry")
    assert plan.plan(Grid(**AXES), address, seed_batch=2).run_steps_done > 0
    died(address, "upload:1")  # the copy of this machine is ahead of the bucket
    # Its own lease is taken over at once: nobody waits until it is stale.
    with monkeypatch.context() as patched:
        patched.setattr(leases, "_await_end", waited)
        with mirrors.held(address, mirrors.copy_of(address)):
            pass
    found = sweep.train(Grid(**AXES), address, seed_batch=2, progress=False)
    commands.assert_same(whole, found, runs=2)
    page = pa.write_report(address, rotations=19, progress=False)
    machine("reads")
    copied = mirrors.located("workdir", address) / "report" / "index.html"
    assert copied.read_bytes() == page.read_bytes()


# ------------------------------------------------------------------------------- the lease


def taken(address, folder):
    """Returns the mirror of a machine that is at work and was not ended."""
    mirror = mirrors.Mirror(address, folder)
    mirror.take()
    mirror.pull()
    folder.mkdir(parents=True, exist_ok=True)
    return mirror


def test_of_two_machines_one_is_refused_by_the_name_of_the_other(store, tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "STALE_SECONDS", 60.0)  # however busy this machine is
    address = f"{store}://bucket/runs/lease"
    with (
        mirrors.held(address, tmp_path / "one" / "run"),
        pytest.raises(InputError, match=r"process \d+ on .* is at work in this folder since"),
        mirrors.held(address, tmp_path / "other" / "run"),
    ):
        raise AssertionError("it was let in")
    with mirrors.held(address, tmp_path / "other" / "run"):  # the first one has ended
        assert buckets.Bucket(address).names("lease")


def test_of_many_that_want_a_stale_lease_one_gets_it(store):
    bucket = buckets.Bucket(f"{store}://bucket/runs/race")
    dead = {"owner": "process 1 on atlantis", "time": 0.0, "beat": 3, "token": "a"}
    assert bucket.create("lease/00000007.json", json.dumps(dead).encode())
    taken, refused = [], []

    def take():
        try:
            taken.append(leases.take(buckets.Bucket(bucket.address)))
        except InputError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (lease,) = taken
    assert len(refused) == 3
    assert bucket.names("lease") == ["lease/00000008.json"]
    lease.release()
    assert bucket.names("lease") == []


def test_who_lost_the_lease_saves_nothing_more(store, tmp_path, monkeypatch, capsys):
    address, here = f"{store}://bucket/runs/lost", tmp_path / "one" / "run"
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 60.0)  # as if the machine had been stopped
    one = taken(address, here)
    (here / "file").write_text("one")
    one.commit()
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", train_in_bucket.HEARTBEAT_SECONDS)
    with mirrors.held(address, tmp_path / "other" / "run") as other:
        assert "has not reported for" in capsys.readouterr().err
        assert (other.folder / "file").read_text() == "one"
        (other.folder / "file").write_text("other")
        (here / "file").write_text("one again")
        with pytest.raises(InputError, match="was taken over by process"):
            one.commit()
    one.release()
    with mirrors.held(address, here) as one:
        assert (here / "file").read_text() == "other"
    assert "what this one had not uploaded is dropped" in capsys.readouterr().err


# ------------------------------------------------------------------------------ what is refused


def test_an_index_that_leads_out_of_the_folder_is_refused(store, tmp_path):
    bucket = buckets.Bucket(f"{store}://bucket/runs/hostile")
    entries = {"format": 1, "number": 1, "files": {"../../stolen": ["0" * 64, 3]}}
    assert bucket.create("index/00000001.json", json.dumps(sealed(entries)).encode())
    with pytest.raises(InputError, match=r"index/00000001.json is damaged"):
        mirrors.fetched(bucket.address, tmp_path / "run")


@pytest.mark.usefixtures("machine")
def test_what_cannot_work_is_one_line(store, monkeypatch):
    grid, known = Grid(**AXES), f"{store}://bucket/runs/nothing"
    with pytest.raises(InputError, match=f"there is no bucket {store}://other; create it"):
        sweep.train(grid, f"{store}://other/run", progress=False)
    with pytest.raises(InputError, match="holds no run; train one there first"):
        pa.load_run(known)
    sweep_to = mirrors.copy_of(known)
    with mirrors.held(known, sweep_to) as mirror:
        sweep_to.mkdir()
        (sweep_to / "file").write_text("here")
        mirror.commit()
    filesystem = emulators.filesystem(store)
    filesystem.rm(filesystem.find("bucket/runs/nothing"))
    with pytest.raises(InputError, match="holds no run any more, although this machine has a copy"):
        pa.load_run(known)
    for name in [name for name in sys.modules if name.split(".")[0] in ("gcsfs", "s3fs")]:
        monkeypatch.setitem(sys.modules, name, None)
    extra = {"gs": "gcs", "s3": "s3"}[store]
    with pytest.raises(InputError, match=rf"run pip install 'ppp_jax\[{extra}\]'"):
        pa.load(known)


@pytest.mark.slow  # libraries try again by themselves, with pauses
def test_a_bucket_that_does_not_answer_is_said_and_the_copy_is_kept(tmp_path, monkeypatch, capsys):
    with emulators.emulator("s3") as process:
        mirror = taken("s3://bucket/runs/cut", tmp_path / "run")
        (mirror.folder / "file").write_text("kept")
        monkeypatch.setattr(buckets, "PATIENCE", 0.0)
        process.kill()
        process.wait()
        with pytest.raises(
            InputError, match=r"cannot be reached .* and the same command continues"
        ):
            mirror.commit()
        mirror.release()
    assert "the lease ends in 2 s, because it could not be removed" in capsys.readouterr().err
    assert (mirror.folder / "file").read_text() == "kept"


@pytest.mark.parametrize(
    "address", ["gs://bucket", "gs://bucket/../run", "ftp://bucket/run", "gs:///r"]
)
def test_other_addresses_are_refused(address):
    with pytest.raises(InputError, match="is not an address of a run folder"):
        sweep.train(Grid(**AXES), address, progress=False)
