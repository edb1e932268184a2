"""The lines of `metrics.jsonl`, which are chained so that damage and loss are detected.

Each line ends with a digest of itself and of the digest before it in the same part. The chain of a
part starts from the part's identity (`manifest.identity`). It depends on nothing else, so runs that
were interrupted or extended differently have equal chains.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from ppp_jax.files.integrity import digest

CHAIN, CHAIN_LENGTH = "chain", 16
LOST = "lost"  # entry of a line that replaces lost lines
LONGEST_LINE = 2**26  # most bytes of a line, enough for millions of runs
FIRST_LOOK = 2**16  # bytes at the end of the file that are searched first


class Part(NamedTuple):
    """The lines of a part that a file of metrics should contain.

    Attributes:
      identity: Identity of the part, from which its chain starts.
      cells: Number of lines for each step.
    """

    identity: str
    cells: int


class Found(NamedTuple):
    """The valid content of a file of metrics.

    Attributes:
      lines: Valid lines up to the parts' checkpoints, in order.
      heads: Digests of the last valid line by part.
      incomplete: Parts that lack lines.
      problem: What is wrong with the file, or None.
    """

    lines: list[bytes]
    heads: dict[int, str]
    incomplete: list[int]
    problem: str | None

    def repaired(self, parts: Sequence[Part], steps: Sequence[int | None]) -> bytes:
        """Returns the repaired content of the file, with one line for the lost lines of each part.

        Args:
          parts: The lines that the parts should have.
          steps: Steps of the parts' checkpoints.
        """
        lines = list(self.lines)
        for part in self.incomplete:
            row = {"part": part, "step": steps[part], LOST: parts[part].cells}
            lines.append(_line(row, self.heads.get(part, parts[part].identity))[0])
        return b"".join(lines)


def _line(row: dict[str, Any], before: str) -> tuple[bytes, str]:
    chain = digest([before, row])[:CHAIN_LENGTH]
    return (json.dumps({**row, CHAIN: chain}) + "\n").encode(), chain


def append(path: pathlib.Path, part: int, identity: str, rows: Sequence[dict[str, Any]]) -> None:
    """Appends lines of a part to a file of metrics.

    Args:
      path: Path of the file.
      part: Number of the part.
      identity: Identity of the part, from which its chain starts.
      rows: Entries of the lines, `part` and `step` first.
    """
    head, lines = _head(path, part) or identity, []
    for row in rows:
        line, head = _line(row, head)
        lines.append(line)
    with path.open("ab") as file:
        file.write(b"".join(lines))


def _head(path: pathlib.Path, part: int) -> str:
    """Returns the digest of a part's last line, searched from the file's end, or an empty text."""
    if not path.exists():
        return ""
    start = b'{"part": %d, ' % part
    with path.open("rb") as file:
        size, look = file.seek(0, 2), FIRST_LOOK
        while True:
            first = file.seek(max(0, size - look))
            lines = file.read().splitlines()
            for line in reversed(lines if first == 0 else lines[1:]):
                if line.startswith(start):
                    return str(json.loads(line)[CHAIN])
            if first == 0:
                return ""
            look *= 8


def read(path: pathlib.Path, parts: Sequence[Part], steps: Sequence[int | None]) -> Found:
    """Reads the lines up to each part's checkpoint, and checks that none is missing.

    Lines of later steps were left by a killed process and are ignored.

    Args:
      path: Path of the file, which need not exist.
      parts: The lines that the parts should have.
      steps: Steps of the parts' checkpoints, None for a part without one. Parts behind the end of
        this list have none.
    """
    kept: list[bytes] = []
    valid = {number: part.identity for number, part in enumerate(parts)}
    heads, last = dict[int, str](), dict[int, tuple[int, int]]()
    wrong = damaged = None
    for number, line in enumerate(_lines(path), 1):
        row = _row(line, valid)
        if row is None:
            wrong = wrong or number
            continue
        part, step = row["part"], row["step"]
        valid[part] = row[CHAIN]
        reached = steps[part] if part < len(steps) else None
        if reached is None or step > reached:
            continue
        damaged = damaged or wrong
        kept.append(line)
        heads[part] = row[CHAIN]
        before = last.get(part, (-1, 0))
        last[part] = (step, row.get(LOST, 1) + (before[1] if before[0] == step else 0))
    incomplete = [
        part
        for part, step in enumerate(steps)
        if step and last.get(part) != (step, parts[part].cells)
    ]
    problem = _problem(path, wrong if incomplete else damaged, incomplete, steps)
    return Found(kept, heads, incomplete, problem)


def _problem(
    path: pathlib.Path, wrong: int | None, incomplete: list[int], steps: Sequence[int | None]
) -> str | None:
    if not path.exists():
        return "is missing" if incomplete else None
    if wrong is not None:
        return f"is damaged at line {wrong}"
    part = incomplete[0] if incomplete else None
    return None if part is None else f"lacks lines of part {part} up to its step {steps[part]}"


def _lines(path: pathlib.Path) -> Any:
    if path.exists():
        with path.open("rb") as file:
            while line := file.readline(LONGEST_LINE):
                yield line


def _row(line: bytes, heads: dict[int, str]) -> dict[str, Any] | None:
    """Returns a line's entries if it continues the chain of its part, otherwise None."""
    try:
        row: Any = json.loads(line)
        content = {key: value for key, value in row.items() if key != CHAIN}
        part, step = row["part"], row["step"]
        if any(type(x) is not int or x < 0 for x in (part, step, content.get(LOST, 1))):
            return None
        same = _line(content, heads.get(part, ""))[0] == line
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return None
    return row if same else None
