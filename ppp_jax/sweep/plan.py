"""What a sweep would do, before it does it."""

import pathlib
from typing import NamedTuple

import jax

from ppp_jax import resources
from ppp_jax.data.datasets import Dataset
from ppp_jax.errors import InputError
from ppp_jax.grid.grid import Grid
from ppp_jax.storage import run_dir
from ppp_jax.storage.manifest import Manifest
from ppp_jax.sweep import demand, seed_batches, sweep


class Plan(NamedTuple):
    """What training a grid amounts to.

    Attributes:
      cells: static configurations, each compiled.
      runs: trained networks.
      steps: gradient steps per run.
      run_steps_done: steps that the workdir already holds, over all runs.
      parameters: trained numbers in all runs together.
      devices: on which runs are trained, over all processes.
      seed_batch: `Cell.shape` to the number of runs trained at a time on a device.
      memory_bytes: memory that one device needs, predicted.
      memory_free: what it has; on a CPU its share of the host's.
      latents_bytes: size of the saved latents, uncompressed.
      checkpoint_bytes: size of the newest two checkpoints.
      disk_free: of the disk of the workdir.
      minutes: that the steps not yet done take, compilation left out; None: unknown.
      flops: floating-point operations of one step of all runs: as XLA counts them if measured, else
        six per sample and parameter.
      shortage: what training is bound to fail for want of, for which it is refused; None: nothing.
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
    shortage: InputError | None

    def __str__(self) -> str:
        """One line per figure; what does not fit is marked."""
        widths = ", ".join(f"{width} of {shape}" for shape, width in self.seed_batch.items())
        done, text = self.run_steps_done / (self.steps * self.runs), resources.size_text
        tight = self.memory_bytes > self.memory_free
        full = self.latents_bytes + self.checkpoint_bytes > self.disk_free
        lines = {
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
            f"{f'  !! may not fit: name another --workdir, or {demand.LOWER}' if full else ''}",
            "minutes": "unknown; --measure times a short chunk"
            if self.minutes is None
            else f"{self.minutes:,.1f}, after compiling",
        }
        return "\n".join(f"{name:<12}{line}" for name, line in lines.items())


def plan(
    grid: Grid,
    workdir: str | pathlib.Path,
    *,
    seed_batch: int | None = None,
    overwrite: bool = False,
    allow_inexact_resume: bool = False,
    measure: bool = False,
) -> Plan:
    """Counts what `sweep.train` with the same arguments would do, writing nothing into `workdir`.

    Args:
      grid: what would be trained.
      workdir: the run folder, which need not exist.
      seed_batch: see `sweep.train`.
      overwrite: see `sweep.train`.
      allow_inexact_resume: see `sweep.train`.
      measure: compile and time a little of every network shape and optimiser: memory is the
        compiler's, widths and minutes are timed. If not, all is from shapes and from what earlier
        trainings on this machine took.

    Returns:
      The `Plan`, of the whole grid.

    Raises:
      InputError: as `sweep.train`, but for what only writing can show, and for a lack of memory or
        disk, which the plan names.
    """
    dataset, workdir = sweep.load_data(grid, seed_batch=seed_batch), run_dir.folder(workdir)
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
    share = local if demand.shares_memory() else 1
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
        memory_bytes=taken.memory if share == 1 else taken.process // share,
        memory_free=demand.free_for_training() // share,
        latents_bytes=demand.latent_bytes(whole, dataset, len(whole.snapshot_epochs)),
        checkpoint_bytes=taken.checkpoints,
        disk_free=resources.free_disk(workdir),
        minutes=demand.minutes(whole, dataset, widths, run_steps=rest),
        flops=flops,
        shortage=None,
    )


def _parameters(grid: Grid, dataset: Dataset) -> int:
    """Returns the trained numbers in all runs of a grid."""
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
