"""What does an accelerator do with the sweep's program and with the rotation null?

  .venv/bin/pip install -e ".[bench,cuda13]"
  .venv/bin/python -m experiments.benchmarks.accelerator

The ceilings are measured first: bytes copied and products taken per second. Then many small
networks are trained. Each step must at least read and write the parameters and both of Adam's
moments, and read its batches, and take its products; the larger of the two times is the floor, and
the gap is what a step takes over that. The rotation null of a wide cloud follows, here and on this
machine's processor, and other ways to train the same networks. PyTorch's are left out without it.
Everything is in one process, so that on a GPU XLA must not take its memory beforehand
(XLA_PYTHON_CLIENT_PREALLOCATE=false). Cost: five minutes on a GPU. Outcome: docs/benchmarks.md.
Whether all of it runs is seen in half a minute without one: --sizes=least --rounds=1 --seconds=0
--rotations=2 --units=8.
"""

import functools
import importlib.metadata
import importlib.util
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import ppp_jax.analysis as pa
from experiments.benchmarks import jax_sides, turns
from experiments.benchmarks.task import BATCH, Size, Train
from experiments.benchmarks.turns import SIZES
from ppp_jax import bases
from ppp_jax.analysis.projection.planes import resolve_basis
from ppp_jax.analysis.statistics.alignment import build_target, c4_of, measure_turned
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.cli import machine
from ppp_jax.errors import whole

SEEDS = {"tiny": (16, 64, 256, 1024, 4096), "wide": (16, 64, 256, 1024), "least": (2, 4)}
COMPARED = {"tiny": (64, 1024), "wide": (64, 1024), "least": (2,)}  # seeds of the other sides
ONE_AT_A_TIME = ("PyTorch, one model",)
STEPS = 100  # of a call: the least that a sweep takes at a time
NUMBER = np.dtype(np.float32).itemsize
ADAM = 3  # numbers kept of every parameter: it and its two moments
SAMPLES = 4000
WARM = 2  # rotations of a first call, which compiles
NO_KERNELS = (
    r"parameter|constant|tuple|get-tuple-element|bitcast|call|while|conditional|after-all|iota"
)


class Ceilings(NamedTuple):
    """What the device does at most, per second."""

    copied: float
    multiplied: float


class Floor(NamedTuple):
    """The least that a step of one network moves, in bytes, and multiplies and adds."""

    moved: int
    products: int

    def seconds(self, ceilings: Ceilings) -> float:
        """Returns the larger of both times."""
        return max(self.moved / ceilings.copied, self.products / ceilings.multiplied)


def define() -> None:
    """Defines the flags."""
    turns.define(0.5, f"of a turn, at least; at least {STEPS} steps")
    flags.DEFINE_integer("rotations", 29, "K of the rotation null, whose time is per rotation")
    flags.DEFINE_integer("units", 1536, f"of the rotation null's cloud of {SAMPLES:,} samples")


def main() -> None:
    """Prints all tables, ready to be pasted."""
    values = flags.FLAGS
    sizes = turns.chosen_sizes()
    whole("rotations", values.rotations, least=1)
    whole("units", values.units, least=3)
    print_versions()
    ceilings = print_ceilings()
    cost = {size: print_ours(size, ceilings) for size in sizes}
    print_rotations()
    print_others(cost)


def print_versions() -> None:
    """Prints what is measured on, and with what."""
    packages = [name for name in ("jax", "jaxlib", "flax", "optax", "numpy", "torch") if _has(name)]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    device = jax.devices()[0]
    print(f"{jax.device_count()} × {device.device_kind} ({device.platform})")
    print(f"Python {platform.python_version()}, {versions}\n")
    if not _has("torch"):
        print("torch is not installed (pip install -e '.[bench]'): its sides are left out\n")


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def print_ceilings() -> Ceilings:
    """Prints what the device does at most, and what products are by default and by ours."""
    copied = machine.copy_rate()
    print(f"copies: {copied / 1e9:,.0f} GB/s, read and written\n")
    print("| precision | products, GFLOP/s | error of a product |\n| --- | --- | --- |")
    rates = {name: machine.matrix_product_rate(precision=name) for name in ("default", "highest")}
    for name, rate in rates.items():
        print(f"| {name} | {rate / 1e9:,.0f} | {product_error(name):.1e} |")
    print("\nThe engine asks for highest, unless JAX's default precision is set.\n")
    return Ceilings(copied, rates["highest"])


