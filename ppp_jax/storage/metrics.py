"""The lines of `metrics.jsonl`, chained so that none can change, vanish or move unnoticed.

Each line ends with a digest of itself and of the line before it of the same part, the first with
one of what the part is (`manifest.identity`); the chain of a part depends on nothing else, so that
runs of other histories have equal files.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from ppp_jax.files.integrity import digest

CHAIN, CHAIN_LENGTH = "chain", 16
LOST = "lost"  # the entry of a line that stands for lines lost
LONGEST_LINE = 2**26  # bytes, of millions of runs
FIRST_LOOK = 2**16


class Part(NamedTuple):
    """What a file of metrics should hold of a part.

    Attributes:
      identity: of the part, from which its chain starts.
      cells: how many lines there are for each step.
    """

    identity: str
    cells: int


class Found(NamedTuple):
    """What a file of metrics holds.

    Attributes:
      lines: those that count, in order.
      heads: of each part, the digest of its last line that counts.
      incomplete: parts of which lines that should be there are not.
      problem: what is wrong, or None.
    """

    lines: list[bytes]
    heads: dict[int, str]
    incomplete: list[int]
    problem: str | None

    def mended(self, parts: Sequence[Part], steps: Sequence[int | None]) -> bytes:
        """Returns the file's content, with a line in place of all that a part has lost.

        Args:
          parts: what should be there of each.
          steps: of each part's checkpoint.
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
    """Appends lines of a part.

    Args:
      path: the file.
      part: whose lines they are.
      identity: of the part, from which its chain starts.
      rows: their entries, `part` and `step` first.
    """
    head, lines = _head(path, part) or identity, []
    for row in rows:
        line, head = _line(row, head)
        lines.append(line)
    with path.open("ab") as file:
        file.write(b"".join(lines))


def _head(path: pathlib.Path, part: int) -> str:
    """Returns the digest of a part's last line, looked for from the file's end; or nothing."""
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
    """Reads the lines up to each part's checkpoint, and says whether they are all there.

    What stands behind a checkpoint does not count: a killed process left it.

    Args:
      path: the file, which need not exist.
      parts: what should be there of each.
      steps: of each part's checkpoint, None if it has none; may be shorter.
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
        return "is gone" if incomplete else None
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
    """Returns a line's entries if it is the next of its part, as it was written."""
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
