"""Command-line flags shared by the experiments, and how a main is run.

Axes of a grid are comma lists; whole numbers may also be ranges, `start:stop` or
`start:stop:step`, without `stop`, as in Python.
"""

import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags, logging

from experiments import runtime
from ppp_jax import activations, architectures, data, family, models, optimizers
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.interrupts import Stopped

flags.disclaim_key_flags()  # --help lists the flags defined here under the main that asked for them

MAX_RANGE = 100_000  # more is a slip of the finger, and would take minutes to refuse otherwise
USER_ERROR, SYNTAX_ERROR, FAILED, INTERRUPTED = 1, 2, 3, 130


class _ListParser(flags.ArgumentParser):
    """Parses a comma list; absl turns its ValueError into a syntax error."""

    syntactic_help = "values separated by commas"

    def __init__(self, item: Callable[[str], list[Any]]):
        super().__init__()
        self.item = item

    def parse(self, argument: str | Sequence[Any]) -> tuple[Any, ...]:
        """Returns the listed values, ranges unfolded."""
        if not isinstance(argument, str):
            return tuple(argument)
        pieces = [piece.strip() for piece in argument.split(",")] if argument.strip() else []
        return tuple(value for piece in pieces for value in self.item(piece))

    def flag_type(self) -> str:
        """Type named in the help."""
        return "comma list"


class _ListSerializer(flags.ArgumentSerializer):
    def serialize(self, value: Sequence[Any]) -> str:
        return ",".join(str(x) for x in value)


def _integers(piece: str) -> list[int]:
    if not re.fullmatch(r"-?\d+(:-?\d+){0,2}", piece):
        raise ValueError(f"{piece!r} is not a whole number or a range start:stop[:step]")
    numbers = [int(number) for number in piece.split(":")]
    if len(numbers) == 1:
        return numbers
    if len(numbers) == 3 and numbers[2] <= 0:
        raise ValueError(f"{piece!r} needs a positive step")
    values = range(*numbers)
    if not values:
        raise ValueError(f"the range {piece!r} is empty; its stop must exceed its start")
    if len(values) > MAX_RANGE:
        raise ValueError(f"the range {piece!r} has {len(values):,} values; at most {MAX_RANGE:,}")
    return list(values)


def _numbers(piece: str) -> list[float]:
    try:
        return [float(piece)]
    except ValueError:
        raise ValueError(f"{piece!r} is not a number") from None


def _names(piece: str) -> list[str]:
    if not piece:
        raise ValueError("a name is missing between two commas")
    return [piece]


def _define_list(name: str, item: Callable[[str], list[Any]], text: str, default: Any) -> None:
    flags.DEFINE(_ListParser(item), name, default, text, serializer=_ListSerializer())


def define_numbers(name: str, default: Sequence[float], text: str) -> None:
    """Defines a flag that takes numbers separated by commas.

    Args:
      name: of the flag.
      default: what it is if not given.
      text: its help.
    """
    _define_list(name, _numbers, text, tuple(default))


def define(grid: Grid, *, workdir: str) -> None:
    """Defines the flags of a grid and of its report, with the defaults of an experiment.

    Args:
      grid: the experiment's defaults.
      workdir: the default run folder.
    """
    flags.adopt_module_key_flags(runtime)
    lists: dict[str, tuple[Callable[[str], list[Any]], str]] = {
        "activations": (_names, f"one compiled cell each: {', '.join(activations.ACTIVATIONS)}, "
                                f"or {', '.join(family.FORMS)}"),
        "depths": (_integers, "hidden layers on each side of the bottleneck"),
        "widths": (_integers, "units of each hidden layer"),
        "latent_widths": (_integers, "units of the bottleneck"),
        "optimizers": (_names, f"of {', '.join(optimizers.OPTIMIZERS)}"),
        "initializers": (_names, f"of {', '.join(models.INITIALIZERS)}"),
        "learning_rates": (_numbers, "default: each optimizer's own"),
        "doses": (_numbers, "t of activations such as dose_tanh, from 0 (isotropic) to 1"),
        "seeds": (_integers, "of initial weights and batch order, such as 0:16"),
        "architectures": (_names, f"of {', '.join(architectures.ARCHITECTURES)}"),
        "capture": (_names, "layers kept beside the bottleneck, such as encoder_0, or all"),
        "snapshots": (_integers, "epochs after which latents are kept, besides 0 and the last; "
                                 "default: the powers of two"),
    }  # fmt: skip
    for name, (item, text) in lists.items():
        _define_list(name, item, text, getattr(grid, name))
    named = ", ".join(data.DATASETS)
    flags.DEFINE_string("data", grid.data, f"{named}, or an .npz with x_train and x_test")
    flags.DEFINE_integer("epochs", grid.epochs, "passes over the training set")
    flags.DEFINE_integer("batch_size", grid.batch_size, "samples per gradient step")
    flags.DEFINE_integer("probe_samples", grid.probe_samples, "samples whose latents are kept")
    _define_handling(workdir)


