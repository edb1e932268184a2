"""Tables of PPP pictures, such as the strips of networks through training."""

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppp_jax.analysis.plots.figures import ShownFigure
from ppp_jax.analysis.plots.paper import half_width
from ppp_jax.analysis.plots.ppp import (
    PAPER,
    PICTURE_STYLES,
    POINTS,
    RATIO,
    ROTATED,
    acceptance_text,
    check_picture,
    check_rotated,
    colour_scale,
    draw_panel,
    tick,
)
from ppp_jax.analysis.plots.style import DPI, PAGE, TEXT
from ppp_jax.analysis.texts import drawn
from ppp_jax.errors import InputError, choice

COMPARED = "compared"
STYLES = (*PICTURE_STYLES, COMPARED)
LONGEST_NAME = 12  # A longer name of an activation takes two lines beside its strip.
LEGEND = (
    "Each panel shows u (to the right) and v (upwards) up to ± the half-width in its corner, in "
    "latent units. "
)
LEGENDS = {
    PAPER: f"On black, colour is the number of {POINTS}, in one scale and up to one half-width for "
    "the whole strip; it goes with the square root and is clipped at the end of the bar. ",
    RATIO: "From blue to red, colour is the density of accepted samples divided by that of "
    "isotropic latents, clipped at the ends of the bar; grey means that too few are expected. ",
}
ACCEPTANCE = "A/A0 is the accepted fraction divided by the isotropic one."
BESIDE = (
    " What is uneven says only that latents are not isotropic, which those of real layers never "
    f"are. Only what differs from the {ROTATED}, the same latents in a random basis, is due to the "
    "basis."
)


class _Size(NamedTuple):
    """How large a figure is.

    Attributes:
      width: Width in inches that strips fill as far as their panels may shrink and grow.
      most: Largest width in inches; strips that would be wider go on below.
      panels: Smallest and largest width of a panel in inches.
      dpi: Pixels per inch.
      text: Font size in points of most texts.
    """

    width: float
    most: float
    panels: tuple[float, float]
    dpi: int
    text: float


SIZES = {
    "page": _Size(PAGE / DPI, PAGE / DPI, (0.95, 1.2), DPI, TEXT / 0.93),  # the smallest are TEXT
    "print": _Size(16.0, 100.0, (2.0, 2.6), 200, 11.0),
}


class _Strip(NamedTuple):
    """A row of panels that share one colour scale.

    Attributes:
      name: The name beside the row.
      style: `ratio` or `paper`.
      norm: The colour scale.
      pictures: The pictures, or None where there is none.
      notes: The text below each of them.
      widest: The largest half-width of a picture.
    """

    name: str
    style: str
    norm: colors.Normalize
    pictures: Sequence[xr.Dataset | None]
    notes: Sequence[str]
    widest: float


def _strip(
    name: str,
    style: str,
    norm: colors.Normalize,
    pictures: Sequence[xr.Dataset | None],
    notes: Sequence[str],
) -> _Strip:
    widest = max(half_width(picture) for picture in pictures if picture is not None)
    return _Strip(name, style, norm, pictures, notes, widest)


