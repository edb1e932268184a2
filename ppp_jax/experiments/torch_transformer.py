"""Layers of a PyTorch transformer, analysed as anybody's activations are."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

import ppp_jax.analysis as pa
from ppp_jax.analysis import plots, results
from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.limits import LEAST_ROTATIONS
from ppp_jax.analysis.plots.style import PAGE, RULE, TEXT, style
from ppp_jax.cli import experiment, study
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.data import datasets
from ppp_jax.errors import whole

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

ASKED = """\
Do a PyTorch transformer's activations prefer a basis? The analysis on a model that is not ours.

Small transformers (GELU, LayerNorm) learn to name handwritten digits from their eight rows as
tokens; hooks keep the hidden units of the MLP before and after GELU, and the residual stream, of
every block. Hidden units have a privileged basis, the residual stream has none but LayerNorm's and
Adam's.

  python -m experiments.torch_transformer   (needs `pip install "ppp_jax[bench]"`)

It keeps what the hooks saw in latents.npz, an array `(networks, samples, units)` per layer, which
the analysis of anybody's activations opens:

  python -m experiments.analyze --latents=runs/torch_transformer/latents.npz \
      --name=block_0_hidden_after_gelu --epsilon=0.6 --by=axis_0
"""
DOCUMENTED = """\
Cost: 39 s on two cores that do nothing else. Leaves runs/torch_transformer/study: the tests of
every layer, PPP and every network's shape, as layers.png shows.
"""

TOKENS, PIXELS, WIDTH, HEADS, BLOCKS, HIDDEN, BATCH = 8, 8, 16, 2, 2, 32, 32
VECTORS = 2048  # of each layer: samples × tokens, drawn once for all layers and networks
EPSILON = 0.6
Latents = dict[str, "xr.DataArray"]  # of every layer, (seed, sample, unit)
STATISTICS = ("covariance", "shape", "shape_kurtosis")


def define() -> None:
    """Defines the flags."""
    text = "independent networks, each of its own seed"
    experiment_flags.define_count("networks", 8, text, least=1, most=1_000)
    text = "passes over the training set"
    experiment_flags.define_count("epochs", 20, text, least=1, most=100_000)
    experiment_flags.define_rotations()
    flags.DEFINE_string("workdir", "runs/torch_transformer", "folder for tables and figures")


def build() -> Any:
    """Returns a new network: rows as tokens, two of PyTorch's own blocks, a linear read-out."""
    import torch

    class Transformer(torch.nn.Module):
        """Rows as tokens, two blocks of PyTorch's own encoder layer, a linear read-out."""

        def __init__(self) -> None:
            """Draws the weights."""
            super().__init__()
            self.embedding = torch.nn.Linear(PIXELS, WIDTH)
            self.position = torch.nn.Parameter(0.1 * torch.randn(TOKENS, WIDTH))
            self.blocks = torch.nn.ModuleList(
                torch.nn.TransformerEncoderLayer(
                    WIDTH,
                    HEADS,
                    HIDDEN,
                    dropout=0.0,
                    batch_first=True,
                    activation=torch.nn.GELU(),
                    norm_first=True,
                )
                for _ in range(BLOCKS)
            )
            self.output = torch.nn.Linear(WIDTH, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Returns logits of `(samples, 64)` images."""
            x = self.embedding(x.reshape(-1, TOKENS, PIXELS)) + self.position
            for block in self.blocks:
                x = block(x)
            return self.output(x.mean(dim=1))

    return Transformer()


def command() -> None:
    """Trains the networks that the flags describe, tests their layers, writes the study."""
    if importlib.util.find_spec("torch") is None:
        sys.exit("error: this experiment needs PyTorch: pip install 'ppp_jax[bench]'")
    values = flags.FLAGS
    whole("rotations", values.rotations, least=LEAST_ROTATIONS)
    study.check_folder(values.workdir, study.FOLDER)
    workdir = pathlib.Path(values.workdir)
    states = trained(values.networks, values.epochs)
    workdir.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = {layer: cloud.values for layer, cloud in states["trained"].items()}
    np.savez(workdir / "latents.npz", **kept)
    results = analyse(states, experiment.Options(values.rotations, EPSILON))
    with study.writing(workdir) as folder:
        study.keep(
            results,
            folder,
            asked=ASKED.rstrip(),
            documented=DOCUMENTED,
            this_run=study.this_run(experiment.command("torch_transformer"), workdir),
        )


def trained(networks: int, epochs: int) -> dict[str, Latents]:
    """Trains networks, and returns what their layers hold before and after.

    Args:
      networks: How many there are, each of its own seed.
      epochs: How often each sees the training set.

    Returns:
      For `untrained` and `trained`, the vectors of every layer, `(seed, sample, unit)`.
    """
    import torch

    dataset = datasets.load("digits")
    states: dict[str, list[dict[str, np.ndarray]]] = {"untrained": [], "trained": []}
    accuracy = []
    for seed in progress_bar(list(range(networks)), "networks"):
        torch.manual_seed(seed)
        model = build()
        states["untrained"].append(capture(model, dataset.train))
        train(model, dataset, epochs)
        states["trained"].append(capture(model, dataset.train))
        with torch.no_grad():
            named = model(torch.from_numpy(dataset.test)).argmax(dim=1).numpy()
        accuracy.append(float((named == dataset.labels[2]).mean()))
    print(f"held-out accuracy: {np.mean(accuracy):.3f}, least {min(accuracy):.3f}\n")
    return {state: _stacked(each) for state, each in states.items()}


def _stacked(networks: list[dict[str, np.ndarray]]) -> Latents:
    """Puts the vectors of all networks together, layer by layer."""
    import xarray as xr  # imported late: help and plans do without it

    return {
        layer: xr.DataArray(
            np.stack([one[layer] for one in networks]), dims=("seed", "sample", "unit")
        )
        for layer in networks[0]
    }


def train(model: Any, dataset: datasets.Dataset, epochs: int) -> None:
    """Trains a network by Adam."""
    import torch

    x, y = torch.from_numpy(dataset.train), torch.from_numpy(dataset.labels[0]).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x)).split(BATCH):
            loss = torch.nn.functional.cross_entropy(model(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def capture(model: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the vectors of every layer, `(vectors, units)`, by forward hooks."""
    import torch

    kept: dict[str, Any] = {}
    hooks = []
    for k, block in enumerate(model.blocks):
        places = {
            "hidden_before_gelu": block.linear1,
            "hidden_after_gelu": block.activation,
            "residual_stream": block,
        }
        for name, module in places.items():

            def keep(
                _module: Any, _inputs: Any, output: Any, name: str = f"block_{k}_{name}"
            ) -> None:
                kept[name] = output.detach()

            hooks.append(module.register_forward_hook(keep))
    model.train()  # PyTorch's fast path of evaluation calls no hooks; there is no dropout
    with torch.no_grad():
        model(torch.from_numpy(x))
    for hook in hooks:
        hook.remove()
    flat = {name: value.reshape(-1, value.shape[-1]).numpy() for name, value in kept.items()}
    count = len(x) * TOKENS
    drawn = np.random.default_rng(0).choice(count, min(VECTORS, count), replace=False)
    return {name: value[np.sort(drawn)] for name, value in flat.items()}


MOST_ACROSS = 4
CAPTION = (
    "The figure shows the density in the privileged planes of every trained layer over that of "
    "isotropic latents, and below it the alignment of every network's shape, untrained and "
    "trained."
)


def analyse(states: dict[str, Latents], options: experiment.Options) -> study.Results:
    """Tests every layer against rotations, and draws PPP of the trained ones.

    Args:
      states: What `trained` returns.
      options: How many rotations, and the acceptance cosine of PPP.
    """
    tested = {
        layer: {
            state: pa.rotation_test(
                clouds[layer], statistics=STATISTICS, rotations=options.rotations
            )
            for state, clouds in states.items()
        }
        for layer in states["trained"]
    }
    rows = [row for layer, each in tested.items() for row in _rows(layer, each)]
    figure = draw(states["trained"], tested, options.epsilon)
    return study.Results(
        study.frames(layers=results.with_q(rows)), {"layers": study.Shown(figure, CAPTION)}
    )


def _rows(layer: str, tested: dict[str, xr.Dataset]) -> list[dict[str, Any]]:
    """Returns the row of a layer for each statistic."""
    rows = []
    for statistic in STATISTICS:
        ends = {state: pa.pool(one).sel(statistic=statistic) for state, one in tested.items()}
        rows.append(
            {
                "layer": layer,
                "statistic": statistic,
                "untrained": float(ends["untrained"]["value"]),
                "z untrained": float(ends["untrained"]["z"]),
                "trained": float(ends["trained"]["value"]),
                "z": float(ends["trained"]["z"]),
                "p networks": float(ends["trained"]["p_networks"]),
                "p": float(ends["trained"]["p"]),
                "seeds": tested["trained"].sizes["seed"],
            }
        )
    return rows


@style()
def draw(clouds: Latents, tested: dict[str, dict[str, xr.Dataset]], epsilon: float) -> Figure:
    """Draws every layer: PPP of the trained networks, and the shape untrained and trained."""
    across = min(MOST_ACROSS, len(clouds))
    down = -(-len(clouds) // across)
    size: dict[str, Any] = {"width": PAGE / across, "height": 240, "above": 30}
    figure, panels = plots.figures.page_panels(2 * down, across, **size)
    figure.suptitle(f"Trained: PPP over its null, ε = {epsilon:g}; and every network's shape")
    lowest = None
    for place, layer in enumerate(clouds):
        row, column = divmod(place, across)
        above, below = panels[2 * row, column], panels[2 * row + 1, column]
        pa.plot_ppp(pa.ppp(clouds[layer], epsilon=epsilon), ax=above)
        block, rest = layer[: len("block_0")], layer[len("block_0_") :]
        title = f"{block}\n{rest}".replace("_", " ").replace("gelu", "GELU")
        above.set_title(title, fontsize=TEXT)
        each = {
            state: one["value"].sel(statistic="shape").values
            for state, one in tested[layer].items()
        }
        plots.evidence.plot_seeds(each, ax=below)
        below.axhline(0, color=RULE, linewidth=0.8)
        lowest = below if lowest is None else lowest
        below.sharey(lowest)
        if not column:
            below.set_ylabel("shape (C4) of every network")
    for axes in (*panels[-2, 1 + column :], *panels[-1, 1 + column :]):
        axes.set_axis_off()
    return figure


def main(*, argv: list[str] | None = None) -> None:
    """Runs the command."""
    about = f"{ASKED}\n{DOCUMENTED}"
    experiment_flags.run(command, define=define, about=about, argv=argv)


if __name__ == "__main__":
    main()
