"""Several real processes train one grid: the same bits, and none of them is indispensable."""

import signal

import pytest

from ppp_jax.grid import Grid
from ppp_jax.storage import run_dir
from ppp_jax.sweep import sweep
from tests import commands

# 5 seeds on 2 × 2 devices in batches of 2: padded to 8.
AXES = {
    "activations": ["tanh", "isotropic_tanh"],
    "optimizers": ["adam"],
    "widths": [6],
    "latent_widths": [3],
    "seeds": list(range(5)),
    "snapshots": [1, 10],
    "epochs": 60,
    "probe_samples": 100,
}
FLAGS = ["--seed_batch=2", *commands.flags(AXES)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same grid by one process, on one device."""
    return sweep.train(Grid(**AXES), tmp_path_factory.mktemp("a"), seed_batch=2, progress=False)


def test_two_processes_train_what_one_does_and_one_reports(alone, tmp_path):
    few = [*FLAGS, "--rotations=19"]
    both = commands.several(tmp_path, few, count=2, module="experiments.ablation")
    with both as (first, second):
        printed, bar = commands.finish(first)
        quiet = commands.finish(second)[0].splitlines()
    # The transport's own greeting, which it prints only when a connection is slow.
    assert [line for line in quiet if not line.startswith("[Gloo]")] == []
    assert printed.count("● over seeds") == printed.count("report: ") == 1
    assert "epoch" in bar
    commands.assert_same(alone, tmp_path, runs=5)


@pytest.mark.slow
def test_processes_come_and_go(alone, tmp_path):
    """Two, one is killed; one, killed too; two, one is asked to stop; one device, to the end."""
    with commands.several(tmp_path, FLAGS, count=2) as (first, second):
        assert commands.wait_until(commands.reached(tmp_path, 2 * 15), first)
        second.send_signal(signal.SIGKILL)
        _, stderr = first.communicate(timeout=commands.TIMEOUT)
    if first.returncode != -signal.SIGABRT:  # JAX itself was first to notice
        assert first.returncode == 3, stderr
        assert "this process or another one has ended" in stderr
        assert "the same command, started on all machines, continues" in stderr
    assert run_dir.last_step(tmp_path, 0) == 10 * (1438 // 24)

    one = commands.start(tmp_path, FLAGS)
    assert commands.wait_until(commands.reached(tmp_path, 2 * 19), one)
    one.kill()
    one.communicate()

    with commands.several(tmp_path, FLAGS, count=2) as (first, second):
        assert commands.wait_until(commands.reached(tmp_path, 2 * 23), second)
        second.send_signal(signal.SIGTERM)
        texts = [process.communicate(timeout=commands.TIMEOUT)[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [130, 130], texts
    assert all("the same command continues" in text for text in texts)
    assert run_dir.last_step(tmp_path, 0) > 10 * (1438 // 24)

    sweep.train(Grid(**AXES), tmp_path, seed_batch=2, progress=False)
    commands.assert_same(alone, tmp_path, runs=5)


def test_an_error_of_process_0_ends_all(tmp_path):
    (tmp_path / "file").write_text("")
    with commands.several(tmp_path / "file", FLAGS, count=2) as processes:
        texts = [process.communicate(timeout=commands.TIMEOUT)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert "error: --workdir=" in texts[0]
    assert "Traceback" not in texts[0] + texts[1]
    assert "error: --workdir=" in texts[1]  # which process 0 has told


TINY = commands.flags(
    {"activations": ["tanh"], "widths": [6], "latent_widths": [3], "optimizers": ["sgd"],
     "probe_samples": 30, "epochs": 4000, "snapshots": [1]}
)  # fmt: skip


def test_processes_told_different_things_end_with_the_same_line(tmp_path):
    own = [[], ["--learning_rates=0.1"]]
    with commands.several(tmp_path / "run", TINY, count=2, own=own) as processes:
        texts = [process.communicate(timeout=commands.TIMEOUT)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert texts[0] == texts[1]
    assert texts[0].count("\n") == 1
    assert texts[0].startswith("error: --learning_rates=(): in process 0, but (0.1,) in process 1")
    assert not (tmp_path / "run").exists()


def test_a_request_to_stop_ends_a_process_that_waits_for_another(tmp_path):
    with commands.several(tmp_path, TINY, count=2) as (first, second):
        assert commands.wait_until(commands.reached(tmp_path, 2), first)
        second.send_signal(signal.SIGSTOP)
        first.send_signal(signal.SIGTERM)
        _, stderr = first.communicate(timeout=60)
    assert first.returncode == 130, stderr
    assert stderr.count("error: ") == 1
    assert "asked to stop while it waited for the others" in stderr
    assert run_dir.last_step(tmp_path, 0) is not None
