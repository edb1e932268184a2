"""Makes texts safe to write: names of files, tables as CSV and Markdown, and words in figures.

The names in them come from run folders, which strangers may have written. The functions of this
module make sure that a spreadsheet, a terminal, a figure and a file system treat them as plain
text.
"""

from __future__ import annotations

import hashlib
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ppp_jax.errors import printable

if TYPE_CHECKING:
    import pandas as pd

LONGEST_STEM = 100  # In bytes; a file's name of two such parts and an ending fits into 255.
# A spreadsheet computes a cell that begins with one of these characters or their wide forms.
FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"


def lines(text: object) -> str:
    """Returns a text in which all control characters except line ends are escaped.

    Args:
      text: Any object; its `str` is used.
    """
    return "\n".join(printable(line) for line in str(text).split("\n"))


def file_stem(text: object) -> str:
    """Returns a text as part of a file's name, which cannot lead into another folder.

    Ordinary names stay as they are. A name that had to be changed or cut off gets a digest, so
    that different names stay different.

    Args:
      text: Any object; its `str` is used.

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
    r"""Returns a value for a spreadsheet, with an apostrophe before a text that would be computed.

    Args:
      value: Any value. Numbers, and texts that are numbers, stay as they are.

    Example:
      >>> cell("=1+1"), cell("-0.5"), cell(-0.5), cell("a\tb")
      ("'=1+1", '-0.5', -0.5, 'a\\tb')
    """
    if not isinstance(value, str):
        return value
    first = value.lstrip()[:1]  # Some programs skip blanks.
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
      table: A data frame, or rows that map the names of columns to values.
      path: The file to write.
    """
    import pandas as pd  # imported late: the names of files and Markdown do without it

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
      header: A text per column.
      body: Rows with a text per column.
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
      header: A text per column.
      body: Rows with a text per column.
      path: The file to write.
    """
    text = as_markdown(header, body)
    path.write_text(text + "\n", encoding="utf-8")
    return text


def drawn(text: object) -> str:
    r"""Returns a text that matplotlib draws as it is, because its dollar signs are escaped.

    Args:
      text: Any object; its `str` is used.

    Example:
      >>> drawn("$x^$")
      '\\$x^\\$'
    """
    return lines(text).replace("$", r"\$")
