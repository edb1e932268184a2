"""Experiments as functions: imported together, called without flags, registered in one call."""

import dataclasses
import pathlib
import re
import subprocess
import sys

import pandas as pd
import pytest
from absl import flags
from matplotlib.figure import Figure

from ppp_jax.cli import experiment, study
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.errors import InputError
from ppp_jax.experiments import consequences, dose_response, width
from ppp_jax.grid import Grid
from tests import ROOT, forks

pytestmark = pytest.mark.usefixtures("quick_compilation")

GRID = ["--widths=6", "--optimizers=momentum", "--epochs=1", "--rotations=19", "--seed_batch=6",
        "--seeds=0:6", "--probe_samples=64", "--snapshots=0",
        "--activations=tanh,isotropic_tanh"]  # fmt: skip
OPTIONS = experiment.Options(rotations=19, progress=False)
MODULES = sorted(path.stem for path in (ROOT / "ppp_jax" / "experiments").glob("[a-z]*.py"))
QUESTIONS = {  # the rest of `experiments` are commands of other kinds
    "ablation", "architectures", "consequences", "convergence", "depth", "dose_response",
    "emergence", "group_ladder", "optimizer_factorial", "own_activation", "reconstruction",
    "rotated_basis", "views", "width",
}  # fmt: skip

IMPORT = f"""
import importlib, sys
from absl import flags
from ppp_jax.cli import experiment
before = set(flags.FLAGS)
for names in ({MODULES}, {MODULES[::-1]}):
    for name in [name for name in sys.modules if name.startswith("ppp_jax.experiments")]:
        del sys.modules[name]
    experiment.EXPERIMENTS.clear()
    for name in names:
        importlib.import_module(f"ppp_jax.experiments.{{name}}")
    print(*sorted(experiment.EXPERIMENTS), *set(flags.FLAGS) - before)
"""


