"""Texts that leave the program: names of files, tables as CSV and Markdown, words in figures.

Names in them come from run folders, which may be a stranger's: here they become text and nothing
else, in a spreadsheet, a terminal, a figure and a file system alike.
"""

import hashlib
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ppp_jax.errors import printable

LONGEST_STEM = 100  # bytes of a part of a file's name: two of them and an ending fit into 255
FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"  # how what a spreadsheet computes begins, wide forms too


def lines(text: object) -> str:
    """Returns a text without control characters but the ends of its lines.

    Args:
      text: anything; `str` of it.
    """
    return "\n".join(printable(line) for line in str(text).split("\n"))


def file_stem(text: object) -> str:
    """Returns a text as part of a file's name: the same for usual names, no other folder's ever.

    What was changed or cut off is told apart by a digest.

    Args:
      text: anything; `str` of it.

    Example:
      >>> file_stem("1-16-adam"), file_stem("../a")
      ('1-16-adam', '_._a-61b4c98b')
    """
    given = str(text)
    plain = re.sub(r"[^A-Za-z0-9_.,=+@():-]", "_", re.sub(r"^\.", "_", given))
    if plain == given and 0 < len(plain) <= LONGEST_STEM:
        return plain
    digest = hashlib.sha256(given.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{plain[: LONGEST_STEM - 9]}-{digest}"


def cell(value: Any) -> Any:
    r"""Returns a value for a spreadsheet: a text that it would compute begins with an apostrophe.

    Args:
      value: numbers, and texts that are numbers, stay what they are.

    Example:
      >>> cell("=1+1"), cell("-0.5"), cell(-0.5), cell("a\tb")
      ("'=1+1", '-0.5', -0.5, 'a\\tb')
    """
    if not isinstance(value, str):
        return value
    first = value.lstrip()[:1]  # some programs skip blanks
    risky = first != "" and first in FORMULA and not _is_number(value)
    return ("'" if risky or value[:1].isspace() else "") + printable(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_csv(table: pd.DataFrame | Iterable[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Writes a table as CSV, in which no cell is a formula.

    Args:
      table: a frame, or rows by column.
      path: where to.
    """
    frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame(list(table))
    safe = frame.copy(deep=False)
    for name, dtype in frame.dtypes.items():
        if not pd.api.types.is_numeric_dtype(dtype):
            safe[name] = frame[name].map(cell)
    safe.columns = pd.Index([cell(name) for name in frame.columns])
    safe.to_csv(path, index=False)


def as_markdown(header: Sequence[object], body: Sequence[Sequence[object]]) -> str:
    """Renders a table of texts as aligned Markdown.

    Args:
      header: a text per column.
      body: rows of texts.
    """
    cells = [[printable(text).replace("|", "\\|") for text in row] for row in [header, *body]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    table = [cells[0], ["-" * width for width in widths], *cells[1:]]
    return "\n".join(
        "| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |"
        for row in table
    )


def write_markdown(
    header: Sequence[object], body: Sequence[Sequence[object]], path: pathlib.Path
) -> str:
    """Writes a table of texts as Markdown, and returns it.

    Args:
      header: a text per column.
      body: rows of texts.
      path: where to.
    """
    text = as_markdown(header, body)
    path.write_text(text + "\n", encoding="utf-8")
    return text


def drawn(text: object) -> str:
    r"""Returns a text that matplotlib draws as it is: a dollar sign begins no formula.

    Args:
      text: anything; `str` of it.

    Example:
      >>> drawn("$x^$")
      '\\$x^\\$'
    """
    return lines(text).replace("$", r"\$")
