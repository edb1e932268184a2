"""Layers of PyTorch models are captured bit for bit, and the models stay as they were."""

import os
import subprocess
import sys

import numpy as np
import pytest

import ppp_jax.analysis as pa
from ppp_jax.errors import InputError
from tests import ROOT

torch = pytest.importorskip("torch", reason="the bench extra has it")
nn = torch.nn


class Block(nn.Module):
    """A block with an activation that changes its input in place, and a tuple as its output."""

    def __init__(self, width):
        """Draws the weights."""
        super().__init__()
        self.inside = nn.Linear(width, 2 * width)
        self.act = nn.ReLU(inplace=True)
        self.outside = nn.Linear(2 * width, width)
        self.drop = nn.Dropout(0.5)

    def forward(self, x, *, scale):
        hidden = self.act(self.inside(x))
        return x + scale * self.drop(self.outside(hidden)), "attention"


class Net(nn.Module):
    """A small language model of blocks, which is called with a mask."""

    def __init__(self, width=6, blocks=2):
        """Draws the weights."""
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.shared = nn.Tanh()
        self.unused = nn.Linear(width, 1)

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        if attention_mask is not None:  # what a position knows of the others
            x = x + (x * attention_mask[..., None]).sum(1, keepdim=True)
        for block in self.blocks:
            x = self.shared(block(x, scale=2.0)[0])
        return {"state": x, "ids": input_ids}


MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 0]])
IDS = torch.arange(15).reshape(3, 5)
BATCH = {"input_ids": IDS, "attention_mask": MASK}
NAMES = ["embed", "blocks.*.inside", "blocks.*.act", "blocks.*"]


def net(**options):
    torch.manual_seed(0)
    return Net(**options)


def by_hand(model, ids, mask):
    """Returns what the layers of a `Net` give, written out."""
    model.eval()
    found = {}
    with torch.no_grad():
        x = found["embed"] = model.embed(ids)
        x = x + (x * mask[..., None]).sum(1, keepdim=True)
        for k, block in enumerate(model.blocks):
            found[f"blocks.{k}.inside"] = block.inside(x)
            found[f"blocks.{k}.act"] = torch.relu(found[f"blocks.{k}.inside"])
            x = x + 2.0 * block.outside(found[f"blocks.{k}.act"])
            found[f"blocks.{k}"] = x
            x = torch.tanh(x)
    return {name: value[mask.bool()].numpy() for name, value in found.items()}


def hooks(model):
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in model.modules())


def refusal(*given, **named):
    with pytest.raises(InputError) as caught:
        pa.capture_torch(*given, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_captured_is_what_a_forward_by_hand_gives_bit_for_bit():
    model = net()
    found = pa.capture_torch(model, NAMES, [BATCH, BATCH])
    expected = by_hand(model, IDS, MASK)
    order = ["embed", "blocks.0.inside", "blocks.1.inside", "blocks.0.act", "blocks.1.act",
             "blocks.0", "blocks.1"]  # fmt: skip
    assert list(found) == order
    for name in order:
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], np.concatenate([expected[name]] * 2))


def test_a_store_holds_the_same(tmp_path):
    found = pa.capture_torch(net(), NAMES, [BATCH, BATCH], store=tmp_path / "store")
    inside = pa.capture_torch(net(), NAMES, [BATCH, BATCH])
    assert list(found) == list(inside)
    assert all(np.array_equal(found[name].values, inside[name]) for name in inside)


def test_what_stands_in_the_padding_does_not_matter():
    other = IDS.where(MASK.bool(), 19)
    options = {"drop_first": True}
    one = pa.capture_torch(net(), NAMES, [BATCH], **options)
    two = pa.capture_torch(net(), NAMES, [BATCH | {"input_ids": other}], **options)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert len(one["embed"]) == int(MASK.sum()) - 3
    left = by_hand(net(), IDS, MASK)["embed"]
    first = np.isin(np.arange(len(left)), [0, 3, 8])  # of each text, that is no padding
    assert np.array_equal(one["embed"], left[~first])


def test_modes_and_hooks_are_those_of_before_also_after_an_error():
    model = net()
    model.train()
    model.blocks[1].eval()
    mine = model.embed.register_forward_hook(lambda *_: None)
    modes = [one.training for one in model.modules()]
    assert True in modes
    assert False in modes
    seen = []
    probe = model.unused.register_forward_hook(lambda *_: seen.append(1))

    def check():
        assert [one.training for one in model.modules()] == modes
        assert hooks(model) == 2
        assert torch.is_grad_enabled()
        assert torch.backends.mha.get_fastpath_enabled()

    pa.capture_torch(model, NAMES, [BATCH])
    check()
    refusal(model, [*NAMES, "unused"], [BATCH])
    check()
    with pytest.raises(TypeError, match="unexpected keyword"):
        pa.capture_torch(model, NAMES, [BATCH | {"other": 1}])
    check()
    mine.remove()
    probe.remove()
    assert not any(one.grad is not None for one in model.parameters())


