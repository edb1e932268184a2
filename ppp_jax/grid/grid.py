"""What is swept: one frozen description of an experiment, and the cells it unfolds into.

A *cell* is one static configuration: it has its own shapes and its own code, so it is unrolled in
the one compiled program. A *run* is one cell at one learning rate, dose and seed: those are array
axes. No JAX computation happens here.
"""

import dataclasses
import itertools
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ppp_jax.data import datasets
from ppp_jax.errors import InputError, lookup
from ppp_jax.networks import architectures, functional, interpolated, optimizers
from ppp_jax.networks.activations import ACTIVATIONS

MAX_SEED = 2**31 - 1
ALL = "all"  # of the layers
MAX_LAYERS = 256  # hidden ones on each side; the compiled program holds every layer of every cell
MAX_UNITS = 2**24  # of a layer
MAX_COUNT = 2**31 - 1  # of what is counted in 32 bits: epochs, samples, steps
MAX_VALUES = 100_000  # of an axis; more is a slip of the finger
MAX_CELLS = 1_000  # each is unrolled in the compiled program


STATIC, TRACED, SETTING = "static", "traced", "setting"


class Axis(NamedTuple):
    """What is declared of one field of a grid, once: cells, growth, flags and labels follow.

    Attributes:
      kind: of its values: `str`, `int` or `float`.
      text: what the flag's help says of it; a function, since registries may have grown.
      check: raises `InputError` of a value that can never be used, given the field's name.
      role: `static` (each value is a cell of its own), `traced` (an array axis of the program), or
        `setting` (the same for all runs).
      several: whether it takes several values.
      coordinate: what one of its values is called in cells, latents and tables.
      grouped: whether the latents of its values stand in groups of their own, since sizes differ.
      optional: whether it may be empty.
      fixed: whether a finished grid keeps it as it grows.
    """

    kind: type
    text: Callable[[], str]
    check: Callable[[str, Any], None]
    role: str = SETTING
    several: bool = True
    coordinate: str = ""
    grouped: bool = False
    optional: bool = False
    fixed: bool = False


def _declared(default: Any, **about: Any) -> Any:
    """Returns a dataclass field that carries its `Axis`."""
    return dataclasses.field(default=default, metadata={"axis": Axis(**about)})


def axes_of(*roles: str) -> dict[str, Axis]:
    """Returns the declarations of a grid's fields, in their order.

    Args:
      *roles: only those of these roles; none: all.
    """
    declared = {field.name: field.metadata["axis"] for field in dataclasses.fields(Grid)}
    return {name: axis for name, axis in declared.items() if not roles or axis.role in roles}


def cell_axes() -> tuple[str, ...]:
    """Returns the coordinates of static axes that are dimensions of the latents."""
    return tuple(axis.coordinate for axis in axes_of(STATIC).values() if not axis.grouped)


def grouped_axes() -> tuple[str, ...]:
    """Returns the coordinates of static axes whose latents stand in groups of their own."""
    return tuple(axis.coordinate for axis in axes_of(STATIC).values() if axis.grouped)


def _listed(registry: Mapping[str, Any], *, before: str = "of ", after: str = "") -> Any:
    return lambda: f"{before}{', '.join(registry)}{after}"


def _name_of(get: Callable[[str], Any]) -> Callable[[str, Any], None]:
    def check(_field: str, value: Any) -> None:
        get(value)

    return check


def _within(low: int, high: int) -> Callable[[str, Any], None]:
    return lambda field, value: _check_integer(field, value, low=low, high=high)


def _anything(_field: str, _value: Any) -> None:
    """Accepts a value that only other fields, or the data, can tell to be wrong."""


_SINGLE = np.finfo(np.float32)
_NUMERIC = {
    "learning_rates": "must be a positive, finite number",
    "doses": "must be a number from 0 (isotropic) to 1 (elementwise)",
}


