"""What is kept of a layer's numbers: padding and first tokens, stores, and caches of mappings."""

import errno
import re

import jax.numpy as jnp
import numpy as np
import pytest
import zarr

import ppp_jax.analysis as pa
from ppp_jax.analysis.io import capture
from ppp_jax.analysis.io.layer_files import open_layers
from ppp_jax.errors import InputError
from ppp_jax.files import atomic

RNG = np.random.default_rng(0)
CACHE = {
    "embed": RNG.normal(size=(3, 5, 4)),
    "blocks.0.pattern": RNG.random(size=(3, 2, 5, 5)),
    "blocks.0.resid": RNG.normal(size=(3, 5, 4)),
    "blocks.1.resid": RNG.normal(size=(3, 5, 4)),
    "blocks.1.act": RNG.normal(size=(3, 5, 6)),
    "blocks.1.scale": RNG.normal(size=(3, 5, 1)),
    "blocks.1.z": RNG.normal(size=(3, 5, 2, 3)),
}
LAYERS = ["embed", "blocks.0.resid", "blocks.1.resid", "blocks.1.act"]
MASK = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 0]])


def rule(**given):
    return capture.rule(
        **{"drop_first": False, "unit_axis": -1, "dtype": "float64", "max_vectors": None} | given
    )


def captured(cache=CACHE, **options):
    """Returns what is captured where nothing is left aside unasked."""
    return pa.capture_cache(cache, **{"names": LAYERS, "dtype": "float64"} | options)