def _define_handling(workdir: str) -> None:
    """Defines the flags that say how a grid is trained and looked at, not what is trained."""
    flags.DEFINE_float("epsilon", 0.85, "acceptance cosine of the PPP pictures, in [0, 1]")
    flags.DEFINE_integer("rotations", 200, "random rotations that each alignment is held against")
    flags.DEFINE_string("workdir", workdir, "run folder; the same command continues what is there")
    flags.DEFINE_bool("dry_run", False, "say what would be done, and do nothing")
    flags.DEFINE_bool("overwrite", False, "replace an earlier run in the workdir")
    flags.DEFINE_string(
        "seed_batch",
        "auto",
        "how many runs a device trains at a time; bits depend on it; auto: the workdir's, or what "
        "suits cache or memory",
    )
    flags.DEFINE_bool(
        "allow_inexact_resume",
        False,
        "continue under other versions, another kind of device or another seed batch than the "
        "workdir's, though it changes bits",
    )


def grid() -> Grid:
    """Returns the grid that the parsed flags describe."""
    values = flags.FLAGS.flag_values_dict()
    return Grid(**{field.name: values[field.name] for field in dataclasses.fields(Grid)})


def training_options() -> dict[str, Any]:
    """Returns the keyword arguments of `sweep.train` and `plan.plan` that the flags give.

    Raises:
      InputError: `--seed_batch` is neither auto nor a positive whole number.
    """
    values = flags.FLAGS
    if values.seed_batch != "auto" and not re.fullmatch(r"[1-9]\d*", values.seed_batch):
        problem = "must be auto or a positive whole number"
        raise InputError("seed_batch", values.seed_batch, problem)
    return {
        "seed_batch": None if values.seed_batch == "auto" else int(values.seed_batch),
        "overwrite": values.overwrite,
        "allow_inexact_resume": values.allow_inexact_resume,
    }


def _parse(arguments: list[str]) -> list[str]:
    try:
        rest: list[str] = flags.FLAGS(arguments)
    except SystemExit:  # --help has been printed; absl takes that for a failure
        sys.exit(0)
    except flags.Error as error:
        text = " ".join(str(error).split())
        print(f"error: {text}; --help explains every flag", file=sys.stderr)
        sys.exit(SYNTAX_ERROR)
    if len(rest) > 1:
        print(f"error: unexpected argument {rest[1]!r}; flags begin with --", file=sys.stderr)
        sys.exit(SYNTAX_ERROR)
    return rest


def run(main: Callable[[], None], *, argv: list[str] | None = None) -> None:
    """Runs a main: a setting that cannot be used is one line on stderr, not a traceback.

    JAX is set up first: devices, compilation cache, other processes.

    Args:
      main: what to run once the flags are parsed.
      argv: the command line; by default the process's own.

    Exits with 1 for such a setting, 2 for flags that cannot be parsed, 130 after Ctrl-C, and with 3
    if one of several processes fails, which ends them all.
    """

    def guarded(_: list[str]) -> None:
        # Libraries' errors come as exceptions; orbax would log a failed save's traceback too.
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.FATAL)
        try:
            runtime.start()
            main()
        except InputError as error:
            dashes = "--" if error.field in flags.FLAGS else ""
            print(f"error: {dashes}{error}", file=sys.stderr, flush=True)
            runtime.leave(USER_ERROR)
        except KeyboardInterrupt as request:
            resumes = "overwrite" in flags.FLAGS
            more = ", and the same command continues from there (without --overwrite)"
            text = f"\ninterrupted; what is saved is kept{more if resumes else ''}"
            print(text, file=sys.stderr)
            runtime.leave(INTERRUPTED, together=isinstance(request, Stopped))
        except Exception as error:
            if not jax.distributed.is_initialized():
                raise
            runtime.explain_failure(error)
            runtime.leave(FAILED)

    app.run(guarded, argv=argv, flags_parser=_parse)
