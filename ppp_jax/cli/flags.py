"""Command-line flags shared by the experiments, and the function that runs a main.

Flags of a grid's axes are lists separated by commas. Whole numbers can also be ranges,
`start:stop` or `start:stop:step`, which exclude `stop` as in Python.

Flags are defined only while their main runs. So importing a main defines no flags, and mains with
equally named flags can run in one process one after the other.

The value of every flag, including absl's own, is checked before it is used. It must not be empty or
contain control characters, numbers must consist of ASCII digits, and a path must be valid.
"""

import contextlib
import dataclasses
import errno
import functools
import io
import itertools
import os
import pathlib
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from absl import app, flags, logging

from ppp_jax.analysis.limits import ROTATIONS
from ppp_jax.analysis.projection.isotropic_null import ENOUGH_POINTS
from ppp_jax.cli import probes, runtime
from ppp_jax.engine.interrupts import Stopped
from ppp_jax.errors import InputError, printable, shortened
from ppp_jax.grid.grid import MAX_COUNT, MAX_VALUES, Grid, axes_of
from ppp_jax.sweep import observers

app.define_help_flags()  # defined here once, so that no main defines and later removes them

USER_ERROR, SYNTAX_ERROR, FAILED, INTERRUPTED, UNREAD = 1, 2, 3, 130, 141
MOST_ROTATIONS = 100_000
EPSILON = 0.85
LARGEST_FLAG_FILE = 2**20  # most bytes of a flag file
MOST_FLAG_FILES = 100
EMPTY = "is empty (perhaps an unset shell variable); give a value, or leave the flag out"
PATHS = ("workdir", "data", "out", "latents", "basis", "compilation_cache", "flagfile", "log_dir")
_NUMBER = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?(nan|inf)"
_INTEGER = r"[-+]?[0-9]{1,40}"


class _ListParser(flags.ArgumentParser):
    """Parses a list separated by commas. absl turns its ValueError into a syntax error."""

    syntactic_help = "values separated by commas"

    def __init__(self, item: Callable[[str], list[Any]]):
        super().__init__()
        self.item = item

    def parse(self, argument: str | Sequence[Any]) -> tuple[Any, ...]:
        """Returns the listed values, with ranges expanded."""
        if not isinstance(argument, str):
            return tuple(argument)
        pieces = [piece.strip() for piece in argument.split(",")] if argument.strip() else []
        return tuple(value for piece in pieces for value in self.item(piece))

    def flag_type(self) -> str:
        """Returns the name of the type for the help text."""
        return "comma list"


class _ListSerializer(flags.ArgumentSerializer):
    def serialize(self, value: Any) -> str:
        return str(value) if isinstance(value, int | str) else ",".join(str(x) for x in value)


class _CountParser(flags.ArgumentParser):
    """Parses a whole number between two bounds."""

    syntactic_help = "a whole number"

    def __init__(self, least: int, most: int):
        super().__init__()
        self.least, self.most = least, most

    def parse(self, argument: str | int) -> int:
        """Returns the number."""
        number = int(argument)
        if not self.least <= number <= self.most:
            raise ValueError(f"must be a whole number from {self.least:,} to {self.most:,}")
        return number

    def flag_type(self) -> str:
        """Returns the name of the type for the help text."""
        return "integer"


class _AutoParser(flags.IntegerParser):
    """Parses a whole number, or the word `auto`."""

    syntactic_help = "auto or a whole number"

    def parse(self, argument: str | int) -> Any:
        """Returns the number, or the word."""
        return argument if argument == probes.AUTO else super().parse(argument)


class _Checked(flags.ArgumentParser):
    """Checks a flag's text before the flag's own parser reads it.

    absl would accept numbers in any alphabet and with underscores.
    """

    def __init__(self, name: str, inner: Any):
        super().__init__()
        self.name, self.inner, self.syntactic_help = name, inner, inner.syntactic_help

    def parse(self, argument: Any) -> Any:
        """Returns the result of the flag's own parser.

        Raises:
          InputError: The value is not valid.
        """
        if isinstance(argument, str):
            _check_text(self.name, argument, self.inner)
        try:
            return self.inner.parse(argument)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(self.name, argument, str(error)) from None

    def flag_type(self) -> str:
        """Returns the name of the type for the help text."""
        kind: str = self.inner.flag_type()
        return kind