def _check_integer(field: str, value: Any, *, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        wanted = (
            f"at least {low}"
            if isinstance(value, int) and value < low
            else (f"from {low} to {high}")
        )
        raise InputError(field, value, f"must be a whole number, {wanted}")


def _check_rate(field: str, rate: float) -> None:
    # Trained with in single precision, where others would be zero or infinite.
    if not float(_SINGLE.tiny) <= rate <= float(_SINGLE.max):
        raise InputError(field, rate, _NUMERIC[field])


def _check_dose(field: str, t: float) -> None:
    if not 0 <= t <= 1:
        raise InputError(field, t, _NUMERIC[field])


class Cell(NamedTuple):
    """One static configuration: everything that shapes the compiled code."""

    activation: str
    depth: int
    width: int
    latent_width: int
    optimizer: str
    initializer: str
    architecture: str = "mlp"

    @property
    def shape(self) -> str:
        """What the network's size depends on."""
        kind = "" if self.architecture == "mlp" else f"{self.architecture}-"
        return f"{kind}{self.depth}x{self.width}-{self.latent_width}"

    @property
    def sizes(self) -> functional.Sizes:
        """The same as numbers."""
        return functional.Sizes(self.width, self.depth, self.latent_width)

    @property
    def name(self) -> str:
        """Readable and unique within a grid."""
        return f"{self.activation}-{self.shape}-{self.optimizer}-{self.initializer}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid of autoencoders to train, the only thing the training side of the library takes.

    The grid is the full product of its axes. Any iterable that has an order is accepted for an axis
    and kept as a tuple of Python's own names and numbers.

    Attributes:
      activations: static axis; names as `interpolated.get` reads them.
      depths: static axis; hidden layers on each side of the bottleneck.
      widths: static axis; units of each hidden layer.
      latent_widths: static axis; units of the bottleneck, at least 2.
      optimizers: static axis; keys of `optimizers.OPTIMIZERS`.
      initializers: static axis; keys of `functional.INITIALIZERS`.
      learning_rates: traced axis; if empty, each optimiser runs at its own default.
      doses: traced axis; t of activations such as `dose_tanh`, which all must be if this is not
        empty: (1 − t)·isotropic + t·elementwise.
      seeds: traced axis; a seed names initial weights and batch order, alike in every cell.
      architectures: static axis; keys of `architectures.ARCHITECTURES`.
      data: a key of `data.DATASETS` or the path of an `.npz`.
      epochs: passes over the training set; an epoch's last, incomplete batch is left out.
      batch_size: samples per step.
      snapshots: epochs after which latents are kept; 0 and the last are always among them. If
        empty: 0, the powers of two, and the last.
      probe_samples: how many training samples' latents are kept (the first ones, in the split's
        random order), at most all.
      capture: layers whose vectors are kept beside the bottleneck's, such as `encoder_0`, or `all`;
        of an architecture those that it has.

    Raises:
      InputError: an axis is empty, repeats a value or holds an unknown or impossible one.

    Example:
      >>> grid = Grid(activations=["tanh", "isotropic_tanh"], seeds=range(4), epochs=10)
      >>> grid.snapshot_epochs
      (0, 1, 2, 4, 8, 10)
      >>> len(grid.cells), grid.runs_per_cell
      (2, 4)
    """

    activations: Sequence[str] = _declared(
        ("tanh", "isotropic_tanh"),
        kind=str,
        role=STATIC,
        coordinate="activation",
        check=_name_of(interpolated.get),
        text=_listed(
            ACTIVATIONS,
            before="one compiled cell each: ",
            after=f", or {', '.join(interpolated.FORMS)}",
        ),
    )
    depths: Sequence[int] = _declared(
        (1,),
        kind=int,
        role=STATIC,
        coordinate="depth",
        check=_within(1, MAX_LAYERS),
        text=lambda: "hidden layers on each side of the bottleneck",
    )
    widths: Sequence[int] = _declared(
        (48,),
        kind=int,
        role=STATIC,
        coordinate="width",
        check=_within(1, MAX_UNITS),
        text=lambda: "units of each hidden layer",
    )
    # Two units at least in the bottleneck: one spans no plane to look at.
    latent_widths: Sequence[int] = _declared(
        (8,),
        kind=int,
        role=STATIC,
        coordinate="latent_width",
        grouped=True,
        check=_within(2, MAX_UNITS),
        text=lambda: "units of the bottleneck",
    )
    optimizers: Sequence[str] = _declared(
        ("adam",),
        kind=str,
        role=STATIC,
        coordinate="optimizer",
        check=_name_of(optimizers.get),
        text=_listed(optimizers.OPTIMIZERS),
    )
    initializers: Sequence[str] = _declared(
        ("glorot_normal",),
        kind=str,
        role=STATIC,
        coordinate="initializer",
        check=_name_of(functional.get_initializer),
        text=_listed(functional.INITIALIZERS),
    )
    learning_rates: Sequence[float] = _declared(
        (),
        kind=float,
        role=TRACED,
        coordinate="learning_rate",
        optional=True,
        check=_check_rate,
        text=lambda: "default: each optimizer's own",
    )
    doses: Sequence[float] = _declared(
        (),
        kind=float,
        role=TRACED,
        coordinate="dose",
        optional=True,
        check=_check_dose,
        text=lambda: "t of activations such as dose_tanh, from 0 (isotropic) to 1",
    )
    seeds: Sequence[int] = _declared(
        (0,),
        kind=int,
        role=TRACED,
        coordinate="seed",
        check=_within(0, MAX_SEED),
        text=lambda: "of initial weights and batch order, such as 0:16",
    )
    architectures: Sequence[str] = _declared(
        ("mlp",),
        kind=str,
        role=STATIC,
        coordinate="architecture",
        grouped=True,
        check=_name_of(architectures.get),
        text=_listed(architectures.ARCHITECTURES),
    )
    data: str = _declared(
        "digits",
        kind=str,
        several=False,
        fixed=True,
        check=_anything,
        text=_listed(datasets.DATASETS, before="", after=", or an .npz with x_train and x_test"),
    )
    epochs: int = _declared(
        100,
        kind=int,
        several=False,
        check=_within(1, MAX_COUNT),
        text=lambda: "passes over the training set",
    )
    batch_size: int = _declared(
        24,
        kind=int,
        several=False,
        fixed=True,
        check=_within(1, MAX_COUNT),
        text=lambda: "samples per gradient step",
    )
    snapshots: Sequence[int] = _declared(
        (),
        kind=int,
        optional=True,
        check=_anything,
        text=lambda: (
            "epochs after which latents are kept, besides 0 and the last; "
            "default: the powers of two"
        ),
    )
    probe_samples: int = _declared(
        2048,
        kind=int,
        several=False,
        fixed=True,
        check=_within(1, MAX_COUNT),
        text=lambda: "samples whose latents are kept",
    )
    capture: Sequence[str] = _declared(
        (),
        kind=str,
        optional=True,
        fixed=True,
        check=_anything,
        text=lambda: "layers kept beside the bottleneck, such as encoder_0, or all",
    )

    def __post_init__(self) -> None:
        for name, axis in axes_of().items():
            value = getattr(self, name)
            if axis.several:
                value = _as_tuple(name, value, axis)
            else:
                value = _as_data(value) if axis.kind is str else _plain(value)
            object.__setattr__(self, name, value)
        _check_axes(self)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every static configuration, activation slowest."""
        axes = (getattr(self, name) for name in axes_of(STATIC))
        return tuple(Cell(*values) for values in itertools.product(*axes))

    def captured(self, cell: Cell) -> tuple[str, ...]:
        """Layers of a cell whose vectors are kept, beside the bottleneck."""
        names = architectures.get(cell.architecture).names(cell.depth)
        everything = ALL in self.capture
        chosen = (name for name in names if everything or name in self.capture)
        return tuple(name for name in chosen if name != functional.BOTTLENECK)

    def rates(self, optimizer: str) -> tuple[float, ...]:
        """Learning rates at which an optimiser runs."""
        default = optimizers.get(optimizer).default_learning_rate
        return tuple(self.learning_rates) or (default,)

    @property
    def rate_count(self) -> int:
        """Length of the `rate` axis."""
        return len(self.learning_rates) or 1

    @property
    def run_shape(self) -> tuple[int, ...]:
        """Lengths of `run_axes`."""
        doses = (len(self.doses),) if self.doses else ()
        return (self.rate_count, *doses, len(self.seeds))

    @property
    def run_axes(self) -> tuple[str, ...]:
        """The axes of a cell's runs, slowest first: learning rate, dose if there are any, seed."""
        return ("rate", "dose", "seed") if self.doses else ("rate", "seed")

    @property
    def runs_per_cell(self) -> int:
        """Learning rates × doses × seeds."""
        return math.prod(self.run_shape)

    @property
    def runs(self) -> int:
        """Networks to train."""
        return len(self.cells) * self.runs_per_cell

    @property
    def snapshot_epochs(self) -> tuple[int, ...]:
        """Epochs after which latents and a checkpoint are kept, ascending, from 0 to the last."""
        powers = (2**i for i in range(self.epochs.bit_length()))
        middle = self.snapshots or tuple(e for e in powers if e < self.epochs)
        return tuple(sorted({0, *middle, self.epochs}))

    def to_json(self) -> dict[str, Any]:
        """The grid as lists and numbers, with defaults resolved, in the order of its fields."""
        return {
            **{key: list(v) if isinstance(v, tuple) else v for key, v in vars(self).items()},
            "learning_rates": {name: list(self.rates(name)) for name in self.optimizers},
            "snapshots": list(self.snapshot_epochs),
        }

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> "Grid":
        """Returns the grid whose `to_json` is `config`.

        Raises:
          InputError: it is of no grid.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if (
            not isinstance(config, Mapping)
            or config.keys() != names
            or (not isinstance(config["data"], str))
        ):
            raise InputError("config", config, "does not have the entries of a grid")
        try:
            rates = config["learning_rates"]
            default = all([optimizers.get(o).default_learning_rate] == rates[o] for o in rates)
            listed = () if default else next(iter(rates.values()))
            return cls(**{**config, "learning_rates": listed})
        except InputError:
            raise
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            raise InputError("config", config, f"is of no grid ({error})") from None


def _plain(value: Any) -> Any:
    """Returns a number of NumPy or JAX as Python's, which compare, print and serialise alike."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _as_data(value: Any) -> str:
    """Returns the name of a dataset or the path of a file as a text."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else _plain(value)
    if not isinstance(text, str):
        raise InputError("data", value, "must be the name of a dataset or the path of an .npz")
    if not text.strip():
        raise InputError("data", text, "is empty; name a dataset or the path of an .npz")
    return text


def _as_tuple(name: str, value: Any, axis: Axis) -> tuple[Any, ...]:
    if isinstance(value, set | frozenset):
        raise InputError(name, value, "has no order; give a list")
    try:
        if isinstance(value, str | bytes | Mapping):
            raise TypeError
        values = tuple(_plain(x) for x in itertools.islice(value, MAX_VALUES + 1))
    except TypeError:  # no iterable; an array of no dimension
        raise InputError(name, value, "must be a sequence of values") from None
    if len(values) > MAX_VALUES:
        raise InputError(name, f"{values[0]}, …", f"has more than {MAX_VALUES:,} values")
    if not values and not axis.optional:
        raise InputError(name, "", "is empty; name at least one value")
    values = tuple(_of_kind(name, x, axis.kind) for x in values)
    seen = set()
    for x in values:
        if x in seen:
            raise InputError(name, x, "appears twice; name each value once")
        seen.add(x)
    return values


def _of_kind(name: str, value: Any, kind: type) -> Any:
    """Returns one value of an axis, and raises `InputError` if it is not of the axis's kind."""
    if kind is str:
        if not isinstance(value, str):
            raise InputError(name, value, "must be a name")
        return str(value)
    if kind is float:
        # Zero has one sign: -0.0 and 0.0 would be one value under two names.
        return _number(name, value) + 0.0
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(name, value, "must be a whole number") from None
    if isinstance(value, bool):
        raise InputError(name, value, "must be a whole number")
    return number


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, float | int) and not isinstance(value, bool):
            return float(value)
    except OverflowError:  # a whole number of 400 digits
        return math.inf
    raise InputError(name, value, _NUMERIC[name])


