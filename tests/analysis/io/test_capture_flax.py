"""Layers of flax NNX models are captured as they are, and the models stay as they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ppp_jax.analysis as pa
from ppp_jax.errors import InputError


class Block(nnx.Module):
    """A block that sows its hidden units."""

    def __init__(self, width, *, rngs):
        """Draws the weights."""
        self.inside = nnx.Linear(width, 2 * width, rngs=rngs)
        self.outside = nnx.Linear(2 * width, width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        hidden = nnx.gelu(self.inside(x))
        self.sow(nnx.Intermediate, "hidden", hidden)
        return x + self.drop(self.outside(hidden)), "attention"


class Special(Block):
    """A block that calls the method of its parent."""

    def __call__(self, x):
        return super().__call__(2 * x)


class Net(nnx.Module):
    """A small language model, which is called with a mask."""

    def __init__(self, *, rngs, kind=Block):
        """Draws the weights."""
        self.embed = nnx.Embed(20, 6, rngs=rngs)
        self.block_0, self.block_1 = Block(6, rngs=rngs), kind(6, rngs=rngs)
        self.unused = nnx.Linear(6, 1, rngs=rngs)

    def __call__(self, ids, attention_mask=None):
        x = self.embed(ids)
        if attention_mask is not None:
            x = x + (x * attention_mask[..., None]).sum(1, keepdims=True)
        for block in (self.block_0, self.block_1):
            x = block(x)[0]
        self.sow(nnx.Intermediate, "end", x)
        self.sow(nnx.Variable, "other", x)
        return x


IDS = jnp.arange(15).reshape(3, 5)
MASK = jnp.asarray([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 0]], jnp.float32)
BATCH = {"ids": IDS, "attention_mask": MASK}
SOWN = ["block_0.hidden", "block_1.hidden", "end"]
# What is sown outside of nnx.capture, which only the newest flax has, stays in the model.
pytestmark = pytest.mark.filterwarnings("ignore:.*sow.*:DeprecationWarning")


def net(**options):
    return Net(rngs=nnx.Rngs(0), **options)


def by_hand(model):
    """Returns what the layers of a `Net` give, written out."""
    x = model.embed(IDS)
    x = x + (x * MASK[..., None]).sum(1, keepdims=True)
    found = {"embed": model.embed(IDS)}
    for k, block in enumerate((model.block_0, model.block_1)):
        found[f"block_{k}.inside"] = block.inside(x)
        found[f"block_{k}.hidden"] = nnx.gelu(block.inside(x))
        x = x + block.outside(found[f"block_{k}.hidden"])
        found[f"block_{k}"] = x
    found["end"] = x
    return {name: np.asarray(value)[np.asarray(MASK) == 1] for name, value in found.items()}


def refusal(*given, **named):
    with pytest.raises(InputError) as caught:
        pa.capture_flax(*given, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_sown_is_captured_bit_for_bit():
    found = pa.capture_flax(net(), [BATCH, BATCH])
    expected = by_hand(net())
    assert list(found) == SOWN
    for name in SOWN:
        assert np.array_equal(found[name], np.concatenate([expected[name]] * 2))


def test_outputs_of_modules_are_captured_by_name():
    names = {"embed": "embed", "before *": "block_*.inside", "*": "block_*", "h": "block_1.hidden"}
    found = pa.capture_flax(net(), [BATCH], names=names)
    expected = by_hand(net())
    assert list(found) == ["embed", "before 0", "before 1", "0", "1", "h"]
    for label, name in zip(
        found,
        ["embed", "block_0.inside", "block_1.inside", "block_0", "block_1", "block_1.hidden"],
        strict=True,
    ):
        assert np.array_equal(found[label], expected[name])


def test_a_store_holds_the_same(tmp_path):
    options = {"drop_first": True, "max_vectors": 9}
    found = pa.capture_flax(net(), [BATCH, BATCH], store=tmp_path / "store", **options)
    inside = pa.capture_flax(net(), [BATCH, BATCH], **options)
    for name, vectors in inside.items():
        assert len(vectors) == 9
        assert np.array_equal(found[name].values, vectors)


def test_what_stands_in_the_padding_does_not_matter():
    other = {"ids": jnp.where(MASK == 1, IDS, 19), "attention_mask": MASK}
    one, two = (pa.capture_flax(net(), [batch]) for batch in (BATCH, other))
    assert all(np.array_equal(one[name], two[name]) for name in SOWN)


def test_the_model_stays_as_it_was_also_after_an_error():
    model = net()
    model.train()
    methods = [nnx.Linear.__call__, Block.__call__, nnx.Module.sow]
    before = jax.tree.leaves(nnx.state(model))
    for names in (None, ["block_0.inside", "block_1"]):
        pa.capture_flax(model, [BATCH], names=names)
    refusal(model, [BATCH], names=["unused"])
    with pytest.raises(TypeError, match="unexpected keyword"):
        pa.capture_flax(model, [BATCH | {"other": 1}])
    assert [nnx.Linear.__call__, Block.__call__, nnx.Module.sow] == methods
    assert model.block_0.drop.deterministic is False
    assert not hasattr(model, "end")
    after = jax.tree.leaves(nnx.state(model))
    assert len(before) == len(after)
    keys = [jnp.issubdtype(one.dtype, jax.dtypes.prng_key) for one in before]
    for one, other, key in zip(before, after, keys, strict=True):
        one, other = (map(jax.random.key_data, (one, other))) if key else (one, other)
        assert np.array_equal(one, other)


def test_a_class_that_calls_its_parent_s_method_is_called_once():
    found = pa.capture_flax(net(kind=Special), [BATCH], names=["block_*"])
    assert list(found) == ["block_0", "block_1"]
    assert np.array_equal(found["block_0"], by_hand(net())["block_0"])
    assert "__call__" in vars(Special)


def test_an_inherited_method_is_inherited_again():
    class Heir(Block):
        pass

    pa.capture_flax(net(kind=Heir), [BATCH], names=["block_1"])
    assert "__call__" not in vars(Heir)


def test_several_calls_are_layers_of_their_own():
    class Twice(nnx.Module):
        def __init__(self, *, rngs):
            self.linear = nnx.Linear(6, 6, rngs=rngs)

        def __call__(self, x):
            for _ in range(2):
                x = self.linear(x)
                self.sow(nnx.Intermediate, "state", x)
            return x

    found = pa.capture_flax(Twice(rngs=nnx.Rngs(0)), [jnp.ones((4, 6))], names=["linear", "state"])
    assert list(found) == ["linear[0]", "linear[1]", "state[0]", "state[1]"]
    assert np.array_equal(found["linear[1]"], found["state[1]"])


def test_traced_layers_are_told_of():
    class Jitted(nnx.Module):
        def __init__(self, *, rngs, kind):
            self.block, self.kind = Block(6, rngs=rngs), kind

        def __call__(self, x):
            if self.kind == "jax":
                return jax.jit(lambda x: self.block(x)[0])(x)
            return nnx.jit(lambda block, x: block(x)[0])(self.block, x)

    for kind, names in (("jax", ["block"]), ("nnx", ["block"]), ("nnx", None)):
        told = refusal(Jitted(rngs=nnx.Rngs(0), kind=kind), [jnp.ones((4, 6))], names=names)
        assert "call it without these" in told


@pytest.mark.parametrize(
    ("batches", "options", "words"),
    [
        ([BATCH], {"names": []}, "names=[]: must be names"),
        ([BATCH], {"names": "block_0.hiden"}, "is the name of no module of the model, and of "
         "nothing that it sows; did you mean block_0.hidden"),
        ([BATCH], {"names": [""]}, "give it a label"),
        ([BATCH], {"names": ["end", "en*"]}, "names=end: stands for two layers"),
        ([BATCH], {"names": {"a": "block_*"}}, "stands for 2 layers"),
        ([BATCH], {"names": "unused"}, "names=unused: was not called"),
        ([], {}, "batches=none: holds nothing"),
        (IDS, {}, "batches=ArrayImpl: must be a list of batches"),
        ([BATCH], {"mask": lambda _: MASK[:2]}, "mask of shape (2, 5) does not fit"),
        ([BATCH], {"unit_axis": 3}, "has no axis 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_captured_is_one_line(batches, options, words, tmp_path):
    assert words in refusal(net(), batches, store=tmp_path / "store", **options)
    assert not list(tmp_path.iterdir())


def test_a_model_that_sows_nothing_is_told_to_name_modules():
    told = refusal(nnx.Linear(6, 3, rngs=nnx.Rngs(0)), [jnp.ones((2, 6))])
    assert "takes what the model sows, which is nothing; name modules of it" in told
