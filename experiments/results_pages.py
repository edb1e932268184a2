"""The tables of docs/results, filled in from run folders."""

import html
import importlib
import json
import pathlib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from absl import flags

from ppp_jax.analysis.inference.seeds import LEVEL
from ppp_jax.analysis.results.measure import SITES
from ppp_jax.analysis.results.verdicts import ERROR
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.texts import as_markdown
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.errors import InputError, printable, writing
from ppp_jax.files import atomic

ABOUT = """\
Fills the tables of the result pages from the run folders of the commands that the pages state.

  python -m experiments.results_pages [--check]

Cost: seconds. Outcome: each block of a page between `<!-- table: FILE`, lines of `key: value`, a
line `-->`, and a line `<!-- end -->` holds the table of that file (CSV, or FILE.md#1: the first
table of a Markdown text) in the folder of runs, and the command that made it. The keys are these.

  where    a condition on rows, as pandas.DataFrame.query takes it
  sort     columns to sort rows by; without it they keep their order
  rows     what tells the rows apart:     header = template | header = template
  columns  what else is shown:            header = template | header = template
  across   what tells columns apart, a template: there is every one of `columns` for each

A template is a text with {column} or {column:format}. Formats are .N (decimals), +.N (with the
sign), % (whole percents), p (a p-value), * (a star where the column is at most .05), label (what
figures call a statistic). A template # CONDITION counts rows. The command ends with status 1
if a run folder is missing, if its study says that another command made it than its page states (the
ablation's report and redirected outputs do not say), and with --check if a page is not what the run
folders give.
"""

# Of a whole page: its blocks; a block's body is what is written anew.
BLOCK = re.compile(
    r"(?P<head>^<!-- table: (?P<file>\S+)\n(?P<keys>.*?)^-->\n).*?(?P<end>^<!-- end -->$)",
    re.DOTALL | re.MULTILINE,
)
KEYS = ("where", "sort", "rows", "columns", "across")
FIELD = re.compile(r"\{([^{}]+)\}")
RUNS = "runs"  # where commands of pages leave their run folders
THIS_RUN = re.compile(r"<h2>This run</h2><pre>(.*?)\n[-0-9]{10}, (ppp_jax [^\n<]*)", re.DOTALL)


class Spec(NamedTuple):
    """What a block says of its table.

    Attributes:
      file: The table's file in the folder of runs.
      where: A condition on rows, or nothing.
      sort: The columns to sort by.
      rows: Header and template of what tells rows apart.
      columns: Header and template of what else is shown.
      across: The template of what tells columns apart, or nothing.
    """

    file: str
    where: str
    sort: tuple[str, ...]
    rows: dict[str, str]
    columns: dict[str, str]
    across: str

    @property
    def folder(self) -> str:
        """The run folder, or the file of the output, in the folder of runs."""
        return self.file.partition("#")[0].partition("/")[0]


class Made(NamedTuple):
    """The command that made a run folder, and versions; nothing where nobody wrote it down."""

    command: str
    versions: str


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("runs", RUNS, "the folder in which the run folders are")
    flags.DEFINE_string("pages", "docs/results", "the folder in which the pages are")
    flags.DEFINE_bool("check", False, "change nothing, and say whether pages are out of date")


def command() -> None:
    """Fills the pages, or checks them, as the flags say."""
    values = flags.FLAGS
    runs, folder = (pathlib.Path(path).expanduser() for path in (values.runs, values.pages))
    paths = sorted(folder.glob("*.md"))
    if not paths:
        raise InputError("pages", folder, "has no Markdown page; run this in the repository")
    filled = {path: fill(path, runs) for path in paths}
    stale = [path for path, text in filled.items() if text != path.read_text(encoding="utf-8")]
    if values.check and stale:
        names = ", ".join(path.name for path in stale)
        problem = f"{names}: not what the run folders give; leave --check out to write them anew"
        raise InputError("pages", folder, problem)
    for path in stale:
        with writing("pages", path):
            atomic.write_text(path, filled[path])
        print(f"written: {printable(path)}")
    print(f"{len(paths)} pages, {sum(len(blocks(text)) for text in filled.values())} tables")


def fill(page: pathlib.Path, runs: pathlib.Path) -> str:
    """Returns a page with the tables that the run folders give.

    Args:
      page: The page.
      runs: The folder in which the run folders are.

    Raises:
      InputError: a folder, file or column is missing, or a block cannot be understood.
    """
    text = page.read_text(encoding="utf-8")
    stated = commands(text)
    if len(blocks(text)) != text.count("<!-- table:"):
        raise InputError("pages", page, "has a block without an end, or without a line -->")

    def filled(found: re.Match[str]) -> str:
        spec = parse(page, found)
        if spec.folder not in stated:
            problem = f"states no command that makes {RUNS}/{spec.folder}, of which it has a table"
            raise InputError("pages", page, problem)
        content = _content(page, runs, spec, stated[spec.folder])
        return f"{found['head']}{content}\n{found['end']}"

    return BLOCK.sub(filled, text)