def plot_strip(
    panels: list[list[xr.Dataset]],
    *,
    rows: list[str],
    columns: list[str],
    title: str,
    beside: list[list[xr.Dataset | None]] | None = None,
    notes: list[list[str]] | None = None,
    style: str = RATIO,
    size: str = "page",
) -> Figure:
    """Draws PPP pictures as a table, such as a row per activation and a column per training epoch.

    Args:
      panels: The pictures that `ppp` returned, as `panels[row][column]`, each of all planes or of
        one.
      rows: Names of the rows.
      columns: Names of the columns.
      title: Title of the figure.
      beside: Pictures of the same latents in a rotated basis, `ppp(…, rotated=0)`, as
        `beside[row][column]`, or None where there is none; each is drawn to the right of its
        picture.
      notes: Short texts, as `notes[row][column]`, each of which stands below its picture in
        `panels`.
      style: `ratio` for the densities divided by that of isotropic latents; `paper` for the
        accepted points per unit area on black, as the paper shows them (arXiv 2507.12070); or
        `compared` for three strips per row below each other: the points, the ratio, and the ratio
        of the pictures in `beside`.
      size: `page` for a figure to be read on a page, whose content is at most 1,240 pixels wide, so
        that longer rows go on below; `print` for panels of about 400 pixels, four times as wide.

    Returns:
      The figure. Each row (strip) has one colour scale, which is drawn at its end; the two strips
      of ratios of one row that are compared share theirs. Each panel of ratios has its own
      half-width; all panels of points of a strip are drawn to that of the widest one. It is written
      in the corner in latent units.

    Raises:
      InputError: There are no pictures, or there is not one for each row and column; `beside` or
        `notes` is another table; the style or the size is unknown; or in the style `compared` there
        is no rotated picture, or one of another ε or half-width.

    Example:
      >>> import numpy as np
      >>> import ppp_jax.analysis as pa
      >>> clouds = np.random.default_rng(0).laplace(size=(3, 2000, 6))
      >>> found = pa.ppp(clouds, by="axis_0", bins=64)
      >>> strip = [found.isel(axis_0=k) for k in range(3)]
      >>> names = ["epoch 0", "epoch 2", "epoch 4"]
      >>> figure = pa.plot_strip([strip], rows=["tanh"], columns=names, title="", style="paper")
      >>> len(figure.axes[0].images)
      3
    """
    choice("style", style, STYLES)
    choice("size", size, tuple(SIZES))
    if not isinstance(title, str):
        raise InputError("title", title, "must be a string")
    table = _table(panels, rows, columns, beside, notes)
    heads, strips = _compared(table) if style == COMPARED else _beside(table, style)
    return _figure(strips, heads, title, SIZES[size], rotated=beside is not None)


def _figure(
    strips: list[_Strip], heads: list[str], title: str, size: _Size, *, rotated: bool
) -> Figure:
    names = [_wrapped(drawn(strip.name)) for strip in strips]
    longest = max(len(line) for name in names for line in name.split("\n"))
    left = max(0.8, 0.2 + 0.01 * size.text * longest)  # for the names, in inches
    right = 0.1 * size.text
    room = size.most - left - right
    across = _evenly(len(heads), max(1, int(room / size.panels[0])))
    panel = float(np.clip((size.width - left - right) / across, *size.panels))
    line = 1.35 * size.text / 72 / panel  # the height of a line of text, in panels
    small, large = 0.93 * size.text, 1.1 * size.text
    notes = [[_folded(note, panel, small) for note in strip.notes] for strip in strips]
    above = [_folded(head, panel, large) for head in heads]
    below = line * max(len(note.split("\n")) if note else 0 for texts in notes for note in texts)
    head = 1.5 * line * max(1 + text.count("\n") for text in above)
    parts = [slice(k, k + across) for k in range(0, len(heads), across)]
    heights = [
        1 + line + below + (head if k == 0 else 0) for _ in parts for k in range(len(strips))
    ]
    legend = _legend({strip.style for strip in strips}, rotated=rotated)
    inches = left + panel * across + right, [panel * height for height in heights]
    figure, stack = _stack((left, right), inches, size, title, legend)
    lines = [(part, k) for part in parts for k in range(len(strips))]
    for axes, height, (part, k) in zip(stack, heights, lines, strict=True):
        one = strips[k]._replace(pictures=strips[k].pictures[part], notes=notes[k][part])
        _draw_strip(axes, one, size)
        axes.set(xlim=(0, across), ylim=(-below, height - below))
        axes.text(-0.1 / panel, 0.5, names[k], ha="right", va="center", fontsize=large)
        for c, text in enumerate(above[part] if k == 0 else []):
            axes.text(c + 0.5, 1.02 + line, text, ha="center", va="bottom", fontsize=large)
    return figure


