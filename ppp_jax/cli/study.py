"""Functions that experiments share: checks, tables, and the folder of a study."""

from __future__ import annotations

import contextlib
import datetime
import html
import pathlib
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

import ppp_jax.analysis as pa
from ppp_jax import __version__
from ppp_jax.analysis import inference, io, report, results, statistics
from ppp_jax.analysis.texts import lines, write_csv, write_markdown
from ppp_jax.errors import InputError, printable
from ppp_jax.files import atomic, buckets
from ppp_jax.grid import Grid
from ppp_jax.networks import interpolated
from ppp_jax.storage import manifest, run_dir

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from markupsafe import Markup
    from matplotlib.figure import Figure

FOLDER = run_dir.STUDY
MOST_LINES = 8


class Shown(NamedTuple):
    """A figure of an analysis, and a sentence for those who read it or cannot see it.

    Attributes:
      figure: The figure.
      caption: What it shows, in a sentence or two.
    """

    figure: Figure
    caption: str


class Results(NamedTuple):
    """Results of an analysis.

    Attributes:
      tables: The tables by the names of their files. A table without rows is not written.
      figures: The figures with their captions, by the names of their files.
      silent: Names of tables that are written and not printed, because they are long.
      notes: Texts that are printed after the tables.
    """

    tables: dict[str, pd.DataFrame]
    figures: dict[str, Shown]
    silent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: figures, and the tables that a command prints."""
        pictures = [
            f"{report.html_image(_png(one.figure), one.caption)}<p>{html.escape(one.caption)}</p>"
            for one in self.figures.values()
        ]
        tables = [
            f"<p><b>{html.escape(name)}</b></p>"
            f"{report.html_table(list(table), _texts(table), label=name)}"
            for name, table in self.tables.items()
            if name not in self.silent and not table.empty
        ]
        notes = [f"<pre>{html.escape(lines(note))}</pre>" for note in self.notes]
        return "".join([*pictures, *tables, *notes])


def _png(figure: Figure) -> bytes:
    encoded = BytesIO()
    figure.savefig(encoded, format="png")
    return encoded.getvalue()


def check_folder(workdir: str | pathlib.Path, writes: str) -> None:
    """Checks that the folder of an analysis can be written in a run folder.

    Args:
      workdir: Path of the run folder, which need not exist.
      writes: Name of the folder of the analysis.

    Raises:
      InputError: Something else has that name.
    """
    folder = run_dir.folder(workdir)
    atomic.check(folder / writes, field="workdir", value=folder, kind=writes)


def tell_diverged(workdirs: Sequence[pathlib.Path]) -> None:
    """Prints on stderr which cells have diverged runs, and advice."""
    lines = []
    for workdir in workdirs:
        for group, dataset in io.load_groups(workdir):
            last = dataset[["test_mse", "diverged_step"]].isel(step=-1)
            for names, at in results.cells(last):
                diverged = last["diverged_step"].isel(at).values >= 0
                if diverged.any():
                    cell = f"{group['architecture']}, {names['activation']}, {names['optimizer']}"
                    lines.append(
                        f"{printable(cell)} at {names['learning_rate']:g}: "
                        f"{diverged.sum()} of {diverged.size} seeds diverged"
                    )
    if lines:
        more = [f"and {len(lines) - MOST_LINES} more cells"] if len(lines) > MOST_LINES else []
        advice = "diverged runs are left out; smaller --learning_rates may help"
        print("\n".join([*lines[:MOST_LINES], *more, advice]), file=sys.stderr)


def check_architectures(grid: Grid, known: Collection[str]) -> None:
    """Checks that an analysis supports all architectures of a grid.

    Args:
      grid: The grid to be trained.
      known: Architectures that the analysis supports.

    Raises:
      InputError: The grid has another architecture.
    """
    for name in grid.architectures:
        if name not in known:
            problem = f"is not supported by this experiment; choose among {', '.join(known)}"
            raise InputError("architectures", name, problem)


def check_standard(grid: Grid) -> None:
    """Checks that no activation is over another basis, for an analysis in the standard basis.

    Raises:
      InputError: An activation is over another basis.
    """
    for name in grid.activations:
        if interpolated.get(name).basis != "standard":
            problem = "this experiment uses only the standard basis; leave out the part from @ on"
            raise InputError("activations", name, problem)


def trained_grid(workdir: pathlib.Path) -> Grid:
    """Returns the grid of a run folder.

    Args:
      workdir: Path of the run folder.

    Raises:
      InputError: The folder is not a run folder.
    """
    stored = manifest.read(workdir)
    if stored is None:
        raise InputError("workdir", workdir, "is not a run folder")
    return stored.grid


def load(workdir: pathlib.Path) -> xr.Dataset:
    """Opens the latents of a run folder whose grid has one latent width and architecture.

    Raises:
      InputError: The folder is not such a run folder.
    """
    return pa.load_run(workdir)


def beside(workdir: str | pathlib.Path, *, number: int = 2) -> pathlib.Path:
    """Returns the run folder of a further grid that an experiment trains.

    Args:
      workdir: The run folder of the first grid.
      number: Number of the grid, counted from 1.

    Example:
      >>> print(beside("runs/dose"))
      runs/dose_2
    """
    return pathlib.Path(folders(str(workdir), number)[-1])


def folders(workdir: str, count: int) -> list[str]:
    """Returns the run folders, or their addresses, of the grids that an experiment trains.

    Args:
      workdir: Path or address of the first grid's run folder.
      count: Number of grids.

    Example:
      >>> folders("gs://bucket/dose", 2)
      ['gs://bucket/dose', 'gs://bucket/dose_2']
    """
    path = workdir.rstrip("/") if buckets.is_address(workdir) else pathlib.Path(workdir)
    return [workdir, *(f"{path}_{number}" for number in range(2, count + 1))]


@contextlib.contextmanager
def writing(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new folder, which becomes `study/` in the run folder at the end of the block.

    The run folder is locked meanwhile.

    Args:
      workdir: Path of the run folder.

    Raises:
      InputError: Another run is at work in the folder, something else has the name of the study, or
        the disk is full.
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
    """Writes the results of an analysis: tables, figures, and a page that shows them.

    Args:
      results: Results of the analysis.
      folder: Folder of the study, as `writing` yields it.
      asked: Question and description of the experiment, for the top of the page.
      documented: Documented results with the experiment's default grid.
      this_run: Description of this run, as `this_run` returns it.
    """
    for name, table in results.tables.items():
        _keep_table(folder, name, table, show=name not in results.silent)
    pictures = [
        (name, report.html_figure(one.figure, folder / f"{name}.png", one.caption), one.caption)
        for name, one in results.figures.items()
    ]
    tell(results.notes)
    texts = {"asked": asked, "documented": documented, "this_run": this_run}
    _write_page(folder, pictures, **texts)


def tell(notes: Iterable[str]) -> None:
    """Prints the notes of an analysis, without control characters that names can contain."""
    for note in notes:
        print(lines(note))


def frames(**tables: pd.DataFrame | list[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """Returns tables by their names.

    Args:
      **tables: Each table, or its rows, all with the same columns in the same order.
    """
    import pandas as pd  # imported late: help and plans do without it

    return {name: pd.DataFrame(table) for name, table in tables.items()}


def _write_page(
    folder: pathlib.Path,
    pictures: list[tuple[str, Markup, str]],
    *,
    asked: str,
    documented: str,
    this_run: str,
) -> None:
    """Writes the page of a study, with the question, this run, its figures and its tables."""
    import pandas as pd  # imported late: help and plans do without it

    tables = {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}
    note = ""
    if any(_lacks_seeds(table) for table in tables.values()):
        note = f"p and q are missing where there are fewer than {inference.MIN_SEEDS} seeds."
        print(note)
    shown = [
        (name, report.html_table(list(table), _texts(table), label=name))
        for name, table in tables.items()
    ]
    question, _, about = asked.partition("\n")
    page = report.render(
        "study",
        title="ppp_jax study",
        question=question,
        about=about.strip(),
        this_run=this_run,
        documented=documented,
        pictures=pictures,
        note=note,
        tables=shown,
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def this_run(command: str, workdir: pathlib.Path) -> str:
    """Returns a description of this run: command, date, versions and grid.

    Args:
      command: The command, as `experiment.command` returns it.
      workdir: Path of the run folder.
    """
    lines = [command, f"{datetime.date.today()}, ppp_jax {__version__}, jax {jax.__version__}"]
    stored = manifest.read(workdir)
    if stored is not None:
        lines += [f"{name}: {value}" for name, value in stored.grid.to_json().items()]
    return "\n".join(lines)


def _lacks_seeds(table: pd.DataFrame) -> bool:
    """Returns whether p-values are missing because there are too few seeds."""
    import pandas as pd  # imported late: help and plans do without it

    tests = [name for name in table if name == "p" or str(name).endswith("_p")]
    count = next((name for name in ("seeds", "pairs") if name in table), None)
    few = table[count] < inference.MIN_SEEDS if count else pd.Series(False, table.index)
    return bool(table.loc[few, tests].isna().any(axis=None))


def _keep_table(folder: pathlib.Path, name: str, table: pd.DataFrame, *, show: bool) -> None:
    """Writes a table as CSV, and with rounded numbers as Markdown, unless it has no rows."""
    if table.empty:  # e.g. comparisons in a grid of one activation
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
    clouds: xr.DataArray, basis: Any, *, rotations: int, statistics: tuple[str, ...]
) -> dict[str, tuple[float, float, float, float]]:
    """Runs the rotation test in one basis, and pools it over seeds (docs/method.md §5, §9).

    Args:
      clouds: Latents of one cell at one snapshot, `(seed, sample, unit)`.
      basis: Basis, as `pa.rotation_test` accepts it.
      rotations: Number of random rotations, K.
      statistics: Names of the statistics.

    Returns:
      `(value, z, p of these networks, p over seeds)` by the names of the statistics.
    """
    tested = pa.rotation_test(clouds, basis=basis, statistics=statistics, rotations=rotations)
    pooled, parts = pa.pool(tested), ("value", "z", "p_networks", "p")
    return {
        name: tuple(pooled[part].sel(statistic=name).item() for part in parts)
        for name in statistics
    }


def layer_table(rows: list[dict[str, Any]], names: Collection[str]) -> list[dict[str, Any]]:
    """Returns a table of the measurements of layers, with q-values.

    Args:
      rows: Rows of `measure_layers`.
      names: Names of the columns that distinguish the rows.

    Returns:
      A row per layer, cell and site, with the statistics that are compared between cells. The rows
      of each statistic are a family of q-values, `…_q` over seeds and `…_q_networks` of these
      networks (docs/method.md §9).
    """
    tested = [one.name for one in statistics.registry.chosen() if one.compared]
    q = {
        (name, end): pa.false_discovery([row[f"{name}_{end}"] for row in rows])
        for name in tested
        for end in ("p", "p_networks")
    }
    table = []
    for k, row in enumerate(rows):
        shown = {name: row[name] for name in (*names, "site", "seeds", "test_mse")}
        for name in tested:
            shown |= {key: row[key] for key in (f"{name}_first", name, f"{name}_z")}
            shown[f"{name}_q_networks"] = float(q[name, "p_networks"][k])
            shown[f"{name}_q"] = float(q[name, "p"][k])
        for name in statistics.registry.names(of=[statistics.registry.CLOUD]):
            shown |= {f"{name}_first": row[f"{name}_first"], name: row[name]}
        table.append(shown)
    return table


def error_differences(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Returns the differences elementwise − isotropic of held-out errors, paired by seed.

    Args:
      rows: Rows of `measure_layers`.
    """
    # Of one network there are two kinds of latents, and one error.
    once = [row for row in rows if row["site"] == results.SITES[0]]
    found = results.layers.differences(once, quantities=("test_mse",))
    return results.with_q(found.drop(columns="site", errors="ignore"))
