"""Setup of a process before its first computation: devices, compilation cache, other processes.

Only mains call this module. Importing the library changes no setting of JAX.
"""

import contextlib
import os
import pathlib
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
from absl import flags

from ppp_jax.cli import rendezvous
from ppp_jax.engine import devices, interrupts
from ppp_jax.errors import InputError
from ppp_jax.sweep import agreement

GRACE_SECONDS = 2.0  # for which a failed process 0 lets the others print their messages
LONGEST_WAIT = 7 * 24 * 3600  # largest --wait_seconds
MOST_PROCESSES = 100_000
OF_ONE_PROCESS = {"compilation_cache", "coordinator", "process_id", "wait_seconds"}
SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision")
ALL_WORKERS = "gcloud compute tpus tpu-vm ssh NAME --worker=all --command='…'"


def define() -> None:
    """Defines the flags for the start of a process, which all mains have."""
    flags.DEFINE_string(
        "compilation_cache",
        "auto",
        "folder in which compiled programs are kept for the next launch; auto is a folder in the "
        "user's cache, and none keeps nothing",
    )
    flags.DEFINE_bool("distributed", False, "this is one of several processes that train together")
    flags.DEFINE_string("coordinator", None, "host:port of process 0; not needed on TPU VMs")
    flags.DEFINE_integer("num_processes", None, "number of processes; not needed on TPU VMs")
    flags.DEFINE_integer(
        "process_id", None, "number of this process, from 0; not needed on TPU VMs"
    )
    flags.DEFINE_float("wait_seconds", 300, "longest time to wait for the other processes to start")


def start() -> None:
    """Sets up JAX according to the flags. It must be called before anything is computed.

    Raises:
      InputError: The flags cannot be used together, or the other processes or the backend cannot
        be found.
    """
    use_all_cores()
    _keep_compiled_programs(flags.FLAGS.compilation_cache)
    _join_processes()
    _check_backend()


def _check_backend() -> None:
    """Refuses a backend that JAX was told to use and that is not there."""
    try:
        jax.devices()
    except RuntimeError as error:
        asked = os.environ.get("JAX_PLATFORMS") or jax.config.values["jax_platforms"]
        reason = " ".join(str(error).split()).partition(" (set JAX_PLATFORMS")[0]
        problem = f"is not there ({reason}); unset JAX_PLATFORMS to use what is"
        raise InputError("JAX_PLATFORMS", asked, problem) from error


def use_all_cores() -> None:
    """Makes every core of a CPU a device, unless the environment sets the number of devices."""
    named = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if jax.config.values["jax_num_cpu_devices"] != -1 or named:
        return
    # In a notebook something can have been computed before. The devices then cannot be changed.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", core_count())


def core_count() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_folder(setting: str) -> pathlib.Path | None:
    """Returns the folder in which compiled programs are kept, or None.

    Args:
      setting: Value of `--compilation_cache`: a path, `auto` or `none`.
    """
    if setting == "none":
        return None
    if setting != "auto":
        return pathlib.Path(setting).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "ppp_jax" / "compiled"


def _keep_compiled_programs(setting: str) -> None:
    if setting == "auto" and jax.config.values["jax_compilation_cache_dir"]:
        return  # the environment sets a folder
    folder = cache_folder(setting)
    if folder is None:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"cannot be created ({error.strerror}); choose another folder, or none"
        raise InputError("compilation_cache", folder, problem) from None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # JAX would not keep small programs, of which a grid has many.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _join_processes() -> None:
    values = flags.FLAGS
    if not 0 < values.wait_seconds <= LONGEST_WAIT:  # also excludes NaN
        problem = f"must be a number of seconds above 0 and at most {LONGEST_WAIT:,}"
        raise InputError("wait_seconds", values.wait_seconds, problem)
    named = {
        "coordinator": values.coordinator,
        "num_processes": values.num_processes,
        "process_id": values.process_id,
    }
    given = {name: value for name, value in named.items() if value is not None}
    if not values.distributed:
        if given:
            name, value = next(iter(given.items()))
            raise InputError(name, value, "needs --distributed in addition")
        _refuse_a_lonely_tpu_worker()
        return
    if given and len(given) < len(named):
        missing = ", ".join(f"--{name}" for name in named if name not in given)
        raise InputError("distributed", True, f"needs {missing} in addition")
    if given and not 1 <= values.num_processes <= MOST_PROCESSES:
        problem = f"must be at least 1 and at most {MOST_PROCESSES:,}"
        raise InputError("num_processes", values.num_processes, problem)
    if given and not 0 <= values.process_id < values.num_processes:
        problem = f"must be from 0 to {values.num_processes - 1}, one below --num_processes"
        raise InputError("process_id", values.process_id, problem)
    if given:
        rendezvous.address(values.coordinator)
    _connect(values.coordinator, values.num_processes, values.process_id, values.wait_seconds)