def _check_text(name: str, text: str, parser: Any) -> None:
    """Raises `InputError` for invalid texts, some of which the flag's own parser would accept."""
    if not text.strip():
        raise InputError(name, text, EMPTY)
    if printable(text) != text:
        raise InputError(
            name, text, "has control characters, or bytes that are not UTF-8; remove them"
        )
    whole = isinstance(parser, flags.IntegerParser | _CountParser)
    automatic = isinstance(parser, _AutoParser)
    if whole and not re.fullmatch(_INTEGER, text) and not (automatic and text == probes.AUTO):
        or_auto = f"{probes.AUTO} or " if automatic else ""
        raise InputError(name, text, f"must be {or_auto}a whole number")
    if isinstance(parser, flags.FloatParser):
        _check_number(text, lambda problem: InputError(name, text, problem))
    if name in PATHS:
        _check_path(name, text)


def _check_number(text: str, error: Callable[[str], Exception]) -> None:
    if not re.fullmatch(_NUMBER, text, re.IGNORECASE):
        raise error("is not a number")


def _check_path(name: str, text: str) -> None:
    """Raises `InputError` for a path that cannot exist on this system."""
    try:
        os.stat(pathlib.Path(text).expanduser())
    except RuntimeError:
        raise InputError(
            name, text, "names a user (~) who does not exist on this machine"
        ) from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise InputError(name, text, f"cannot be a path ({error.strerror})") from None


