"""A pretrained encoder's layers are captured and tested, where the extra is installed."""

import numpy as np
import pandas as pd
import pytest

from ppp_jax.errors import InputError
from ppp_jax.experiments import pretrained
from tests import forks

LAYERS = ["embeddings residual", "block 0 residual", "block 0 before GELU", "block 0 after GELU"]


@pytest.fixture(scope="module")
def encoder():
    """The encoder that the extra's package carries."""
    for name in pretrained.NEEDS:
        pytest.importorskip(name, reason="the pretrained extra has it")
    return pretrained.opened()


def test_the_text_is_prose_and_no_paragraph_stands_twice():
    paragraphs = [one for text in pretrained.pydoc_data.topics.topics.values()
                  for one in pretrained.sentences(text)]  # fmt: skip
    assert sum(len(one.split()) for one in set(paragraphs)) > 20_000
    assert not any(mark in one for one in paragraphs for mark in ("::=", "*", "`", "\n", ">>>"))


def test_passages_are_enough_tokens_of_text_and_always_the_same(encoder):
    taken = pretrained.chosen(encoder.tokenizer, 1000)
    assert taken == pretrained.chosen(encoder.tokenizer, 2000)[: len(taken)]
    assert 1000 <= sum(len(one) - 2 for one in taken) < 1000 + 126
    ends = {(one[0], one[-1]) for one in pretrained.passages(encoder.tokenizer)}
    assert ends == {(encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id)}
    assert max(map(len, pretrained.passages(encoder.tokenizer))) == pretrained.TOKENS
    with pytest.raises(InputError, match="vectors=100000: is more than the"):
        pretrained.chosen(encoder.tokenizer, 100_000)


def test_layers_are_captured_once_and_are_those_of_the_network(encoder, tmp_path):
    import torch
    import transformers

    names = pretrained.places(1)
    found = pretrained.captured(tmp_path, names, vectors=150, weights_seed=0)
    assert {model: list(layers) for model, layers in found.items()} == {
        pretrained.TRAINED: LAYERS, pretrained.RANDOM: LAYERS,
    }  # fmt: skip
    stores = sorted((tmp_path / "activations").iterdir())
    written = [path.stat().st_mtime_ns for path in stores]
    again = pretrained.captured(tmp_path, names, vectors=150, weights_seed=0)
    assert written == [path.stat().st_mtime_ns for path in stores]
    assert all(np.array_equal(again[model][name], found[model][name])
               for model in found for name in LAYERS)  # fmt: skip
    other = pretrained.captured(tmp_path, names, vectors=150, weights_seed=1)
    assert len(list((tmp_path / "activations").iterdir())) == 3
    assert not np.allclose(other[pretrained.RANDOM][LAYERS[1]], found[pretrained.RANDOM][LAYERS[1]])

    model = transformers.AutoModel.from_pretrained(encoder.folder, local_files_only=True).eval()
    (first, *_) = pretrained.chosen(encoder.tokenizer, 150)
    with torch.no_grad():
        states = model(torch.tensor([first]), output_hidden_states=True).hidden_states
    for name, state in zip(LAYERS[:2], states, strict=False):
        expected = state[0, 1:-1].numpy()[:150]  # without the tokens that begin and end it
        assert np.allclose(found[pretrained.TRAINED][name][: len(expected)], expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("encoder")
def test_the_command_leaves_every_layer_of_both_networks(tmp_path):
    done = forks.run("experiments.pretrained", f"--workdir={tmp_path}", "--vectors=300",
                     "--rotations=19", "--blocks=1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "study" / "layers.csv")
    assert table["layer"].unique().tolist() == LAYERS
    assert len(table) == 4 * 12
    dips = table[table["statistic"] == "axis_quantisation"]
    assert dips[["q trained", "q random weights"]].notna().all(axis=None)
    assert (tmp_path / "study" / "layers.png").stat().st_size > 0
    assert len(pd.read_csv(tmp_path / "study" / "units.csv")) == 2 * 4 * pretrained.TOP
    assert "not judged of trained" in done.stdout


def test_without_the_extra_it_is_said_how_to_install_it():
    done = forks.run("experiments.pretrained", without=["torch"])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: this experiment needs PyTorch, transformers and the encoder (torch is missing): "
        "pip install 'ppp_jax[pretrained]'\n"
    )