def command(module, *flags):
    done = forks.run(f"experiments.{module}", *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_are_imported_in_one_process_in_any_order_and_define_no_flag():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [" ".join(sorted(QUESTIONS))] * 2


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_an_experiment_knows_no_command_line(name):
    text = (ROOT / "ppp_jax" / "experiments" / f"{name}.py").read_text(encoding="utf-8")
    assert "absl" not in text
    assert "__doc__" not in text


# -------------------------------------------------------------------- called as a function


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder that the command has trained and analysed, and what it was told."""
    workdir = tmp_path_factory.mktemp("width") / "run"
    given = [f"--workdir={workdir}", *GRID, "--latent_widths=3,4"]
    command("width", *given)
    return workdir, given


def assert_same_tables(results, written):
    """Asserts that results hold what the command wrote."""
    paths = {path.stem: path for path in written.glob("*.csv")}
    assert paths.keys() == {name for name, table in results.tables.items() if not table.empty}
    for name, path in paths.items():
        pd.testing.assert_frame_equal(
            pd.read_csv(path), results.tables[name], check_dtype=False, rtol=1e-5
        )
    assert results.figures.keys() == {path.stem for path in written.glob("*.png")}
    for one in results.figures.values():
        assert isinstance(one.figure, Figure)
        assert len(one.caption) > 40
        assert one.caption.endswith(".")


def test_an_analysis_is_a_function_of_a_run_folder(folder):
    workdir, _ = folder
    assert "rotations" not in flags.FLAGS
    assert_same_tables(width.analyse(workdir, OPTIONS), workdir / "study")


@pytest.mark.slow
def test_an_analysis_prepares_for_itself_what_its_command_prepares(tmp_path):
    command("consequences", f"--workdir={tmp_path / 'run'}", *GRID, "--latent_widths=4")
    results = consequences.analyse(tmp_path / "run", OPTIONS)
    assert_same_tables(results, tmp_path / "run" / "study")


STRIPPED = """
import sys
import tests.stripped
tests.stripped.install()
from ppp_jax.experiments import width
assert width.__doc__ is None
width.main(argv=["width", *sys.argv[1:]])
"""


def test_without_docstrings_the_page_is_the_same(folder):
    workdir, given = folder
    page = workdir / "study" / "index.html"
    before, written = page.read_bytes(), page.stat().st_mtime_ns
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", STRIPPED, *given],
                          capture_output=True, text=True, cwd=ROOT)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert page.stat().st_mtime_ns > written
    assert page.read_bytes() == before


# -------------------------------------------------------------------- registered in one call


def answer(run: pathlib.Path, options: experiment.Options) -> study.Results:
    found = study.frames(
        answers=[{"latents": study.load(run).sizes["sample"], "rotations": options.rotations}],
        long=[{"row": k} for k in range(3)],
        nothing=[],
    )
    return study.Results(
        found,
        {"picture": study.Shown(Figure(), "Nothing is there.")},
        silent=("long",),
        notes=("It is a toy.",),
    )


@pytest.fixture
def toy():
    """An experiment that is registered in one call."""
    yield experiment.register(
        experiment.Experiment(
            name="toy",
            question="Is a toy an experiment?",
            about="Nothing is measured.\n\n  python -m experiments.toy\n",
            documented="Cost: a second.\n",
            defaults=Grid(activations=["tanh"], widths=[5], latent_widths=[3], optimizers=["sgd"],
                          seeds=[0, 1], epochs=1, probe_samples=32),
            workdir="runs/toy",
            analyse=answer,
            along=("activations",),
            epsilon=0.6,
        )
    )  # fmt: skip
    del experiment.EXPERIMENTS["toy"]


def run(toy, *flags):
    """Runs the command in this process and returns its exit status."""
    with pytest.raises(SystemExit) as left:
        experiment.main(toy, argv=["toy", *flags])
    return left.value.code


def test_what_is_registered_explains_itself(toy, capsys):
    assert experiment.EXPERIMENTS["toy"] is toy
    assert not run(toy, "--help")
    told, _ = capsys.readouterr()
    assert told.startswith("Is a toy an experiment?\n\nNothing is measured.\n\n  python -m exp")
    assert "\n\nCost: a second.\n" in told
    for name, default in (("workdir", "runs/toy"), ("widths", "5"), ("epsilon", "0.6")):
        assert re.search(rf"--{name}: [^-]*\(default: '{default}'\)", told), name


def test_what_is_registered_writes_a_study(toy, tmp_path, capsys):
    assert not run(toy, f"--workdir={tmp_path / 'run'}", "--rotations=21")
    told, _ = capsys.readouterr()
    written = tmp_path / "run" / "study"
    assert {path.name for path in written.iterdir()} == {
        ".written.json", "answers.csv", "answers.md", "index.html", "long.csv", "long.md",
        "picture.png",
    }  # fmt: skip
    assert (written / "answers.csv").read_text() == "latents,rotations\n32,21\n"
    assert told == (
        f"{(written / 'answers.md').read_text()}\nIt is a toy.\nstudy: {written / 'index.html'}\n"
    )
    page = (written / "index.html").read_text()
    for text in ("<h1>Is a toy an experiment?</h1>\n<pre>Nothing is measured.", "Cost: a second.",
                 "python -m experiments.toy --workdir=", "<h2>answers</h2>"):  # fmt: skip
        assert text in page
    assert page.count("<img") == 1


def test_what_is_registered_is_a_function_of_a_grid_a_folder_and_options(toy, tmp_path, capsys):
    grid = dataclasses.replace(toy.defaults, seeds=[0])
    with pytest.raises(InputError, match="widths=4,5: give one value"):
        toy.run(dataclasses.replace(grid, widths=[4, 5]), tmp_path / "run", options=OPTIONS)
    assert not (tmp_path / "run").exists()
    results = toy.run(grid, tmp_path / "run", options=OPTIONS)
    assert results.tables["answers"].to_dict("records") == [{"latents": 32, "rotations": 19}]
    trained = (tmp_path / "run" / "metrics.jsonl").stat().st_mtime_ns
    toy.run(grid, tmp_path / "run", options=OPTIONS)
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_mtime_ns == trained
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("module", [consequences, dose_response, width])
def test_a_study_is_such_a_function(module, tmp_path):
    """With networks that are restored, a second grid, and neither; no flag exists."""
    grid = dataclasses.replace(
        module.DEFAULTS, widths=[6], latent_widths=[3], optimizers=["momentum"], epochs=1,
        seeds=range(6), probe_samples=64, snapshots=[0],
    )  # fmt: skip
    results = module.EXPERIMENT.run(grid, tmp_path / "run", options=OPTIONS, seed_batch=6)
    assert any(not table.empty for table in results.tables.values())
    assert "<table" in results._repr_html_()
    assert "rotations" not in flags.FLAGS


def test_what_is_registered_refuses_what_it_does_not_tell_apart(toy, tmp_path, capsys):
    assert run(toy, f"--workdir={tmp_path / 'run'}", "--widths=4,5") == 1
    _, told = capsys.readouterr()
    assert told == (
        "error: --widths=4,5: give one value, because this experiment compares activations\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_main_takes_its_flags_along_when_it_ends(toy):
    before = set(flags.FLAGS)
    assert not run(toy, "--help")
    assert set(flags.FLAGS) == before
    with experiment_flags.bound(lambda: flags.DEFINE_integer("widths", 1, "of another main")):
        assert flags.FLAGS["widths"].default == 1
    assert set(flags.FLAGS) == before
