"""One comparison for all: pairs by seed, partners by fact, families by what is asked."""

import numpy as np
import pandas as pd
import pytest

import ppp_jax.analysis as pa
from ppp_jax.analysis.inference.seeds import false_discovery, paired_difference
from ppp_jax.analysis.results.comparisons import Cell, compare, partner_in, with_q
from ppp_jax.analysis.statistics import registry
from ppp_jax.errors import InputError
from ppp_jax.networks import interpolated

RNG = np.random.default_rng(0)
VALUES = {(name, rate): RNG.normal(size=8) for name in ("relu", "tanh", "isotropic_tanh")
          for rate in (0.1, 0.2)}  # fmt: skip
CELLS = [
    Cell(
        {"activation": name, "rate": rate},
        {"activation": name, "rate": rate},
        {"error": values, "c4": 2 * values},
    )
    for (name, rate), values in VALUES.items()
]
KNOWN = {name: interpolated.get(name) for name, _ in VALUES}


def test_each_cell_is_paired_with_its_counterpart_and_no_other():
    found = compare(CELLS, axis="activation", against=partner_in(KNOWN, isotropic=True))
    assert len(found) == 2 * 2 * 2  # elementwise activations, rates, quantities
    for row in found.to_dict("records"):
        mine, theirs = (VALUES[name, row["rate"]] for name in (row["activation"], "isotropic_tanh"))
        scale = 2 if row["quantity"] == "c4" else 1
        expected = paired_difference(scale * mine, scale * theirs)
        assert row["against"] == "isotropic_tanh"
        assert (row["difference"], row["low"], row["p"]) == pytest.approx(
            (expected.mean, expected.low, expected.p)
        )
        assert row["seeds"] == 8


def test_along_another_axis_each_value_is_held_against_the_first():
    found = compare(CELLS, axis="rate", against=lambda _: 0.1)
    assert found["against"].unique().tolist() == [0.1]
    assert found["rate"].unique().tolist() == [0.2]
    assert len(found) == 3 * 2


def test_a_cell_without_a_counterpart_is_left_out():
    lone = [cell for cell in CELLS if cell.names["activation"] != "isotropic_tanh"]
    against = partner_in(KNOWN, isotropic=False)
    assert compare(lone, axis="activation", against=against).empty


def test_an_isotropic_activation_is_compared_only_where_asked():
    more = {**KNOWN, "identity": interpolated.get("identity")}
    assert partner_in(more, isotropic=False)("identity") is None
    assert partner_in(more, isotropic=True)("identity") == "isotropic_tanh"


def test_false_discoveries_are_counted_within_a_family():
    table = pd.DataFrame({"quantity": ["a", "b", "a", "b"], "p": [0.01, 0.02, 0.5, np.nan]})
    np.testing.assert_allclose(with_q(table)["q"], false_discovery(table["p"]))
    np.testing.assert_allclose(with_q(table, by=["quantity"])["q"], [0.02, 0.02, 0.5, np.nan])
    assert with_q(table.iloc[:0]).empty


def test_the_summary_of_clouds_names_each_and_its_test():
    labelled = pa.known_clouds(samples=300, units=4, sample_seed=0)
    cloud = np.stack([np.asarray(value) for value in labelled.values()][:2])
    table = pa.summary(cloud, rotations=19)
    names = list(registry.names(of=[registry.BASIS], only_reported=False))
    assert table["statistic"].tolist() == names * 2
    assert table["axis_0"].tolist() == [0] * len(names) + [1] * len(names)
    tested = pa.rotation_test(cloud, rotations=19)
    np.testing.assert_array_equal(table["z"], tested["z"].values.ravel())
    with pytest.raises(InputError, match="latents=Dataset: must be the path"):
        pa.summary(tested)
