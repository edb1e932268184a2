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

hypothesis.settings.register_profile("project", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("project")


@pytest.fixture
def x64() -> Iterator[None]:
    """Runs a test in double precision."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """Compiles in half the time: hardly optimised, in this process and in commands it starts.

    For tests of what is kept, refused, counted and said. Numbers are tested of what users run.
    """
    _optimise(False)
    yield
    _optimise(True)


def _optimise(on: bool) -> None:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(not on))  # commands read it
    jax.config.update("jax_disable_most_optimizations", not on)
    jax.clear_caches()


def pytest_collection_finish() -> None:
    """Spares the garbage collector what was imported, through which it looks again and again."""
    gc.collect()
    gc.freeze()
