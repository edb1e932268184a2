"""A certificate says at which lengths of its inputs a claim holds, fails, or cannot be told."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppp_jax import Grid, groups
from ppp_jax.errors import InputError
from ppp_jax.networks import interpolated
from ppp_jax.networks.activations import ACTIVATIONS, Activation
from ppp_jax.numerics import polar
from ppp_jax.storage import manifest
from ppp_jax.symmetry import certificates

KEY = jax.random.key(0)
ALL = "0.001 to 1000"


def certify(function, claimed, *, units=8, **options):
    return groups.certify(function, claimed, units=units, key=KEY, **options)


def radial(rho):
    def apply(x):
        length, direction = polar(x)
        return rho(length) * direction

    return apply


def clip(x):
    return jnp.clip(x, -50, 50)


def wide_clip(x):
    return jnp.clip(x, -1e4, 1e4)


def late_relu(x):
    return jax.nn.relu(x - 20)


def late_tanh(x):
    return 1000 * jnp.tanh(x / 1000)


def late_sine(x):
    return jnp.sin(1e-3 * x)


def zero(x):
    return 0 * x


def tiny(x):
    return x / 1e20


def growing(x):
    return jnp.exp(x) - 1


def cube(x):
    return x * x * x


late_shrink = radial(lambda r: jnp.maximum(r - 100, 0))
overflowing = radial(lambda r: jnp.exp(r) * r)

# What is certified of maps that are linear, 0 or not finite at some lengths.
CASES = [
    (clip, "B_n", True, "holds at 10 to 1000; undetermined at 0.001 to 10 (linear)"),
    (clip, "O(n)", False, "fails at 10 to 1000; undetermined at 0.001 to 10 (linear)"),
    (clip, "S_n", False, "holds at 10 to 1000; undetermined at 0.001 to 10 (linear)"),
    (late_tanh, "B_n", True, "holds at 10 to 1000; undetermined at 0.001 to 10 (linear)"),
    (late_tanh, "O(n)", False, "fails at 10 to 1000; undetermined at 0.001 to 10 (linear)"),
    (late_relu, "S_n", True, "holds at 10 to 1000; undetermined at 0.001 to 10 (zero)"),
    (late_relu, "B_n", False, "fails at 10 to 1000; undetermined at 0.001 to 10 (zero)"),
    (late_sine, "B_n", True, "holds at 10 to 1000; undetermined at 0.001 to 10 (linear)"),
    (late_sine, "O(n)", False, "fails at 10 to 1000; undetermined at 0.001 to 10 (linear)"),
    (wide_clip, "O(n)", True, f"undetermined at {ALL} (linear)"),
    (wide_clip, "B_n", False, f"undetermined at {ALL} (linear)"),
    (tiny, "O(n)", True, f"undetermined at {ALL} (linear)"),
    (zero, "O(n)", False, f"undetermined at {ALL} (zero)"),
    (late_shrink, "O(n)", True, "holds at 100 to 1000; undetermined at 0.001 to 100 (zero)"),
    (late_shrink, "B_n", False, "holds at 100 to 1000; undetermined at 0.001 to 100 (zero)"),
    (growing, "S_n", True, "holds at 0.001 to 100; undetermined at 100 to 1000 (not finite)"),
    (growing, "O(n)", False, "fails at 0.001 to 100; undetermined at 100 to 1000 (not finite)"),
    (overflowing, "O(n)", True, "holds at 0.001 to 10; undetermined at 10 to 1000 (not finite)"),
    (cube, "B_n", True, f"holds at {ALL}"),
    (jnp.log, "S_n", False, f"undetermined at {ALL} (not finite)"),
]


@pytest.mark.parametrize(("function", "claimed", "holds", "lengths"), CASES)
def test_says_where_a_claim_holds(function, claimed, holds, lengths):
    seen = certify(function, claimed)
    assert groups.describe(seen.lengths) == lengths
    assert seen.holds == holds, seen.problem
    assert np.isfinite([seen.residual, seen.inversion, *seen.residuals.values()]).all()
    assert np.isfinite([one.residual for one in seen.lengths]).all()
    assert seen.residual == max(one.residual for one in seen.lengths)
    assert tuple(one[:2] for one in seen.lengths) == groups.DECADES


def test_a_refusal_says_why():
    assert certify(clip, "O(n)").problem == "it does not commute with O(n) at lengths 10 to 1000"
    assert "commutes with −1, which is not in S_n" in certify(clip, "S_n").problem
    assert "is linear at all lengths tested" in certify(wide_clip, "B_n").problem
    assert "nothing can be told" in certify(zero, "O(n)").problem


def test_a_map_is_told_at_the_lengths_where_it_bends():
    seen = certify(wide_clip, "B_n", scale=1e5)
    assert seen.holds, seen.problem
    assert groups.describe(seen.lengths) == "holds at 1e+05"
    assert not certify(wide_clip, "O(n)", scale=[1, (1e4, 1e5)]).holds


def test_a_difference_within_rounding_errors_is_no_failure():
    # At the threshold itself, ‖x‖ − 100 is what is left of rounding.
    seen = certify(late_shrink, "O(n)", scale=[100, (100, 1000)])
    assert seen.holds, seen.problem
    assert [one.finding for one in seen.lengths] == ["within rounding errors", "commutes"]
    # √(‖x‖² + 1) − 1 cancels at short lengths.
    seen = certify(interpolated.get("intrinsic_relu:1").apply, "O(n)")
    assert seen.holds, seen.problem


@pytest.mark.parametrize("shift", [1e-3, 1e-2])
@pytest.mark.parametrize("decade", groups.DECADES)
def test_a_difference_in_one_decade_is_seen(decade, shift):
    def almost(x):
        length, _ = polar(x)
        inside = (decade[0] <= length) & (length < decade[1])
        return jnp.where(inside, x + shift * jnp.abs(x), x)

    seen = certify(almost, "O(n)", units=4)
    assert [one.low for one in seen.lengths if one.finding == "differs"] == [decade[0]]
    assert not seen.holds


@pytest.mark.parametrize("name", [*ACTIVATIONS, *interpolated.EXAMPLES, "dose_tanh"])
def test_every_activation_holds_its_claim_at_every_length(name):
    seen = certificates.certify_activation(name, 8)
    assert seen.holds, seen.problem
    # Rounding in single precision: a turned input of length 1000 is off by 1e-4, which matters to
    # the few coordinates at which tanh is not saturated.
    assert seen.residual < 1e-5
    findings = {one.finding for one in seen.lengths}
    assert findings <= {"commutes", "linear", "zero"}
    assert seen.lengths[-1].finding in ("commutes", "linear")  # no activation vanishes far out


@pytest.mark.parametrize("units", [2, 8])
@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
def test_layer_norm_has_a_group_with_a_name(epsilon, units):
    def layer_norm(x):
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        return centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + epsilon)

    seen = certify(layer_norm, "O(n-1)xO(1)", units=units)
    assert seen.holds, seen.problem
    assert seen.algebra.rotations == (units - 1) * (units - 2) // 2
    assert not certify(layer_norm, "O(n)", units=units).holds
    shifted = certify(lambda x: layer_norm(x) + 0.5, "O(n-1)", units=units)
    assert shifted.holds, shifted.problem
    assert not certify(layer_norm, "O(n-1)", units=units).holds  # it is odd


@pytest.mark.parametrize(("name", "signs"), [("O(n-1)", {1}), ("O(n-1)xO(1)", {1, -1})])
def test_stabilizers_keep_the_ones(name, signs):
    turns = np.stack([groups.GROUPS[name].sample(jax.random.key(k), 6) for k in range(40)])
    images = np.ones(6) @ turns
    kept = np.round(images[:, 0])
    np.testing.assert_allclose(images, kept[:, None] * np.ones(6), atol=1e-5)
    assert set(kept) == signs
    # Uniform: the mean of the turns is the projection onto what all of them keep.
    mean = np.full((6, 6), 1 / 6) if signs == {1} else np.zeros((6, 6))
    np.testing.assert_allclose(turns.mean(axis=0), mean, atol=0.35)
    assert (np.linalg.det(turns) > 0).any()
    assert (np.linalg.det(turns) < 0).any()


@pytest.mark.parametrize("scale", [0, -1, np.nan, np.inf, 1e31, [], [1, 0], [(2, 1)], [(1, 2, 3)],
                                   "1", ["a"], [None], None, [1] * 65])  # fmt: skip
def test_lengths_that_are_none_are_one_clear_error(scale):
    with pytest.raises(InputError, match="scale"):
        groups.ranges(scale)


def test_lengths_are_numbers_and_pairs():
    assert groups.ranges(5) == ((5.0, 5.0),)
    assert groups.ranges(np.array([1, 10])) == ((1.0, 1.0), (10.0, 10.0))
    assert groups.ranges([(1, 2), 3]) == ((1.0, 2.0), (3.0, 3.0))


GRID = Grid(activations=["tanh"], latent_widths=[4])


def test_a_run_s_own_lengths_are_one_more_range():
    found = certificates.certify_grid(
        GRID, lengths={"tanh": [(4, 0.001, 0.003), (16, 0.002, 0.004)]}
    )
    row = found["activations"]["tanh"]
    assert row["tested"][-1][:3] == [0.001, 0.004, "linear"]  # 0.002 of 16 units is 0.001 of 4
    assert row["own lengths"] == "undetermined at 0.001 to 0.004 (linear)"
    assert certificates.fits(json.loads(json.dumps(found)), GRID)
    without = certificates.certify_grid(GRID)["activations"]["tanh"]
    assert without["own lengths"] == "unknown"
    assert without["tested"] == row["tested"][:-1]
    assert certificates.certify_grid(GRID, lengths={"tanh": []})["activations"]["tanh"] == without


def test_certificates_are_of_the_runs_that_are_there():
    larger, programs = dataclasses.replace(GRID, seeds=range(5)), manifest.programs()
    of_grid = certificates.subject(GRID, programs=programs)
    assert certificates.subject(larger, programs=programs) != of_grid
    assert certificates.subject(GRID, programs={**programs, "x64": "another"}) != of_grid


def test_certificates_are_of_the_source_or_of_a_user_s_functions(monkeypatch):
    """Own functions are known by the source, those of a user by what JAX makes of them."""
    programs = manifest.programs()
    ours = certificates.subject(GRID, programs=programs)
    monkeypatch.setattr(certificates, "source_digest", lambda: "of another version")
    assert certificates.subject(GRID, programs=programs) != ours
    found = []
    for factor in (1.0, 1.0, 2.0):
        one = Activation(lambda x, factor=factor: factor * x**3, group="B_n")
        monkeypatch.setitem(ACTIVATIONS, "cube", one)
        mine = dataclasses.replace(GRID, activations=["cube"])
        found.append(certificates.subject(mine, programs=programs))
    assert found[0] == found[1] != found[2]


def test_a_map_that_changes_the_width_is_one_error():
    with pytest.raises(InputError, match="must return vectors as wide"):
        groups.certify(lambda x: x[..., :3], "S_n", units=8, key=jax.random.key(0))
