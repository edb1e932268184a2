"""Writes the report of a run folder, unless the one that is there is what would be written anew.

What draws the report is imported when there is something to draw.
"""

import pathlib
from typing import Any

from ppp_jax.analysis import report
from ppp_jax.analysis.io.load import is_run
from ppp_jax.analysis.io.progress import say
from ppp_jax.analysis.io.runs import STORE, load_groups
from ppp_jax.analysis.limits import LEAST_ROTATIONS, MOST_ROTATIONS, ROTATIONS
from ppp_jax.analysis.projection.kernel import check_epsilon
from ppp_jax.analysis.results.provenance import numbers_made_of, report_made_of
from ppp_jax.errors import InputError, printable, whole
from ppp_jax.files import atomic, mirrors
from ppp_jax.notebook import Page

REPORT, CERTIFICATES, PAGE = "report", "certificates.json", "index.html"


def write_report(
    workdir: str | pathlib.Path,
    *,
    epsilon: float = 0.85,
    rotations: int = ROTATIONS,
    progress: bool = True,
) -> pathlib.Path:
    """Writes `report/` in a run folder: `index.html`, the figures as PNG and the tables as CSV.

    An earlier report is replaced when the new one is complete, and files of others in it are kept.
    Where there is none, and the new one has some hundred pictures, a page with the first of them
    stands there until it is complete.
    One that is whole, and made of the same latents, options and versions, is not made anew.
    The run folder is locked meanwhile, so that no training changes it. Latents are read in parts,
    so that a few snapshots of a cell are in memory at any time.

    Args:
      workdir: The run folder of a grid, or its address in a bucket, with at least one snapshot.
      epsilon: Acceptance cosine ε, in [0, 1].
      rotations: Number K of random rotations of the null (docs/method.md §5). It is at least 19,
        because with fewer no p-value reaches 5 %.
      progress: Whether to show a progress bar on stderr.

    Returns:
      The path of `index.html`, which for a bucket is that of its copy on this machine.

    Raises:
      InputError: `epsilon` or `rotations` is out of its range, the folder holds no latents, another
        run is at work in it, or `report/` cannot be written.
    """
    check_epsilon(epsilon)
    whole("rotations", rotations, least=LEAST_ROTATIONS, most=MOST_ROTATIONS)
    with mirrors.writable(workdir) as folder:
        return _write(folder, epsilon, rotations, progress)


def _write(workdir: pathlib.Path, epsilon: float, rotations: int, progress: bool) -> pathlib.Path:
    """Writes the report of a run folder on this machine, see `write_report`."""
    if not is_run(workdir):  # before it is locked, which would make the folder
        problem = f"holds no {STORE}; give the folder of a trained grid"
        raise InputError("workdir", workdir, problem)
    final = workdir / REPORT
    with atomic.locked(workdir):
        options: dict[str, Any] = {"epsilon": epsilon, "rotations": rotations}
        numbers = numbers_made_of(workdir)
        made_of = report_made_of(numbers, workdir, CERTIFICATES, **options)
        if atomic.is_made_of(final, made_of):
            return Page(final / PAGE)
        replaced: dict[str, Any] = {"field": "workdir", "value": workdir, "kind": atomic.REPORT}
        groups = load_groups(workdir)
        datasets = [dataset for _, dataset in groups]
        if not final.exists() and report.first_look.takes_long(datasets):
            with atomic.replacing(final, **replaced) as folder:
                report.first_look.write_into(folder, datasets[0], epsilon=epsilon)
            if progress:
                say(f"a first look, before the tests: {printable(final / PAGE)}")
        with atomic.replacing(final, **replaced, made_of=made_of) as folder:
            options |= {"groups": groups, "made_of": numbers, "progress": progress}
            report.grid_report.write_into(folder, workdir, final, **options)
    return Page(final / PAGE)
