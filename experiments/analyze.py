"""Do anyone's activations know a basis? PPP, SRM and counts of an array, or of a run folder.

  python -m experiments.analyze --latents=activations.npy --epsilon=0.7,0.85

Cost: seconds; a minute for 100,000 samples of a layer 4,096 wide. Outcome: a folder with ppp.png,
srm.png, and tables of the shares accepted (CSV and Markdown), of the mean SRM curves and of the
planes with the most samples.
"""

import pathlib
from typing import Any

import xarray as xr
from absl import flags

import ppp_jax.analysis as pa
from ppp_jax import bases
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.errors import InputError, printable
from ppp_jax.grid.grid import MAX_COUNT, MAX_SEED, MAX_UNITS

MOST_ANGLES = 36_000
flags.DEFINE_string("latents", None, "a run folder, .npy, .npz or zarr: (..., samples, units)")
flags.DEFINE_string("name", None, "the array in it; of a run folder pre (the default) or post")
experiment_flags.define_count("latent_width", None, "of a run folder with several", least=2,
                              most=MAX_UNITS)  # fmt: skip
flags.DEFINE_string("architecture", None, "of a run folder with several")
flags.DEFINE_string("layer", "bottleneck", "of a run folder that keeps others, such as encoder_0")
text = "of that layer, where it comes in several sizes"
experiment_flags.define_count("units", None, text, least=1, most=MAX_UNITS)
text = "per sample of that layer, likewise"
experiment_flags.define_count("vectors", None, text, least=1, most=MAX_UNITS)
flags.DEFINE_string("basis", "standard", f"{', '.join(bases.FORMS)}, or an .npy of (vectors, n)")
experiment_flags.define_numbers("epsilon", (0.85,), "acceptance cosines, in [0, 1]")
experiment_flags.define_names(
    "by",
    "axes to keep apart, such as step; by default none, and of a run folder all that vary but the "
    "seeds, at the last snapshot",
)
text = "use so many planes, drawn by --plane_seed; default: all"
experiment_flags.define_count("max_planes", None, text, least=1, most=MAX_COUNT)
experiment_flags.define_count("plane_seed", 0, "of that draw", least=0, most=MAX_SEED)
text = "angles of the SRM curves"
experiment_flags.define_count("angles", 360, text, least=1, most=MOST_ANGLES)
flags.DEFINE_bool("signed", False, "subtract what the probe's opposite sees from SRM")
flags.DEFINE_enum("nonfinite", "raise", ["raise", "drop"], "what becomes of samples not finite")
flags.DEFINE_string("out", None, "folder to write; by default beside the latents, *_analysis")


def main() -> None:
    """Opens the latents, writes the analysis, prints the shares."""
    values = flags.FLAGS
    if not values.latents:
        raise InputError("latents", values.latents, "say which: a run folder, .npy, .npz or zarr")
    asked = values.by or ()
    twice = [axis for i, axis in enumerate(asked) if axis in asked[:i]]
    if twice:
        raise InputError("by", ",".join(asked), f"names {twice[0]} twice; name each axis once")
    path = pathlib.Path(values.latents).expanduser()
    with experiment_flags.naming("latents"):
        latents, by = load(path)
    basis = values.basis
    if basis.endswith(".npy"):
        with experiment_flags.naming("basis"):
            basis = pa.load(basis).values
    out = pa.write_analysis(
        latents,
        values.out or path.absolute().with_name(f"{path.stem}_analysis"),
        by=by,
        basis=basis,
        epsilon=values.epsilon,
        angles=values.angles,
        signed=values.signed,
        max_planes=values.max_planes,
        seed=values.plane_seed,
        nonfinite=values.nonfinite,
        progress=True,
    )
    print((out / "shares.md").read_text(encoding="utf-8"))
    pooled = [str(d) for d in latents.dims[:-2] if d not in by and latents.sizes[d] > 1]
    if pooled:
        print(f"pooled over {printable(', '.join(pooled))} (--by keeps axes apart)")
    print(f"analysis: {printable(out)}")


def load(path: pathlib.Path) -> tuple[xr.DataArray, list[str]]:
    """Returns the latents that the flags name, and the axes to keep apart."""
    values = flags.FLAGS
    which = ("name", "latent_width", "architecture", "layer", "units", "vectors")
    chosen: dict[str, Any] = {name: values[name].value for name in which}
    found = pa.load(path, **chosen)
    if isinstance(found, xr.Dataset):
        found = found["pre"]
    if values.by is not None or "step" not in found.dims:
        return found, list(values.by or ())
    last = found.isel(step=-1)
    return last, [str(d) for d in last.dims[:-2] if d != "seed" and last.sizes[d] > 1]


if __name__ == "__main__":
    experiment_flags.run(main)
