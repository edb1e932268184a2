"""Imports point one way, and the analysis needs nothing of the training side."""

import ast
import graphlib
import importlib
import subprocess
import sys

from tests import ROOT

# What each room of the house may import of the others. Nothing else may, whatever it needs.
BASIS = {"errors", "notebook", "numerics", "resources", "references", "bases", "groups", "files"}
NETWORKS = BASIS | {"data", "networks"}
IO = BASIS | {"analysis.limits", "analysis.texts", "analysis.io"}
CLOUDS = IO | {"analysis.projection", "analysis.synthetic", "analysis.statistics"}
EVIDENCE = CLOUDS | {"analysis.inference", "analysis.results"}
ALL = NETWORKS | EVIDENCE | {"grid", "engine", "symmetry", "storage", "sweep"}
ALL |= {"analysis", "analysis.embeddings", "analysis.plots", "analysis.report"}
MAY_IMPORT = {
    "errors": set(),
    "notebook": set(),
    "numerics": set(),
    "resources": {"errors"},
    "references": {"errors"},
    "bases": {"errors", "references", "resources"},
    "groups": {"bases", "errors"},
    "files": {"errors", "resources"},
    "data": BASIS,
    "networks": BASIS | {"data"},
    "grid": NETWORKS,
    "symmetry": NETWORKS | {"grid"},
    "engine": NETWORKS | {"grid"},
    "storage": NETWORKS | {"grid", "engine"},
    "sweep": NETWORKS | {"grid", "engine", "symmetry", "storage"},
    "analysis.limits": set(),
    "analysis.texts": BASIS,
    "analysis.synthetic": BASIS,
    "analysis.io": BASIS | {"networks"},  # the facts of activations in folders of old
    "analysis.projection": IO,
    "analysis.statistics": IO | {"analysis.projection"},
    "analysis.embeddings": IO | {"analysis.projection"},
    "analysis.inference": CLOUDS,
    "analysis.results": CLOUDS | {"analysis.inference", "networks"},  # to compare activations
    "analysis.plots": EVIDENCE,
    "analysis.report": EVIDENCE | {"analysis.plots"},
    "cli": ALL,
    "experiments": ALL | {"cli"},
}  # fmt: skip
# What the analysis may use of the rest: nothing of it needs more than the analysis does.
SHARED = ("bases", "errors", "files", "groups", "networks", "notebook", "numerics")
SHARED += ("references", "resources")
# What only an analysis, a training or a download needs. These take longer to import than JAX does,
# and neither the help of a command nor a plan waits for them.
LATE = ("diptest", "jinja2", "matplotlib", "numcodecs", "orbax", "pandas", "pooch", "requests",
        "scipy.linalg", "scipy.special", "scipy.stats", "sklearn", "xarray", "zarr")  # fmt: skip
COMMANDS = sorted(
    path.stem
    for path in (ROOT / "ppp_jax" / "experiments").glob("*.py")
    if 'if __name__ == "__main__":' in path.read_text()
)
ABSENT = ("flax", "optax", "orbax", "absl", "sklearn", "tqdm", "dask")

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "ppp_jax").rglob("*.py"))
}


def imported(path):
    """Modules of this package that a file imports, wherever in it, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not read here"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inside & MODULES.keys()) or {node.module}
    return names & MODULES.keys()


def room(module):
    """The room that a module stands in: a package, or a module that is one by itself."""
    parts = module.split(".")[1:]
    return ".".join(parts[: 2 if parts[:1] == ["analysis"] else 1])


def test_every_room_imports_only_what_stands_below_it():
    for module, path in MODULES.items():
        rooms = {room(name) for name in imported(path)} - {room(module), ""}
        assert rooms <= MAY_IMPORT.get(room(module), set()), module


def test_every_room_is_on_the_plan():
    assert {room(module) for module in MODULES} - {"", "analysis"} == MAY_IMPORT.keys()


def test_no_imports_go_in_a_circle():
    graph = {module: imported(path) - {module} for module, path in MODULES.items()}
    # A package is imported before what is in it, and lists it.
    graph = {module: {name for name in names if not name.startswith(f"{module}.")}
             if module in ("ppp_jax.grid", "ppp_jax.sweep") else names
             for module, names in graph.items()}  # fmt: skip
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert len(order) == len(MODULES)


def test_analysis_works_where_the_training_stack_is_not_installed():
    program = f"""
import sys
for name in {ABSENT!r}:
    sys.modules[name] = None  # importing it raises ImportError
import numpy as np
import ppp_jax.analysis as pa
picture = pa.ppp(np.random.default_rng(0).normal(size=(500, 6)))
assert abs(picture.acceptance_ratio - 1) < 0.3
assert [getattr(pa, name) for name in pa.__all__]
loaded = [n for n in sys.modules if n.split(".")[0] in {ABSENT!r}
          and sys.modules[n] is not None]
assert not loaded, loaded
ours = {{n for n in sys.modules if n.startswith("ppp_jax.")}}
rest = {{name.split(".")[1] for name in ours}} - {{*{SHARED!r}, "analysis"}}
assert not rest, rest
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


def late_after(*commands):
    """Runs commands one after the other in a fresh process.

    Returns:
      What they printed, and which of the modules that are imported late were imported.
    """
    program = f"""
import contextlib, runpy, sys
for sys.argv in {commands!r}:
    sys.argv = list(sys.argv)
    with contextlib.suppress(SystemExit):
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
print("late:", *(name for name in {LATE!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed, _, late = done.stdout.rpartition("late:")
    return printed, late.split()


def test_help_imports_nothing_that_only_an_analysis_or_a_training_needs():
    mains = [(f"ppp_jax.experiments.{name}", "--help") for name in COMMANDS]
    printed, late = late_after(*mains, ("ppp_jax.cli.dispatch", "--help"))
    assert printed.count("--workdir") >= 12  # the flags were told
    assert not late


def test_a_plan_with_its_minutes_imports_nothing_that_only_a_training_needs(tmp_path):
    ablation = "ppp_jax.experiments.ablation"
    printed, late = late_after((ablation, "--dry_run", f"--workdir={tmp_path / 'run'}"))
    assert "runs        192" in printed
    assert "\nminutes     " in printed
    assert not late


def test_whether_a_report_is_kept_is_told_without_what_draws_it():
    program = """
import sys
from ppp_jax.analysis.report import kept_report
from ppp_jax.analysis.results import provenance
assert provenance.software() and provenance._look()
drawing = {"jinja2", "matplotlib.figure", "matplotlib.pyplot"} & sys.modules.keys()
assert not drawing, drawing
assert "ppp_jax.analysis.report.grid_report" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_rooms_of_the_analysis_list_all_their_modules():
    rooms = {room(name) for name in MODULES if name.count(".") > 2}
    for name in sorted(one for one in rooms if one.startswith("analysis.")):
        modules = {one.rpartition(".")[2] for one in MODULES if one.startswith(f"ppp_jax.{name}.")}
        lazy = importlib.import_module(f"ppp_jax.{name}")
        assert modules <= set(lazy.__all__), name
        assert [getattr(lazy, one) for one in lazy.__all__]
