"""The plan of a sweep: its runs, and the memory, disk space and time that it needs."""

import pathlib
from typing import NamedTuple

import jax

from ppp_jax import notebook, resources
from ppp_jax.data.datasets import Dataset
from ppp_jax.errors import InputError
from ppp_jax.grid.grid import Grid
from ppp_jax.storage import remote, run_dir
from ppp_jax.storage.manifest import Manifest
from ppp_jax.sweep import demand, seed_batches, sweep
from ppp_jax.symmetry import brought


class Plan(NamedTuple):
    """The size of a sweep, and what it needs.

    Attributes:
      cells: Number of cells, each of which is compiled.
      runs: Number of networks.
      steps: Number of gradient steps per run.
      run_steps_done: Number of steps that are already done in the run folder, over all runs.
      parameters: Number of trained parameters in all runs together.
      devices: Number of devices of all processes.
      seed_batch: Number of runs that a device trains at a time, by `Cell.shape`.
      memory_bytes: Predicted memory that one device needs, in bytes.
      memory_free: Free memory of one device in bytes; on a CPU, its fraction of the host's.
      latents_bytes: Size of the saved latents before compression, in bytes.
      checkpoint_bytes: Size of the newest two checkpoints, in bytes.
      disk_free: Free space on the disk of the run folder, in bytes.
      minutes: Predicted minutes for the remaining steps, without compilation; None if unknown.
      flops: Floating-point operations of one step of all runs. They are counted by XLA if measured,
        and are otherwise six per sample and parameter.
      brought: What was found of the functions that the user brought, one line each.
      shortage: Error with which training would be refused for lack of memory or disk; None if
        there is enough.
    """

    cells: int
    runs: int
    steps: int
    run_steps_done: int
    parameters: int
    devices: int
    seed_batch: dict[str, int]
    memory_bytes: int
    memory_free: int
    latents_bytes: int
    checkpoint_bytes: int
    disk_free: int
    minutes: float | None
    flops: float
    brought: tuple[str, ...]
    shortage: InputError | None

    def __str__(self) -> str:
        """Returns one line per figure, with a mark at what does not fit."""
        figures = (f"{name:<12}{line}" for name, line in self._figures().items())
        return "\n".join([*self.brought, *figures])

    def _repr_html_(self) -> str:
        brought = {"functions": "; ".join(self.brought)} if self.brought else {}
        return notebook.table({**brought, **self._figures()})

    def _figures(self) -> dict[str, str]:
        widths = ", ".join(f"{width} of {shape}" for shape, width in self.seed_batch.items())
        done, text = self.run_steps_done / (self.steps * self.runs), resources.size_text
        tight = self.memory_bytes > self.memory_free
        full = self.latents_bytes + self.checkpoint_bytes > self.disk_free
        return {
            "cells": f"{self.cells:,}",
            "runs": f"{self.runs:,}",
            "steps": f"{self.steps:,} per run, {self.steps * self.runs:,} in all, "
            f"{self.run_steps_done:,} ({done:.0%}) already done",
            "parameters": f"{self.parameters:,}",
            "arithmetic": f"{self.flops / 1e6:,.0f} MFLOP per step of all runs",
            "devices": f"{self.devices}",
            "seed batch": widths,
            "memory": f"{text(self.memory_bytes)} per device, predicted, {text(self.memory_free)} "
            f"free{f'  !! may not fit: {demand.LOWER}' if tight else ''}",
            "latents": f"{text(self.latents_bytes)} on disk, before compression, and "
            f"{text(self.checkpoint_bytes)} of checkpoints, {text(self.disk_free)} free"
            f"{f'  !! may not fit: choose another --workdir, or {demand.LOWER}' if full else ''}",
            "minutes": "unknown; --measure times a short chunk"
            if self.minutes is None
            else f"{self.minutes:,.1f}, after compiling",
        }


