"""What the experiments share: train what the flags say, measure it, keep figures and tables."""

import contextlib
import datetime
import functools
import pathlib
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import pandas as pd
import xarray as xr
from absl import flags
from matplotlib.figure import Figure

import ppp_jax.analysis as pa
from ppp_jax import __version__
from ppp_jax.analysis.inference.seeds import MIN_SEEDS, false_discovery
from ppp_jax.analysis.io.runs import BOTTLENECK, load_run, saved_groups
from ppp_jax.analysis.report.pages import html_image, html_table, render
from ppp_jax.analysis.results import layers
from ppp_jax.analysis.results.measure import KINDS, cells
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.texts import write_csv, write_markdown
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.engine import devices
from ppp_jax.errors import InputError, printable, whole
from ppp_jax.files import atomic
from ppp_jax.grid import Grid
from ppp_jax.grid.extension import AXES
from ppp_jax.networks import interpolated
from ppp_jax.storage import manifest, run_dir
from ppp_jax.sweep import plan, sweep

FOLDER = run_dir.STUDY
LEAST_ROTATIONS = 19
DOCUMENTED = ("Cost", "Outcome")  # how paragraphs of a main's docstring begin that are not of a run
MOST_LINES = 8
_OPEN: dict[pathlib.Path, pathlib.Path] = {}  # run folders to the study that is being written
FEW_SEEDS = f"p and q are missing of fewer than {MIN_SEEDS} seeds, of which nothing is claimed."


def run(
    analyse: Callable[..., None],
    *,
    along: Collection[str] | None = None,
    check: Callable[[Grid], Any] | None = None,
    more: Callable[[Grid], list[Grid]] | None = None,
    prepare: Callable[[pathlib.Path], Any] | None = None,
    writes: str = FOLDER,
) -> None:
    """Trains the grid of the flags, and others derived from it, and analyses what came out.

    Args:
      analyse: called by the main process with the run folders, the flags' own first, and with
        what `prepare` returned, if given.
      along: the axes of the grid that the analysis tells apart, beside the seeds; None: all.
      check: raises `InputError` of what the analysis cannot take, before anything is trained.
      more: returns the grids to train beside, each in a folder `…_2`, `…_3` of its own.
      prepare: called by every process with the flags' own run folder, once it is trained: what
        trains or restores networks needs all of them.
      writes: the folder in the run folder that the analysis is going to write.

    Raises:
      InputError: a flag that cannot be used, or something else stands where the analysis is to
        write, before anything is trained.
    """
    values, grid = flags.FLAGS, experiment_flags.grid()
    _check_axes(grid, AXES if along is None else along)
    if check:
        check(grid)
    pa.check_epsilon(values.epsilon)
    whole("rotations", values.rotations, least=LEAST_ROTATIONS)
    how = experiment_flags.training_options()
    devices.on_main(lambda: check_folder(values.workdir, writes))
    grids = [grid, *(more(grid) if more else [])]
    devices.on_main(functools.partial(experiment_flags.tell_single_numbers, grid))
    folders = [values.workdir, *(f"{values.workdir}_{k}" for k in range(2, len(grids) + 1))]
    if values.dry_run:
        for one, folder in zip(grids, folders, strict=True):
            planned = plan.plan(one, folder, **how, measure=values.measure)
            devices.on_main(functools.partial(print, planned))
            if planned.shortage is not None:  # as training would say
                raise planned.shortage
        return
    trained = [sweep.train(one, folder, **how) for one, folder in zip(grids, folders, strict=True)]
    devices.on_main(lambda: tell_diverged(trained))
    prepared = [prepare(trained[0])] if prepare else []
    here = writing(trained[0]) if writes == FOLDER else contextlib.nullcontext()
    devices.on_main(lambda: _within(here, functools.partial(analyse, trained, *prepared)))


def _within(context: contextlib.AbstractContextManager[Any], work: Callable[[], None]) -> None:
    with context:
        work()


def check_folder(workdir: str | pathlib.Path, writes: str) -> None:
    """Refuses a run folder in which something of somebody's has the name of what is to be written.

    Args:
      workdir: the run folder, there or not.
      writes: what is to be written in it.

    Raises:
      InputError: saying what stands there.
    """
    folder = run_dir.folder(workdir)
    atomic.check(folder / writes, field="workdir", value=folder, kind=writes)