def shared_settings() -> dict[str, Any]:
    """Returns the settings of this process that must be the same in all processes.

    They include every flag except absl's own and those in `OF_ONE_PROCESS`, and so any new flag.
    """
    values = flags.FLAGS
    defined = {
        flag.name: flag
        for module, defined in values.flags_by_module_dict().items()
        if not module.startswith("absl.")
        for flag in defined
    }
    return {  # the main comes first, because another main has other flags
        "main": _main_name(),
        **agreement.versions(),
        **{
            name: flag.value if isinstance(flag.value, bool | int | str) else str(flag.value)
            for name, flag in sorted(defined.items())
            if name not in OF_ONE_PROCESS
        },
        **{name: str(jax.config.values[name]) for name in SETTINGS},
    }


def _main_name() -> str:
    """Returns the name of this process's main, the same one however it was started."""
    return _main_module().removeprefix("ppp_jax.")


def _main_module() -> str:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return spec.name if spec else pathlib.Path(getattr(main, "__file__", "") or "python").name


def spelled(text: str) -> str:
    """Returns a text with its commands as they are given where this process was started.

    In a clone that is `python -m experiments.NAME`, and of an installed package `ppp-jax NAME`.

    Args:
      text: A text with commands of a clone.
    """
    installed = _main_module().startswith("ppp_jax.experiments.")
    return text.replace("python -m experiments.", "ppp-jax ") if installed else text


def _connect(
    coordinator: str | None, count: int | None, process_id: int | None, wait_seconds: float
) -> None:
    interrupts.end_waits()
    if coordinator is not None and count is not None and process_id is not None:
        me = rendezvous.Member(process_id, count, shared_settings())
        rendezvous.roll_call(coordinator, me, wait_seconds=wait_seconds)
    _initialize(coordinator, count, process_id, wait_seconds)
    with _stdout_to_stderr():  # Gloo, in C++, prints a line per connection
        devices.meet()
        if coordinator is None:
            agreement.check(devices.exchange(shared_settings()))


def _initialize(
    coordinator: str | None, count: int | None, process_id: int | None, wait_seconds: float
) -> None:
    def give_up() -> None:
        # JAX itself would abort the process with a C++ stack trace.
        text = (
            f"error: --distributed: this process has waited {wait_seconds:g} s in vain for the "
            f"others; start the same command on every machine (on a TPU slice, {ALL_WORKERS})"
        )
        print(text, file=sys.stderr, flush=True)
        os._exit(1)

    if "jax_enable_preemption_service" in jax.config.values:
        # This service would catch SIGTERM without an effect.
        jax.config.update("jax_enable_preemption_service", False)
    timer = threading.Timer(wait_seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        with interrupts.waiting():
            jax.distributed.initialize(
                coordinator_address=coordinator,
                num_processes=count,
                process_id=process_id,
                initialization_timeout=int(wait_seconds) + 60,
            )
    except (ValueError, RuntimeError) as error:
        problem = (
            f"no other processes were found ({' '.join(str(error).split())}); "
            "set --coordinator, --num_processes and --process_id"
        )
        raise InputError("distributed", True, problem) from None
    finally:
        timer.cancel()


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def explain_failure(error: Exception) -> None:
    """Prints on stderr why one of several processes ends, mostly because another one has ended."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        reason = textwrap.shorten(str(error), 160)
    else:
        traceback.print_exc()
        reason = type(error).__name__
    print(
        f"error: --distributed: this process or another one has ended ({reason}); saved results "
        "are kept, and the same command, started on all machines, continues from there",
        file=sys.stderr,
    )


def leave(status: int, *, together: bool = False) -> NoReturn:
    """Ends this process, and thereby a job of several processes.

    Args:
      status: Exit status.
      together: Whether all processes end now, so that each can wait for the others. Otherwise the
        others can be waiting for this one.
    """
    if not jax.distributed.is_initialized():
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    if together:
        with interrupts.waiting():
            jax.distributed.shutdown()
    elif devices.is_main():
        # JAX aborts the others as soon as process 0 has ended. This gives them time for messages.
        time.sleep(GRACE_SECONDS)
    os._exit(status)


def _refuse_a_lonely_tpu_worker() -> None:
    """Raises `InputError` on one of several TPU machines, where a single process would hang."""
    workers = [name for name in os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]
    if len(workers) > 1:
        problem = (
            f"this machine is one of the {len(workers)} workers of a TPU slice; start the same "
            f"command with --distributed on all of them: {ALL_WORKERS}"
        )
        raise InputError("distributed", False, problem)
