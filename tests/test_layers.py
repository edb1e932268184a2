"""Imports point one way, and the analysis needs nothing of the training side."""

import ast
import pathlib
import subprocess
import sys

PACKAGE = pathlib.Path(__file__).parents[1] / "ppp_jax"
# Each module may import those before it.
ORDER = [
    "errors", "integrity", "resources", "paths", "atomic", "archives", "ledger", "interrupts",
    "devices", "metrics", "states", "checkpoints", "numerics", "bases", "activations", "family",
    "symmetry", "downloads", "images", "data", "models", "architectures", "optimizers",
    "confounds", "batches", "grid", "extension", "fingerprints", "certificates", "training",
    "program", "manifest", "agreement", "tuning", "strangers", "latents", "store", "progress",
    "demand", "trained", "sweep", "plan",
]  # fmt: skip
ANALYSIS_ORDER = [
    "clouds", "arrays", "pages", "frames", "search", "planes", "nulls", "projection", "density",
    "ppp", "srm", "alignment", "statistics", "compare", "rotations", "orbits", "convergence",
    "response", "calibration", "unpacking", "headers", "runs", "loading", "measure",
    "summary", "verdicts", "plots",
    "charts", "animate", "folder", "evidence", "report", "embeddings", "layers", "consequences",
]  # fmt: skip
# What the analysis may use of the rest: nothing of it needs more than the analysis does.
SHARED = ("archives", "atomic", "bases", "errors", "integrity", "ledger", "numerics", "paths",
          "resources")  # fmt: skip
ABSENT = ("flax", "optax", "orbax", "absl", "sklearn", "tqdm", "dask")


def imported(path):
    """Modules of this package that a file imports, as dotted names below `ppp_jax`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ppp_jax"):
            inside = node.module.removeprefix("ppp_jax").lstrip(".")
            targets = [a.name for a in node.names] if inside in ("", "analysis") else [""]
            names |= {".".join(filter(None, (inside, target))) for target in targets}
    return names - {"__version__"}


def test_training_side_imports_point_one_way():
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert files == set(ORDER)
    for i, name in enumerate(ORDER):
        assert imported(PACKAGE / f"{name}.py") <= set(ORDER[:i]), name


def test_analysis_imports_point_one_way():
    files = {path.stem for path in (PACKAGE / "analysis").glob("*.py")} - {"__init__"}
    assert files == set(ANALYSIS_ORDER)
    for i, name in enumerate(ANALYSIS_ORDER):
        allowed = {f"analysis.{before}" for before in ANALYSIS_ORDER[:i]} | set(SHARED)
        assert imported(PACKAGE / "analysis" / f"{name}.py") <= allowed, name


def test_analysis_works_where_the_training_stack_is_not_installed():
    program = f"""
import sys
for name in {ABSENT!r}:
    sys.modules[name] = None  # importing it raises ImportError
import numpy as np
import ppp_jax.analysis as pa
picture = pa.ppp(np.random.default_rng(0).normal(size=(500, 6)))
assert abs(picture.acceptance_ratio - 1) < 0.3
pa.alignment_c4(np.eye(4))
loaded = [n for n in sys.modules if n.split(".")[0] in {ABSENT!r}
          and sys.modules[n] is not None]
assert not loaded, loaded
ours = {{n for n in sys.modules if n.startswith("ppp_jax.")}}
rest = ours - {{f"ppp_jax.{{name}}" for name in {SHARED!r}}}
assert all(name.startswith("ppp_jax.analysis") for name in rest), rest
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_library_starts_no_backend():
    """The mains choose devices before any computation; an import must not do it for them."""
    program = """
import ppp_jax.sweep, ppp_jax.analysis
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
