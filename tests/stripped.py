"""Imports this project as `PYTHONOPTIMIZE=2` does, without docstrings and assertions.

`tests.stripped.install()` first. The libraries stay as they are: compiling all of them anew takes a
minute, and what they do without their docstrings is theirs.
"""

import importlib.machinery
import pathlib
import sys

from tests import ROOT


class _Stripped(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        path = self.get_filename(fullname)
        return compile(self.get_data(path), path, "exec", dont_inherit=True, optimize=2)


def _finder(path):
    if not any(
        pathlib.Path(path).is_relative_to(ROOT / name) for name in ("ppp_jax", "experiments")
    ):
        raise ImportError(path)
    return importlib.machinery.FileFinder(path, (_Stripped, [".py"]))


def install():
    """Lets all later imports of this project go that way."""
    sys.path_hooks.insert(0, _finder)
    sys.path_importer_cache.clear()
