"""The figure of layers: what stands in it is what was found."""

import itertools

import numpy as np
import pytest
import xarray as xr

from ppp_jax.analysis import plot_layers
from ppp_jax.analysis.plots.layers import ABOVE, BELOW
from ppp_jax.analysis.results.layer_comparison import (
    COUNTS,
    NUMBERS,
    default_statistics,
    main_statistics,
)
from ppp_jax.errors import InputError

MAIN = main_statistics(default_statistics())


def made(names, statistics=MAIN):
    """What `compare_layers` would have found, of drawn numbers."""
    rng, both = np.random.default_rng(0), ("layer", "statistic")
    shape = (len(names), len(statistics))
    numbers = {key: (both, rng.normal(size=shape)) for key in NUMBERS}
    numbers |= {"low": (both, np.full(shape, -0.5)), "high": (both, np.full(shape, 0.5))}
    numbers["mean"] = (both, np.zeros(shape))
    counts = {key: ("layer", np.ones(len(names), int)) for key in COUNTS}
    return xr.Dataset({**numbers, "q": (both, np.full(shape, 0.5)), **counts},
                      coords={"layer": list(names), "statistic": list(statistics)})  # fmt: skip


def points(axes, colour):
    """Returns what is drawn as filled points of a colour."""
    lines = [line for line in axes.lines if line.get_markerfacecolor() == colour
             and line.get_marker() == "o"]  # fmt: skip
    return [(x, y) for line in lines for x, y in line.get_xydata().tolist()]


def test_significant_layers_are_marked_on_their_side_and_missing_ones_are_crosses():
    found = made(["a", "b", "c"], ["shape"])
    found["value"][:] = [[2.0], [-2.0], [np.nan]]
    found["rank"][:] = [[0.5], [-0.5], [np.nan]]
    found["q"][:] = [[0.01], [0.05], [np.nan]]
    (axes,) = plot_layers(found).axes
    assert points(axes, ABOVE) == [(0.0, 2.0)]
    assert points(axes, BELOW) == [(1.0, -2.0)]
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert cross.get_xydata()[:, 0].tolist() == [2.0]
    bars = axes.collections[0].get_paths()
    assert [path.get_extents().bounds for path in bars] == [
        pytest.approx((k - 0.4, -0.5, 0.8, 1.0)) for k in range(3)
    ]
    low, high = axes.get_ylim()
    assert low < -2
    assert high > 2


def test_a_network_far_off_does_not_decide_the_side():
    found = made(["a"], ["shape"])
    found["value"][:], found["rank"][:], found["q"][:] = 2.0, -0.4, 0.01
    (axes,) = plot_layers(found).axes
    assert (points(axes, ABOVE), points(axes, BELOW)) == ([], [(0.0, 2.0)])


@pytest.mark.parametrize("count", [1, 3, 12, 150])
def test_any_number_of_layers_has_readable_names(count):
    figure = plot_layers(made([f"model.layers.{k}.mlp.activation" for k in range(count)]))
    panels = figure.axes[: len(MAIN)]  # a heat map's colours are one more
    assert len(figure.axes) == len(MAIN) + (count > 30)
    labels = [text for text in panels[-1].get_xticklabels() if text.get_text()]
    assert 1 <= len(labels) <= 60
    assert max(figure.get_size_inches()) <= 16
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in labels]
    for one, other in itertools.pairwise(boxes):
        assert not one.overlaps(other)
    for box in boxes:
        assert figure.bbox.contains(box.x0, box.y0)
        assert figure.bbox.contains(box.x1, box.y1)
    (legend,) = figure.legends
    assert legend.get_window_extent().x0 >= 0
    assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_long_names_lose_what_is_the_same_in_all_and_stay_different():
    names = [f"model.language_model.layers.{k}.mlp.activation" for k in (10, 11, 2)]
    axes = plot_layers(made(names)).axes[-1]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["10", "11", "2"]
    assert axes.get_xlabel() == "model.language_model.layers.*.mlp.activation"
    middle = [f"{'a' * 30}{k}{'b' * 30}{k}" for k in "xyx"]
    axes = plot_layers(made([*middle, "short"])).axes[-1]
    texts = [text.get_text() for text in axes.get_xticklabels()]
    assert len(set(texts)) == 4
    assert max(map(len, texts)) < 40


def test_names_with_dollar_signs_and_control_characters_are_drawn_as_they_are():
    figure = plot_layers(made([r"$\frac{$", "a\nb\x1b[31m", "c" * 200]))
    figure.draw_without_rendering()
    texts = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert texts[0] == r"\$\frac{\$"
    assert max(map(len, texts)) < 40
    assert all(text.isprintable() for text in texts)


def test_statistics_can_be_chosen_and_bad_ones_are_one_line():
    found = made(["a", "b"], ["c4", "shape"])
    assert len(plot_layers(found).axes) == 1
    assert len(plot_layers(found, statistics=["c4", "shape"]).axes) == 2
    with pytest.raises(InputError, match=r"statistics=covariance: was not tested"):
        plot_layers(found, statistics=["covariance"])
    with pytest.raises(InputError, match="found=DataArray: must be what compare_layers"):
        plot_layers(found["value"])
