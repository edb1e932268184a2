"""The symmetry that is claimed of every activation, optimiser and initialiser, measured."""

from collections.abc import Sequence

from absl import flags

from ppp_jax import groups
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.cli import runtime
from ppp_jax.networks import functional, interpolated, optimizers
from ppp_jax.networks.activations import ACTIVATIONS
from ppp_jax.symmetry import certificates

ABOUT = """\
Does every activation have the symmetry that is claimed of it, and no more (docs/method.md §10)?

  python -m experiments.certify [--activations=tanh,block_tanh:4@rotated] [--units=8]
                                [--scale=0.01,1,100]

Cost: 15 s. Outcome: a table of relative residuals ‖f(Gx) − G f(x)‖/‖f(x)‖ under each group, of
the dimension of the Lie algebra of continuous symmetries, and of the lengths ‖x‖ at which the claim
holds or fails, or at which nothing can be told, because the map is linear or 0 there and so has
more symmetries than elsewhere; then, for optimisers and initialisers, how far a rotated start is
from the rotated training, and from the same law (docs/method.md §11). By default the lengths are
all from 0.001 to 1000, in six decades, and --scale names single lengths instead. Nothing is known
of lengths that are not in the table. Exit status 1 if a claim fails.
"""

MOST_UNITS = 256  # the Lie algebra is found from equations in units² unknowns
HEADER = [
    "activation",
    "claimed group",
    "holds",
    "own",
    *groups.COMMON,
    "−1",
    "algebra",
    "rotations",
    "lengths",
]


def define() -> None:
    """Defines the flags."""
    text = f"by default the registry and an example of each form: {', '.join(interpolated.FORMS)}"
    experiment_flags.define_names("activations", text)
    text = "dimension in which to look"
    experiment_flags.define_count("units", 8, text, least=2, most=MOST_UNITS)
    text = "lengths of the inputs; by default all from 0.001 to 1000"
    experiment_flags.define_numbers("scale", (), text)


def command() -> None:
    """Certifies what the flags name, and leaves with status 1 if a claim fails."""
    units = flags.FLAGS.units
    names = flags.FLAGS.activations or [*ACTIVATIONS, *interpolated.EXAMPLES]
    for name in names:
        interpolated.check_width(name, units, field="units")
    scale = flags.FLAGS.scale or groups.DECADES
    claims = [activations_hold(names, units, scale=scale), confounds_hold()]
    if not all(claims):
        runtime.leave(experiment_flags.USER_ERROR)


def activations_hold(
    names: Sequence[str], units: int, *, scale: groups.Scale = groups.DECADES
) -> bool:
    """Prints what is certified of activations, and returns whether all of it holds.

    Args:
      names: The activations.
      units: The dimension in which to look.
      scale: The lengths of the inputs, as `groups.ranges` accepts them.
    """
    failed = False
    print("| " + " | ".join(HEADER) + " |\n|" + " --- |" * len(HEADER))
    for name in names:
        seen = certificates.certify_activation(name, units, scale=scale)
        residuals = [seen.residual, *seen.residuals.values(), seen.inversion]
        texts = [name, seen.claimed, "yes" if seen.holds else "NO"]
        texts += [f"{x:.0e}" for x in residuals] + [str(x) for x in seen.algebra]
        texts += ["; ".join(text for text in (seen.problem, groups.describe(seen.lengths)) if text)]
        print("| " + " | ".join(texts) + " |", flush=True)
        failed |= not seen.holds
    return not failed


def confounds_hold() -> bool:
    """Prints what is certified of optimisers and initialisers, and returns whether it holds."""
    rows = {}
    for name in optimizers.OPTIMIZERS:
        seen = certificates.certify_optimizer(name)
        rows[name] = seen, f"residual {seen['residual']:.0e}"
    for name in functional.INITIALIZERS:
        seen = certificates.certify_initializer(name)
        rows[name] = seen, f"{seen['deviations']:.1f} deviations"
    print("\n| optimizer or initializer | claimed | holds | measured |\n|" + " --- |" * 4)
    for name, (seen, text) in rows.items():
        claim = "respects rotations" if seen["respects_rotations"] else "prefers the axes"
        print(f"| {name} | {claim} | {'yes' if seen['holds'] else 'NO'} | {text} |")
    return all(seen["holds"] for seen, _ in rows.values())


def main(*, argv: list[str] | None = None) -> None:
    """Runs the command."""
    experiment_flags.run(command, define=define, about=ABOUT, argv=argv)


if __name__ == "__main__":
    main()
