"""The command line: flags in, exit status and one line out."""

import itertools
import os
import re

import numpy as np
import pytest
from absl.testing import flagsaver

from ppp_jax.experiments import ablation as module
from tests import forks

pytestmark = pytest.mark.usefixtures("quick_compilation")


def here(capsys, *flags):
    """Runs the main in this process; returns exit status, stdout and stderr."""
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as left:
        module.main(argv=["ablation", *flags])
    return left.value.code, *capsys.readouterr()


def ablation(*flags, main="ablation"):
    """Runs the command in a process of its own."""
    return forks.run(f"experiments.{main}", *flags, warn=True)


def test_dry_run_says_what_would_be_done_and_does_nothing(tmp_path):
    done = ablation("--dry_run", "--seeds=0:4,10,20:24:2", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert re.search(r"cells +12\nruns +84\nsteps +5,900 per run", done.stdout)
    assert re.search(r"memory +[\d.]+ MiB per device, predicted, [\d.,]+ .iB free", done.stdout)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--seeds=16", "seeds: one seed, 16; for 16 seeds give 0:16\n"),
        ("--snapshots=8", "snapshots: 3 (after epochs 0, 8, 100); for snapshots after each of the "
                          "first 8 epochs give 0:9\n"),
        ("--seeds=0", ""),
        ("--seeds=3,4", ""),
    ],
)  # fmt: skip
def test_a_single_number_where_a_range_may_have_been_meant(flag, text, tmp_path, capsys):
    status, stdout, stderr = here(capsys, "--dry_run", f"--workdir={tmp_path / 'run'}", flag)
    assert not status
    assert stderr == text
    assert stdout.startswith("cells ")


def test_a_dry_run_of_what_cannot_fit_says_so_and_exits_1(tmp_path, capsys):
    status, stdout, stderr = here(
        capsys, "--dry_run", f"--workdir={tmp_path / 'run'}", "--widths=16000000"
    )
    assert status == 1
    assert "!! may not fit" in stdout
    assert stderr.startswith("error: --")
    assert "memory does not suffice" in stderr
    assert stderr.count("\n") == 1


def test_help_explains_every_flag():
    done = ablation("--help")
    assert done.returncode == 0
    for name in (
        "activations",
        "learning_rates",
        "seeds",
        "workdir",
        "dry_run",
        "epsilon",
        "distributed",
        "seed_batch",
        "compilation_cache",
    ):
        assert re.search(rf"--(\[no\])?{name}: ", done.stdout), name


def test_doctor_names_what_is_wrong_and_what_to_do(tmp_path):
    healthy = ablation(f"--workdir={tmp_path / 'run'}", main="doctor")
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    for what in ("python", "packages", "devices", "processes", "workdir", "cache", "training"):
        assert re.search(rf"^ok  {what} ", healthy.stdout, re.M), what
    assert not (tmp_path / "run").exists()
    ill = ablation("--workdir=/proc/run", "--compilation_cache=none", main="doctor")
    assert ill.returncode == 1
    assert re.search(r"^!!  workdir .* -> name another folder$", ill.stdout, re.M)


SETTINGS = {
    "--activations=tahn: unknown; did you mean tanh": ["--activations=tahn"],
    "--optimizers=adma: unknown; did you mean adam": ["--optimizers=adma"],
    "--data=digit: unknown; did you mean digits": ["--data=digit"],
    "--widths=0: must be a whole number, at least 1": ["--widths=0"],
    "--epochs=-3: must be a whole number, at least 1": ["--epochs=-3"],
    "--batch_size=5000: is larger than the training set": ["--batch_size=5000"],
    "--epsilon=1.5: must lie in [0, 1]": ["--epsilon=1.5"],
    "--data=none.npz: no such file": ["--data=none.npz"],
    "--workdir=gs://bucket: is not an address of a run folder": ["--workdir=gs://bucket"],
    "--profile_steps=10-20: must be a range of steps, start:stop": ["--profile_steps=10-20"],
    "--log_to=tensorbord: unknown; did you mean tensorboard": ["--log_to=tensorbord"],
    "--workdir=/proc/run: cannot be written": ["--workdir=/proc/run"],
}
SYNTAX = {
    "--activations=: is empty (perhaps an unset shell variable); give a value": ["--activations="],
    "--workdir=: is empty (perhaps an unset shell variable); give a value": ["--workdir="],
    "--learning_rates= : is empty": ["--learning_rates= "],
    "--coordinator=: is empty": ["--coordinator="],
    "--compilation_cache=: is empty": ["--compilation_cache", ""],
    "the range '5:5' is empty": ["--seeds=5:5"],
    "has 100,000,000 values": ["--seeds=0:100000000"],
    "'0:' is not a whole number or a range": ["--seeds=0:"],
    "'a' is not a number": ["--learning_rates=a"],
    "a name is missing between two commas": ["--activations=tanh,,relu"],
    "Unknown command line flag 'activation'": ["--activation=tanh"],
    "unexpected argument 'tanh'": ["tanh"],
}


