"""The command `ppp-jax`, which runs one of the experiments: `ppp-jax ablation --seeds=0:4`.

Its list of commands is read from the files of `ppp_jax.experiments`, and imports none of them.
"""

import ast
import functools
import importlib.util
import pathlib
import runpy
import sys

from ppp_jax import __version__
from ppp_jax.errors import InputError, lookup

PACKAGE = "ppp_jax.experiments"
SYNTAX_ERROR = 2  # as `ppp_jax.cli.flags` has it, which takes a second to import


@functools.cache
def commands() -> dict[str, str]:
    """Returns what each command does in one line, by the commands' names."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = [] if spec is None else spec.submodule_search_locations or []
    paths = sorted(path for folder in folders for path in pathlib.Path(folder).glob("[a-z]*.py"))
    texts = {path.stem: ast.get_docstring(ast.parse(path.read_bytes())) or "" for path in paths}
    return {name: text.partition("\n")[0] for name, text in texts.items()}


def overview() -> str:
    """Returns the help of `ppp-jax`."""
    width = max(map(len, commands()))
    lines = [f"  {name:<{width}}  {text}" for name, text in commands().items()]
    return "\n".join(
        [
            "ppp-jax COMMAND [--flag=value …]: ablations of activation symmetry, and their tests.",
            "",
            *lines,
            "",
            "`ppp-jax COMMAND --help` explains a command, what it costs, and its flags.",
        ]
    )


def main() -> None:
    """Runs the command that the process's arguments name, with the rest of them as its flags.

    Raises:
      SystemExit: The command has ended, or there is none of this name.
    """
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(overview())
    elif name == "--version":
        print(f"ppp_jax {__version__}")
    else:
        try:
            lookup(commands(), name, field="command")
        except InputError as error:
            print(f"error: {error}; `ppp-jax --help` explains them", file=sys.stderr)
            sys.exit(SYNTAX_ERROR)
        sys.argv[1:] = rest
        runpy.run_module(f"{PACKAGE}.{name}", run_name="__main__", alter_sys=True)
