"""How long imports and the start of commands take beside `import jax`, in processes in turn."""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from absl import flags

from ppp_jax.analysis.texts import as_markdown
from ppp_jax.cli import flags as experiment_flags

ABOUT = """\
How long does a start take? Imports of the analysis, help and plans, beside `import jax`, in turn.

  python -m experiments.benchmarks.import_time

Cost: two to five minutes. Prints a table of seconds of user time (a process's own, which neighbours
on the machine move less than the clock's), and their ratios to `import jax`. What a name of the
analysis needs is imported when it is first used, so that parts are timed too.
"""
IMPORT = 1.5  # most that an import may take of `import jax`
HELP, PLAN = 3 / 1.3, 5 / 1.3  # 3 and 5 s, in an hour in which `import jax` takes 1.3 s
STARTS: dict[str, tuple[Sequence[str], float | None]] = {  # arguments and target, by what is timed
    **{
        f"`{statement}`": (("-c", statement), target)
        for statement, target in (
            ("import jax", None),
            ("import ppp_jax.analysis", IMPORT),
            ("from ppp_jax.analysis import alignment_c4", IMPORT),
            ("from ppp_jax.analysis import ppp", IMPORT),
            ("from ppp_jax.analysis import rotation_test", IMPORT),
            ("from ppp_jax.analysis import plot_strip", IMPORT),
        )
    },
    "`ppp-jax --help`": (("-m", "ppp_jax.cli.dispatch", "--help"), HELP),
    "`python -m experiments.ablation --help`": (("-m", "experiments.ablation", "--help"), HELP),
    "`python -m experiments.analyze --help`": (("-m", "experiments.analyze", "--help"), HELP),
    "`python -m experiments.ablation --dry_run`": (
        ("-m", "experiments.ablation", "--dry_run"),
        PLAN,
    ),
}


def define() -> None:
    """Defines the flags."""
    experiment_flags.define_count(
        "rounds", 9, "turns, each of one process per start", least=1, most=1000
    )


def timed(arguments: Sequence[str]) -> float:
    """Returns the seconds of user time that a fresh interpreter takes to start and to end.

    Args:
      arguments: The arguments of the interpreter.
    """
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user - before.children_user


def command() -> None:
    """Times the starts in turn and prints medians."""
    with tempfile.TemporaryDirectory() as folder:  # of the plan, which writes nothing into it
        plan = f"--workdir={folder}/run"
        runs = [(*how, plan) if "--dry_run" in how else how for how, _ in STARTS.values()]
        rounds = [[timed(how) for how in runs] for _ in range(flags.FLAGS.rounds)]
    # The first turn compiles to bytecode and fills the system's cache of files.
    rounds = rounds[1:] or rounds
    rows = []
    for k, (name, (_, target)) in enumerate(STARTS.items()):
        took = statistics.median(line[k] for line in rounds)
        ratio = statistics.median(line[k] / line[0] for line in rounds)
        rows.append([name, f"{took:.2f}", f"{ratio:.2f}", f"≤ {target:.1f}" if target else ""])
    print(as_markdown(["what", "s of user time", "over import jax", "target"], rows))


def main(*, argv: list[str] | None = None) -> None:
    """Runs the command."""
    experiment_flags.run(command, define=define, about=ABOUT, argv=argv)


if __name__ == "__main__":
    main()