def _check_axes(grid: Grid) -> None:
    for name, axis in axes_of().items():
        values = getattr(grid, name)
        for value in values if axis.several else (values,):
            axis.check(name, value)
    # Of any depth: which of them these networks have is the sweep's business.
    known = [x for name in grid.architectures for x in architectures.get(name).names(MAX_LAYERS)]
    for layer in grid.capture:
        lookup(dict.fromkeys([ALL, *known]), layer, field="capture")
    for field in ("widths", "latent_widths"):
        for value, name in itertools.product(getattr(grid, field), grid.activations):
            interpolated.check_width(name, value, field=field)
    for epoch in grid.snapshots:
        _check_integer("snapshots", epoch, low=0, high=grid.epochs)
    _check_doses(grid)


def _check_doses(grid: Grid) -> None:
    for name in grid.activations:
        parameter = interpolated.get(name).parameter
        dosed = parameter is not None and parameter.initial is None
        if dosed and not grid.doses:
            raise InputError(
                "activations", name, f"needs a dose: {name}:0.25, or doses such as 0,0.5,1"
            )
        if grid.doses and not dosed:
            known = "dose_tanh, dose_relu or another dose_NAME without a number"
            raise InputError("activations", name, f"takes no dose; with doses, name {known}")


def check_feasible(grid: Grid, samples: int) -> None:
    """Refuses a grid that no program can be made of, before anything is computed.

    Args:
      grid: what is to be trained.
      samples: of the training set.

    Raises:
      InputError: more cells than can be compiled together, or more steps than are counted.
    """
    cells = math.prod(len(getattr(grid, axis)) for axis in axes_of(STATIC))
    if cells > MAX_CELLS:
        longest = max(axes_of(STATIC), key=lambda axis: len(getattr(grid, axis)))
        values = getattr(grid, longest)
        problem = f"makes {cells:,} cells, each compiled: at most {MAX_CELLS:,} in one grid"
        raise InputError(longest, f"{values[0]}, … ({len(values):,} values)", problem)
    steps = grid.epochs * (samples // grid.batch_size)
    if steps > MAX_COUNT:
        problem = f"is {steps:,} steps per run: at most {MAX_COUNT:,} can be counted"
        raise InputError("epochs", grid.epochs, problem)
