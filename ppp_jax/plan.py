"""What a sweep would do, before it does it."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np

from ppp_jax import latents, program, store, sweep, tuning
from ppp_jax.grid import Grid


class Plan(NamedTuple):
    """What training a grid amounts to.

    Attributes:
      cells: static configurations, each compiled.
      runs: trained networks.
      steps: gradient steps per run.
      run_steps_done: steps that the workdir already holds, over all runs.
      parameters: trained numbers in all runs together.
      flops: floating-point operations of one step of all runs.
      devices: on which runs are trained, over all processes.
      seed_batch: `Cell.shape` to the number of runs trained at a time on a device.
      memory_bytes: memory that one device needs, predicted.
      latents_bytes: size of the saved latents, uncompressed.
    """

    cells: int
    runs: int
    steps: int
    run_steps_done: int
    parameters: int
    flops: float
    devices: int
    seed_batch: dict[str, int]
    memory_bytes: int
    latents_bytes: int

    def __str__(self) -> str:
        """One line per figure."""
        widths = ", ".join(f"{width} of {shape}" for shape, width in self.seed_batch.items())
        done = self.run_steps_done / (self.steps * self.runs)
        return (
            f"cells       {self.cells:,}\n"
            f"runs        {self.runs:,}\n"
            f"steps       {self.steps:,} per run, {self.steps * self.runs:,} in all, "
            f"{self.run_steps_done:,} ({done:.0%}) already done\n"
            f"parameters  {self.parameters:,}\n"
            f"arithmetic  {self.flops / 1e6:,.0f} MFLOP per step of all runs\n"
            f"devices     {self.devices}\n"
            f"seed batch  {widths}\n"
            f"memory      {self.memory_bytes / 2**20:,.0f} MiB per device, predicted\n"
            f"latents     {self.latents_bytes / 2**20:,.0f} MiB on disk, before compression"
        )


def plan(
    grid: Grid,
    workdir: str | pathlib.Path,
    *,
    seed_batch: int | None = None,
    overwrite: bool = False,
    allow_inexact_resume: bool = False,
) -> Plan:
    """Counts what `sweep.train` with the same arguments would do, writing nothing.

    Two small programs per network shape are compiled to predict the memory.

    Args:
      grid: what would be trained.
      workdir: the run folder, which need not exist.
      seed_batch: see `sweep.train`.
      overwrite: see `sweep.train`.
      allow_inexact_resume: see `sweep.train`.

    Returns:
      The `Plan`, of the whole grid.

    Raises:
      InputError: as `sweep.train`, but for what only writing can show.
    """
    dataset, workdir = sweep.load_data(grid, seed_batch=seed_batch), store.folder(workdir)
    stored = store.check(workdir, grid, dataset, overwrite=overwrite)
    wanted = sweep.resolve(
        stored,
        workdir,
        grid,
        dataset,
        seed_batch=seed_batch,
        allow_inexact=allow_inexact_resume,
    )
    reached = [0] if stored is None else [s or 0 for s in store.last_steps(workdir, wanted)]
    whole, widths = wanted.grid, wanted.conditions["seed_batch"]
    built = program.build(whole, dataset, seed_batch=widths, arrays=program.outline(whole, dataset))
    needs = {shape: tuning.measure(whole, shape, dataset) for shape in widths}
    probes = min(whole.probe_samples, len(dataset.train)) * len(whole.snapshot_epochs)
    kept = latents.groups(whole, dataset.shape)
    numbers = sum(2 * group.units * group.vectors * group.grid.runs for group in kept)
    return Plan(
        cells=len(whole.cells),
        runs=whole.runs,
        steps=sweep.total_steps(whole, dataset),
        run_steps_done=sum(
            done * part.runs for done, part in zip(reached, wanted.parts, strict=True)
        ),
        parameters=_parameters(whole, built),
        flops=tuning.flops_per_step(whole, dataset) * whole.runs_per_cell,
        devices=jax.device_count(),
        seed_batch=widths,
        memory_bytes=tuning.memory_bytes(whole, built, widths, needs),
        latents_bytes=numbers * probes * np.dtype(np.float32).itemsize,
    )


def _parameters(grid: Grid, built: program.Program) -> int:
    """Returns the trained numbers in all runs of a grid, padding left out."""
    states = jax.eval_shape(built.init, built.hypers)
    per_run = [
        leaf.size // len(leaf) for s in states.values() for leaf in jax.tree.leaves(s.params)
    ]
    return sum(per_run) * grid.runs_per_cell