def _integers(piece: str) -> list[int]:
    if not re.fullmatch(r"-?[0-9]+(:-?[0-9]+){0,2}", piece) or len(piece) > 100:
        raise ValueError(f"{shortened(piece)!r} is not a whole number or a range start:stop[:step]")
    numbers = [int(number) for number in piece.split(":")]
    if len(numbers) == 1:
        return numbers
    if len(numbers) == 3 and numbers[2] <= 0:
        raise ValueError(f"{piece!r} needs a positive step")
    start, stop, step = (*numbers, 1)[:3]
    count = -(-(stop - start) // step)
    if count <= 0:
        raise ValueError(f"the range {piece!r} is empty; its stop must exceed its start")
    if count > MAX_VALUES:
        raise ValueError(f"the range {piece!r} has {count:,} values; give at most {MAX_VALUES:,}")
    return list(range(*numbers))


def _numbers(piece: str) -> list[float]:
    _check_number(piece, lambda problem: ValueError(f"{shortened(piece)!r} {problem}"))
    return [float(piece)]


def _names(piece: str) -> list[str]:
    if not piece:
        raise ValueError("a name is missing between two commas")
    return [piece]


def _define_list(name: str, item: Callable[[str], list[Any]], text: str, default: Any) -> None:
    flags.DEFINE(_ListParser(item), name, default, text, serializer=_ListSerializer())


def define_names(name: str, text: str) -> None:
    """Defines a flag that takes names separated by commas, and is None by default.

    Args:
      name: Name of the flag.
      text: Help text of the flag.
    """
    _define_list(name, _names, text, None)


def define_count(name: str, default: int | None, text: str, *, least: int, most: int) -> None:
    """Defines a flag that takes a whole number between bounds.

    Args:
      name: Name of the flag.
      default: Default value.
      text: Help text of the flag.
      least: Smallest valid number.
      most: Largest valid number. Larger ones are taken for typing errors, because they would fill
        memory or run without end.
    """
    flags.DEFINE(_CountParser(least, most), name, default, text, serializer=_ListSerializer())


def define_numbers(name: str, default: Sequence[float], text: str) -> None:
    """Defines a flag that takes numbers separated by commas.

    Args:
      name: Name of the flag.
      default: Default values.
      text: Help text of the flag.
    """
    _define_list(name, _numbers, text, tuple(default))


def define_rotations() -> None:
    """Defines the flag `--rotations`, the number of random rotations of a test."""
    text = (
        "number of random rotations that each alignment is compared with; reports of "
        "several seeds hold angles against half of them and dips against a quarter, but at least 49"
    )
    define_count("rotations", ROTATIONS, text, least=1, most=MOST_ROTATIONS)


@contextlib.contextmanager
def bound(define: Callable[[], None]) -> Iterator[None]:
    """Defines a main's flags, and those of `runtime.define`, for the duration of the block.

    Args:
      define: Function that defines the flags of the main, by `flags.DEFINE_string` of absl and by
        `define`, `define_names`, `define_count` and `define_numbers` of this module.
    """
    before = set(flags.FLAGS)
    runtime.define()
    define()
    ours = sorted(set(flags.FLAGS) - before)
    for name in ours:  # absl then lists them in --help as the flags of the main
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    try:
        yield
    finally:
        for name in set(ours) & set(flags.FLAGS):
            delattr(flags.FLAGS, name)


def define(grid: Grid, *, workdir: str, epsilon: float = EPSILON) -> None:
    """Defines the flags of a grid and of its report, with the defaults of an experiment.

    Args:
      grid: Default grid of the experiment.
      workdir: Default run folder.
      epsilon: Default acceptance cosine ε of PPP pictures.
    """
    lists: dict[type, Callable[[str], list[Any]]] = {str: _names, int: _integers, float: _numbers}
    single: dict[type, Callable[..., Any]] = {str: flags.DEFINE_string, int: flags.DEFINE_integer}
    for name, axis in axes_of().items():
        if axis.several:
            _define_list(name, lists[axis.kind], axis.text(), getattr(grid, name))
        elif name == "probe_samples":
            _define_probes(grid.probe_samples, axis.text())
        else:
            single[axis.kind](name, getattr(grid, name), axis.text())
    _define_handling(workdir, epsilon)


def _define_probes(default: int, text: str) -> None:
    """Defines `--probe_samples`, which may be `auto`."""
    text = (
        f"{text}; auto takes that of the workdir, or as many as let every picture of isotropic "
        f"latents expect {ENOUGH_POINTS:,} points, at most all; the default becomes auto where it "
        "would leave an experiment’s picture empty"
    )
    flags.DEFINE(_AutoParser(), "probe_samples", default, text, serializer=_ListSerializer())


def _define_handling(workdir: str, epsilon: float) -> None:
    """Defines the flags that determine how a grid is trained and analysed."""
    flags.DEFINE_float("epsilon", epsilon, "acceptance cosine of the PPP pictures, in [0, 1]")
    flags.DEFINE_bool(
        "measure", False, "with --dry_run, compile and time a short chunk, for better predictions"
    )
    define_rotations()
    flags.DEFINE_string(
        "workdir", workdir, "run folder; the same command continues an interrupted run in it"
    )
    flags.DEFINE_bool("dry_run", False, "print what would be done, and do nothing")
    flags.DEFINE_bool("overwrite", False, "replace an earlier run in the workdir")
    flags.DEFINE_string(
        "seed_batch",
        "auto",
        "number of runs that a device trains at a time, on which bits depend; auto takes that of "
        "the workdir, or one that suits cache or memory",
    )
    flags.DEFINE_string(
        "profile_steps",
        None,
        "steps start:stop of which JAX's profiler writes a trace to profile/ in the workdir; the "
        "whole chunks of steps that hold them are traced",
    )
    _define_list(
        "log_to",
        _names,
        f"where losses are logged: {', '.join(observers.LOGS)}; jsonl, the workdir's "
        "metrics.jsonl, is always written",
        (observers.JSONL,),
    )
    flags.DEFINE_bool(
        "allow_inexact_resume",
        False,
        "continue under other versions, another kind of device or another seed batch than the "
        "workdir's, though it changes bits",
    )


def grid() -> Grid:
    """Returns the grid that the parsed flags describe, with the default number for `auto`."""
    values = flags.FLAGS.flag_values_dict()
    if values["probe_samples"] == probes.AUTO:
        values["probe_samples"] = flags.FLAGS["probe_samples"].default
    return Grid(**{field.name: values[field.name] for field in dataclasses.fields(Grid)})


def tell_single_numbers(grid: Grid) -> None:
    """Explains on stderr a single number that the user can have meant as a count or a range.

    Args:
      grid: Grid that the flags describe.
    """
    if flags.FLAGS["seeds"].present and len(grid.seeds) == 1 and grid.seeds[0] > 1:
        (seed,) = grid.seeds
        print(f"seeds: one seed, {seed}; for {seed} seeds give 0:{seed}", file=sys.stderr)
    if flags.FLAGS["snapshots"].present and len(grid.snapshots) == 1 and grid.snapshots[0] > 1:
        (epoch,) = grid.snapshots
        kept = ", ".join(str(e) for e in grid.snapshot_epochs)
        print(
            f"snapshots: {len(grid.snapshot_epochs)} (after epochs {kept}); for snapshots after "
            f"each of the first {epoch} epochs give 0:{epoch + 1}",
            file=sys.stderr,
        )


def given_probes() -> int | str | None:
    """Returns the value of `--probe_samples`, or None if it was not given."""
    flag = flags.FLAGS["probe_samples"]
    return flag.value if flag.present else None


def training_options() -> dict[str, Any]:
    """Returns the keyword arguments of `sweep.train` and `plan.plan` that flags set.

    Raises:
      InputError: `--seed_batch` is neither auto nor a positive whole number.
    """
    values = flags.FLAGS
    number = re.fullmatch("[1-9][0-9]{0,9}", values.seed_batch)
    if values.seed_batch != "auto" and not (number and int(values.seed_batch) <= MAX_COUNT):
        problem = f"must be auto or a positive whole number, at most {MAX_COUNT:,}"
        raise InputError("seed_batch", values.seed_batch, problem)
    return {
        "seed_batch": None if values.seed_batch == "auto" else int(values.seed_batch),
        "overwrite": values.overwrite,
        "allow_inexact_resume": values.allow_inexact_resume,
    }


def watched() -> dict[str, Any]:
    """Returns the keyword arguments of `sweep.train` that say what is watched.

    Raises:
      InputError: `--profile_steps` is no range of steps, or a log of `--log_to` cannot be written.
    """
    values = flags.FLAGS
    steps, text = None, values.profile_steps
    if text is not None:
        found = re.fullmatch("([0-9]{1,15}):([0-9]{1,15})", text)
        if found is None:
            problem = "must be a range of steps, start:stop, such as 10:20"
            raise InputError("profile_steps", text, problem)
        steps = int(found[1]), int(found[2])
    return observers.checked(steps, values.log_to)._asdict()


@contextlib.contextmanager
def naming(flag: str) -> Iterator[None]:
    """Puts a flag's name into an error about the path that the flag gives.

    Args:
      flag: Name of the flag.
    """
    try:
        yield
    except InputError as error:
        if error.field != "path":
            raise
        raise InputError(flag, error.value, error.problem) from error


def _check_every_flag() -> None:
    """Puts `_Checked` before the parser of every defined flag."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        inner = flag.parser.inner if isinstance(flag.parser, _Checked) else flag.parser
        flag.parser = _Checked(name, inner)


def _check_flag_file(named: str, within: tuple[str, ...], seen: list[str]) -> None:
    """Checks a flag file, because absl would read pipes, devices and huge files without a limit.

    Args:
      named: Path of the file, as written in the arguments or in another file.
      within: Paths of the files that lead to this one.
      seen: Paths of all files so far, to which this one is added.

    Raises:
      InputError: The file, or one that it names, is not a regular file or is too large, or there
        are too many files.
    """
    path = os.path.expanduser(named.strip())
    seen.append(path)
    if len(seen) > MOST_FLAG_FILES:
        raise InputError(
            "flagfile", seen[0], f"names more than {MOST_FLAG_FILES} files; give fewer"
        )
    if path in within:  # absl ignores it with a warning, which `_with_files` raises
        return
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError("flagfile", named, "is not a regular file")
        with open(path, "rb") as file:
            text = file.read(LARGEST_FLAG_FILE + 1)
    except OSError:  # absl reports it
        return
    if len(text) > LARGEST_FLAG_FILE:
        raise InputError("flagfile", named, f"is larger than {LARGEST_FLAG_FILE:,} bytes")
    for line in text.decode(errors="replace").splitlines():
        if re.match("--?flagfile=", line):
            _check_flag_file(line.partition("=")[2], (*within, path), seen)


def _with_files(arguments: list[str]) -> list[str]:
    """Returns the arguments, with `--flagfile` replaced by the arguments in the file."""
    seen: list[str] = []
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        flag, given, path = argument.partition("=")
        if flag not in ("-flagfile", "--flagfile") or not (given or following):
            continue
        try:
            if given:
                _check_text("flagfile", path, None)
            _check_flag_file(path if given else following, (), seen)
        except InputError as error:
            raise flags.Error(f"--{error}") from error
    warnings = io.StringIO()
    try:
        with contextlib.redirect_stderr(warnings):
            found: list[str] = flags.FLAGS.read_flags_from_files(arguments)
    except UnicodeDecodeError:
        raise flags.Error("--flagfile: the file has bytes that are not UTF-8") from None
    if warnings.getvalue():  # absl warns of a file that names itself, and ignores it
        raise flags.Error(f"--flagfile: {warnings.getvalue().removeprefix('Warning: ')}")
    return found


def _refuse(text: str) -> None:
    print(f"error: {text}", file=sys.stderr, flush=True)
    sys.exit(SYNTAX_ERROR)


def _hint(name: str) -> str:
    """Returns what to give instead of a flag that other commands have."""
    if name == "workdir" and "latents" in flags.FLAGS:
        return "; --latents names the run folder to read, and --out the folder to write"
    return ""


def _parse(arguments: list[str], *, about: str) -> list[str]:
    rest: list[str] = []
    _check_every_flag()
    flags.FLAGS["help"].parse = functools.partial(_explain, about)  # type: ignore[method-assign]
    try:
        rest = flags.FLAGS(_with_files(arguments))
    except SystemExit:  # --help has been printed; absl takes that for a failure
        sys.exit(0)
    except flags.UnrecognizedFlagError as error:
        message = shortened(printable(" ".join(str(error).split())))
        _refuse(f"{message}{_hint(error.flagname)}; --help explains every flag")
    except flags.Error as error:
        reason = error.__context__
        message = f"--{reason}" if isinstance(reason, InputError) else " ".join(str(error).split())
        _refuse(f"{shortened(printable(message))}; --help explains every flag")
    except ValueError as error:  # raised for --noflag=value, and by some of absl's own flags
        message = " ".join(str(error).split())
        named = (
            message if "--" in message else f"--logger_levels: {message}"
        )  # this flag's message lacks its name
        _refuse(f"{shortened(printable(named))}; --help explains every flag")
    if len(rest) > 1:
        _refuse(f"unexpected argument '{shortened(printable(rest[1]))}'; flags begin with --")
    return rest


def _explain(about: str, argument: Any) -> None:
    """Prints the description of a main and its flags, for --help.

    absl would print the docstring of `__main__`, which `python -OO` removes.

    Args:
      about: The text.
      argument: The value that --help was given.

    Raises:
      SystemExit: The help is printed.
    """
    if flags.BooleanParser().parse(argument):
        print(f"{runtime.spelled(about.strip())}\n\nflags:\n{flags.FLAGS.main_module_help()}")
        print("\nTry --helpfull to get a list of all flags.")
        sys.exit(0)


def _no_flags() -> None:
    """Defines no flags."""


def _guarded(work: Callable[[], None], _: list[str]) -> None:
    """Runs the work of a main, and turns a failure into one line on stderr and an exit status."""
    # Errors of libraries are exceptions, and orbax would in addition log tracebacks of failed
    # saves.
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.FATAL)
    try:
        runtime.start()
        work()
    except InputError as error:
        dashes = "--" if error.field in flags.FLAGS else ""
        print(f"error: {dashes}{error}", file=sys.stderr, flush=True)
        runtime.leave(USER_ERROR)
    except KeyboardInterrupt as request:
        resumes = "overwrite" in flags.FLAGS
        more = ", and the same command continues from there (without --overwrite)"
        text = f"\ninterrupted; saved results are kept{more if resumes else ''}"
        print(text, file=sys.stderr)
        runtime.leave(INTERRUPTED, together=isinstance(request, Stopped))
    except BrokenPipeError:
        _discard_output()
        runtime.leave(UNREAD)
    except Exception as error:
        if not jax.distributed.is_initialized():
            raise
        runtime.explain_failure(error)
        runtime.leave(FAILED)


def run(
    work: Callable[[], None],
    *,
    define: Callable[[], None] = _no_flags,
    about: str | None = "",
    argv: list[str] | None = None,
) -> None:
    """Runs a main. An invalid setting is reported in one line on stderr, without a traceback.

    JAX is set up first, with its devices, its compilation cache and the other processes. The exit
    status is 1 for an invalid setting, 2 for flags that cannot be parsed, 3 if one of several
    processes fails, which ends all of them, 130 after Ctrl-C, and 141 if the reader of the output
    has closed it, as `head` does.

    Args:
      work: Function to run once the flags are parsed.
      define: Function that defines the flags of this main, which are removed when the main ends.
      about: Text that --help prints above the flags.
      argv: Command line with the program's name; None means that of the process.

    Raises:
      SystemExit: The main failed; its status is the exit status.
    """
    parse = functools.partial(_parse, about=about or "")
    try:
        try:
            with bound(define):
                app.run(functools.partial(_guarded, work), argv=argv, flags_parser=parse)
        finally:
            sys.stdout.flush()  # raises BrokenPipeError if the reader has closed the output
    except BrokenPipeError:
        _discard_output()
        sys.exit(UNREAD)


def _discard_output() -> None:
    """Redirects a closed output to nowhere, so that the interpreter's last flush does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
