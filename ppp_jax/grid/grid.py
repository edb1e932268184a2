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
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ppp_jax.errors import InputError, lookup
from ppp_jax.networks import architectures, functional, interpolated, optimizers

CELL_AXES = ("activation", "depth", "width", "optimizer", "initializer")
MAX_SEED = 2**31 - 1
ALL = "all"  # of the layers
MAX_LAYERS = 256  # hidden ones on each side; the compiled program holds every layer of every cell
MAX_UNITS = 2**24  # of a layer
MAX_COUNT = 2**31 - 1  # of what is counted in 32 bits: epochs, samples, steps
MAX_VALUES = 100_000  # of an axis; more is a slip of the finger
MAX_CELLS = 1_000  # each is unrolled in the compiled program


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
      activations: static axis; names as `family.get` reads them.
      depths: static axis; hidden layers on each side of the bottleneck.
      widths: static axis; units of each hidden layer.
      latent_widths: static axis; units of the bottleneck, at least 2.
      optimizers: static axis; keys of `optimizers.OPTIMIZERS`.
      initializers: static axis; keys of `models.INITIALIZERS`.
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

    activations: Sequence[str] = ("tanh", "isotropic_tanh")
    depths: Sequence[int] = (1,)
    widths: Sequence[int] = (48,)
    latent_widths: Sequence[int] = (8,)
    optimizers: Sequence[str] = ("adam",)
    initializers: Sequence[str] = ("glorot_normal",)
    learning_rates: Sequence[float] = ()
    doses: Sequence[float] = ()
    seeds: Sequence[int] = (0,)
    architectures: Sequence[str] = ("mlp",)
    data: str = "digits"
    epochs: int = 100
    batch_size: int = 24
    snapshots: Sequence[int] = ()
    probe_samples: int = 2048
    capture: Sequence[str] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "data":
                value = _as_data(value)
            elif field.name in _SETTINGS:
                value = _plain(value)
            else:
                value = _as_tuple(field.name, value)
            object.__setattr__(self, field.name, value)
        _check_axes(self)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every static configuration, activation slowest."""
        return tuple(
            Cell(*values)
            for values in itertools.product(
                self.activations,
                self.depths,
                self.widths,
                self.latent_widths,
                self.optimizers,
                self.initializers,
                self.architectures,
            )
        )

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


_SINGLE = np.finfo(np.float32)
_SETTINGS = ("data", "epochs", "batch_size", "probe_samples")
_NAMES = ("activations", "optimizers", "initializers", "architectures", "capture")
_NUMBERS = ("learning_rates", "doses")


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


def _as_tuple(name: str, value: Any) -> tuple[Any, ...]:
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
    if not values and name not in ("learning_rates", "doses", "snapshots", "capture"):
        raise InputError(name, "", "is empty; name at least one value")
    values = tuple(_of_kind(name, x) for x in values)
    seen = set()
    for x in values:
        if x in seen:
            raise InputError(name, x, "appears twice; name each value once")
        seen.add(x)
    return values


def _of_kind(name: str, value: Any) -> Any:
    """Returns one value of an axis, and raises `InputError` if it is not of the axis's kind."""
    if name in _NAMES:
        if not isinstance(value, str):
            raise InputError(name, value, "must be a name")
        return str(value)
    if name in _NUMBERS:
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


_NUMERIC = {
    "learning_rates": "must be a positive, finite number",
    "doses": "must be a number from 0 (isotropic) to 1 (elementwise)",
}


def _check_axes(grid: Grid) -> None:
    for name in grid.activations:
        interpolated.get(name)
    for name in grid.optimizers:
        optimizers.get(name)
    for name in grid.initializers:
        functional.get_initializer(name)
    # Of any depth: which of them these networks have is the sweep's business.
    known = [x for name in grid.architectures for x in architectures.get(name).names(MAX_LAYERS)]
    for layer in grid.capture:
        lookup(dict.fromkeys([ALL, *known]), layer, field="capture")
    # Two units at least in the bottleneck: one spans no plane to look at.
    for field, low, high in (
        ("depths", 1, MAX_LAYERS),
        ("widths", 1, MAX_UNITS),
        ("latent_widths", 2, MAX_UNITS),
    ):
        for value in getattr(grid, field):
            _check_integer(field, value, low=low, high=high)
            for name in grid.activations if field != "depths" else ():
                interpolated.check_width(name, value, field=field)
    for field in ("epochs", "batch_size", "probe_samples"):
        _check_integer(field, getattr(grid, field), low=1, high=MAX_COUNT)
    for seed in grid.seeds:
        _check_integer("seeds", seed, low=0, high=MAX_SEED)
    for epoch in grid.snapshots:
        _check_integer("snapshots", epoch, low=0, high=grid.epochs)
    for rate in grid.learning_rates:
        # Trained with in single precision, where others would be zero or infinite.
        if not float(_SINGLE.tiny) <= rate <= float(_SINGLE.max):
            raise InputError("learning_rates", rate, _NUMERIC["learning_rates"])
    _check_doses(grid)


def _check_doses(grid: Grid) -> None:
    for t in grid.doses:
        if not 0 <= t <= 1:
            raise InputError("doses", t, _NUMERIC["doses"])
    for name in grid.activations:
        parameter = interpolated.get(name).parameter
        dosed = parameter is not None and parameter.initial is None
        if dosed and not grid.doses:
            raise InputError("activations", name, f"needs a dose: {name}:0.25, or doses such as "
                             "0,0.5,1")  # fmt: skip
        if grid.doses and not dosed:
            known = "dose_tanh, dose_relu or another dose_NAME without a number"
            raise InputError("activations", name, f"takes no dose; with doses, name {known}")


def _check_integer(field: str, value: Any, *, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        wanted = f"at least {low}" if isinstance(value, int) and value < low else (
            f"from {low} to {high}")  # fmt: skip
        raise InputError(field, value, f"must be a whole number, {wanted}")


def check_feasible(grid: Grid, samples: int) -> None:
    """Refuses a grid that no program can be made of, before anything is computed.

    Args:
      grid: what is to be trained.
      samples: of the training set.

    Raises:
      InputError: more cells than can be compiled together, or more steps than are counted.
    """
    cells = math.prod(len(getattr(grid, axis)) for axis in _CELL_FIELDS)
    if cells > MAX_CELLS:
        longest = max(_CELL_FIELDS, key=lambda axis: len(getattr(grid, axis)))
        values = getattr(grid, longest)
        problem = f"makes {cells:,} cells, each compiled: at most {MAX_CELLS:,} in one grid"
        raise InputError(longest, f"{values[0]}, … ({len(values):,} values)", problem)
    steps = grid.epochs * (samples // grid.batch_size)
    if steps > MAX_COUNT:
        problem = f"is {steps:,} steps per run: at most {MAX_COUNT:,} can be counted"
        raise InputError("epochs", grid.epochs, problem)


_CELL_FIELDS = (
    *("activations", "depths", "widths", "latent_widths"),
    *("optimizers", "initializers", "architectures"),
)
