"""PPP, SRM, counts and tests of an array, or of a run folder; tests of the layers of a network."""

from __future__ import annotations

import fnmatch
import os
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

import ppp_jax.analysis as pa
from ppp_jax import bases
from ppp_jax.analysis import io, limits, report, results
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.errors import InputError, printable
from ppp_jax.grid.grid import MAX_COUNT, MAX_SEED, MAX_UNITS

if TYPE_CHECKING:
    import xarray as xr

ABOUT = """\
Do anyone's activations know a basis? PPP, SRM, counts and tests of an array, or of a run folder.

  python -m experiments.analyze --latents=activations.npy --epsilon=0.7,0.85

Cost: seconds; a minute for 100,000 samples of a layer 4,096 wide. Outcome: a folder with a page
that says in plain words what was found (index.html), ppp.png, srm.png, and tables of the fractions
accepted and of the tests against random bases (CSV and Markdown), of the mean SRM curves and of the
planes with the most samples. The tests say of the mean, the covariance, the shape and the levels
along the axes whether they prefer the basis, with p, and q over the groups.

  python -m experiments.analyze --latents=layers.npz

A file of several arrays (.npz, HDF5, safetensors or a zarr group) or a folder of files (.npy and
these) holds the layers of a network, of any widths. They are tested and not drawn one by one: the
outcome is a table with a row per layer, with the rows left out, and p and q of the mean, the
covariance, the shape and the levels, a figure of these over the layers, and a page with both.
Groups in a file, folders in a folder, or files of several arrays in a folder are models side by
side. Of a run folder --all_layers takes every captured layer, with a model per cell. --groups
counts q apart in groups of layers: --groups=residual=*.residual,hidden=*.mlp.*

A command that was stopped goes on where it was: the same command does not measure finished layers
again. They are kept in a hidden folder beside the outcome until it is written.
"""
MOST_ANGLES = 36_000
ONE = ("by", "epsilon", "angles", "signed", "max_planes", "plane_seed")  # flags of one array
SEVERAL = ("groups", "null", "max_samples")  # flags of several layers
WHICH = ("name", "latent_width", "architecture", "layer", "units", "vectors")


def define() -> None:
    """Defines the flags."""
    define_which()
    flags.DEFINE_string(
        "basis", "standard", f"{', '.join(bases.FORMS)}, or an .npy of (vectors, n)"
    )
    experiment_flags.define_numbers("epsilon", (0.85,), "acceptance cosines, in [0, 1]")
    text = (
        "axes to keep apart, such as step; by default none, and of a run folder all that vary but "
        "the seeds, at the last snapshot"
    )
    experiment_flags.define_names("by", text)
    text = "use so many planes, drawn by --plane_seed; default: all"
    experiment_flags.define_count("max_planes", None, text, least=1, most=MAX_COUNT)
    experiment_flags.define_count("plane_seed", 0, "of that draw", least=0, most=MAX_SEED)
    text = "angles of the SRM curves"
    experiment_flags.define_count("angles", 360, text, least=1, most=MOST_ANGLES)
    text = (
        "K of the rotation null; 0: no tests; default: 200, and 0 where these would take minutes; "
        "of several layers 200 or 20 per layer, whichever is more"
    )
    experiment_flags.define_count("rotations", None, text, least=0, most=limits.MOST_ROTATIONS)
    text = "rotations of all units, or within blocks of 64; auto: blocks beyond 512 units"
    flags.DEFINE_enum("null", "auto", ["auto", "full", "blocks"], f"of layers: {text}")
    text = "of layers with more samples so many are drawn"
    experiment_flags.define_count("max_samples", limits.MOST_SAMPLES, text, least=2, most=MAX_COUNT)
    flags.DEFINE_bool("signed", False, "subtract what the probe's opposite sees from SRM")
    flags.DEFINE_enum("nonfinite", "raise", ["raise", "drop"], "what becomes of samples not finite")
    text = "leave rows longer than so many times the median row out of the tests"
    flags.DEFINE_float("drop_outliers", None, text)
    text = "groups of layers, as name=pattern, in each of which q is counted apart"
    experiment_flags.define_names("groups", text)
    text = "test all captured layers of a run folder, and draw none by itself"
    flags.DEFINE_bool("all_layers", False, text)
    flags.DEFINE_string("out", None, "folder to write; by default beside the latents, *_analysis")


