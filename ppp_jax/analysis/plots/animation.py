"""Training as a moving picture."""

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

DPI = 100


def animate(
    pictures: xr.Dataset,
    path: str | pathlib.Path,
    *,
    over: str = "step",
    label: str | None = None,
    frames_per_second: int = 3,
) -> pathlib.Path:
    """Writes PPP pictures as a GIF, one frame after another, all in one colour scale.

    Args:
      pictures: what `ppp(…, by=over)` returns.
      path: where to write; the ending must be `.gif`.
      over: the axis that is played.
      label: name of the coordinate that each frame shows; by default `epoch` where there is one,
        and `over` where not.
      frames_per_second: speed; the last frame stands for two seconds longer.

    Returns:
      The path. The file appears when it is complete.

    Raises:
      InputError: another ending, no such axis or coordinate, further axes, no speed, or a
        place that cannot be written.
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
            "over", over, f"pictures are over {pictures['ratio'].dims}; need (over, v, u)"
        )
    label = label if label is not None else ("epoch" if "epoch" in pictures.coords else over)
    if not isinstance(label, str) or label not in pictures.coords:
        raise InputError("label", label, f"is none of {sorted(map(str, pictures.coords))}")
    whole("frames_per_second", frames_per_second, least=1, most=50)
    with writing("path", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.new_file(path) as partial:
            _write(pictures, partial, over, label, frames_per_second)
    return path


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
    # The path has another ending until all is written.
    frames[0].save(
        path, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
    )
