"""The command on the layers of a network: from a folder of arrays to a table and a figure."""

import os
import re
import signal
import time

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ppp_jax.analysis.io.layer_files import open_layers
from ppp_jax.analysis.projection.planes import resolve_basis
from ppp_jax.analysis.results.kept_layers import KeptLayers
from ppp_jax.analysis.results.layer_comparison import COUNTS, NUMBERS, LayerTest
from ppp_jax.analysis.statistics import top_units
from ppp_jax.experiments import analyze as main
from tests import forks, odd_commands

pytestmark = pytest.mark.usefixtures("quick_compilation")


def analyze(*flags):
    return forks.run("experiments.analyze", *flags)


@pytest.fixture(scope="module")
def layers():
    """Hidden units of an untrained network that sees digits: tanh, ReLU, and an isotropic map."""
    rng = np.random.default_rng(0)
    hidden = load_digits().data[:300]
    hidden = (hidden - hidden.mean(axis=0)) / hidden.std()
    kept = {}
    for name in ("tanh_1", "relu_2", "isotropic_10"):
        hidden = hidden @ rng.normal(size=(hidden.shape[1], 8)) * (2 / hidden.shape[1]) ** 0.5
        if name == "tanh_1":
            hidden = np.tanh(2 * hidden)
        elif name == "relu_2":
            hidden = np.maximum(hidden, 0)
        else:
            hidden = hidden / (1 + np.linalg.norm(hidden, axis=1, keepdims=True))
        kept[name] = hidden.astype(np.float32)
    return kept


def test_a_folder_of_layers_ends_with_one_table_and_a_figure(layers, tmp_path):
    folder = tmp_path / "layers"
    folder.mkdir()
    for name, latents in layers.items():
        np.save(folder / f"{name}.npy", latents)
    (folder / "model.json").write_text("{}")
    done = analyze(f"--latents={folder}", "--rotations=99")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "layers_analysis"
    assert done.stdout.startswith((out / "layers.md").read_text(encoding="utf-8"))
    assert done.stdout.endswith(
        f"figure: {out / 'layers.png'}\npage: {out / 'index.html'}\nanalysis: {out}\n"
    )
    parts = ("mean", "mean along the sum", "covariance", "shape", "dip")
    cells = {row[0]: dict(zip(parts, row[4:-1], strict=True))
             for line in done.stdout.splitlines() if line.startswith("| ")
             for row in [[cell.strip() for cell in line.strip("| ").split("|")]]}  # fmt: skip
    assert list(cells)[2:] == ["isotropic_10", "relu_2", "tanh_1"]
    # Saturated tanh stands on the diagonals and on levels, ReLU's shape on the axes.
    assert cells["tanh_1"]["shape"].startswith("-0.")
    for layer, part in (("tanh_1", "shape"), ("tanh_1", "dip"), ("relu_2", "shape")):
        assert cells[layer][part].endswith("*")
    assert not cells["isotropic_10"]["shape"].endswith("*")
    assert "beside the layers, and none: model.json" in done.stdout


def test_an_archive_of_layers_is_taken_and_one_name_of_it_is_one_array(layers, tmp_path):
    sink = np.where(np.arange(300)[:, None] == 0, 1e4, 1)  # one row decides for all
    np.savez(tmp_path / "kept.npz", **layers | {"relu_2": layers["relu_2"] * sink})
    out, given = tmp_path / "kept_analysis", f"--latents={tmp_path / 'kept.npz'}"
    done = odd_commands.run(main, [given, "--rotations=3", "--drop_outliers=100"], tmp_path)
    assert (done["status"], done["traceback"]) == (None, "")
    text = (out / "layers.md").read_text(encoding="utf-8")
    assert re.search(r"^\| relu_2 +\| 8 +\| 299 +\| 1 +\|", text, re.M)
    assert text.index("| tanh_1") < text.index("| relu_2")  # in their own order
    done = odd_commands.run(main, [given, "--name=relu_2", "--rotations=0"], tmp_path)
    assert (done["status"], done["traceback"]) == (None, "")
    assert (out / "ppp.png").exists()
    assert not (out / "layers.csv").exists()