def refusal(call, *given, **named):
    with pytest.raises(InputError) as caught:
        call(*given, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_axes_but_that_of_the_units_are_flattened():
    x = RNG.normal(size=(2, 3, 4, 5))
    assert np.array_equal(capture.flatten("a", x, None, rule()), x.reshape(-1, 5))
    images = capture.flatten("a", x, None, rule(unit_axis=1))
    assert images.shape == (2 * 4 * 5, 3)
    assert np.array_equal(images[4 * 5 + 5 + 2], x[1, :, 1, 2])


def test_padding_and_the_first_token_that_is_none_are_left_out():
    x = RNG.normal(size=(3, 5, 4))
    kept = capture.flatten("a", x, MASK.astype(bool), rule())
    assert np.array_equal(kept, np.stack([x[i, j] for i, j in np.argwhere(MASK)]))
    later = capture.flatten("a", x, MASK.astype(bool), rule(drop_first=True))
    second = [(0, 1), (0, 2), (1, 3), (1, 4), (2, 3)]  # of padding on either side, and between
    assert np.array_equal(later, np.stack([x[place] for place in second]))
    whole = capture.flatten("a", x, None, rule(drop_first=True))
    assert np.array_equal(whole, x[:, 1:].reshape(-1, 4))


def test_vectors_that_are_flattened_already_fit_a_mask_of_as_many():
    x = RNG.normal(size=(15, 4))
    assert np.array_equal(
        capture.flatten("a", x, MASK.astype(bool), rule()), x[MASK.reshape(-1) == 1]
    )


def test_what_is_kept_is_a_copy():
    x = RNG.normal(size=(4, 3))
    kept = capture.flatten("a", x, None, rule())
    x[:] = 0
    assert kept.all()


@pytest.mark.parametrize(
    ("shape", "mask", "options", "words"),
    [
        ((4,), None, {}, r"\(4,\), which is no \(samples, units\)"),
        ((4, 3), None, {"unit_axis": 2}, "has no axis 2"),
        ((3, 4, 2), MASK, {}, r"the mask of shape \(3, 5\) does not fit; mask=None keeps all"),
        ((3, 4), None, {"drop_first": True}, "drop_first=False keeps all"),
        ((3, 4), np.ones(3), {"drop_first": True}, "drop_first=False keeps all"),
    ],
)
def test_shapes_that_do_not_fit_are_told(shape, mask, options, words):
    mask = None if mask is None else mask.astype(bool)
    told = refusal(capture.flatten, "the_layer", np.ones(shape), mask, rule(**options))
    assert told.startswith("names=the_layer: ")
    assert re.search(words, told)


@pytest.mark.parametrize("kind", [list, np.array, jnp.array, lambda x: np.array(x, dtype=bool)])
def test_masks_may_be_of_any_kind(kind):
    assert np.array_equal(capture.as_mask(kind(MASK.tolist())), MASK == 1)


def test_a_mask_of_other_numbers_is_refused():
    assert "must hold zeros and ones" in refusal(capture.as_mask, MASK * 2)


def test_stars_in_labels_are_what_those_of_the_pattern_stand_for():
    known = ["h.0.mlp.act", "h.1.mlp.act", "h.10.mlp.act", "h.0.mlp.act.more", "h.0.mlpx.act"]
    found = capture.matching("block * act", "h.*.mlp.act", known)
    assert found == [(f"block {k} act", f"h.{k}.mlp.act") for k in (0, 1, 10)]
    assert capture.matching("x*y*", "*.0.m*.act", ["h.0.mlp.act"]) == [("xhylp", "h.0.mlp.act")]
    assert capture.matching("only", "h.1*.mlp.act", known[:3][2:]) == [("only", "h.10.mlp.act")]
    assert capture.matching("a.c", "a.c", ["abc"]) == []
    assert "stands for 3 layers" in refusal(capture.matching, "act", "h.*.mlp.act", known[:3])


def test_a_cache_gives_the_vectors_at_its_positions():
    found = captured(mask=MASK, drop_first=True)
    assert list(found) == LAYERS
    for name, vectors in found.items():
        expected = [CACHE[name][place] for place in [(0, 1), (0, 2), (1, 3), (1, 4), (2, 3)]]
        assert np.array_equal(vectors, np.stack(expected))
    assert captured(dtype="float32")["embed"].dtype == np.float32


def test_what_is_no_vector_at_these_positions_is_left_aside_and_told_of():
    with pytest.warns(pa.LeftAsideWarning, match=r"blocks.0.pattern \(3, 2, 5, 5\).* and ") as told:
        found = pa.capture_cache({**CACHE, "tokens": MASK, "text": "a"})
    assert list(found) == LAYERS
    (one,) = told
    assert "and 2 more" in str(one.message)
    assert one.filename == __file__


def test_named_arrays_of_more_axes_have_a_vector_for_each_position_and_head():
    found = captured(names={"z": "*.1.z"}, mask=MASK, drop_first=True)
    assert found["z"].shape == (5 * 2, 3)
    assert np.array_equal(found["z"][:2], CACHE["blocks.1.z"][0, 1])


def test_several_caches_are_one_after_the_other_each_with_its_mask():
    parts = [{name: x[k : k + 1] for name, x in CACHE.items()} for k in range(3)]
    found = captured(iter(parts), mask=[MASK[k : k + 1] for k in range(3)])
    together = captured(mask=MASK)
    assert all(np.array_equal(found[name], together[name]) for name in LAYERS)
    told = refusal(captured, parts, mask=[MASK[:1]])
    assert "fewer masks than there are caches" in told


def test_a_cache_of_a_single_text_without_an_axis_of_texts():
    class Cache(dict):
        has_batch_dim = False

    found = captured(Cache({name: x[0] for name, x in CACHE.items()}), drop_first=True)
    assert np.array_equal(found["embed"], CACHE["embed"][0, 1:])


@pytest.mark.parametrize("chunk", [1, 100, 2**22])
def test_a_store_holds_the_same_vectors_in_the_same_order(chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(capture, "CHUNK_BYTES", chunk)
    parts = [{name: x[k : k + 1] for name, x in CACHE.items()} for k in range(3)]
    names = LAYERS[::-1]
    found = captured(parts, store=tmp_path / "new" / "store", names=names)
    inside = captured(parts, names=names)
    assert list(found) == list(inside) == names
    for name in names:
        assert np.array_equal(found[name].values, inside[name])
        assert found[name].dims == ("sample", "unit")
    opened = open_layers(tmp_path / "new" / "store")
    assert {layer.name: layer.shape for layer in opened.layers} == {
        name: inside[name].shape for name in names
    }
    assert zarr.open_group(tmp_path / "new" / "store").attrs["layers"] == names
    one = pa.compare_layers(found, statistics=["c4"], rotations=3)
    other = pa.compare_layers(inside, statistics=["c4"], rotations=3)
    assert one.equals(other)


def test_a_store_appears_when_it_is_complete_or_not_at_all(tmp_path):
    def broken():
        yield CACHE
        assert [path.name[0] for path in tmp_path.iterdir()] == ["."] * 2  # lock, partial
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        captured(broken(), store=tmp_path / "store")
    assert not list(tmp_path.iterdir())
    captured(store=tmp_path / "store")
    before = (tmp_path / "store" / "zarr.json").read_bytes()
    assert "exists already; remove it" in refusal(captured, store=tmp_path / "store")
    assert (tmp_path / "store" / "zarr.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    def full():
        yield CACHE
        raise OSError(errno.ENOSPC, "No space left on device")

    told = refusal(captured, full(), store=tmp_path / "store")
    assert told.startswith(f"store={tmp_path / 'store'}: cannot be written (No space left on dev")
    assert told.endswith("nothing is kept")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_capture_left_is_removed_by_the_next(tmp_path):
    steps = captured_forever(tmp_path / "store")
    next(steps)
    (left,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    kept = {path: path.read_bytes() for path in left.rglob("*") if path.is_file()}
    steps.close()
    for path, content in kept.items():  # as a killed process leaves it
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    captured(store=tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def captured_forever(store):
    """Stops in the middle of a capture, which is undone when the generator is closed."""
    kept = rule()
    with atomic.new_folder(store, field="store", value=store) as folder:
        group = capture._Group(folder)
        group.add("embed", capture.flatten("embed", CACHE["embed"], None, kept))
        yield


def test_no_more_than_so_many_vectors_are_kept_and_no_more_caches_taken():
    taken = []

    def caches():
        for k in range(5):
            taken.append(k)
            yield CACHE

    found = captured(caches(), max_vectors=20)
    assert taken == [0, 1]
    full = captured([CACHE, CACHE])
    assert all(np.array_equal(found[name], full[name][:20]) for name in LAYERS)


@pytest.mark.parametrize(
    ("cache", "options", "words"),
    [
        ([], {}, "cache=none: holds nothing"),
        ({}, {"names": None}, "cache=0 arrays: holds no array"),
        ({"a": np.ones((3, 4))}, {"names": None}, "holds no array"),
        ([CACHE, 3], {}, "cache=int: must be a mapping"),
        (CACHE, {"names": "blocks.0.resd"}, "did you mean blocks.0.resid"),
        (CACHE, {"names": {"a": "embed", "b": 1}}, "names=1: must be names of layers"),
        (CACHE, {"names": ["embed", "embed"]}, "names=embed: stands for two layers"),
        ({"a": "text"}, {"names": "a"}, "cache=a: gives str, which is no tensor"),
        ({"a": MASK}, {"names": "a"}, "numbers of type int64, which are no activations"),
        (CACHE, {"mask": MASK[:2]}, "mask=None keeps all"),
        (CACHE, {"mask": MASK * 0}, "mask=embed: leaves no vector of this layer"),
        (CACHE, {"mask": "attention"}, "mask=str: must be an array of zeros and ones"),
        ([{"a": np.ones((1, 2, 3))}, {"a": np.ones((1, 2, 4))}], {"names": "a"},
         "names=a: gives 4 units in batch 2, and 3 before"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::ppp_jax.analysis.LeftAsideWarning")
def test_what_cannot_be_captured_is_one_line(cache, options, words, tmp_path):
    assert words in refusal(captured, cache, store=tmp_path / "store", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("label", ["a/b", ".a", "__a"])
def test_labels_that_a_store_cannot_have_are_refused_there_alone(label, tmp_path):
    found = captured(names={label: "embed"})
    assert list(found) == [label]
    assert "another label" in refusal(captured, names={label: "embed"}, store=tmp_path / "store")


def test_half_precision_of_an_accelerator_becomes_single():
    x = jnp.asarray(CACHE["embed"], jnp.bfloat16)
    found = pa.capture_cache({"a": x}, names="a")["a"]
    assert found.dtype == np.float32
    assert np.array_equal(found, np.asarray(x).astype(np.float32).reshape(-1, 4))


def test_a_progress_bar_is_shown_on_stderr(capsys):
    captured([CACHE, CACHE], progress=True)
    assert "cache" in capsys.readouterr().err