def tell_diverged(workdirs: Sequence[pathlib.Path]) -> None:
    """Says on stderr which cells have diverged, and what to do: their rows will be empty."""
    lines = []
    for workdir in workdirs:
        for group in saved_groups(workdir, layer=BOTTLENECK):
            last = load_run(workdir, **group)[["test_mse", "diverged_step"]].isel(step=-1)
            for names, at in cells(last):
                diverged = last["diverged_step"].isel(at).values >= 0
                if diverged.any():
                    cell = f"{group['architecture']}, {names['activation']}, {names['optimizer']}"
                    lines.append(f"{printable(cell)} at {names['learning_rate']:g}: "
                                 f"{diverged.sum()} of {diverged.size} seeds diverged")  # fmt: skip
    if lines:
        more = [f"and {len(lines) - MOST_LINES} more cells"] if len(lines) > MOST_LINES else []
        advice = "they are left out; a smaller rate in --learning_rates may help"
        print("\n".join([*lines[:MOST_LINES], *more, advice]), file=sys.stderr)


def _check_axes(grid: Grid, along: Collection[str]) -> None:
    """Refuses several values of an axis that an analysis would mix up.

    Raises:
      InputError: naming the axis.
    """
    for axis in AXES:
        values = getattr(grid, axis)
        if len(values) > 1 and axis not in (*along, "seeds"):
            problem = f"name one value: this experiment compares {' and '.join(along)}"
            raise InputError(axis, ",".join(str(value) for value in values), problem)


def check_architectures(grid: Grid, known: Collection[str]) -> None:
    """Refuses networks that an analysis does not know.

    Args:
      grid: what is to be trained.
      known: what the analysis can take.

    Raises:
      InputError: naming the first other one.
    """
    for name in grid.architectures:
        if name not in known:
            problem = f"this experiment cannot look at it; name one of {', '.join(known)}"
            raise InputError("architectures", name, problem)


def check_standard(grid: Grid) -> None:
    """Refuses activations over another basis, for an analysis that knows the standard one alone.

    Raises:
      InputError: naming the first one.
    """
    for name in grid.activations:
        if interpolated.get(name).basis != "standard":
            problem = "this experiment looks at the standard basis alone: leave out the part from @"
            raise InputError("activations", name, problem)


def load(workdir: pathlib.Path) -> xr.Dataset:
    """Opens a run folder whose grid has one latent width and architecture."""
    found = pa.load(workdir)
    if not isinstance(found, xr.Dataset):
        raise InputError("workdir", workdir, "is no run folder")
    return found


