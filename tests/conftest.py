"""Strict JAX: no silent broadcasting or promotion; deterministic hypothesis; no windows."""

import gc
import os
import tempfile
from collections.abc import Iterator

import hypothesis
import jax
import pytest

os.environ.setdefault("MPLBACKEND", "Agg")  # before any figure: switching closes figures

# One device in the tests' own processes, whichever test of a main comes first.
jax.config.update("jax_num_cpu_devices", 1)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# The same small programs are compiled again and again: keep them, for this session only.
# Workers and the commands that tests run inherit the folder through the environment.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="jax-cache-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# `.ci/run notebooks` runs this file with packages that the tests' own environment need not have.
collect_ignore = ["notebooks.py"]

QUICK = pytest.StashKey[set[str]]()  # names of the modules with quick compilation

hypothesis.settings.register_profile("project", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("project")


@pytest.fixture
def x64() -> Iterator[None]:
    """Runs a test in double precision."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="module")
def kept_programs() -> Iterator[None]:
    """Builds equal programs once in this process, however many tests train with them."""
    from ppp_jax.engine import program
    from tests import programs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "build", programs.kept)
        yield


@pytest.fixture(scope="module")
def quick_compilation(kept_programs: None) -> None:  # noqa: ARG001
    """Compiles in half the time: hardly optimised, in this process and in commands it starts.

    For tests of what is kept, refused, counted and said. Numbers are tested of what users run.
    Commands have one device, as this process, so that they find its programs compiled.
    """
    _optimise(False)


@pytest.fixture(scope="module", autouse=True)
def _full_compilation(request: pytest.FixtureRequest) -> None:
    """Compiles what users run, in modules without a test that says otherwise."""
    if request.node.nodeid not in request.config.stash[QUICK]:
        _optimise(True)


def _optimise(on: bool) -> None:
    """Switches, if that is a change. All that was traced and compiled so far is then forgotten."""
    if jax.config.values["jax_disable_most_optimizations"] == on:
        # Commands read these.
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(not on))
        os.environ["JAX_NUM_CPU_DEVICES"] = "-1" if on else "1"  # -1: as many as there are cores
        jax.config.update("jax_disable_most_optimizations", not on)
        jax.clear_caches()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Brings the modules together that compile alike, so that what they share is traced once."""
    quick = {_module(item) for item in items if "quick_compilation" in _fixtures(item)}
    config.stash[QUICK] = quick
    items.sort(key=lambda item: _module(item) not in quick)


def _module(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


def pytest_collection_finish() -> None:
    """Spares the garbage collector what was imported, through which it looks again and again."""
    gc.collect()
    gc.freeze()
