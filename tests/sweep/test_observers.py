"""What is watched in training: a trace of steps, losses for TensorBoard, refusals in one line."""

import json
import struct
import sys

import numpy as np
import pytest

from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.sweep import observers, sweep

AXES = {
    "activations": ["tanh"],
    "optimizers": ["sgd"],
    "widths": [6],
    "latent_widths": [3],
    "seeds": [0, 1],
    "epochs": 4,
    "snapshots": [],
    "probe_samples": 30,
}


def scalars(folder):
    """Returns `(step, tag, value)` of all event files, which are records with their lengths."""
    from tensorboardX.proto import event_pb2

    found = []
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            found += [(event.step, one.tag, one.simple_value) for one in event.summary.value]
            at += 16 + length
    return found


@pytest.mark.usefixtures("quick_compilation")
def test_a_trace_is_left_and_tensorboard_gets_the_losses_of_the_metrics(tmp_path, capfd):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    how = {"profile_steps": (10, 20), "log_to": ("jsonl", "tensorboard"), "progress": False}
    workdir = sweep.train(Grid(**AXES), tmp_path / "run", **how)
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    assert "profile of steps 0 to " in capfd.readouterr().err
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = scalars(workdir / "tensorboard")
    assert [step for step, _, _ in logged] == [line["step"] for line in lines]
    assert {tag for _, tag, _ in logged} == {
        f"train_loss/{cell.name}" for cell in Grid(**AXES).cells
    }
    means = [np.mean(line["loss"]) for line in lines]
    np.testing.assert_allclose([value for _, _, value in logged], means, rtol=1e-6)


@pytest.mark.parametrize(
    ("steps", "logs", "message"),
    [
        ((20, 10), ("jsonl",), "profile_steps=20:10: must be a range of steps such as 10:20"),
        (None, ("tensorbord",), "log_to=tensorbord: unknown; did you mean tensorboard"),
        (None, ("tensorboard",), r"run pip install 'ppp_jax\[tensorboard\]'"),
    ],
)
def test_what_cannot_be_watched_is_one_line(steps, logs, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setattr(observers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=message):
        observers.checked(steps, logs)
