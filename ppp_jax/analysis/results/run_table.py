"""One tidy row per run of a run folder, over all its groups."""

import os

import pandas as pd

from ppp_jax.analysis.io.runs import BOTTLENECK, load_run, saved_groups
from ppp_jax.analysis.results.measure import ERRORS
from ppp_jax.files.paths import located


def table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Returns one row per trained network of a run folder, at its last snapshot.

    Args:
      path: A run folder, or the `latents.zarr` in it.

    Returns:
      The data frame. Its columns are every axis of the grid (`activation`, `depth`, `width`,
      `latent_width`, `optimizer`, `initializer`, `architecture`, `learning_rate`, `dose` if the
      grid has doses, and `seed`), facts about them (`activation_group`,
      `optimizer_respects_rotations`, …), `epoch` and `step`, the errors `train_mse`,
      `validation_mse` and `test_mse`, and `diverged`, whether the run diverged.

    Raises:
      InputError: The path holds no latents, or they are damaged.
    """
    frames = []
    for group in saved_groups(located("path", path), layer=BOTTLENECK):
        runs = load_run(path, **group)[[*ERRORS, "diverged_step"]].isel(step=-1).load()
        frame = runs.to_dataframe().reset_index().drop(columns="rate")
        frame.insert(1, "architecture", group["architecture"])
        frame.insert(1, "latent_width", group["latent_width"])
        frames.append(frame.assign(diverged=frame.pop("diverged_step") >= 0))
    return pd.concat(frames, ignore_index=True)