def test_inputs_are_taken_where_that_is_asked_for():
    model = net()
    names = {"before *": "blocks.*.act", "after *": "blocks.*.act", "block *": "blocks.*"}
    found = pa.capture_torch(model, names, [BATCH], inputs=["before *", "blocks.*"])
    expected = by_hand(model, IDS, MASK)
    for k in range(2):
        assert np.array_equal(found[f"before {k}"], expected[f"blocks.{k}.inside"])
        assert np.array_equal(found[f"after {k}"], expected[f"blocks.{k}.act"])
    assert np.array_equal(found["block 1"], torch.tanh(torch.tensor(expected["blocks.0"])))
    every = pa.capture_torch(model, "blocks.0.act", [BATCH], inputs=True)
    assert np.array_equal(every["blocks.0.act"], expected["blocks.0.inside"])


def test_inputs_by_name_are_taken_too():
    class Caller(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block(6)

        def forward(self, x):
            return self.block(x=x, scale=1.0)

    x = torch.randn(4, 6)
    found = pa.capture_torch(Caller(), ["block"], [x], inputs=True)
    assert np.array_equal(found["block"], x.numpy())


def test_calls_of_one_module_are_layers_of_their_own():
    model = net()
    found = pa.capture_torch(model, ["shared"], [BATCH, BATCH])
    assert list(found) == ["shared[0]", "shared[1]"]
    expected = by_hand(model, IDS, MASK)
    for k in range(2):
        one = torch.tanh(torch.tensor(expected[f"blocks.{k}"])).numpy()
        assert np.array_equal(found[f"shared[{k}]"], np.concatenate([one, one]))


def test_another_number_of_calls_is_refused():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.Tanh()

        def forward(self, x):
            for _ in range(len(x)):
                x = self.act(x)
            return x

    told = refusal(Loop(), "act", [torch.ones(2, 3), torch.ones(4, 3)])
    assert "was called 4 times in one batch and 2 in an earlier one" in told


@pytest.mark.parametrize("batch", [IDS, [IDS, MASK], (IDS, MASK)])
def test_batches_may_be_tensors_or_arguments(batch):
    found = pa.capture_torch(net(), ["embed"], [batch])
    assert np.array_equal(found["embed"], net().embed(IDS).detach().numpy().reshape(-1, 6))


def test_masks_may_be_none_or_a_function():
    every = pa.capture_torch(net(), ["embed"], [BATCH], mask=None)["embed"]
    assert len(every) == 15
    odd = pa.capture_torch(net(), ["embed"], [BATCH], mask=lambda batch: batch["input_ids"] % 2)
    assert np.array_equal(odd["embed"], every[1::2])


def test_units_of_convolutions_are_channels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(5 * 16, 4))
    images = torch.randn(3, 2, 6, 6)
    found = pa.capture_torch(model, {"conv": "0", "end": "2"}, [images], unit_axis=1)
    conv = model[0](images).detach().numpy()
    assert found["conv"].shape == (3 * 16, 5)
    assert np.array_equal(found["conv"][16 + 4 + 2], conv[1, :, 1, 2])
    assert found["end"].shape == (3, 4)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_any_precision_becomes_single_precision(kind):
    model = nn.Linear(3, 4).to(kind)
    x = torch.randn(5, 3).to(kind)
    found = pa.capture_torch(model, {"end": ""}, [x])["end"]
    assert found.dtype == np.float32
    assert np.array_equal(found, model(x).detach().float().numpy())


def test_double_precision_is_kept_where_it_is_asked_for():
    model, x = nn.Linear(3, 4).double(), torch.randn(5, 3).double()
    found = pa.capture_torch(model, {"end": ""}, [x], dtype="float64")["end"]
    assert np.array_equal(found, model(x).detach().numpy())


def test_layers_within_the_fast_path_of_pytorch_are_called():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(3, 5, 8)
    found = pa.capture_torch(model, ["layers.*.linear1", "layers.*"], [x])
    assert [v.shape for v in found.values()] == [(15, 16)] * 2 + [(15, 8)] * 2
    assert np.allclose(found["layers.1"], model(x).detach().numpy().reshape(-1, 8), atol=1e-5)


def test_enough_vectors_end_it():
    taken = []

    def batches():
        for k in range(10):
            taken.append(k)
            yield BATCH

    found = pa.capture_torch(net(), NAMES, batches(), max_vectors=12)
    assert {len(one) for one in found.values()} == {12}
    assert taken == [0, 1]