@contextlib.contextmanager
def writing(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder to write into, which becomes `study/` in the run folder once complete.

    No other run is at work in the run folder meanwhile. `run` opens it before anything is
    measured: within, it is the one that is open.

    Raises:
      InputError: another run is at work there, something else has that name, or the disk is full.
    """
    if workdir in _OPEN:
        yield _OPEN[workdir]
        return
    final = workdir / FOLDER
    with (
        atomic.locked(workdir),
        atomic.replacing(final, field="workdir", value=workdir, kind=atomic.STUDY) as partial,
    ):
        _OPEN[workdir] = partial
        try:
            yield partial
        finally:
            del _OPEN[workdir]
        _write_page(partial, workdir)
    print(f"study: {printable(final / 'index.html')}")


def _write_page(folder: pathlib.Path, workdir: pathlib.Path) -> None:
    """Puts the study on one page: what the experiment asks, this run, its figures, its tables."""
    main = (sys.modules["__main__"].__doc__ or "").split("\n\n")
    asked, documented = (
        "\n\n".join(part for part in main if part.startswith(DOCUMENTED) == told)
        for told in (False, True)
    )
    pictures = [(path.stem, html_image(path.read_bytes(), path.stem))
                for path in sorted(folder.glob("*.png"))]  # fmt: skip
    tables = {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}
    few = any(_lacks_seeds(table) for table in tables.values())
    if few:
        print(FEW_SEEDS)
    page = render(
        "study", title="ppp_jax study", asked=asked, this_run=_this_run(workdir),
        documented=documented, pictures=pictures, note=FEW_SEEDS if few else "",
        tables=[(name, html_table(list(table), [[_text(value) for value in row]
                                                for row in table.itertuples(index=False)]))
                for name, table in tables.items()],
    )  # fmt: skip
    (folder / "index.html").write_text(page, encoding="utf-8")


def _this_run(workdir: pathlib.Path) -> str:
    """Returns the command, when it ran, versions, and what of the grid is in the run folder."""
    program, *given = sys.argv
    lines = [" ".join(["python -m", f"experiments.{pathlib.Path(program).stem}", *given]),
             f"{datetime.date.today()}, ppp_jax {__version__}, jax {jax.__version__}"]  # fmt: skip
    stored = manifest.read(workdir)
    if stored is not None:
        lines += [f"{name}: {value}" for name, value in stored.grid.to_json().items()]
    return "\n".join(lines)


def _lacks_seeds(table: pd.DataFrame) -> bool:
    """Returns whether p-values are missing because there are too few seeds."""
    tests = [name for name in table if name == "p" or str(name).endswith("_p")]
    count = next((name for name in ("seeds", "pairs") if name in table), None)
    few = table[count] < MIN_SEEDS if count else pd.Series(False, table.index)
    return bool(table.loc[few, tests].isna().any(axis=None))


def keep_table(
    folder: pathlib.Path, name: str, rows: list[dict[str, Any]], *, show: bool = True
) -> None:
    """Writes rows as CSV and Markdown, and prints the latter; of no rows, nothing.

    Args:
      folder: where to.
      name: of the table.
      rows: entries by column, all alike; numbers are rounded in the Markdown alone.
      show: print it.
    """
    if not rows:  # nothing to compare, in a grid of one activation
        return
    write_csv(rows, folder / f"{name}.csv")
    body = [[_text(value) for value in row.values()] for row in rows]
    text = write_markdown(list(rows[0]), body, folder / f"{name}.md")
    if show:
        print(text + "\n")


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def keep_figure(folder: pathlib.Path, name: str, figure: Figure) -> None:
    """Saves a figure as PNG."""
    figure.savefig(folder / f"{name}.png")


def against(
    clouds: xr.DataArray, basis: Any, *, rotations: int, statistics: tuple[str, ...] = ("c4",)
) -> dict[str, tuple[float, float, float]]:
    """Tests the mean over seeds against one basis.

    Args:
      clouds: `(seed, sample, unit)`, one cell at one snapshot.
      basis: as `pa.rotation_test` takes it.
      rotations: K.
      statistics: which ones.

    Returns:
      Statistic to `(value, z, p)`.
    """
    tested = pa.pool(pa.rotation_test(clouds, basis=basis, rotations=rotations))
    return {
        name: tuple(tested[part].sel(statistic=name).item() for part in ("value", "z", "p"))
        for name in statistics
    }


def add_q(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds `q`, the false discovery rate over rows, after their `p`."""
    q = false_discovery([row["p"] for row in rows])
    return [{**row, "q": float(value)} for row, value in zip(rows, q, strict=True)]


def layer_table(rows: list[dict[str, Any]], names: Collection[str]) -> list[dict[str, Any]]:
    """Lays out what was measured of layers, with the false discovery rate of both statistics.

    Args:
      rows: what `measure_layers` returns.
      names: what tells the rows apart.

    Returns:
      A row per layer, cell and kind of latents; `c4_q` and `unit_kurtosis_q` are of one family, all
      rows and both statistics.
    """
    aligned = registry.names(family=registry.ALIGNMENT)
    q = false_discovery([[row[f"{name}_p"] for name in aligned] for row in rows])
    table = []
    for row, values in zip(rows, q, strict=True):
        shown = {name: row[name] for name in (*names, "latents", "seeds", "test_mse", "c4_first")}
        for name, value in zip(aligned, values, strict=True):
            shown |= {name: row[name], f"{name}_z": row[f"{name}_z"], f"{name}_p": row[f"{name}_p"],
                      f"{name}_q": float(value)}  # fmt: skip
        for name in registry.names(of=[registry.CLOUD]):
            shown |= {f"{name}_first": row[f"{name}_first"], name: row[name]}
        table.append(shown)
    return table


def error_differences(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns elementwise − isotropic held-out error, paired by seed.

    Args:
      rows: what `measure_layers` returns.
    """
    once = [row for row in rows if row["latents"] == KINDS[0]]  # one network, two kinds of latents
    found = layers.differences(once, quantities=("test_mse",))
    return add_q([{key: row[key] for key in row if key != "latents"} for row in found])