def _evenly(count: int, most: int) -> int:
    """Returns how many columns a line has, so that lines are few and about as long as each other.

    Example:
      >>> _evenly(16, 11), _evenly(7, 11), _evenly(23, 11)
      (8, 7, 8)
    """
    return -(-count // -(-count // most))


def _draw_strip(axes: Axes, strip: _Strip, size: _Size) -> None:
    """Draws panels as unit squares in one axes, which is far faster than an axes per panel."""
    paper, small = strip.style == PAPER, 0.93 * size.text
    for c, picture in enumerate(strip.pictures):
        if picture is None:
            continue
        half = strip.widest if paper else half_width(picture)
        square = (c + 0.02, c + 0.98, 0.02, 0.98)
        how = {"half": half, "fontsize": small}
        draw_panel(axes, picture, strip.style, strip.norm, square, **how)
        axes.text(c + 0.5, 1, acceptance_text(picture), ha="center", va="bottom", fontsize=small)
        colour: dict[str, Any] = {"color": "white" if paper else "black", "fontsize": small}
        axes.text(c + 0.96, 0.03, f"±{half:.2g}", ha="right", va="bottom", **colour)
        if paper:
            points = f"{picture['accepted'].item():,} points"
            axes.text(c + 0.05, 0.96, points, ha="left", va="top", **colour)
        if strip.notes[c]:
            axes.text(c + 0.5, 0, strip.notes[c], ha="center", va="top", fontsize=small)
    axes.set(aspect="equal")
    axes.set_axis_off()
    if not axes.images:  # where a line has gaps only
        return
    end = len(strip.pictures) + 0.05
    bar_axes = axes.inset_axes((end, 0.1, 0.06, 0.8), transform=axes.transData)
    bar = axes.figure.colorbar(axes.images[0], cax=bar_axes)
    tick(bar, strip.norm)
    bar.ax.tick_params(labelsize=small, pad=1, length=2)
    bar.set_label("points / area" if paper else "ratio", fontsize=small, labelpad=2)


def _stack(
    sides: tuple[float, float],
    inches: tuple[float, list[float]],
    size: _Size,
    title: str,
    legend: str,
) -> tuple[Figure, list[Axes]]:
    """Returns a figure with a title, a legend below, and axes above another without gaps.

    Args:
      sides: Space to the left and to the right of the axes, in inches.
      inches: Width of the figure, and the height of each axes.
      size: Resolution and font size.
      title: Text above, which is wrapped.
      legend: Text below, which is wrapped.
    """
    above, below = 1.25 * size.text, 0.93 * size.text
    lines = textwrap.wrap(drawn(title), int(120 * inches[0] / above)) or [""]
    texts = textwrap.wrap(legend, int(125 * inches[0] / below))
    top = 0.1 + 1.35 * above * len(lines) / 72
    bottom = 0.12 + 1.35 * below * len(texts) / 72
    height = top + sum(inches[1]) + bottom
    figure = ShownFigure(figsize=(inches[0], height), dpi=size.dpi)
    figure.suptitle("\n".join(lines), fontsize=above, y=1 - 0.05 / height, va="top")
    figure.text(0.5, 0.04 / height, "\n".join(texts), ha="center", va="bottom", fontsize=below)
    space = {
        "left": sides[0] / inches[0],
        "right": 1 - sides[1] / inches[0],
        "top": 1 - top / height,
        "bottom": bottom / height,
        "hspace": 0,
        "height_ratios": inches[1],
    }
    rows = len(inches[1])
    return figure, list(figure.subplots(rows, 1, squeeze=False, gridspec_kw=space).flat)


def _legend(styles: set[str], *, rotated: bool) -> str:
    """Returns what a reader has to know of the styles that a figure shows."""
    colour = "".join(text for style, text in LEGENDS.items() if style in styles)
    return LEGEND + colour + ACCEPTANCE + (BESIDE if rotated else "")


def _folded(text: str, panel: float, fontsize: float) -> str:
    """Returns a text on as many lines as a panel of this width in inches needs."""
    room = int(140 * panel / fontsize)
    given = drawn(text)
    parts = given if len(given) <= room else given.replace(", ", ",\n")
    lines = [line for part in parts.split("\n") for line in textwrap.wrap(part, room)]
    return "\n".join(lines)


def _wrapped(name: str) -> str:
    """Returns a name on two lines if it is too long for one line beside a strip."""
    return name.replace("_", "\n", 1) if len(name) > LONGEST_NAME else name


class _Table(NamedTuple):
    """What a figure of strips is given: its tables, `[row][column]`, checked."""

    rows: list[str]
    columns: list[str]
    panels: Sequence[Sequence[xr.Dataset]]
    beside: Sequence[Sequence[xr.Dataset | None]]
    notes: Sequence[Sequence[str]]


def _table(panels: Any, rows: Any, columns: Any, beside: Any, notes: Any) -> _Table:
    """Checks the tables that a figure is given."""
    for field, names in (("rows", rows), ("columns", columns)):
        if not _are_texts(names) or not names:
            raise InputError(field, names, "must be a list of one or more names")
    _check_table("panels", panels, rows, columns)
    turned: Any = [[None] * len(columns) for _ in rows] if beside is None else beside
    _check_table("beside", turned, rows, columns, gaps=True)
    texts: Any = [[""] * len(columns) for _ in rows] if notes is None else notes
    if not isinstance(texts, list | tuple) or not all(_are_texts(line) for line in texts):
        raise InputError("notes", type(notes).__name__, "must be lists of texts")
    if [len(line) for line in texts] != [len(columns)] * len(rows):
        problem = f"must be {len(rows)} lists of {len(columns)} texts each"
        raise InputError("notes", type(notes).__name__, problem)
    return _Table(rows, columns, panels, turned, texts)


def _are_texts(given: Any) -> bool:
    return isinstance(given, list | tuple) and all(isinstance(one, str) for one in given)


def _check_table(
    field: str, panels: Any, rows: list[str], columns: list[str], *, gaps: bool = False
) -> None:
    """Refuses what is no table of pictures, some of which may be None if there may be gaps."""
    strips = panels if isinstance(panels, list | tuple) else ()
    lists = all(isinstance(strip, list | tuple) for strip in strips)
    if len(strips) != len(rows) or not lists or any(len(x) != len(columns) for x in strips):
        problem = f"must be {len(rows)} lists of {len(columns)} pictures each"
        raise InputError(field, type(panels).__name__, problem)
    for picture in (picture for strip in strips for picture in strip):
        if picture is not None or not gaps:
            check_picture(picture, field)


def _beside(table: _Table, style: str) -> tuple[list[str], list[_Strip]]:
    """Returns the heads of columns, and a strip per row with rotated pictures in columns of own."""
    heads, columns = [], []
    for c, column in enumerate(table.columns):
        pair = any(strip[c] is not None for strip in table.beside)
        heads.extend([column, ROTATED] if pair else [column])
        columns.extend([(c, False), (c, True)] if pair else [(c, False)])
    strips = []
    for k, name in enumerate(table.rows):
        both = table.panels[k], table.beside[k]
        pictures = [both[turned][c] for c, turned in columns]
        notes = ["" if turned else table.notes[k][c] for c, turned in columns]
        norm = colour_scale([picture for picture in pictures if picture is not None], style)
        strips.append(_strip(name, style, norm, pictures, notes))
    return heads, strips


def _compared(table: _Table) -> tuple[list[str], list[_Strip]]:
    """Returns the heads of columns, and three strips per row: points, ratios, rotated ratios."""
    strips = []
    nothing = [""] * len(table.columns)
    for k, name in enumerate(table.rows):
        pictures = table.panels[k]
        turned = [picture for picture in table.beside[k] if picture is not None]
        if not turned:
            problem = "must hold pictures in a rotated basis for every row in this style"
            raise InputError("beside", None, problem)
        for picture, other in zip(pictures, table.beside[k], strict=True):
            if other is not None:
                _check_twin(picture, other)
        ratio = colour_scale([*pictures, *turned], RATIO)
        strips += [
            _strip(f"{name}\npoints", PAPER, colour_scale(pictures, PAPER), pictures, nothing),
            _strip(f"{name}\nratio", RATIO, ratio, pictures, table.notes[k]),
            _strip(f"{name}\n{ROTATED}", RATIO, ratio, table.beside[k], nothing),
        ]
    return table.columns, strips


def _check_twin(picture: xr.Dataset, beside: xr.Dataset) -> None:
    """Refuses a rotated picture that cannot be compared with its own by eye."""
    check_rotated(picture, beside)
    if not np.array_equal(picture["u"], beside["u"]):
        half = half_width(picture)
        problem = f"must have the half-width and bins of its picture; give ppp extent={half:g}"
        raise InputError("beside", f"extent {half_width(beside):g}", problem)
