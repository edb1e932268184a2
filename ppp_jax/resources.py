"""What this machine has to give: free memory, free disk; and sizes as texts."""

import os
import pathlib
import shutil
from collections.abc import Mapping

from ppp_jax.errors import InputError

_CGROUPS = (  # the limit and the use of a container's memory: version 2, version 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_memory() -> int:
    """Returns the bytes of memory that this process may still use, within its container's limit.

    Where the system does not say, a very large number: nothing is refused on a guess.
    """
    return min([_of_system(), *(_of_container(*files) for files in _CGROUPS)])


def _of_system() -> int:
    try:
        lines = pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        pages = "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {})
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if pages else 2**62
    known = dict(line.split(":", 1) for line in lines)
    return int(known["MemAvailable"].split()[0]) * 1024


def _of_container(limit: str, use: str) -> int:
    try:
        most, used = (
            pathlib.Path(path).read_text(encoding="ascii").strip() for path in (limit, use)
        )
    except OSError:  # no such container
        return 2**62
    return max(0, int(most) - int(used)) if most.isdigit() else 2**62  # "max": no limit


def check_product(given: Mapping[str, int], size: float) -> None:
    """Refuses several settings that together would take more memory than is free.

    Args:
      given: the settings, of which the error names the largest.
      size: bytes that they would take.

    Raises:
      InputError: they would take more.
    """
    field = max(given, key=given.__getitem__)
    check_fits(field, given[field], size)


def check_fits(field: str, value: object, size: float) -> None:
    """Refuses what would take more memory than is free, before it is asked for.

    Args:
      field: the setting that decides the size.
      value: what it is set to.
      size: bytes that it would take.

    Raises:
      InputError: it would take more.
    """
    free = free_memory()
    if size > free:
        needs, has = size_text(min(size, 2**80)), size_text(free)
        problem = f"takes {needs} of memory, and {has} are free; take less"
        raise InputError(field, value, problem)


def free_disk(path: pathlib.Path) -> int:
    """Returns the free bytes of the disk on which a path is, or will be once it is created.

    Args:
      path: a folder or file, there or not.
    """
    there = path.expanduser().absolute()
    while not there.exists():
        there = there.parent
    usage = shutil.disk_usage(there)
    return (
        usage.free if usage.total else 2**62
    )  # of no disk, such as /proc, there is no room to run out


def size_text(size: float) -> str:
    """Returns a number of bytes as a text with a unit.

    Args:
      size: in bytes.

    Example:
      >>> size_text(2**31)
      '2.0 GiB'
    """
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = 0
    while abs(size) >= 1024 and power < len(units) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.0f} B" if power == 0 else f"{size:,.1f} {units[power]}"
