"""The headline in one table: what a run folder, or anyone's latents, say about a basis."""

import os
import pathlib
from typing import Any

import pandas as pd
import xarray as xr

from ppp_jax.analysis.inference.rotation_test import ROTATIONS, rotation_test
from ppp_jax.analysis.io.load import is_run, load
from ppp_jax.analysis.io.runs import load_run, saved_groups
from ppp_jax.analysis.io.sources import Latents
from ppp_jax.analysis.projection.planes import BasisLike
from ppp_jax.analysis.results.measure import measure
from ppp_jax.analysis.results.verdicts import CLAIMS, verdict_table
from ppp_jax.analysis.statistics import registry
from ppp_jax.errors import InputError
from ppp_jax.files.mirrors import located


def summary(
    latents: Latents | str | os.PathLike[str],
    *,
    basis: BasisLike = None,
    epsilon: float = 0.85,
    rotations: int = ROTATIONS,
    rotation_seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Says of latents, in a row each, whether they are aligned with a basis.

    Args:
      latents: The run folder of a grid; or latents that `load` or `rotation_test` takes, whose
        leading axes are separate clouds.
      basis: The privileged vectors, `(vectors, units)`, or a name; None: the standard basis. The
        cells of a run folder are held against their activations' own bases.
      epsilon: The acceptance cosine of a run folder's angles.
      rotations: K of the rotation null.
      rotation_seed: Seed of the random rotations.
      progress: Whether to show a progress bar on stderr.

    Returns:
      Of a run folder a row per cell and site of latents: its names, of each statistic on which
      verdicts rest the mean over seeds, `…_z`, `…_q_networks` (of these networks) and `…_q` (over
      seeds), and the verdicts in words. Of other latents
      a row per cloud and statistic: `value`, the null's `mean` and its 2.5 and
      97.5 % quantiles `low` and `high`, `z` and `p`.

    Raises:
      InputError: An argument cannot be used; the error names it.

    Example:
      >>> import numpy as np
      >>> table = summary(np.random.default_rng(0).laplace(size=(2000, 8)), rotations=99)
      >>> table.set_index("statistic").loc[["shape", "shape_kurtosis"], "p"].tolist()
      [0.01, 0.01]
    """
    options = {"rotations": rotations, "rotation_seed": rotation_seed, "progress": progress}
    if isinstance(latents, str | os.PathLike):
        path = located("latents", latents)
        if not is_run(path):
            return _of_clouds(load(path), basis, **options)
        if basis is not None:
            problem = "is not taken for a run folder, whose activations have bases of their own"
            raise InputError("basis", basis, problem)
        return _of_run(path, epsilon, **options)
    if isinstance(latents, xr.Dataset):
        raise InputError("latents", "Dataset", "must be the path of its run folder, or one array")
    return _of_clouds(latents, basis, **options)


def _of_clouds(latents: Latents, basis: BasisLike, **options: Any) -> pd.DataFrame:
    tested = rotation_test(latents, basis=basis, **options)
    columns = ["value", "mean", "low", "high", "z", "p"]
    table = tested[columns].to_dataframe().reset_index()
    return table[[*(name for name in table if name not in columns), *columns]]


def _of_run(path: pathlib.Path, epsilon: float, **options: Any) -> pd.DataFrame:
    groups = saved_groups(path)
    measured = [measure(load_run(path, **group), epsilon=epsilon, **options) for group in groups]
    tables = []
    for group, table in zip(groups, verdict_table(measured), strict=True):
        where = {name: group[name] for name in ("architecture", "latent_width")}
        tables.append(_headline(table).assign(**where))
    return pd.concat(tables, ignore_index=True)


def _headline(table: pd.DataFrame) -> pd.DataFrame:
    """Keeps what names a row, the statistics on which verdicts rest, and its verdicts."""
    names = list(table.columns[: table.columns.get_loc("seeds") + 1])
    numbers = [
        f"{name}{end}"
        for family in registry.FAMILIES
        for name in registry.names(family=family)
        for end in ("", "_z", "_q_networks", "_q")
    ]
    return table[[*names, *numbers, *CLAIMS]]
