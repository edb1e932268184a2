"""What results show of themselves in a notebook, where they end a cell."""

import base64
import html
import pathlib
from collections.abc import Mapping

LARGEST = 2**25  # most bytes of a file that is shown within a notebook


def table(rows: Mapping[str, str]) -> str:
    """Returns HTML with a row per entry, its name in front.

    Args:
      rows: Texts by their names.

    Example:
      >>> table({"cells": "<2>"})
      '<table><tr><th>cells</th><td>&lt;2&gt;</td></tr></table>'
    """
    cells = (f"<th>{html.escape(k)}</th><td>{html.escape(v)}</td>" for k, v in rows.items())
    return f"<table>{''.join(f'<tr>{cell}</tr>' for cell in cells)}</table>"


class _Shown(type(pathlib.Path())):  # type: ignore[misc]
    """A path of which a notebook shows more than its text."""

    def __repr__(self) -> str:
        """Returns the text of an ordinary path, which it is but for a notebook."""
        return repr(pathlib.Path(self))

    def _content(self) -> bytes | None:
        """Returns what the file holds, unless it is gone or very large."""
        try:
            return self.read_bytes() if self.stat().st_size <= LARGEST else None
        except OSError:  # the path itself is shown
            return None


class Picture(_Shown):
    """The path of a picture, or of a film."""

    def _repr_html_(self) -> str | None:
        if (content := self._content()) is None:
            return None
        encoded, kind = base64.b64encode(content).decode(), self.suffix.removeprefix(".")
        return f'<img src="data:image/{kind};base64,{encoded}" alt="{html.escape(self.name)}">'


class Page(_Shown):
    """The path of a page that holds all it shows."""

    def _repr_html_(self) -> str | None:
        if (content := self._content()) is None:
            return None
        text = html.escape(content.decode("utf-8"))
        return f'<iframe srcdoc="{text}" width="100%" height="600" frameborder="0"></iframe>'


class Folder(_Shown):
    """The path of a folder with a page, which a notebook shows."""

    def _repr_html_(self) -> str | None:
        return Page(self / "index.html")._repr_html_()