def product_error(precision: str) -> float:
    """Returns ‖product − product in double precision‖ over the norm of the latter.

    Args:
      precision: of JAX's names.
    """
    a, b = np.random.default_rng(0).normal(size=(2, 512, 512)).astype(np.float32)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    found = np.asarray(jnp.matmul(jnp.asarray(a), jnp.asarray(b), precision=precision), np.float64)
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def floor(size: Size) -> Floor:
    """Counts what a step cannot do without.

    The first layer's gradient by its input is not needed; all other products come three times.
    """
    layers = [(size.features, size.width), (size.width, size.latent)]
    layers += [(b, a) for a, b in reversed(layers)]
    weights = sum(a * b for a, b in layers)
    parameters = weights + sum(b for _, b in layers)
    moved = NUMBER * (2 * ADAM * parameters + BATCH * size.features)
    return Floor(moved, 2 * BATCH * (3 * weights - size.features * size.width))


def print_ours(size: str, ceilings: Ceilings) -> dict[int, float]:
    """Prints what our program reaches of the ceilings.

    Returns:
      Seeds to seconds per seed and step.
    """
    least = floor(SIZES[size])
    bound = "bytes" if least.seconds(ceilings) * ceilings.copied == least.moved else "products"
    print(
        f"{size}: at least {least.moved:,} bytes and {least.products:,} FLOP per seed-step, which "
        f"take {1e6 * least.seconds(ceilings):.3f} µs; {bound} decide\n"
    )
    print("| size | seeds | kernels per step | µs per step | µs per seed-step | of the copy rate |"
          " of the product rate | over the floor |")  # fmt: skip
    print("| --- " * 8 + "|")
    cost = {}
    for seeds in SEEDS[size]:
        train, kernels = ours(SIZES[size], seeds)
        cost[seeds] = each = _seconds_per_step(train) / seeds
        cells = [size, seeds, kernels, f"{1e6 * each * seeds:,.0f}", f"{1e6 * each:.3f}"]
        cells += [f"{least.moved / each / ceilings.copied:.1%}"]
        cells += [f"{least.products / each / ceilings.multiplied:.1%}"]
        cells += [f"{each / least.seconds(ceilings):.1f}"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    print()
    return cost


def ours(size: Size, seeds: int) -> tuple[Train, int]:
    """Returns our program's training, and how many kernels a step of it starts."""
    built = jax_sides.our_program(size, seeds, timed=False)
    states, first = built.init(built.hypers), np.int32(0)
    chunk = built.chunk.lower(states, built.hypers, built.arrays, first, first).compile()

    def train(steps: int) -> None:
        nonlocal states
        states, _ = chunk(states, built.hypers, built.arrays, first, np.int32(steps))
        jax.block_until_ready(states)

    return train, kernels_per_step(chunk.as_text() or "")


def kernels_per_step(text: str) -> int:
    """Counts the operations of the largest loop of a compiled program, loops in it left out.

    Args:
      text: of the program, as XLA writes it after it has fused what it fuses.
    """
    found = re.findall(r"^(?:ENTRY )?%(\S+) \(.*?\{\n(.*?)^\}", text, re.M | re.S)
    computations = dict(found)
    loops = re.findall(r" while\(.*body=%([\w.-]+)", text)
    return max((sum(1 for _ in _kernels(computations, name)) for name in loops), default=0)


def _kernels(computations: dict[str, str], name: str) -> Iterator[str]:
    """Yields what a computation, and those that it calls, start."""
    for line in computations[name].splitlines():
        if called := re.search(r" call\(.*to_apply=%([\w.-]+)", line):
            yield from _kernels(computations, called[1])
            continue
        kind = re.search(r"[\]})] ([a-z][\w-]*)\(", line)
        if kind and not re.fullmatch(NO_KERNELS, kind[1]):
            yield kind[1]


def _seconds_per_step(train: Train) -> float:
    """Returns the median over rounds, each of as many calls as take its time."""
    values = flags.FLAGS
    train(STEPS)  # compiles
    calls = max(1, round(values.seconds / _seconds(lambda: train(STEPS))))
    times = []
    for _ in range(values.rounds):
        times.append(_seconds(lambda: _repeat(train, calls)) / calls / STEPS)
    return statistics.median(times)


def _repeat(train: Train, calls: int) -> None:
    for _ in range(calls):
        train(STEPS)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def print_rotations() -> None:
    """Prints what a rotation of a wide cloud costs here and on the processor, in its parts."""
    units, count = flags.FLAGS.units, flags.FLAGS.rotations
    print(f"rotation null of {SAMPLES:,} × {units:,}, ms per rotation, {count} rotations\n")
    print("| device | rotation_test | drawing | turning and statistics | products alone |")
    print("| --- " * 5 + "|")
    for name in dict.fromkeys([jax.default_backend(), "cpu"]):
        jax.config.update("jax_default_device", jax.devices(name)[0])
        cells = [f"{1e3 * seconds / count:,.2f}" for seconds in rotation_seconds(units, count)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print()
    jax.config.update("jax_default_device", None)


def rotation_seconds(units: int, count: int) -> list[float]:
    """Times the rotation test on the default device, and its parts.

    Args:
      units: of the cloud.
      count: rotations.

    Returns:
      Seconds of all of it, of drawing rotations, of turning the basis and measuring, and of one
      product of the cloud with every turned basis.
    """
    cloud = np.random.default_rng(0).laplace(size=(SAMPLES, units)).astype(np.float32)
    names = ("c4", "kurtosis", "unit_kurtosis")
    pa.rotation_test(cloud, statistics=names, rotations=WARM)
    whole_test = _seconds(lambda: pa.rotation_test(cloud, statistics=names, rotations=count))
    few = min(count, WARM + 1)
    drawing = _seconds(lambda: bases.rotations(units, few, np.random.default_rng(0)))
    turns = bases.rotations(units, few, np.random.default_rng(0)).astype(np.float32)
    target = build_target(resolve_basis(None, units), cloud.dtype)
    measure_turned((c4_of,), cloud, target, turns)
    measuring = _seconds(lambda: measure_turned((c4_of,), cloud, target, turns))
    multiply = jax.jit(lambda x, q: jax.lax.map(lambda each: _product(x, each).sum(), q))
    there = jax.device_put((cloud, turns))
    products = machine.median_seconds(lambda: multiply(*there))
    return [whole_test, *(count / few * part for part in (drawing, measuring, products))]


def _product(cloud: jax.Array, turned: jax.Array) -> jax.Array:
    """Multiplies as the statistics do; the sum of squares keeps XLA from summing first."""
    return jnp.square(jnp.matmul(turned, cloud.T, precision=jax.lax.Precision.HIGHEST))


def print_others(cost: dict[str, dict[int, float]]) -> None:
    """Prints the other ways to train, and how many times ours they take."""
    print("| size | side | seeds | µs per seed-step | over ours |\n| --- | --- | --- | --- | --- |")
    for size, of_ours in cost.items():
        for seeds in COMPARED[size]:
            for name, build in sides().items():
                if name in ONE_AT_A_TIME and seeds != COMPARED[size][0]:
                    continue  # each takes the same
                models = 1 if name in ONE_AT_A_TIME else seeds
                each = _seconds_per_step(build(SIZES[size], seeds)) / models
                ratio = each / of_ours[seeds]
                print(f"| {size} | {name} | {seeds} | {1e6 * each:.3f} | {ratio:.2f} |", flush=True)


def sides() -> dict[str, Callable[[Size, int], Train]]:
    """Returns the other ways to train that can be had here."""
    found: dict[str, Callable[[Size, int], Train]] = {
        "ours, JAX's default precision": _ours_by_default,
        "plain jit(vmap(scan))": jax_sides.vmap_scan,
    }
    if _has("torch"):
        from experiments.benchmarks import torch_sides

        found["torch.func ensemble"] = torch_sides.ensemble
        found[ONE_AT_A_TIME[0]] = functools.partial(torch_sides.one_model, threads=1)
    return found


def _ours_by_default(size: Size, seeds: int) -> Train:
    with jax.default_matmul_precision("default"):
        return ours(size, seeds)[0]


if __name__ == "__main__":
    experiment_flags.run(main, define=define, about=__doc__)