def _content(page: pathlib.Path, runs: pathlib.Path, spec: Spec, stated: str) -> str:
    """Returns a block's table and the line below it."""
    given = made(runs / spec.folder)
    if given.command and shlex.split(given.command) != shlex.split(stated):
        problem = f"{page} states `{stated}`, but it was made by `{given.command}`"
        raise InputError("runs", runs / spec.folder, problem)
    try:
        table = render(_source(page, runs, spec, stated), spec)
    except InputError:
        raise
    except (KeyError, ValueError, SyntaxError, pd.errors.UndefinedVariableError) as error:
        problem = f"table {spec.file}: {' '.join(map(str, error.args))}"
        raise InputError("pages", page, problem) from error
    versions = f" with {given.versions}" if given.versions else ""
    return f"{table}\n\n*Made by `{stated}`{versions}.*"


def blocks(text: str) -> list[str]:
    """Returns the generated blocks of a page.

    Args:
      text: The page.
    """
    return [found.group() for found in BLOCK.finditer(text)]


def commands(text: str) -> dict[str, str]:
    r"""Returns the commands that a page states, by what they leave in the folder of runs.

    Args:
      text: The page.

    Example:
      >>> commands("```sh\npython -m experiments.certify > runs/certify.md\n```")
      {'certify.md': 'python -m experiments.certify > runs/certify.md'}
    """
    found = {}
    for shell in re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for line in re.sub(r"\\\n\s*", "", shell).splitlines():
            words = shlex.split(line)
            if words[:2] == ["python", "-m"] and words[2].startswith("experiments."):
                found[_leaves(words)] = shlex.join(words).replace("'>'", ">")
    return found


def _leaves(words: Sequence[str]) -> str:
    """Returns the name in the folder of runs of what a command leaves there."""
    if ">" in words:
        return pathlib.PurePath(words[words.index(">") + 1]).name
    for word in words:
        if word.startswith("--workdir="):
            return pathlib.PurePath(word.partition("=")[2]).name
    known = getattr(importlib.import_module(words[2]), "EXPERIMENT", None)
    return pathlib.PurePath(known.workdir if known else words[2].partition(".")[2]).name


def parse(page: pathlib.Path, found: re.Match[str]) -> Spec:
    """Returns what a block says of its table.

    Args:
      page: The page, for errors.
      found: The block.

    Raises:
      InputError: a line is no key with a value, or a key is unknown or missing.
    """
    keys = dict.fromkeys(KEYS, "")
    for line in found["keys"].splitlines():
        key, colon, value = line.partition(": ")
        if key not in KEYS or not colon:
            problem = f"table {found['file']}: {line!r} is no line of {', '.join(KEYS)}"
            raise InputError("pages", page, problem)
        keys[key] = value.strip()
    if not keys["rows"] or not keys["columns"]:
        raise InputError("pages", page, f"table {found['file']}: say rows and columns")
    return Spec(
        file=found["file"],
        where=keys["where"],
        sort=tuple(name.strip() for name in keys["sort"].split(",") if name.strip()),
        rows=_templates(keys["rows"]),
        columns=_templates(keys["columns"]),
        across=keys["across"],
    )


def _templates(text: str) -> dict[str, str]:
    """Returns `header = template | header = template` as templates by headers."""
    pairs = [one.partition(" = ") for one in text.split(" | ")]
    return {header.strip(): template.strip() for header, _, template in pairs}


def _source(page: pathlib.Path, runs: pathlib.Path, spec: Spec, stated: str) -> pd.DataFrame:
    """Reads the file of a block, whole.

    Raises:
      InputError: it is not there; naming page, folder and command.
    """
    name, _, number = spec.file.partition("#")
    path = runs / name
    if not path.is_file():
        problem = f"{page} needs {runs / name}, which is missing; make it by `{stated}`"
        raise InputError("runs", runs / spec.folder, problem)
    if path.suffix == ".csv":
        return pd.read_csv(path, keep_default_na=False, na_values=["", "nan"])
    return read_markdown(path.read_text(encoding="utf-8"), int(number or 1))


def read_markdown(text: str, number: int) -> pd.DataFrame:
    r"""Returns a table of a Markdown text, all of whose cells are texts.

    Args:
      text: The text.
      number: Which table, counted from 1.

    Raises:
      ValueError: there are not as many.

    Example:
      >>> read_markdown("| a | b |\n|---|---|\n| 1 | 2 |", 1).to_dict("records")
      [{'a': '1', 'b': '2'}]
    """
    found = re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    if not 0 < number <= len(found):
        raise ValueError(f"there are {len(found)} tables in the text, and no number {number}")
    lines = found[number - 1].splitlines()
    header, _, *body = ([cell.strip() for cell in line[1:-1].split(" | ")] for line in lines)
    return pd.DataFrame(body, columns=header)


def made(folder: pathlib.Path) -> Made:
    """Returns what a run folder says of the command and the versions that made it.

    Args:
      folder: The run folder, or a file of a command's output, which says nothing of it.
    """
    page = folder / "study" / "index.html"
    if page.is_file():
        found = THIS_RUN.search(page.read_text(encoding="utf-8"))
        if found:
            return Made(html.unescape(found[1]), html.unescape(found[2]))
    manifest = folder / "manifest.json"
    if manifest.is_file():
        entries = json.loads(manifest.read_text(encoding="utf-8"))
        versions = f"ppp_jax {entries['ppp_jax']}, jax {entries['packages']['jax']}"
        return Made("", versions)
    return Made("", "")