def plan(
    grid: Grid,
    workdir: str | pathlib.Path,
    *,
    seed_batch: int | None = None,
    overwrite: bool = False,
    allow_inexact_resume: bool = False,
    measure: bool = False,
) -> Plan:
    """Returns the plan of `sweep.train` with the same arguments, and writes nothing into `workdir`.

    Args:
      grid: The grid to be trained.
      workdir: Path of the run folder, or its address in a bucket. It need not exist.
      seed_batch: Number of runs that a device trains at a time, see `sweep.train`.
      overwrite: Whether an earlier run is to be replaced.
      allow_inexact_resume: Whether training may continue under other conditions.
      measure: Whether to compile and time a short chunk for every network shape and optimiser. The
        compiler then reports the memory, and widths and minutes are timed. Otherwise all figures
        are computed from shapes and from the times of earlier trainings on this machine.

    Returns:
      The plan of the whole grid.

    Raises:
      InputError: `sweep.train` would raise it, except for a lack of memory or disk, which the plan
        contains, and for errors that only writing can cause.
    """
    dataset, workdir = sweep.load_data(grid, seed_batch=seed_batch), remote.fetched(workdir)
    stored = run_dir.check(workdir, grid, dataset, overwrite=overwrite)
    reached: list[int | None] = [None] if stored is None else run_dir.last_steps(workdir, stored)
    parts = (grid,) if stored is None else stored.parts
    shortage = _shortage(dataset, parts, reached, workdir, seed_batch)
    measure = measure and shortage is None
    wanted = sweep.resolve(
        stored,
        workdir,
        grid,
        dataset,
        seed_batch=seed_batch,
        allow_inexact=allow_inexact_resume,
        timed=measure,
    )
    return _planned(wanted, dataset, workdir, reached, measure)._replace(shortage=shortage)


def _planned(
    wanted: Manifest,
    dataset: Dataset,
    workdir: pathlib.Path,
    reached: list[int | None],
    measure: bool,
) -> Plan:
    whole, widths = wanted.grid, wanted.conditions["seed_batch"]
    needs = demand.measure(whole, dataset, widths) if measure else None
    taken = demand.demanded(whole, dataset, widths, needs=needs)
    steps, local = sweep.total_steps(whole, dataset), jax.local_device_count()
    sharing = local if demand.shares_memory() else 1
    done = sum((n or 0) * part.runs for n, part in zip(reached, wanted.parts, strict=True))
    rest, parameters = steps * whole.runs - done, _parameters(whole, dataset)
    flops = 6.0 * whole.batch_size * parameters
    if measure:
        flops = seed_batches.flops_per_step(whole, dataset) * whole.runs_per_cell
    return Plan(
        cells=len(whole.cells),
        runs=whole.runs,
        steps=steps,
        run_steps_done=done,
        parameters=parameters,
        devices=jax.device_count(),
        seed_batch=widths,
        memory_bytes=taken.memory if sharing == 1 else taken.process // sharing,
        memory_free=demand.free_for_training() // sharing,
        latents_bytes=demand.latent_bytes(whole, dataset, len(whole.snapshot_epochs)),
        checkpoint_bytes=taken.checkpoints,
        disk_free=resources.free_disk(workdir),
        minutes=demand.minutes(whole, dataset, widths, run_steps=rest),
        flops=flops,
        brought=brought.check(whole),
        shortage=None,
    )


def _parameters(grid: Grid, dataset: Dataset) -> int:
    """Returns the number of trained parameters in all runs of a grid."""
    per_run = (seed_batches.run_shapes(grid, cell, dataset).parameters for cell in grid.cells)
    return sum(per_run) * grid.runs_per_cell


def _shortage(
    dataset: Dataset,
    parts: tuple[Grid, ...],
    reached: list[int | None],
    workdir: pathlib.Path,
    seed_batch: int | None,
) -> InputError | None:
    try:
        demand.check(dataset, parts, reached, workdir, seed_batch=seed_batch)
    except InputError as error:
        return error
    return None