def define_which() -> None:
    """Defines the flags that name the latents."""
    text = "a run folder, .npy, .npz or zarr; layers in a folder, .npz, .h5, .safetensors or zarr"
    flags.DEFINE_string("latents", None, text)
    flags.DEFINE_string("name", None, "the array in it; of a run folder pre (the default) or post")
    text = "of a run folder with several"
    experiment_flags.define_count("latent_width", None, text, least=2, most=MAX_UNITS)
    flags.DEFINE_string("architecture", None, text)
    text = "of a run folder that keeps others, such as encoder_0"
    flags.DEFINE_string("layer", "bottleneck", text)
    text = "of that layer, where it comes in several sizes"
    experiment_flags.define_count("units", None, text, least=1, most=MAX_UNITS)
    text = "per sample of that layer, likewise"
    experiment_flags.define_count("vectors", None, text, least=1, most=MAX_UNITS)


def command() -> None:
    """Opens the latents, writes the analysis, prints the fractions and the tests."""
    values = flags.FLAGS
    if not values.latents:
        raise InputError("latents", values.latents, "say which: a run folder, .npy, .npz or zarr")
    path = pathlib.Path(values.latents).expanduser()
    with experiment_flags.naming("latents"):
        several = values.all_layers or (values.name is None and io.holds_layers(path))
    for name in () if several else SEVERAL:
        if values[name].present:
            problem = f"is of several layers, and {path.name} is one array; leave it out"
            raise InputError(name, _given(values[name].value), problem)
    return _layers(path) if several else _array(path)


def _given(value: Any) -> Any:
    return ",".join(value) if isinstance(value, list) else value


def _basis() -> Any:
    """Returns the basis that a flag names, or the vectors of its file."""
    basis = flags.FLAGS.basis
    if not basis.endswith(".npy"):
        return basis
    with experiment_flags.naming("basis"):
        return pa.load(basis).values


def _layers(path: pathlib.Path) -> None:
    """Tests every layer, writes the table and the figure, and prints the table."""
    values = flags.FLAGS
    for name in (*ONE, *WHICH):
        if values[name].present:
            problem = f"is of a single array, and {path.name} holds several layers; leave it out"
            raise InputError(name, values[name].value, problem)
    if values.rotations == 0:
        raise InputError("rotations", 0, "must be at least 1, because layers are tested")
    where = pathlib.Path(os.path.abspath(path))
    stem = where.stem if where.suffix in io.ENDINGS else where.name
    try:
        out = _write(results.open_all(path), values.out or where.parent / f"{stem}_analysis")
    except InputError as error:
        if error.field != "layers":
            raise
        raise InputError("latents", error.value, error.problem) from error
    print((out / "layers.md").read_text(encoding="utf-8"))
    print(f"figure: {printable(out / 'layers.png')}\npage: {printable(out / 'index.html')}")
    print(f"analysis: {printable(out)}")


def _write(opened: io.Layers, out: str | pathlib.Path) -> pathlib.Path:
    """Writes the analysis of layers, and says that finished ones are kept if it is stopped."""
    values = flags.FLAGS
    groups = _groups(opened, values.groups)
    if slow := report.long_tests(opened, rotations=values.rotations, null=values.null):
        told = f"the tests of {printable(', '.join(slow))} take minutes or more"
        print(f"{told}; --rotations with a smaller number is faster", file=sys.stderr)
    warnings.simplefilter("ignore", pa.LongRowWarning)  # The table tells of such rows.
    try:
        return pa.write_layers(
            opened,
            out,
            basis=_basis(),
            groups=groups,
            rotations=values.rotations,
            null=values.null,
            max_samples=values.max_samples,
            nonfinite=values.nonfinite,
            drop_outliers=values.drop_outliers,
            progress=True,
        )
    except KeyboardInterrupt:
        print("\nthe same command goes on after the finished layers", file=sys.stderr)
        raise


