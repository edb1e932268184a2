"""Composed activations: their names, their limits, and the symmetry that each claims."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppp_jax import bases, groups
from ppp_jax.analysis import load_run
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.networks import interpolated
from ppp_jax.networks.activations import ACTIVATIONS
from ppp_jax.networks.interpolated import get
from ppp_jax.sweep import sweep
from ppp_jax.symmetry import certificates

X = 2 * jax.random.normal(jax.random.key(0), (50, 8))


@pytest.mark.parametrize("base", ["tanh", "relu"])
def test_limits_are_the_known_activations(base):
    isotropic = get(f"isotropic_{base}")
    np.testing.assert_array_equal(get(f"block_{base}:8").apply(X), isotropic.apply(X))
    np.testing.assert_allclose(get(f"pnorm_{base}:2").apply(X), isotropic.apply(X), rtol=1e-5)
    # One unit per block: the odd function of each coordinate.
    odd = jnp.sign(X) * isotropic.profile(jnp.abs(X))
    np.testing.assert_allclose(get(f"block_{base}:1").apply(X), odd, rtol=1e-5, atol=1e-7)
    short = get(f"intrinsic_{base}:1e-6").apply(X)
    np.testing.assert_allclose(short, isotropic.apply(X), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("base", ["tanh", "relu", "leaky_relu"])
def test_dose_ends_at_the_pure_activations_bit_for_bit(base):
    ends = get(f"isotropic_{base}").apply, get(base).apply
    for t, end in enumerate(ends):
        assert get(f"dose_{base}:{t}").apply is end
        traced = jax.jit(lambda x, t: interpolated.dose(*ends, t)(x))(X, jnp.float32(t))
        np.testing.assert_array_equal(traced, jax.jit(end)(X))
    middle = get(f"dose_{base}:0.25").apply(X)
    np.testing.assert_allclose(middle, 0.75 * ends[0](X) + 0.25 * ends[1](X), rtol=1e-6)


@pytest.mark.parametrize("basis", ["haar:3", "simplex", "cross_polytope", "thomson:12"])
@pytest.mark.parametrize("base", ["tanh", "relu"])
def test_over_a_basis_is_the_sum_over_its_vectors(base, basis):
    x, vectors = np.asarray(X, np.float64), bases.build(basis, 8)
    expected = sum(np.asarray(get(base).profile(x @ b))[:, None] * b for b in vectors)
    np.testing.assert_allclose(get(f"{base}@{basis}").apply(X), expected, rtol=1e-5, atol=1e-5)


def test_rotated_is_a_random_rotation_and_standard_is_none():
    np.testing.assert_array_equal(get("tanh@rotated").apply(X), get("tanh@haar:0").apply(X))
    assert get("tanh@standard") == get("tanh")


def test_p_norm_is_its_definition_at_any_size():
    for scale in (1e-30, 1.0, 1e30):
        x = np.asarray(X, np.float64) * scale
        length = np.sum(np.abs(x) ** 4, axis=1, keepdims=True) ** 0.25
        expected = np.tanh(length) * x / length
        got = get("pnorm_tanh:4").apply(jnp.asarray(x, jnp.float32))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-38)


WRONG = [("tanh", "O(n)"), ("tanh", "S_n"), ("relu", "B_n"), ("isotropic_tanh", "blocks:4"),
         ("block_tanh:4", "blocks:2"), ("tanh@rotated", "B_n"), ("relu@cross_polytope", "B_n"),
         ("pnorm_tanh:2", "B_n"), ("intrinsic_tanh:1", "S_n"),
         ("relu@simplex", "B_n@simplex")]  # fmt: skip


@pytest.mark.parametrize("name", [*ACTIVATIONS, *interpolated.EXAMPLES, "dose_tanh"])
def test_has_the_claimed_symmetry_and_no_more(name):
    seen = certificates.certify_activation(name, 8)
    assert seen.holds, seen
    assert seen.claimed == get(name).group
    if seen.claimed in seen.residuals:
        assert seen.residuals[seen.claimed] < groups.COMMUTES
    # No larger one of the groups that it is held against.
    for larger in LARGER[seen.claimed.partition("@")[0].partition(":")[0]]:
        assert seen.residuals[larger] > groups.COMMUTES


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
def test_a_certificate_does_not_depend_on_scale(scale):
    seen = groups.certify(lambda x: scale * jnp.tanh(x), "B_n", units=6, key=jax.random.key(0))
    assert seen.holds, seen


@pytest.mark.parametrize("name", ["dose_tanh:0.001", "pnorm_tanh:2.01"])
def test_a_little_asymmetry_is_seen(name):
    assert certificates.certify_activation(name, 8).holds


# Of the groups that every map is held against, those that hold more than a claimed one.
LARGER = {"S_n": ("B_n", "O(n)"), "B_n": ("O(n)",), "blocks": ("O(n)",), "O(n)": ()}


@pytest.mark.parametrize(("name", "claim"), WRONG)
def test_a_wrong_claim_fails(name, claim):
    assert not groups.certify(get(name).apply, claim, units=8, key=jax.random.key(0)).holds


# docs/method.md §10: n(n − 1)/2 of a radial map, 0 of elementwise ones, n of ReLU (scalings).
ALGEBRAS = {"isotropic_tanh": (28, 28), "tanh": (0, 0), "relu": (8, 0), "identity": (64, 28),
            "block_tanh:2": (4, 4), "relu@simplex": (1, 0)}  # fmt: skip


@pytest.mark.parametrize("name", ALGEBRAS)
def test_lie_algebra(name):
    found = groups.lie_algebra(get(name).apply, units=8, key=jax.random.key(1))
    assert found == ALGEBRAS[name]


@pytest.mark.parametrize("name", ["blocks:3", "blocks:0", "blocks:x", "blocks:", "S_m"])
def test_a_group_that_is_none_is_one_clear_error(name):
    with pytest.raises(InputError, match=f"group={name}"):
        groups.get_group(name).sample(jax.random.key(0), 8)


@pytest.mark.parametrize(
    "name",
    ["blocks:2", "S_n@haar:1", "S_n@simplex", "B_n@simplex", "S_n@thomson:4", "B_n@thomson:9"],
)
def test_group_elements_are_orthogonal_and_move_the_basis_onto_itself(name):
    g = np.asarray(groups.get_group(name).sample(jax.random.key(1), 8), np.float64)
    np.testing.assert_allclose(g @ g.T, np.eye(8), atol=1e-5)
    basis = name.partition("@")[2]
    if basis:
        vectors = bases.build(basis, 8)
        images = (vectors @ g) @ vectors.T
        images = np.abs(images) if name.startswith("B_n") else images
        assert sorted(images.argmax(axis=1)) == list(range(len(vectors)))
        np.testing.assert_allclose(images.max(axis=1), 1, atol=1e-4)


def test_symmetries_of_a_simplex_are_all_permutations():
    group, corners = groups.get_group("S_n@simplex"), bases.simplex(3)
    seen = set()
    for k in range(150):
        g = np.asarray(group.sample(jax.random.key(k), 3))
        seen.add(tuple(np.argmax((corners @ g) @ corners.T, axis=1).tolist()))
    assert len(seen) == 24


BAD = {
    "block_tanh:0": "needs a whole number from 1 to 16,777,216 after the colon",
    "block_tanh": "needs a whole number from 1 to 16,777,216 after the colon",
    "pnorm_tanh:0.5": "needs a number from 1 to 100 after the colon",
    "dose_tanh:1.5": "needs a number from 0 to 1 after the colon",
    "intrinsic_tanh:x": "needs a number from 1e-06 to 1e+06 after the colon",
    "block_gelu:2": "no isotropic activation is made from 'gelu' (known: leaky_relu, relu",
    "dose_softplus:0.5": "unknown",
    "tanh@": "needs a basis after @",
    "tanh@simplx": "needs a basis after @",
    "tanh@thomson:1": "needs a whole number from 3 to 4,096 after the colon",
    "isotropic_tanh@simplex": "only elementwise activations can act over simplex",
    "blok_tanh:4": "unknown",
    # Numbers beyond sense, in other alphabets, with underscores, or none:
    "block_tanh:1e9": "needs a whole number",
    "block_tanh:99999999999999999999": "needs a whole number",
    "block_tanh:1_0": "needs a whole number",
    "block_tanh:٣": "needs a whole number",
    "block_tanh: 4": "needs a whole number",
    "pnorm_tanh:1e400": "needs a number from 1 to 100",
    "pnorm_tanh:nan": "needs a number from 1 to 100",
    "intrinsic_tanh:inf": "needs a number",
    "intrinsic_tanh:-1": "needs a number",
    "dose_tanh:nan": "needs a number from 0 to 1",
    "dose_tanh:": "needs a number from 0 to 1",
    "dose_tanh:0_1": "needs a number from 0 to 1",
    "tanh@thomson:99999999999999999999": "needs a whole number from 3 to 4,096",
    "tanh@thomson:9999999": "needs a whole number from 3 to 4,096",
    "tanh@thomson:5:99999999999999999999": "needs a whole number from 0",
    "tanh@haar:99999999999999999999": "needs a whole number from 0",
    "tanh@haar:-1": "needs a basis after @",
    "tanh@haar:٣": "needs a basis after @",
    "tanh@@": "needs a basis after @",
    "tanh@standard:9": "needs a basis after @",
    "tanh@rotated@rotated": "needs a basis after @",
    "": "unknown",
    "a" * 100_000: "unknown",
    "tanh\n": "unknown",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_name_is_one_line(name):
    with pytest.raises(InputError) as caught:
        get(name)
    assert str(caught.value).startswith("activations=")
    assert BAD[name] in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", [5, None, ["tanh"], b"tanh", {"a": 1}, float("nan")])
def test_what_is_no_name_is_one_line(name):
    with pytest.raises(InputError, match=r"activations=.* must be a name"):
        get(name)


def test_a_basis_too_large_to_be_computed_is_refused_before_anything():
    with pytest.raises(InputError, match="latent_widths=100000: must be at most 4096 for tanh@"):
        Grid(activations=["tanh@rotated"], latent_widths=[100_000])
    assert Grid(activations=["tanh@standard"], latent_widths=[100_000])


def test_a_width_that_blocks_do_not_divide_is_refused_before_anything():
    with pytest.raises(InputError, match="widths=6: must be a multiple of 4 for block_tanh:4"):
        Grid(activations=["block_tanh:4"], widths=[6])
    with pytest.raises(InputError, match="do not divide 6 units"):
        get("block_tanh:4").apply(jnp.ones(6))


@pytest.mark.slow
def test_composed_activations_train(tmp_path):
    names = ["block_tanh:4", "tanh@simplex"]
    grid = Grid(activations=names, widths=[8], latent_widths=[4], epochs=1, probe_samples=30)
    latents = load_run(sweep.train(grid, tmp_path, seed_batch=1, progress=False))
    assert latents["activation"].values.tolist() == names
    assert np.isfinite(latents["pre"].values).all()
    assert (latents["test_mse"].isel(step=-1) < latents["test_mse"].isel(step=0)).all()
