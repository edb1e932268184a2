"""Ways to train many small autoencoders with PyTorch (the `bench` extra)."""

import functools
from typing import Any

import numpy as np
import torch
from torch import nn

from experiments.benchmarks.task import BATCH, LEARNING_RATE, Size, Train, samples

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def one_model(size: Size, seeds: int, *, threads: int) -> Train:
    """Returns the eager training of one model with the fused Adam; all take the same time."""
    del seeds
    torch.set_num_threads(threads)
    x, model = torch.from_numpy(samples(size.features)).to(DEVICE), _model(size)
    adam, mse = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True), nn.MSELoss()
    rng = np.random.default_rng(0)

    def train(steps: int) -> None:
        for _ in range(steps):
            batch = x[torch.from_numpy(rng.integers(0, len(x), BATCH))]
            adam.zero_grad()
            mse(model(batch), batch).backward()
            adam.step()
        _wait()

    return train


def ensemble(size: Size, seeds: int) -> Train:
    """Returns the training of all models by torch.func, with fused Adam on stacked parameters."""
    x = torch.from_numpy(samples(size.features)).to(DEVICE)
    models = [_model(size) for _ in range(seeds)]
    stacked, buffers = torch.func.stack_module_state(models)
    adam, skeleton = torch.optim.Adam(stacked.values(), lr=LEARNING_RATE, fused=True), models[0]
    rng = np.random.default_rng(0)

    def loss(parameters: Any, batch: torch.Tensor) -> torch.Tensor:
        output = torch.func.functional_call(skeleton, (parameters, buffers), (batch,))
        return nn.functional.mse_loss(output, batch)

    gradients = torch.func.vmap(torch.func.grad(loss))

    def train(steps: int) -> None:
        for _ in range(steps):
            batch = x[torch.from_numpy(rng.integers(0, len(x), (seeds, BATCH)))]
            values = {name: tensor.detach() for name, tensor in stacked.items()}
            for name, gradient in gradients(values, batch).items():
                stacked[name].grad = gradient
            adam.step()
        _wait()

    return train


def _model(size: Size) -> nn.Module:
    a, b, c = size
    layers = [nn.Linear(a, b), nn.Linear(b, c), nn.Linear(c, b), nn.Linear(b, a)]
    t = nn.Tanh()
    return nn.Sequential(layers[0], t, layers[1], t, layers[2], t, layers[3]).to(DEVICE)


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


SIDES = {
    "torch_1_thread": functools.partial(one_model, threads=1),
    "torch_2_threads": functools.partial(one_model, threads=2),
    "torch_func": ensemble,
}
