"""Free memory, free disk space and the cores of this machine, and sizes as readable texts."""

import concurrent.futures
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import threadpoolctl

from ppp_jax.errors import InputError

_CGROUPS = (  # files of a container's memory limit and use, in cgroup version 2 and version 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)

Item = TypeVar("Item")
Found = TypeVar("Found")


class _OneThread:
    """One thread for BLAS while anybody in this process asks for it, whoever ends first."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0
        self.limits: threadpoolctl.threadpool_limits | None = None

    def __enter__(self) -> None:
        with self.lock:
            self.users += 1
            if self.limits is None:
                self.limits = threadpoolctl.threadpool_limits(1, "blas")

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
            if self.limits is not None and not self.users:
                self.limits.restore_original_limits()
                self.limits = None


# The limit is one of the process: two that overlap would leave the inner one's for good.
ONE_BLAS_THREAD = _OneThread()


def on_cores(function: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """Returns a function of each of some things, computed in a thread per core.

    BLAS takes one core for each meanwhile. Products of small matrices that are spread over the
    cores wait for each other, for several times as long as they take on one.

    Args:
      function: The function, which spends its time where Python's lock is not held.
      items: The things.
    """
    given = list(items)
    if len(given) == 1:
        return [function(given[0])]
    with ONE_BLAS_THREAD, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as workers:
        return list(workers.map(function, given))


def free_memory() -> int:
    """Returns how many bytes of memory this process may still use, within its container's limit.

    Where the system does not tell, the number is very large, so that nothing is refused on a guess.
    """
    return min([_system_memory(), *(_container_memory(*files) for files in _CGROUPS)])


def _system_memory() -> int:
    try:
        lines = pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        pages = "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {})
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if pages else 2**62
    known = dict(line.split(":", 1) for line in lines)
    return int(known["MemAvailable"].split()[0]) * 1024


def _container_memory(limit: str, use: str) -> int:
    try:
        most, used = (
            pathlib.Path(path).read_text(encoding="ascii").strip() for path in (limit, use)
        )
    except OSError:  # this process is in no container of this version
        return 2**62
    # The limit reads "max" where there is none.
    return max(0, int(most) - int(used)) if most.isdigit() else 2**62


def check_product(given: Mapping[str, int], size: float) -> None:
    """Checks that an array whose size depends on several settings fits into free memory.

    Args:
      given: Settings by name. The error message names the largest one.
      size: Memory that the settings would take, in bytes.

    Raises:
      InputError: The settings would take more memory than is free.
    """
    field = max(given, key=given.__getitem__)
    check_fits(field, given[field], size)


def check_fits(field: str, value: object, size: float) -> None:
    """Checks that an array fits into free memory, before it is allocated.

    Args:
      field: Name of the setting that decides the size, for the error message.
      value: Value of the setting.
      size: Memory that the array would take, in bytes.

    Raises:
      InputError: The array would take more memory than is free.
    """
    free = free_memory()
    if size > free:
        needs, has = size_text(min(size, 2**80)), size_text(free)
        problem = f"takes {needs} of memory, and {has} are free; choose a smaller value"
        raise InputError(field, value, problem)


def free_disk(path: pathlib.Path) -> int:
    """Returns how many bytes are free on the disk of a path.

    Args:
      path: A folder or file, which need not exist yet.
    """
    existing = path.expanduser().absolute()
    while not existing.exists():
        existing = existing.parent
    usage = shutil.disk_usage(existing)
    # A file system without a disk, such as /proc, reports a total of 0 and cannot be full.
    return usage.free if usage.total else 2**62


def size_text(size: float) -> str:
    """Returns a size as a text with a unit.

    Args:
      size: Size in bytes.

    Example:
      >>> size_text(2**31)
      '2.0 GiB'
    """
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = 0
    while abs(size) >= 1024 and power < len(units) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.0f} B" if power == 0 else f"{size:,.1f} {units[power]}"
