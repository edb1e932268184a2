"""The grid: a frozen description of the networks to train, and its cells and runs.

A *cell* is one static configuration. It has its own shapes and its own code, so all cells are
unrolled in one compiled program. A *run* is one cell at one learning rate, dose and seed, which are
axes of arrays. This module does no JAX computation.
"""

import dataclasses
import itertools
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ppp_jax import notebook, references
from ppp_jax.data import datasets
from ppp_jax.errors import InputError, lookup
from ppp_jax.networks import architectures, functional, interpolated, optimizers
from ppp_jax.networks.activations import ACTIVATIONS

MAX_SEED = 2**31 - 1
ALL = "all"  # value of `capture` that stands for all layers
# Most hidden layers on each side: the compiled program contains every layer of every cell.
MAX_LAYERS = 256
MAX_UNITS = 2**24  # most units of a layer
MAX_COUNT = 2**31 - 1  # largest number of epochs, samples or steps, which are counted in 32 bits
MAX_VALUES = 100_000  # most values of an axis; more are taken for a typing error
MAX_CELLS = 1_000  # most cells, because all of them are unrolled in the compiled program


OR_REFERENCE = ", or references MODULE:FUNCTION"
STATIC, TRACED, SETTING = "static", "traced", "setting"


class Axis(NamedTuple):
    """Declaration of one field of a grid, from which cells, extension, flags and labels follow.

    Attributes:
      kind: Type of the field's values: `str`, `int` or `float`.
      text: Function that returns the help text of the field's flag. It is a function because it can
        list a registry, to which users add.
      check: Function `(field, value)` that raises `InputError` if the value is not valid.
      role: `static` (each value makes a cell), `traced` (the values are an array axis of the
        program), or `setting` (the field has the same value for all runs).
      several: Whether the field takes several values.
      coordinate: Name of one value in cells, latents and tables.
      grouped: Whether the latents of each value are saved in a group of their own, because their
        sizes differ.
      optional: Whether the field can be empty.
      fixed: Whether the field cannot change when a trained grid is extended.
      register: Name of the function that adds to the registry of the field's values, if there is
        one, and the registry. Such a field accepts functions too.
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
    register: tuple[str, Mapping[str, Any]] | None = None


def _declared(default: Any, **about: Any) -> Any:
    """Returns a dataclass field that carries its `Axis`."""
    return dataclasses.field(default=default, metadata={"axis": Axis(**about)})


def axes_of(*roles: str) -> dict[str, Axis]:
    """Returns the declarations of a grid's fields by name, in their order.

    Args:
      *roles: Roles of the fields to return. Without roles, all fields are returned.
    """
    declared = {field.name: field.metadata["axis"] for field in dataclasses.fields(Grid)}
    return {name: axis for name, axis in declared.items() if not roles or axis.role in roles}


def cell_axes() -> tuple[str, ...]:
    """Returns the coordinates of static axes that are dimensions of the latents."""
    return tuple(axis.coordinate for axis in axes_of(STATIC).values() if not axis.grouped)


def grouped_axes() -> tuple[str, ...]:
    """Returns the coordinates of static axes each value of which has its own group of latents."""
    return tuple(axis.coordinate for axis in axes_of(STATIC).values() if axis.grouped)


def _listed(registry: Mapping[str, Any], *, before: str = "names among ", after: str = "") -> Any:
    return lambda: f"{before}{', '.join(registry)}{after}"


def _name_of(get: Callable[[str], Any]) -> Callable[[str, Any], None]:
    def check(_field: str, value: Any) -> None:
        get(value)

    return check


def _within(low: int, high: int) -> Callable[[str, Any], None]:
    return lambda field, value: _check_integer(field, value, low=low, high=high)


def _anything(_field: str, _value: Any) -> None:
    """Accepts every value, because its validity depends on other fields or on the data."""


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
    # Learning rates are used in single precision, in which others would become zero or infinite.
    if not float(_SINGLE.tiny) <= rate <= float(_SINGLE.max):
        raise InputError(field, rate, _NUMERIC[field])


def _check_dose(field: str, t: float) -> None:
    if not 0 <= t <= 1:
        raise InputError(field, t, _NUMERIC[field])


class Cell(NamedTuple):
    """One static configuration, which determines the shapes and the code of its runs."""

    activation: str
    depth: int
    width: int
    latent_width: int
    optimizer: str
    initializer: str
    architecture: str = "mlp"

    @property
    def shape(self) -> str:
        """Name of the network's architecture and sizes, such as `1x48-8`."""
        kind = "" if self.architecture == "mlp" else f"{self.architecture}-"
        return f"{kind}{self.depth}x{self.width}-{self.latent_width}"

    @property
    def sizes(self) -> functional.Sizes:
        """Sizes of the network."""
        return functional.Sizes(self.width, self.depth, self.latent_width)

    @property
    def name(self) -> str:
        """Readable name of the cell, which is unique within a grid."""
        return f"{self.activation}-{self.shape}-{self.optimizer}-{self.initializer}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid of networks to train, the complete input of the training side of this package.

    The grid is the full product of its axes. Each axis accepts any ordered iterable, which is
    converted to a tuple of Python's strings and numbers. Where a name is expected, a function of
    one's own can be given: one that can be imported becomes a reference `module:function`
    (`ppp_jax.references`), and others must be registered first.

    Attributes:
      activations: Static axis of names of activations, as `interpolated.get` accepts them.
      depths: Static axis of numbers of hidden layers on each side of the bottleneck.
      widths: Static axis of numbers of units of a hidden layer.
      latent_widths: Static axis of numbers of units of the bottleneck, at least 2.
      optimizers: Static axis of keys of `optimizers.OPTIMIZERS`.
      initializers: Static axis of keys of `functional.INITIALIZERS`.
      learning_rates: Traced axis of learning rates. If it is empty, each optimiser runs at its
        default learning rate.
      doses: Traced axis of doses t of activations such as `dose_tanh`, (1 − t)·isotropic +
        t·elementwise. If it is not empty, all activations must be of this form.
      seeds: Traced axis of training seeds. A seed determines the initial weights and the order of
        batches, which are the same in every cell.
      architectures: Static axis of keys of `architectures.ARCHITECTURES`.
      data: Key of `datasets.DATASETS`, or path of an `.npz` file.
      epochs: Number of passes over the training set. An epoch leaves out its last, incomplete
        batch.
      batch_size: Number of samples per step.
      snapshots: Epochs after which latents are saved. Epoch 0 and the last epoch are always added.
        If it is empty, the powers of two are used.
      probe_samples: Number of training samples whose latents are saved, at most all. They are the
        first ones in the random order of the split.
      capture: Names of layers whose vectors are saved in addition to the bottleneck's, such as
        `encoder_0`, or `all`. Of each architecture those layers are saved that it has.

    Raises:
      InputError: An axis is empty, repeats a value, or holds an unknown or invalid value.

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
        check=_name_of(interpolated.declared),
        register=("register_activation", ACTIVATIONS),
        text=_listed(
            ACTIVATIONS,
            before="names among ",
            after=f", or of the forms {', '.join(interpolated.FORMS)}",
        ),
    )
    depths: Sequence[int] = _declared(
        (1,),
        kind=int,
        role=STATIC,
        coordinate="depth",
        check=_within(1, MAX_LAYERS),
        text=lambda: "numbers of hidden layers on each side of the bottleneck",
    )
    widths: Sequence[int] = _declared(
        (48,),
        kind=int,
        role=STATIC,
        coordinate="width",
        check=_within(1, MAX_UNITS),
        text=lambda: "numbers of units of each hidden layer",
    )
    # The bottleneck needs at least two units, because one spans no plane.
    latent_widths: Sequence[int] = _declared(
        (8,),
        kind=int,
        role=STATIC,
        coordinate="latent_width",
        grouped=True,
        check=_within(2, MAX_UNITS),
        text=lambda: "numbers of units of the bottleneck, at least 2",
    )
    optimizers: Sequence[str] = _declared(
        ("adam",),
        kind=str,
        role=STATIC,
        coordinate="optimizer",
        check=_name_of(optimizers.declared),
        register=("register_optimizer", optimizers.OPTIMIZERS),
        text=_listed(optimizers.OPTIMIZERS, after=OR_REFERENCE),
    )
    initializers: Sequence[str] = _declared(
        ("glorot_normal",),
        kind=str,
        role=STATIC,
        coordinate="initializer",
        check=_name_of(functional.declared_initializer),
        register=("register_initializer", functional.INITIALIZERS),
        text=_listed(functional.INITIALIZERS, after=OR_REFERENCE),
    )
    learning_rates: Sequence[float] = _declared(
        (),
        kind=float,
        role=TRACED,
        coordinate="learning_rate",
        optional=True,
        check=_check_rate,
        text=lambda: "learning rates; by default each optimizer's own",
    )
    doses: Sequence[float] = _declared(
        (),
        kind=float,
        role=TRACED,
        coordinate="dose",
        optional=True,
        check=_check_dose,
        text=lambda: (
            "doses of activations such as dose_tanh, from 0 (isotropic) to 1 (elementwise)"
        ),
    )
    seeds: Sequence[int] = _declared(
        (0,),
        kind=int,
        role=TRACED,
        coordinate="seed",
        check=_within(0, MAX_SEED),
        text=lambda: "seeds of initial weights and batch order, such as 0:16",
    )
    architectures: Sequence[str] = _declared(
        ("mlp",),
        kind=str,
        role=STATIC,
        coordinate="architecture",
        grouped=True,
        check=_name_of(architectures.get),
        register=("register_architecture", architectures.ARCHITECTURES),
        text=_listed(architectures.ARCHITECTURES, after=OR_REFERENCE),
    )
    data: str = _declared(
        "digits",
        kind=str,
        several=False,
        fixed=True,
        check=_anything,
        register=("register_dataset", datasets.DATASETS),
        text=_listed(
            datasets.DATASETS,
            before="one of ",
            after=", the path of an .npz with x_train and x_test, or a reference MODULE:FUNCTION",
        ),
    )
    epochs: int = _declared(
        100,
        kind=int,
        several=False,
        check=_within(1, MAX_COUNT),
        text=lambda: "number of passes over the training set",
    )
    batch_size: int = _declared(
        24,
        kind=int,
        several=False,
        fixed=True,
        check=_within(1, MAX_COUNT),
        text=lambda: "number of samples per gradient step",
    )
    snapshots: Sequence[int] = _declared(
        (),
        kind=int,
        optional=True,
        check=_anything,
        text=lambda: (
            "epochs after which latents are saved, in addition to 0 and the last; "
            "by default the powers of two"
        ),
    )
    probe_samples: int = _declared(
        2048,
        kind=int,
        several=False,
        fixed=True,
        check=_within(1, MAX_COUNT),
        text=lambda: "number of training samples whose latents are saved",
    )
    capture: Sequence[str] = _declared(
        (),
        kind=str,
        optional=True,
        fixed=True,
        check=_anything,
        text=lambda: "layers saved in addition to the bottleneck, such as encoder_0, or all",
    )

    def __post_init__(self) -> None:
        for name, axis in axes_of().items():
            value = getattr(self, name)
            if axis.several:
                value = _as_tuple(name, value, axis)
            else:
                value = _as_data(_named(name, value, axis)) if axis.kind is str else _plain(value)
            object.__setattr__(self, name, value)
        _check_axes(self)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All static configurations, in the order of the fields; the activation varies slowest."""
        axes = (getattr(self, name) for name in axes_of(STATIC))
        return tuple(Cell(*values) for values in itertools.product(*axes))

    def captured(self, cell: Cell) -> tuple[str, ...]:
        """Returns the layers of a cell whose vectors are saved in addition to the bottleneck's."""
        names = architectures.get(cell.architecture).names(cell.depth)
        everything = ALL in self.capture
        chosen = (name for name in names if everything or name in self.capture)
        return tuple(name for name in chosen if name != functional.BOTTLENECK)

    def rates(self, optimizer: str) -> tuple[float, ...]:
        """Returns the learning rates at which an optimiser runs."""
        default = optimizers.declared(optimizer).default_learning_rate
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
        """Axes of a cell's runs, slowest first: learning rate, dose (if there are any) and seed."""
        return ("rate", "dose", "seed") if self.doses else ("rate", "seed")

    @property
    def runs_per_cell(self) -> int:
        """Number of a cell's runs: learning rates × doses × seeds."""
        return math.prod(self.run_shape)

    @property
    def runs(self) -> int:
        """Number of networks to train."""
        return len(self.cells) * self.runs_per_cell

    @property
    def snapshot_epochs(self) -> tuple[int, ...]:
        """Epochs after which latents and a checkpoint are saved, ascending from 0 to the last."""
        powers = (2**i for i in range(self.epochs.bit_length()))
        middle = self.snapshots or tuple(e for e in powers if e < self.epochs)
        return tuple(sorted({0, *middle, self.epochs}))

    def _repr_html_(self) -> str:
        size = f"{len(self.cells):,} cells, {self.runs:,} runs of {self.epochs:,} epochs"
        values = {name: getattr(self, name) for name in axes_of()}
        listed = {name: value if isinstance(value, tuple) else (value,)
                  for name, value in values.items() if value != ()}  # fmt: skip
        texts = {name: ", ".join(map(str, value)) for name, value in listed.items()}
        return notebook.table({"size": size, **texts})

    def to_json(self) -> dict[str, Any]:
        """Returns the grid as lists and numbers, with defaults resolved, in the order of fields."""
        return {
            **{key: list(v) if isinstance(v, tuple) else v for key, v in vars(self).items()},
            "learning_rates": {name: list(self.rates(name)) for name in self.optimizers},
            "snapshots": list(self.snapshot_epochs),
        }

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> "Grid":
        """Returns the grid whose `to_json` is `config`.

        Raises:
          InputError: `config` does not describe a valid grid.
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
            default = all([optimizers.declared(o).default_learning_rate] == rates[o] for o in rates)
            listed = () if default else next(iter(rates.values()))
            return cls(**{**config, "learning_rates": listed})
        except InputError:
            raise
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            raise InputError("config", config, f"does not describe a grid ({error})") from None


def _plain(value: Any) -> Any:
    """Converts a NumPy or JAX number to a Python number, and returns other values unchanged."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _as_data(value: Any) -> str:
    """Returns the name of a dataset or the path of a file as a text."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else _plain(value)
    if not isinstance(text, str):
        raise InputError("data", value, "must be the name of a dataset or the path of an .npz")
    if not text.strip():
        raise InputError(
            "data", text, "is empty; give the name of a dataset or the path of an .npz"
        )
    return text


def _as_tuple(name: str, value: Any, axis: Axis) -> tuple[Any, ...]:
    if isinstance(value, set | frozenset):
        raise InputError(name, value, "has no order; give a list")
    try:
        if isinstance(value, str | bytes | Mapping):
            raise TypeError
        values = tuple(_plain(x) for x in itertools.islice(value, MAX_VALUES + 1))
    except TypeError:  # the value is not iterable, or is an array without dimensions
        raise InputError(name, value, "must be a sequence of values") from None
    if len(values) > MAX_VALUES:
        problem = f"has more than {MAX_VALUES:,} values; give fewer"
        raise InputError(name, f"{values[0]}, …", problem)
    if not values and not axis.optional:
        raise InputError(name, "", "is empty; give at least one value")
    values = tuple(_of_kind(name, _named(name, x, axis), axis.kind) for x in values)
    seen = set()
    for x in values:
        if x in seen:
            raise InputError(name, x, "appears twice; give each value once")
        seen.add(x)
    return values


def _named(name: str, value: Any, axis: Axis) -> Any:
    """Returns the name of a function or an entry, and other values unchanged."""
    if axis.register is None:
        return value
    register, registry = axis.register
    return references.named(value, registry, field=name, register=register)


def _of_kind(name: str, value: Any, kind: type) -> Any:
    """Returns one value of an axis, and raises `InputError` if it is not of the axis's type."""
    if kind is str:
        if not isinstance(value, str):
            raise InputError(name, value, "must be a name")
        return str(value)
    if kind is float:
        # The addition turns -0.0 into 0.0, which are equal and would have two names.
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
    except OverflowError:  # e.g. an integer of 400 digits
        return math.inf
    raise InputError(name, value, _NUMERIC[name])