BAD = [
    (lambda: None, NAMES, [BATCH], {}, "model=NoneType: must be a model of PyTorch"),
    (net, [], [BATCH], {}, "names=[]: must be names"),
    (net, 3, [BATCH], {}, "names=int: must be names"),
    (net, "blocks.0.atc", [BATCH], {}, "names=blocks.0.atc: is the name of no module of the model; "
     "did you mean blocks.0.act"),
    (net, "blocks.*.mlp", [BATCH], {}, "names=blocks.*.mlp: is the name of no module"),
    (net, [""], [BATCH], {}, "give it a label, as in {'output': ''}"),
    (net, ["embed", "emb*"], [BATCH], {}, "names=embed: stands for two layers"),
    (net, {"a": "blocks.*"}, [BATCH], {}, "stands for 2 layers; give its label a as many *"),
    (net, ["unused"], [BATCH], {}, "names=unused: was not called by the model"),
    (net, NAMES, [], {}, "batches=none: holds nothing"),
    (net, NAMES, BATCH, {}, "batches=dict: must be a list of batches"),
    (net, NAMES, IDS, {}, "batches=Tensor: must be a list of batches"),
    (net, NAMES, 3, {}, "batches=int: must be"),
    (net, ["embed"], [IDS], {"drop_first": 1}, "drop_first=1: must be True or False"),
    (net, ["embed"], [IDS], {"unit_axis": 5}, "names=embed: gives an array of shape (3, 5, 6), "
     "which has no axis 5"),
    (net, ["embed"], [IDS], {"dtype": "int8"}, "dtype=int8: must be"),
    (net, ["embed"], [IDS], {"max_vectors": 0}, "max_vectors=0: must be at least 1"),
    (net, ["embed"], [IDS], {"mask": "pad"}, "mask=pad: must be 'auto', None"),
    (net, ["embed"], [IDS], {"mask": lambda _: MASK[:2]}, "mask of shape (2, 5) does not fit"),
    (net, ["embed"], [IDS], {"mask": lambda _: MASK * 2}, "mask=array (3, 5): must hold zeros"),
    (net, ["embed"], [IDS], {"mask": lambda _: None}, "mask=NoneType: must be an array"),
    (net, ["embed"], [IDS], {"mask": lambda _: MASK * 0}, "mask=embed: leaves no vector"),
    (net, ["embed"], [IDS], {"inputs": ["embd"]}, "inputs=embd: is no name or label"),
    (net, ["embed"], [IDS], {"inputs": "embed"}, "inputs=embed: must be True or False, or a list"),
    (net, ["embed"], [IDS], {"inputs": True}, "gives numbers of type int64, which are no activ"),
    (lambda: nn.Linear(3, 4), {"a": ""}, [torch.ones(3)], {}, "which is no (samples, units)"),
    (net, ["embed"], [IDS], {"progress": 3}, "progress=3: must be True or False"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_cannot_be_captured_is_one_line(number, tmp_path):
    model, names, batches, options, words = BAD[number]
    made = model()
    assert words in refusal(made, names, batches, store=tmp_path / "store", **options)
    assert not list(tmp_path.iterdir())
    assert made is None or hooks(made) == 0


def test_a_module_that_gives_no_tensor_is_named():
    class Text(nn.Module):
        def forward(self, _):
            return "text", 3

    told = refusal(nn.Sequential(Text()), {"said": "0"}, [torch.ones(2, 2)])
    assert "names=said: gives tuple, which is no tensor" in told


PROGRAM = """
import resource, sys
import numpy as np, torch
import ppp_jax.analysis as pa
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Tanh())
def batches(number):
    for k in range(number):
        yield torch.full((2000, 64), k / 100)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
pa.capture_torch(model, ["0", "1"], batches(10), store=sys.argv[1] + "_small")
before = peak()
found = pa.capture_torch(model, ["0", "1"], batches(100), store=sys.argv[1])
grown = peak() - before
assert found["1"].shape == (200_000, 256), found["1"].shape
last = torch.tanh(model[0](torch.full((1, 64), 99 / 100))).detach().numpy()
assert np.allclose(found["1"][-1].values, last, atol=1e-5)
print(grown)
"""


def test_memory_is_bounded_where_vectors_go_to_a_store(tmp_path):
    """Two layers of 195 MiB each; a capture of a tenth has warmed everything up."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "store"],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 40, done.stdout


def test_layers_of_a_real_tokenizer_s_batches_are_compared(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the pretrained extra has it")
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    model = transformers.GPT2Model(config)
    generator = torch.Generator().manual_seed(0)
    batches = [
        transformers.BatchEncoding(
            {"input_ids": torch.randint(50, (4, 16), generator=generator),
             "attention_mask": (torch.arange(16) < torch.tensor([[16], [9], [12], [5]])).int()}
        )
        for _ in range(3)
    ]  # fmt: skip
    names = {"residual *": "h.*", "hidden *": "h.*.mlp.act"}
    found = pa.capture_torch(model, names, batches, drop_first=True, store=tmp_path / "store")
    assert list(found) == ["residual 0", "residual 1", "hidden 0", "hidden 1"]
    assert {name: one.shape for name, one in found.items()} == {
        name: (3 * (42 - 4), 8 if name[0] == "r" else 32) for name in found
    }
    with torch.no_grad():
        states = model.eval()(**batches[0], output_hidden_states=True).hidden_states[1]
    kept = batches[0]["attention_mask"].bool()
    kept[:, 0] = False
    assert np.array_equal(found["residual 0"][:38].values, states[kept].numpy())
    tested = pa.compare_layers(found, statistics=["c4"], rotations=3)
    assert tested["rows"].values.tolist() == [114] * 4