@pytest.mark.parametrize("text", sorted(SETTINGS))
def test_bad_setting_is_one_line_and_exit_1(text, tmp_path, capsys):
    status, _, stderr = here(capsys, f"--workdir={tmp_path / 'run'}", *SETTINGS[text])
    assert status == 1
    assert stderr.startswith(f"error: {text}")
    assert stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", sorted(SYNTAX))
def test_bad_syntax_is_one_line_and_exit_2(text, capsys):
    status, _, stderr = here(capsys, *SYNTAX[text])
    assert status == 2
    assert text in stderr
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1


def test_an_error_in_a_process_of_its_own():
    done = ablation("--seeds=0:2", "--activations=tahn")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"error: --activations=tahn: unknown; did you mean tanh.*\n", done.stderr)


def test_end_to_end_on_local_data(tmp_path, capsys):
    """The whole command on a user's own file: trains, reports, prints; again: keeps all of it."""
    rng = np.random.default_rng(0)
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=rng.normal(size=(80, 6)), x_test=rng.normal(size=(20, 6)))
    flags = [
        f"--data={path}", f"--workdir={tmp_path / 'run'}", "--epochs=2", "--seeds=0,1",
        "--activations=tanh,isotropic_tanh", "--optimizers=sgd", "--widths=5", "--latent_widths=3",
        "--rotations=19",
    ]  # fmt: skip
    first = ablation(*flags)
    assert first.returncode == 0, first.stderr
    assert "| isotropic_tanh |" in first.stdout
    page = tmp_path / "run" / "report" / "index.html"
    assert f"report: {page}" in first.stdout
    written = [page, tmp_path / "run" / "metrics.jsonl"]
    before = [path.stat().st_mtime_ns for path in written]
    second = ablation(*flags)
    assert second.stdout == first.stdout
    assert [path.stat().st_mtime_ns for path in written] == before
    assert not re.search(r"^[IW]\d{4} |orbax", first.stderr, re.M)  # libraries keep quiet
    status, _, stderr = here(
        capsys, *(flag for flag in flags if "epochs" not in flag), "--epochs=1"
    )
    assert status == 1
    assert "epochs 2 there, 1 now" in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("form", ["--flagfile={}", "-flagfile={}", "--flagfile {}", "nested"])
@pytest.mark.parametrize("kind", ["pipe", "device", "huge", "folder", "bomb"])
def test_a_flag_file_that_would_be_read_for_ever_is_one_line(form, kind, tmp_path, capsys):
    path, text = tmp_path / "a.flags", "is not a regular file"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "huge":
            path.write_text("#" * 2**21)
            text = "is larger than 1,048,576 bytes"
        case "folder":
            path.mkdir()
        case "bomb":  # two to the fortieth power of files
            files = [path, *(tmp_path / f"{k}.flags" for k in range(40))]
            for one, other in itertools.pairwise(files):
                one.write_text(f"--flagfile={other}\n" * 2)
            text = "names more than 100 files"
    if form == "nested":
        (tmp_path / "outer.flags").write_text(f"# mine\n--flagfile={path}\n")
        path, form = tmp_path / "outer.flags", "--flagfile={}"
    code, told, error = here(capsys, *form.format(path).split(" "))
    assert (code, told, error.count("\n")) == (2, "", 1)
    assert text in error


def test_flag_files_are_read(tmp_path, capsys):
    (tmp_path / "inner.flags").write_text("--seeds=0:3\n")
    for name in ("a", "b"):
        (tmp_path / f"{name}.flags").write_text(f"--flagfile={tmp_path / 'inner.flags'}\n")
    code, told, error = here(capsys, "--dry_run", f"--workdir={tmp_path / 'run'}",
                             f"--flagfile={tmp_path / 'a.flags'}", "--flagfile",
                             str(tmp_path / "b.flags"))  # fmt: skip
    assert not code, error
    assert re.search(r"cells +12\nruns +36\n", told)


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--nodry_run=true", "--nodry_run=true does not take an argument"),
        ("--nooverwrite=", "--nooverwrite= does not take an argument"),
        ("--nologtostderr=0", "--nologtostderr=0 does not take an argument"),
        ("--stderrthreshold=x", "--stderrthreshold must be one of "),
        ("--logger_levels=a:b", "--logger_levels: Unknown level: 'b'"),
    ],
)
def test_what_absl_refuses_without_an_error_of_its_own_is_one_line(flag, text, capsys):
    status, stdout, stderr = here(capsys, flag)
    assert (status, stdout) == (2, "")
    assert stderr.startswith(f"error: {text}")
    assert stderr.endswith("--help explains every flag\n")
    assert stderr.count("\n") == 1
