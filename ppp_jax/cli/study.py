"""What the analyses of experiments share: checks, rows of tables, the folder that keeps them."""

import contextlib
import datetime
import pathlib
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

import ppp_jax.analysis as pa
from ppp_jax import __version__
from ppp_jax.analysis.inference.seeds import MIN_SEEDS, false_discovery
from ppp_jax.analysis.io.runs import BOTTLENECK, load_run, saved_groups
from ppp_jax.analysis.report.pages import html_image, html_table, render
from ppp_jax.analysis.results import layers
from ppp_jax.analysis.results.comparisons import with_q
from ppp_jax.analysis.results.measure import SITES, cells
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.texts import lines, write_csv, write_markdown
from ppp_jax.errors import InputError, printable
from ppp_jax.files import atomic
from ppp_jax.grid import Grid
from ppp_jax.networks import interpolated
from ppp_jax.storage import manifest, run_dir

FOLDER = run_dir.STUDY
MOST_LINES = 8
FEW_SEEDS = f"p and q are missing of fewer than {MIN_SEEDS} seeds, of which nothing is claimed."


class Results(NamedTuple):
    """What an analysis found.

    Attributes:
      tables: The tables by the names of their files; one without rows is not written.
      figures: The figures by the names of their files.
      silent: The names of tables that are written and not printed, because they are long.
      notes: Texts that are printed after the tables.
    """

    tables: dict[str, pd.DataFrame]
    figures: dict[str, Figure]
    silent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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
                    lines.append(
                        f"{printable(cell)} at {names['learning_rate']:g}: "
                        f"{diverged.sum()} of {diverged.size} seeds diverged"
                    )
    if lines:
        more = [f"and {len(lines) - MOST_LINES} more cells"] if len(lines) > MOST_LINES else []
        advice = "they are left out; a smaller rate in --learning_rates may help"
        print("\n".join([*lines[:MOST_LINES], *more, advice]), file=sys.stderr)


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


def trained_grid(workdir: pathlib.Path) -> Grid:
    """Returns the grid that a run folder holds.

    Args:
      workdir: The run folder.

    Raises:
      InputError: nothing was trained there.
    """
    stored = manifest.read(workdir)
    if stored is None:
        raise InputError("workdir", workdir, "is no run folder")
    return stored.grid


def load(workdir: pathlib.Path) -> xr.Dataset:
    """Opens a run folder whose grid has one latent width and architecture."""
    return pa.load_run(workdir)


def beside(workdir: str | pathlib.Path, *, number: int = 2) -> pathlib.Path:
    """Returns the run folder of a further grid that an experiment trains.

    Args:
      workdir: The run folder of the first grid.
      number: Which grid it is, counted from 1.

    Example:
      >>> print(beside("runs/dose"))
      runs/dose_2
    """
    return pathlib.Path(f"{pathlib.Path(workdir)}_{number}")


@contextlib.contextmanager
def writing(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder to write into, which becomes `study/` in the run folder once complete.

    No other run is at work in the run folder meanwhile.

    Args:
      workdir: The run folder.

    Raises:
      InputError: another run is at work there, something else has that name, or the disk is full.
    """
    final = workdir / FOLDER
    with (
        atomic.locked(workdir),
        atomic.replacing(final, field="workdir", value=workdir, kind=atomic.STUDY) as partial,
    ):
        yield partial
    print(f"study: {printable(final / 'index.html')}")


def keep(
    results: Results, folder: pathlib.Path, *, asked: str, documented: str, this_run: str
) -> None:
    """Writes what an analysis found: tables, figures, and a page that shows them all.

    Args:
      results: What the analysis returned.
      folder: Where to write, as `writing` gives it.
      asked: What the experiment asks and does, for the top of the page.
      documented: What the documentation says of the experiment's defaults.
      this_run: What was run, as `this_run` returns it.
    """
    for name, table in results.tables.items():
        _keep_table(folder, name, table, show=name not in results.silent)
    for name, figure in results.figures.items():
        figure.savefig(folder / f"{name}.png")
    tell(results.notes)
    _write_page(folder, asked=asked, documented=documented, this_run=this_run)


def tell(notes: Iterable[str]) -> None:
    """Prints the notes of an analysis, in which names of a run folder may stand."""
    for note in notes:
        print(lines(note))


def frames(**tables: pd.DataFrame | list[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """Returns tables by their names.

    Args:
      **tables: Each table, or its rows, all with the same columns in the same order.
    """
    return {name: pd.DataFrame(table) for name, table in tables.items()}


def _write_page(folder: pathlib.Path, *, asked: str, documented: str, this_run: str) -> None:
    """Puts the study on one page: what the experiment asks, this run, its figures, its tables."""
    pictures = [
        (path.stem, html_image(path.read_bytes(), path.stem))
        for path in sorted(folder.glob("*.png"))
    ]
    tables = {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}
    few = any(_lacks_seeds(table) for table in tables.values())
    if few:
        print(FEW_SEEDS)
    shown = [(name, html_table(list(table), _texts(table))) for name, table in tables.items()]
    page = render(
        "study",
        title="ppp_jax study",
        asked=asked,
        this_run=this_run,
        documented=documented,
        pictures=pictures,
        note=FEW_SEEDS if few else "",
        tables=shown,
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def this_run(command: str, workdir: pathlib.Path) -> str:
    """Returns the command, when it ran, versions, and what of the grid is in the run folder.

    Args:
      command: The command as it was given.
      workdir: The run folder.
    """
    lines = [command, f"{datetime.date.today()}, ppp_jax {__version__}, jax {jax.__version__}"]
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


def _keep_table(folder: pathlib.Path, name: str, table: pd.DataFrame, *, show: bool) -> None:
    """Writes a table as CSV and as Markdown, where numbers are rounded; of no rows, nothing."""
    if table.empty:  # nothing to compare, in a grid of one activation
        return
    write_csv(table, folder / f"{name}.csv")
    text = write_markdown(list(table), _texts(table), folder / f"{name}.md")
    if show:
        print(text + "\n")


def _texts(table: pd.DataFrame) -> list[list[str]]:
    return [[_text(value) for value in row] for row in table.itertuples(index=False, name=None)]


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


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


def layer_table(rows: list[dict[str, Any]], names: Collection[str]) -> list[dict[str, Any]]:
    """Lays out what was measured of layers, with the false discovery rate of both statistics.

    Args:
      rows: what `measure_layers` returns.
      names: what tells the rows apart.

    Returns:
      A row per layer, cell and site of latents; `c4_q` and `unit_kurtosis_q` are of one family, all
      rows and both statistics.
    """
    aligned = registry.names(family=registry.ALIGNMENT)
    q = false_discovery([[row[f"{name}_p"] for name in aligned] for row in rows])
    table = []
    for row, values in zip(rows, q, strict=True):
        shown = {name: row[name] for name in (*names, "site", "seeds", "test_mse", "c4_first")}
        for name, value in zip(aligned, values, strict=True):
            shown |= {
                name: row[name],
                f"{name}_z": row[f"{name}_z"],
                f"{name}_p": row[f"{name}_p"],
                f"{name}_q": float(value),
            }
        for name in registry.names(of=[registry.CLOUD]):
            shown |= {f"{name}_first": row[f"{name}_first"], name: row[name]}
        table.append(shown)
    return table


def error_differences(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Returns elementwise − isotropic held-out error, paired by seed.

    Args:
      rows: what `measure_layers` returns.
    """
    once = [row for row in rows if row["site"] == SITES[0]]  # one network, two kinds of latents
    found = layers.differences(once, quantities=("test_mse",))
    return with_q(found.drop(columns="site", errors="ignore"))