def render(source: pd.DataFrame, spec: Spec) -> str:
    """Returns the Markdown table that a block asks for.

    Args:
      source: The file's table.
      spec: What the block says.

    Raises:
      KeyError: a column is missing.
      ValueError: no row is left, two rows fall into one cell, or a format is unknown.
    """
    chosen = source.query(spec.where) if spec.where else source
    if spec.sort:
        chosen = chosen.sort_values(list(spec.sort), kind="stable")
    if chosen.empty:
        raise ValueError(f"no row has {spec.where}")
    heads = _each(chosen, spec.rows.values())
    places = _each(chosen, [spec.across]) if spec.across else [()] * len(chosen)
    headers = {place: _headers(spec, place) for place in dict.fromkeys(places)}
    body = []
    for head in dict.fromkeys(heads):
        line = list(head)
        for place in headers:
            pairs = zip(heads, places, strict=True)
            here = chosen[[pair == (head, place) for pair in pairs]]
            line += [_cell(here, template) for template in spec.columns.values()]
        body.append(line)
    return as_markdown([*spec.rows, *(name for names in headers.values() for name in names)], body)


def _each(table: pd.DataFrame, templates: Iterable[str]) -> list[tuple[str, ...]]:
    """Returns the texts of some templates for every row."""
    wanted = list(templates)
    return [tuple(text_of(row, template) for template in wanted) for row in _records(table)]


def _records(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    yield from table.to_dict("records")


def _headers(spec: Spec, place: tuple[str, ...]) -> list[str]:
    """Returns the headers of the columns of one place across."""
    if not place:
        return list(spec.columns)
    return [f"{place[0]}, {name}" if len(spec.columns) > 1 else place[0] for name in spec.columns]


def _cell(here: pd.DataFrame, template: str) -> str:
    """Returns a cell's text: of its one row, or a count; of no row it is empty."""
    if template.startswith("#"):
        return f"{len(here.query(template[1:].strip()))} of {len(here)}" if len(here) else ""
    if len(here) > 1:
        raise ValueError(f"{len(here)} rows fall into one cell of {template}")
    return "".join(text_of(row, template) for row in _records(here))


def text_of(row: dict[str, Any], template: str) -> str:
    """Returns a template filled in with a row's values; empty if one of them is missing.

    Args:
      row: Values by columns.
      template: The template.

    Raises:
      KeyError: a column is missing.
      ValueError: a format is unknown.

    Example:
      >>> text_of({"z": -2.345, "q": 0.01, "name": "tanh"}, "{name} {z:.1}{q:*}")
      'tanh −2.3*'
    """
    texts = []
    for field in FIELD.findall(template):
        column, _, form = (field, "", "") if field in row else field.rpartition(":")
        if column not in row:
            raise KeyError(f"there is no column {column or field}; there are {', '.join(row)}")
        texts.append(formatted(row[column], form))
    if None in texts:
        return ""
    parts = iter(texts)
    return FIELD.sub(lambda _: str(next(parts)), template)


def formatted(value: Any, form: str) -> str | None:
    """Returns a value as a format writes it; None of a missing one.

    Args:
      value: The value.
      form: The format, as the command's help explains them.

    Raises:
      ValueError: there is no such format.

    Example:
      >>> formatted(-0.004, ".2"), formatted(0.5, "+.1"), formatted(0.0004, "p")
      ('0.00', '+0.5', '< .001')
    """
    if form == "*":
        return "*" if value <= LEVEL else ""
    if isinstance(value, float) and np.isnan(value):
        return None
    if form == "label":
        return label(value)
    if form == "p":
        return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0")
    if form == "%":
        return f"{value:.0%}"
    if not form:
        return f"{value:g}" if isinstance(value, float) else str(value)
    wanted = re.fullmatch(r"(\+?)\.([0-9])", form)
    if not wanted:
        raise ValueError(f"there is no format {form}")
    text = f"{value:{wanted[1]}.{wanted[2]}f}"
    zero = not re.search("[1-9]", text)
    return text.lstrip("+-") if zero else text.replace("-", "−")


def label(name: str) -> str:
    """Returns what a page calls a quantity of a table.

    Args:
      name: Of a statistic, with or without the site, or the error's.

    Example:
      >>> label("c4_pre"), label("unit_kurtosis_excess"), label("test_mse")
      ('alignment C4, pre', 'unit kurtosis above null', 'held-out MSE')
    """
    if name == ERROR:
        return "held-out MSE"
    stem, _, end = name.rpartition("_")
    if end == "excess":
        return f"{registry.label_of(stem)} above null"
    return f"{registry.label_of(stem)}, {end}" if end in SITES else registry.label_of(name)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the command."""
    experiment_flags.run(command, define=define, about=ABOUT, argv=argv)


if __name__ == "__main__":
    main()