def _groups(opened: io.Layers, given: Sequence[str] | None) -> dict[str, str] | None:
    """Returns the group of every layer, whose name is like the group's pattern."""
    if not given:
        return None
    patterns = {}
    for one in given:
        group, sign, pattern = one.partition("=")
        if not (group and sign and pattern):
            problem = "must be name=pattern, such as residual=*.residual"
            raise InputError("groups", one, problem)
        patterns[pattern] = group
    groups = {}
    for name in opened.names:
        like = [group for pattern, group in patterns.items() if fnmatch.fnmatchcase(name, pattern)]
        if len(set(like)) != 1:
            what = f"has patterns of {' and '.join(like)}" if like else "has no pattern"
            problem = f"{what} for the layer {name}; every layer must be in one group"
            raise InputError("groups", ",".join(given), problem)
        groups[name] = like[0]
    return groups


def _array(path: pathlib.Path) -> None:
    """Describes one array, and prints the fractions and the tests."""
    values = flags.FLAGS
    io.check_rows(values.nonfinite, values.drop_outliers)
    asked = values.by or ()
    twice = [axis for i, axis in enumerate(asked) if axis in asked[:i]]
    if twice:
        raise InputError("by", ",".join(asked), f"names {twice[0]} twice; name each axis once")
    with experiment_flags.naming("latents"):
        latents, by = load(path, by=values.by, **{name: values[name].value for name in WHICH})
    out = pa.write_analysis(
        latents,
        values.out or path.absolute().with_name(f"{path.stem}_analysis"),
        by=by,
        basis=_basis(),
        epsilon=values.epsilon,
        angles=values.angles,
        signed=values.signed,
        max_planes=values.max_planes,
        plane_seed=values.plane_seed,
        nonfinite=values.nonfinite,
        rotations=values.rotations,
        drop_outliers=values.drop_outliers,
        progress=True,
    )
    print((out / "fractions.md").read_text(encoding="utf-8"))
    if (out / "tests.md").exists():
        print((out / "tests.md").read_text(encoding="utf-8"))
    elif values.rotations is None:
        print("not tested: 200 rotations would take minutes; --rotations=200 asks for them")
    pooled = [str(d) for d in latents.dims[:-2] if d not in by and latents.sizes[d] > 1]
    if pooled:
        print(f"pooled over {printable(', '.join(pooled))} (--by keeps axes apart)")
    print(f"page: {printable(out / 'index.html')}")
    print(f"analysis: {printable(out)}")


def load(
    path: pathlib.Path, *, by: Sequence[str] | None = None, **which: Any
) -> tuple[xr.DataArray, list[str]]:
    """Returns latents, and the axes to keep apart.

    Args:
      path: A run folder, or a file.
      by: The axes to keep apart; None: of a run folder all that vary but the seeds, at the last
        snapshot, and of a file none.
      **which: What names one array of several, as `pa.load` takes it.
    """
    if io.is_run(path) and which.get("name") is None:
        which["name"] = "pre"
    found = pa.load(path, **which)
    if by is not None or "step" not in found.dims:
        return found, list(by or ())
    last = found.isel(step=-1)
    return last, [str(d) for d in last.dims[:-2] if d != "seed" and last.sizes[d] > 1]


def main(*, argv: list[str] | None = None) -> None:
    """Runs the command."""
    experiment_flags.run(command, define=define, about=ABOUT, argv=argv)


if __name__ == "__main__":
    main()
