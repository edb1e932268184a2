"""Folders of figures and tables, and the command that writes them."""

import csv
import json

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from ppp_jax.analysis import animate, load, ppp, project, rotation_test, write_analysis
from ppp_jax.analysis.inference.acceptance import acceptance_test
from ppp_jax.analysis.report import array_report
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.sweep import sweep
from tests import forks
from tests.analysis.projection.test_ppp import labelled

pytestmark = pytest.mark.usefixtures("quick_compilation")

FILES = [
    "analysis.json",
    "fractions.csv",
    "fractions.md",
    "index.html",
    "planes.csv",
    "ppp.png",
    "srm.csv",
    "srm.png",
    "tests.csv",
    "tests.md",
]


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def analyze(*flags):
    return forks.run("experiments.analyze", *flags, warn=True)


def test_folder_holds_what_the_functions_say(tmp_path):
    latents = labelled()
    options = {"by": ["seed"], "epsilon": [0.85, 0.5], "angles": 30, "rotations": 29}
    out = write_analysis(latents, tmp_path / "out", **options)
    assert sorted(path.name for path in out.iterdir()) == [".written.json", *FILES]
    shares = rows(out / "fractions.csv")
    assert [(row["seed"], row["epsilon"]) for row in shares] == [
        (seed, epsilon) for seed in "57" for epsilon in ("0.5", "0.85")
    ]
    for row in shares:
        epsilon = float(row["epsilon"])
        cloud = latents.sel(seed=int(row["seed"]))
        assert int(row["accepted"]) == project(cloud, epsilon=epsilon).sizes["point"]
        assert float(row["acceptance_ratio"]) == pytest.approx(
            ppp(cloud, epsilon=epsilon).acceptance_ratio.item()
        )
        tested = acceptance_test(cloud, epsilon=epsilon, rotations=29)
        for end in ("mean", "low", "high", "p"):
            assert float(row[f"rotated_{end}"]) == pytest.approx(tested[end].item())
    assert len(rows(out / "srm.csv")) == 2 * 2 * 30
    assert len(rows(out / "planes.csv")) == 2 * 10
    made = json.loads((out / "analysis.json").read_text())
    assert made["groups"] == [{"seed": 5}, {"seed": 7}]
    assert made["rotations"] == 29
    assert made["acceptance_rotations"] == [29, 29]
    assert made["rotated_beside"]
    for name in ("ppp.png", "srm.png"):
        with Image.open(out / name) as image:
            assert min(image.size) > 100


def test_every_group_is_tested_and_layers_that_know_the_axes_are_told(tmp_path):
    rng = np.random.default_rng(0)
    layers = np.stack([rng.normal(size=(300, 6)), np.tanh(3 * rng.normal(size=(300, 6))) + 1])
    labelled = xr.DataArray(
        layers, dims=("layer", "sample", "unit"), coords={"layer": ["noise", "bits"]}
    )
    out = write_analysis(labelled, tmp_path / "out", by="layer", epsilon=0.5, rotations=99)
    found = {(row["layer"], row["statistic"]): row for row in rows(out / "tests.csv")}
    for statistic in ("shape", "shape_kurtosis", "axis_quantisation", "mean_axes"):
        assert float(found["bits", statistic]["q"]) <= 0.02
        single = rotation_test(layers[1], statistics=[statistic], rotations=99)
        assert float(found["bits", statistic]["p"]) == single["p"].item()
    assert found["noise", "mean_axes"]["p"] == ""
    assert "cannot be told from 0" in found["noise", "mean_axes"]["not_judged"]
    assert found["noise", "shape"]["not_judged"] == ""
    assert float(found["noise", "shape"]["p"]) > 0.05
    assert {row["rows"] for row in found.values()} == {"300"}


def test_long_rows_are_left_out_of_the_tests_where_that_is_asked_for(tmp_path):
    cloud = np.random.default_rng(0).laplace(size=(200, 5))
    sink = np.concatenate([cloud, 1e5 * cloud[:1]])
    out = write_analysis(sink, tmp_path / "out", epsilon=0.5, rotations=9, drop_outliers=100)
    for row in rows(out / "tests.csv"):
        if row["statistic"] in ("covariance", "shape"):
            alone = rotation_test(cloud, statistics=[row["statistic"]], rotations=9)
            assert float(row["value"]) == pytest.approx(alone["value"].item())
        assert (row["rows"], row["rows_long"]) == ("200", "1")
    assert json.loads((out / "analysis.json").read_text())["drop_outliers"] == 100


def test_networks_are_tested_together_and_none_where_no_rotations_are_asked_for(tmp_path):
    clouds = xr.DataArray(np.random.default_rng(1).laplace(size=(3, 200, 5)),
                          dims=("seed", "sample", "unit"))  # fmt: skip
    out = write_analysis(clouds, tmp_path / "out", epsilon=0.5, rotations=39)
    found = {row["statistic"]: float(row["p"] or "nan") for row in rows(out / "tests.csv")}
    assert found["shape"] < 0.001  # three ranks together: less than one of 39 rotations can say
    out = write_analysis(clouds, tmp_path / "other", epsilon=0.5, rotations=0)
    assert not (out / "tests.csv").exists()
    assert "rotated_p" not in rows(out / "fractions.csv")[0]


