"""Memory that does not suffice is one line; data is held once, however many devices there are."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from ppp_jax.analysis import load_run
from ppp_jax.data import datasets
from ppp_jax.engine import devices, program
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.storage import run_dir
from ppp_jax.sweep import demand, seed_batches, sweep

pytestmark = pytest.mark.usefixtures("quick_compilation")

AXES = {"activations": ["tanh"], "optimizers": ["sgd"], "widths": [4], "latent_widths": [2],
        "probe_samples": 9, "seeds": [0, 1]}  # fmt: skip
LOWER = ("--seed_batch", "--probe_samples", "--capture", "--batch_size", "--widths")
XLA = jax.errors.JaxRuntimeError


def test_a_grid_larger_than_the_address_space(tmp_path):
    """Asked for: 172 TB of weights. Refused from shapes, before anything is computed or written."""
    grid = Grid(**AXES | {"widths": [2**24], "seeds": range(20_000), "epochs": 1})
    with pytest.raises(InputError, match=r"memory does not suffice: .* TiB, and .* free") as caught:
        sweep.train(grid, tmp_path / "run", seed_batch=2, progress=False)
    assert caught.value.field == "seeds"
    assert all(flag in str(caught.value) for flag in ("--seeds", "--widths", "--seed_batch"))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.*"))


def test_a_network_larger_than_the_address_space(tmp_path, monkeypatch):
    """What only the allocator can say is still one line."""
    monkeypatch.setattr(demand, "check", lambda *_, **__: None)
    grid = Grid(**AXES | {"widths": [2**24], "seeds": range(20_000), "epochs": 1})
    with pytest.raises(InputError, match=r"not suffice.*Out of memory alloc") as caught:
        sweep.train(grid, tmp_path, seed_batch=2, progress=False)
    assert (caught.value.field, caught.value.value) == ("seed_batch", 2)
    assert all(flag in str(caught.value) for flag in LOWER)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return sweep.train(Grid(**AXES, epochs=1), tmp_path_factory.mktemp("m"), seed_batch=2,
                       progress=False)  # fmt: skip


def raising(error):
    def call(*_, **__):
        raise error

    return call


@pytest.mark.parametrize("place", ["lower", "chunk", "observe"])
@pytest.mark.parametrize(
    "error", [XLA("RESOURCE_EXHAUSTED: of 9 bytes\nmore"), XLA("Out of memory"), MemoryError()]
)
def test_no_memory_to_compile_train_or_observe(tmp_path, monkeypatch, error, place):
    build = program.build

    def short_of_memory(*args, **kwargs):
        built = build(*args, **kwargs)
        if place == "observe":
            return built._replace(observe=raising(error))
        compiled = type("Lowered", (), {"compile": lambda _: raising(error)})()
        lower = raising(error) if place == "lower" else lambda *_: compiled
        return built._replace(chunk=type("Chunk", (), {"lower": staticmethod(lower)}))

    monkeypatch.setattr(program, "build", short_of_memory)
    with pytest.raises(InputError, match="seed_batch=2: memory does not suffice") as caught:
        sweep.train(Grid(**AXES, epochs=1), tmp_path, seed_batch=2, progress=False)
    assert "\n" not in str(caught.value)


def test_no_memory_to_time_widths(tmp_path, monkeypatch):
    monkeypatch.setattr(seed_batches, "seed_batches", raising(MemoryError("9 GiB")))
    with pytest.raises(InputError, match=r"seed_batch=auto: memory .* \(9 GiB\)"):
        sweep.train(Grid(**AXES, epochs=1), tmp_path, progress=False)


def test_what_was_saved_is_kept(trained, monkeypatch):
    before, step = load_run(trained).load(), run_dir.last_step(trained, 0)
    monkeypatch.setattr(run_dir, "append_metrics", raising(XLA("RESOURCE_EXHAUSTED")))
    with pytest.raises(InputError, match="saved results are kept"):
        sweep.train(Grid(**AXES, epochs=2), trained, seed_batch=2, progress=False)
    assert run_dir.last_step(trained, 0) == step
    after = load_run(trained).load()
    np.testing.assert_array_equal(after["pre"], before["pre"])


def test_another_error_of_xla_is_not_about_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(run_dir, "append_metrics", raising(XLA("INTERNAL: something else")))
    with pytest.raises(XLA, match="something else"):
        sweep.train(Grid(**AXES, epochs=1), tmp_path, seed_batch=2, progress=False)


# ----------------------------------------------------------------------- the data, held once


def pointers():
    """Prints, of arrays at any alignment, how many buffers 4 devices hold of each."""
    jax.config.update("jax_num_cpu_devices", 4)
    raw = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    arrays = [raw[k:].reshape(-1, 1)[: 4000 + k] for k in range(16)]
    for array, placed in zip(arrays, devices.replicate(arrays, devices.runs_mesh()), strict=True):
        shards = placed.addressable_shards
        assert len(shards) == 4
        np.testing.assert_array_equal(placed, array)
        print(len({shard.data.unsafe_buffer_pointer() for shard in shards}))  # noqa: T201


def test_all_cpu_devices_of_a_process_share_one_copy():
    done = subprocess.run(
        [sys.executable, "-m", "tests.sweep.test_memory"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1"] * 16


def test_later_changes_of_the_caller_s_arrays_are_not_seen():
    for array in (
        np.zeros(1000, np.float32),
        np.zeros((0, 3), np.int32),
        np.float32(2) * np.eye(9),
    ):
        placed = devices.replicate(array, devices.runs_mesh())
        before = array.copy()
        array += 1
        np.testing.assert_array_equal(placed, before)
        assert placed.dtype == np.float32 or placed.dtype == array.dtype


@pytest.mark.parametrize("timed", [False, True])
def test_data_is_placed_once_for_all_that_a_sweep_builds(tmp_path, monkeypatch, timed):
    """And once more, for this process alone, if widths are timed."""
    placed, built = [], []
    put_data, build = program.put_data, program.build
    monkeypatch.setattr(program, "put_data", lambda *a, **k: placed.append(1) or put_data(*a, **k))
    monkeypatch.setattr(program, "build", lambda *a, **k: built.append(1) or build(*a, **k))
    if timed:
        monkeypatch.setattr(seed_batches, "WORTH_TIMING", 0)
        monkeypatch.setattr(seed_batches, "_memory_file", lambda: None)
        monkeypatch.setattr(seed_batches._Trainer, "seconds", lambda *_, **__: 1.0)
    grid = Grid(**AXES | {"seeds": range(20), "epochs": 1})
    sweep.train(grid, tmp_path, progress=False)
    assert len(placed) == 1 + timed
    assert len(built) >= 1 + 2 * timed
    shapes = program.outline(grid, datasets.load("digits"))
    real = put_data(grid, datasets.load("digits"))
    assert [(a.shape, a.dtype) for a in shapes] == [(b.shape, b.dtype) for b in real]


if __name__ == "__main__":
    pointers()
