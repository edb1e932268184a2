"""The command on the layers of a network: from a folder of arrays to a table and a figure."""

import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments import analyze as main
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
    assert done.stdout.endswith(f"figure: {out / 'layers.png'}\nanalysis: {out}\n")
    parts = ("mean", "mean along the sum", "covariance", "shape", "dip")
    cells = {row[0]: dict(zip(parts, row[4:], strict=True))
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
