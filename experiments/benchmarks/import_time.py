"""How long imports of the analysis take beside `import jax`, in fresh processes in turn."""

import statistics
import subprocess
import sys
import time

from absl import flags

from ppp_jax.analysis.texts import as_markdown
from ppp_jax.cli import flags as experiment_flags

ABOUT = """\
How long does an import take? The analysis and parts of it, beside `jax` alone, in turn.

  python -m experiments.benchmarks.import_time

Cost: one to two minutes. Prints a table: seconds, and the ratio to `import jax`; the target is 1.5.
The analysis imports what a name needs when it is first used, so that parts are timed too.
"""
IMPORTS = (
    "import jax",
    "import ppp_jax.analysis",
    "from ppp_jax.analysis import alignment_c4",
    "from ppp_jax.analysis import ppp",
    "from ppp_jax.analysis import rotation_test",
    "from ppp_jax.analysis import plot_strip",
)
TARGET = 1.5


def define() -> None:
    """Defines the flags."""
    experiment_flags.define_count(
        "rounds", 9, "turns, each of one process per import", least=1, most=1000
    )


def timed(statement: str) -> float:
    """Returns the seconds that a fresh interpreter takes to start and run an import.

    Args:
      statement: The import.
    """
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def command() -> None:
    """Times the imports in turn and prints medians."""
    rounds = [[timed(statement) for statement in IMPORTS] for _ in range(flags.FLAGS.rounds)]
    # The first turn compiles to bytecode and fills the system's cache of files.
    rounds = rounds[1:] or rounds
    seconds = [statistics.median(each) for each in zip(*rounds, strict=True)]
    ratios = [statistics.median(line[k] / line[0] for line in rounds) for k in range(len(IMPORTS))]
    rows = [
        [f"`{statement}`", f"{took:.2f}", f"{ratio:.2f}", f"≤ {TARGET}" if k else ""]
        for k, (statement, took, ratio) in enumerate(zip(IMPORTS, seconds, ratios, strict=True))
    ]
    print(as_markdown(["what", "s", "over import jax", "target"], rows))


def main(*, argv: list[str] | None = None) -> None:
    """Runs the command."""
    experiment_flags.run(command, define=define, about=ABOUT, argv=argv)


if __name__ == "__main__":
    main()