def _check_axes(grid: Grid) -> None:
    for name, axis in axes_of().items():
        values = getattr(grid, name)
        for value in values if axis.several else (values,):
            axis.check(name, value)
    # A layer is accepted if the architecture has it at some depth. Whether the networks of this
    # grid have it is checked by the sweep.
    entries = [architectures.get(name) for name in grid.architectures if grid.capture]
    known = [x for entry in entries for x in entry.names(MAX_LAYERS)]
    for layer in grid.capture:
        lookup(dict.fromkeys([ALL, *known]), layer, field="capture")
    for field in ("widths", "latent_widths"):
        for value, name in itertools.product(getattr(grid, field), grid.activations):
            interpolated.check_width(name, value, field=field)
    for epoch in grid.snapshots:
        _check_integer("snapshots", epoch, low=0, high=grid.epochs)
    _check_doses(grid)
    for name in grid.optimizers:
        if not grid.learning_rates and math.isnan(grid.rates(name)[0]):
            problem = f"is empty, and {name} has no default learning rate; give learning_rates"
            raise InputError("learning_rates", "", problem)


def _check_doses(grid: Grid) -> None:
    for name in grid.activations:
        parameter = interpolated.declared(name).parameter
        dosed = parameter is not None and parameter.initial is None
        if dosed and not grid.doses:
            raise InputError(
                "activations",
                name,
                f"needs a dose; write it into the name ({name}:0.25), or set doses to 0,0.5,1",
            )
        if grid.doses and not dosed:
            known = "dose_tanh, dose_relu or another dose_NAME without a number"
            problem = f"takes no dose, but doses are set; choose {known}, or leave out doses"
            raise InputError("activations", name, problem)


def check_feasible(grid: Grid, samples: int) -> None:
    """Checks, before anything is computed, that a program can be compiled for a grid.

    Args:
      grid: The grid to be trained.
      samples: Number of training samples.

    Raises:
      InputError: The grid has too many cells to be compiled together, or too many steps to be
        counted in 32 bits.
    """
    cells = math.prod(len(getattr(grid, axis)) for axis in axes_of(STATIC))
    if cells > MAX_CELLS:
        longest = max(axes_of(STATIC), key=lambda axis: len(getattr(grid, axis)))
        values = getattr(grid, longest)
        problem = (
            f"makes {cells:,} cells, and one grid can have at most {MAX_CELLS:,}; give fewer values"
        )
        raise InputError(longest, f"{values[0]}, … ({len(values):,} values)", problem)
    steps = grid.epochs * (samples // grid.batch_size)
    if steps > MAX_COUNT:
        problem = f"makes {steps:,} steps per run, and at most {MAX_COUNT:,} are possible"
        raise InputError("epochs", grid.epochs, problem)
