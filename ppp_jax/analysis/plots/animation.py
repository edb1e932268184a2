"""Animations of PPP pictures, such as the snapshots of a training run."""

import io
import pathlib

import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

from ppp_jax.analysis.io.sources import check_made
from ppp_jax.analysis.plots.ppp import plot_ppp, ratio_scale
from ppp_jax.analysis.texts import drawn
from ppp_jax.errors import InputError, whole, writing
from ppp_jax.files import atomic
from ppp_jax.files.paths import located
from ppp_jax.notebook import Picture

DPI = 100


def animate(
    pictures: xr.Dataset,
    path: str | pathlib.Path,
    *,
    over: str = "step",
    label: str | None = None,
    frames_per_second: int = 3,
) -> pathlib.Path:
    """Writes PPP pictures as the frames of a GIF, all in one colour scale.

    Args:
      pictures: A Dataset that `ppp(…, by=over)` returned.
      path: The file to write, whose name must end in `.gif`.
      over: The axis along which the frames follow each other.
      label: Name of the coordinate that the title of each frame shows; by default `epoch` if there
        is one, and otherwise `over`.
      frames_per_second: Number of frames per second, from 1 to 50. The last frame is shown for two
        seconds longer.

    Returns:
      The path, as which a notebook shows the film. The file appears only when it is complete.

    Raises:
      InputError: The path has another ending or cannot be written, the pictures have no such axis
        or coordinate or have further axes, or the speed is out of its range.
    """
    path = located("path", path)
    check_made("pictures", pictures, ("ratio", "accepted", "u", "v"), "ppp")
    if path.suffix != ".gif":
        raise InputError("path", path, "must end in .gif")
    if not isinstance(over, str):
        raise InputError("over", over, "must be the name of an axis")
    others = set(pictures["ratio"].dims) - {over, "u", "v"}
    if over not in pictures["ratio"].dims or others:
        raise InputError(
            "over",
            over,
            f"must be the only axis of the pictures besides v and u; they have "
            f"{pictures['ratio'].dims}",
        )
    label = label if label is not None else ("epoch" if "epoch" in pictures.coords else over)
    if not isinstance(label, str) or label not in pictures.coords:
        raise InputError("label", label, f"must be one of {sorted(map(str, pictures.coords))}")
    whole("frames_per_second", frames_per_second, least=1, most=50)
    with writing("path", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.new_file(path) as partial:
            _write(pictures, partial, over, label, frames_per_second)
    return Picture(path)


def _write(
    pictures: xr.Dataset, path: pathlib.Path, over: str, label: str, frames_per_second: int
) -> None:
    norm = ratio_scale([pictures["ratio"].values])
    frames = []
    for k in range(pictures.sizes[over]):
        picture = pictures.isel({over: k})
        figure = Figure(figsize=(4.4, 3.7), dpi=DPI, layout="constrained")
        axes = plot_ppp(picture, ax=figure.add_subplot(), norm=norm)
        axes.set_title(
            f"{drawn(label)} {drawn(picture[label].item())}, {axes.get_title()}", fontsize=9
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        frames.append(Image.open(buffer).convert("RGB"))
    durations = [1000 // frames_per_second] * len(frames)
    durations[-1] += 2000
    # The format is named because the partial file has another ending.
    frames[0].save(
        path, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
    )