def stopped_at(process, folder, count):
    """Kills a command as soon as it has kept so many layers."""
    for _ in range(3000):
        if len(list(folder.glob("*.json"))) >= count:
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_command_that_was_killed_goes_on_and_writes_the_very_same_bytes(layers, tmp_path):
    many = {f"{name}_{k}": latents * (1 + k) for k in range(3) for name, latents in layers.items()}
    np.savez(tmp_path / "kept.npz", **many)
    flags = [f"--latents={tmp_path / 'kept.npz'}", "--rotations=199"]
    whole = analyze(*flags, f"--out={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    out, aside = tmp_path / "out", tmp_path / ".out.aside" / "layers"
    flags.append(f"--out={out}")
    stopped_at(forks.Fork("experiments.analyze", flags, environment=dict(os.environ)), aside, 2)
    kept = contents(aside)
    assert 2 <= len(kept) < len(many)
    assert not out.exists()
    # Another command does not take what was measured by other settings, and keeps its own.
    stopped_at(
        forks.Fork("experiments.analyze", [*flags, "--rotations=198"],
                   environment=dict(os.environ)), aside, len(kept) + 2,
    )  # fmt: skip
    assert kept.items() <= contents(aside).items()
    done = analyze(*flags)
    assert done.returncode == 0, done.stderr
    assert contents(out) == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.npz", "out", "whole"]


def test_what_is_kept_is_not_measured_anew_unless_something_changed(layers, tmp_path):
    kept = KeptLayers(tmp_path / "out")
    settings = {"basis": resolve_basis(None, 8), "statistics": (), "rotations": 9}
    (one, other, *_) = open_layers(layers).layers
    numbers = {name: np.array([0.1, np.nan]) for name in NUMBERS}
    top = {name: np.array([3, np.nan]) for name in top_units.NUMBERS}
    found = LayerTest(numbers, dict.fromkeys(COUNTS, 3), "", top, "shape")
    assert kept.recall(one, settings) is None
    kept.keep(one, settings, found)
    again = KeptLayers(tmp_path / "out").recall(one, settings)
    assert (again.counts, again.not_judged) == (found.counts, "")
    assert again.top_statistic == "shape"
    for name in top_units.NUMBERS:
        assert np.array_equal(again.top[name], found.top[name], equal_nan=True)
    for name in NUMBERS:
        assert np.array_equal(again.numbers[name], found.numbers[name], equal_nan=True)
    changed = {**layers, one.name: layers[one.name] + 1e-6}
    assert kept.recall(other, settings) is None
    assert KeptLayers(tmp_path / "out").recall(open_layers(changed).layers[0], settings) is None
    for key, value in {"basis": resolve_basis("haar:0", 8), "rotations": 10, "null": "x"}.items():
        assert kept.recall(one, settings | {key: value}) is None
    (path,) = kept.folder.iterdir()
    path.write_text(path.read_text().replace("0.1", "0.2", 1))
    assert kept.recall(one, settings) is None
    path.write_text("{")
    assert kept.recall(one, settings) is None


def test_models_and_groups_stand_side_by_side(layers, tmp_path):
    (tmp_path / "models").mkdir()
    for name, scale in (("trained", 1), ("random", -1)):
        np.savez(tmp_path / "models" / name, **{key: scale * x for key, x in layers.items()})
    given = [f"--latents={tmp_path / 'models'}", "--rotations=9"]
    groups = "--groups=plain=tanh*,plain=relu*,round=iso*"
    done = odd_commands.run(main, [*given, groups], tmp_path)
    assert (done["status"], done["traceback"]) == (None, "")
    rows = (tmp_path / "models_analysis" / "layers_long.csv").read_text().splitlines()
    assert rows[0].startswith("model,layer,group,statistic,value,")
    assert rows[1].startswith("random,tanh_1,plain,")
    for flag, text in (
        ("--groups=plain=tanh*", "has no pattern for the layer relu_2"),
        ("--groups=a=*,b=tanh*", "has patterns of a and b for the layer tanh_1"),
        ("--groups=plain", "--groups=plain: must be name=pattern"),
    ):
        done = odd_commands.run(main, [*given, flag], tmp_path)
        assert (done["status"], done["stderr"].count("\n")) == (1, 1)
        assert text in done["stderr"]
    np.save(tmp_path / "one.npy", layers["tanh_1"])
    done = odd_commands.run(main, [f"--latents={tmp_path / 'one.npy'}", groups], tmp_path)
    assert "is of several layers, and one.npy is one array" in done["stderr"]


@pytest.mark.parametrize(("flags", "text"), [
    (["--epsilon=0.5"], "--epsilon=(0.5,): is of a single array"),
    (["--by=seed"], "is of a single array"), (["--units=4"], "--units=4: is of a single array"),
    (["--rotations=0"], "--rotations=0: must be at least 1"),
    (["--basis=simplex:3"], "--basis=simplex:3"), ([], "layers/b.npy: has the shape (2, 9, 3)"),
])  # fmt: skip
def test_what_cannot_be_used_is_one_line(tmp_path, flags, text):
    (tmp_path / "layers").mkdir()
    np.save(tmp_path / "layers" / "a.npy", np.ones((9, 3)))
    if not flags:
        np.save(tmp_path / "layers" / "b.npy", np.ones((2, 9, 3)))
    done = odd_commands.run(main, [f"--latents={tmp_path / 'layers'}", *flags], tmp_path)
    assert (done["status"], done["traceback"], done["changed"]) == (1, "", [])
    assert done["stderr"].startswith("error: --")
    assert done["stderr"].count("\n") == 1
    assert text in done["stderr"]


def test_a_folder_without_layers_is_one_line(tmp_path):
    done = odd_commands.run(main, [f"--latents={tmp_path}"], tmp_path)
    assert (done["status"], done["changed"]) == (1, [])
    problem = "holds no .npy, .npz, .h5, .safetensors or zarr array (it is empty)"
    assert done["stderr"].startswith(f"error: --latents={tmp_path}: {problem}")
    assert done["stderr"].count("\n") == 1