def test_what_would_take_minutes_is_left_out_and_told(tmp_path, monkeypatch):
    clouds = np.random.default_rng(1).laplace(size=(200, 5))
    pairs = 200 * 10 // array_report.PAIRS_PER_POINT
    points = pairs + ppp(clouds, epsilon=0.5).accepted.item()
    for most, tested, rotations, beside in (
        (2**36, 30 * points, 30, True),
        (2**36, 18 * points, 0, True),
        (200 * 25, 2**26, 0, True),
        (200 * 25 - 1, 2**26, 0, False),
    ):
        monkeypatch.setattr(array_report, "MOST_TESTED", most)
        monkeypatch.setattr(array_report, "MOST_POINTS", tested)
        monkeypatch.setattr(array_report, "ROTATIONS", 40)
        out = write_analysis(clouds, tmp_path / "out", epsilon=0.5)
        made = json.loads((out / "analysis.json").read_text())
        assert made["acceptance_rotations"] == [rotations]
        assert made["rotated_beside"] is beside


def test_earlier_analyses_are_replaced_and_nothing_else_is(tmp_path):
    out = write_analysis(np.eye(4), tmp_path / "out", epsilon=0.5)
    before = (out / "fractions.md").read_text()
    with pytest.raises(InputError, match="are not finite"):
        write_analysis(np.full((2, 3), np.nan), out)
    assert (out / "fractions.md").read_text() == before
    write_analysis(np.eye(5), out, epsilon=0.5)
    assert (out / "fractions.md").read_text() != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"out=.*mine exists and was not written by ppp_jax"):
        write_analysis(np.eye(4), tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]  # no leftovers


def test_places_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"out=.*cannot be written \(Not a directory\)"):
        write_analysis(np.eye(4), tmp_path / "file" / "out")
    pictures = ppp(np.random.default_rng(0).normal(size=(2, 50, 3)), by="axis_0", bins=8)
    with pytest.raises(InputError, match=r"path=.*cannot be written"):
        animate(pictures, tmp_path / "file" / "film.gif", over="axis_0")


def test_bad_groups_are_one_line(tmp_path):
    latents = labelled()
    with pytest.raises(InputError, match=r"by=sample: .*\['seed', 'step'\]"):
        write_analysis(latents, tmp_path / "out", by=["sample"])
    many = xr.DataArray(np.ones((65, 2, 3)), dims=("a", "sample", "unit"))
    with pytest.raises(InputError, match="makes 65 groups; at most 64"):
        write_analysis(many, tmp_path / "out", by=["a"])
    assert not (tmp_path / "out").exists()


def test_command_takes_a_run_folder_and_a_basis(tmp_path):
    np.save(tmp_path / "basis.npy", np.eye(3)[:2] * 5)
    grid = Grid(activations=["tanh", "relu"], widths=[6], latent_widths=[3], optimizers=["sgd"],
                seeds=[0, 1], epochs=1, probe_samples=50)  # fmt: skip
    workdir = sweep.train(grid, tmp_path / "run", progress=False)
    done = analyze(f"--latents={workdir}", "--name=post", f"--basis={tmp_path}/basis.npy",
                   "--epsilon=0.6,0.85")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| activation" in done.stdout
    out = tmp_path / "run_analysis"
    assert f"analysis: {out}" in done.stdout
    assert "pooled over seed (--by keeps axes apart)" in done.stdout
    assert json.loads((out / "analysis.json").read_text())["frame_planes"] == 1
    shares = rows(out / "fractions.csv")
    assert [row["activation"] for row in shares] == ["tanh", "tanh", "relu", "relu"]
    last = load(workdir, name="post").isel(step=-1, activation=1)
    expected = project(last, basis=np.eye(3)[:2], epsilon=0.6).sizes["point"]
    assert int(shares[2]["accepted"]) == expected


def test_command_ends_with_one_line_on_bad_input():
    done = analyze("--latents=nowhere.npy")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --latents=nowhere.npy: is not there; give a run folder")
    assert done.stderr.count("\n") == 1


def test_animation_has_a_frame_per_snapshot(tmp_path):
    pictures = ppp(labelled(), by="step", bins=32)
    path = animate(pictures, tmp_path / "new" / "film.gif", frames_per_second=2)
    with Image.open(path) as film:
        durations = []
        for k in range(film.n_frames):
            film.seek(k)
            durations.append(film.info["duration"])
    # Three snapshots, the last of which stands for two seconds more (equal frames are merged).
    assert sum(durations) == 3 * 500 + 2000
    assert film.n_frames >= 3
    assert [p.name for p in path.parent.iterdir()] == ["film.gif"]


def test_bad_animations_are_one_line(tmp_path):
    pictures = ppp(labelled(), by=("step", "seed"), bins=8)
    one = pictures.isel(seed=0)
    for arguments, text in (
        ((one, tmp_path / "film.mp4"), "must end in .gif"),
        ((pictures, tmp_path / "film.gif"), r"over=step: must be the only axis"),
    ):
        with pytest.raises(InputError, match=text):
            animate(*arguments)
    with pytest.raises(InputError, match="label=loss"):
        animate(one, tmp_path / "film.gif", label="loss")
    with pytest.raises(InputError, match="frames_per_second=0"):
        animate(one, tmp_path / "film.gif", frames_per_second=0)
    assert not list(tmp_path.iterdir())
