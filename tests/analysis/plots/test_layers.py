"""The figure of layers: what stands in it is what was found."""

import itertools

import numpy as np
import pytest
import xarray as xr

from ppp_jax.analysis import plot_layers
from ppp_jax.analysis.plots.layers import ABOVE, BELOW, MODELS
from ppp_jax.analysis.plots.style import DPI, PAGE
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


def of_models(models, names, groups=None):
    """The same of several models: the first is `made`, and the others are beside it."""
    one = made(names, ["shape"])
    found = xr.concat([one * (1 - 0.2 * k) for k in range(len(models))], "model")
    found = found.assign_coords(model=list(models))
    return found.assign_coords(group=("layer", list(groups))) if groups else found


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
    assert 1 <= len(labels) <= 80
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
    with pytest.raises(InputError, match=r"kind=bars: must be 'lines' or 'heat'"):
        plot_layers(found, kind="bars")


def test_models_have_their_own_marks_and_their_own_bars_beside_each_other():
    found = of_models(["m", "n"], ["a", "b", "c"])
    found["q"][0, 1] = 0.01
    (axes,) = plot_layers(found).axes
    (first, second) = (points(axes, colour) for colour, _ in MODELS[:2])
    value = found["value"].sel(model="m", layer="b").item()
    assert first == [(pytest.approx(0.8), pytest.approx(value))]
    assert second == []  # hollow: no evidence
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert sorted(len(line.get_xdata()) for line in hollow) == [2, 3]
    bands = [part for part in axes.collections if len(part.get_paths()) == 3
             and part.get_paths()[0].get_extents().height > 0]  # fmt: skip
    spans = [[path.get_extents().intervalx for path in band.get_paths()] for band in bands]
    assert len(spans) == 2
    for (_, end), (start, _) in zip(*spans, strict=True):
        assert end < start  # no bar hides another
    heights = [bands[k].get_paths()[0].get_extents().height for k in (0, 1)]
    assert heights == pytest.approx([1.0, 0.8])
    (legend,) = plot_layers(found).legends
    assert [text.get_text() for text in legend.get_texts()][:2] == ["m", "n"]


def test_groups_have_columns_and_short_names():
    names = [f"block_{k}.{kind}" for kind in ("mlp", "residual") for k in range(3)]
    found = made(names, ["shape"]).assign_coords(group=("layer", ["mlp"] * 3 + ["rest"] * 3))
    first, second = plot_layers(found).axes
    assert first.get_ylim() == second.get_ylim()
    assert [text.get_text() for text in first.get_xticklabels()] == ["0", "1", "2"]
    assert (first.get_xlabel(), second.get_xlabel()) == ("block_*.mlp", "rest: block_*.residual")
    line = max(second.lines, key=lambda line: len(line.get_xdata()))
    assert np.array_equal(line.get_ydata(), found["value"].values[3:, 0])


def test_a_layer_that_a_model_lacks_has_no_cross():
    found = of_models(["m", "n"], ["a", "b"])
    told = np.array([["", "no such layer"], ["nothing varies", ""]])
    found["not_judged"] = (("model", "layer"), told)
    found["value"][:] = np.where(told == "", 1.0, np.nan)[..., None]
    (axes,) = plot_layers(found).axes
    crosses = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "x"]
    assert crosses == [[], [pytest.approx(0.2)]]


def test_a_heat_map_has_z_on_its_side_clipped_dots_and_hatches():
    found = made([f"layer_{k}" for k in range(31)], ["shape"])
    found["z"][:] = np.linspace(-12, 12, 31)[:, None]
    found["rank"][:] = np.where(np.arange(31) == 20, -0.1, np.sign(found["z"].values[:, 0]))[
        :, None
    ]
    found["z"][4] = np.nan
    found["q"][7] = 0.05
    axes, bar = plot_layers(found).axes
    (image,) = axes.images
    expected = np.clip(np.linspace(-12, 12, 31), -10, 10)
    expected[20] *= -1
    shown = image.get_array()
    assert shown.mask.ravel().nonzero()[0].tolist() == [4]
    assert np.allclose(shown.compressed(), np.delete(expected, 4))
    (hatched,) = axes.patches
    assert hatched.get_hatch()
    assert hatched.get_x() + 0.5 == 4
    (dots,) = axes.lines
    assert dots.get_xydata().tolist() == [[7, 0]]
    assert "orange above" in bar.get_xlabel()


def test_many_models_are_rows_of_a_heat_map_and_no_lines():
    names = [f"model_{k}" for k in range(5)]
    found = of_models(names, ["a", "b"])
    axes = plot_layers(found).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == names
    assert axes.images[0].get_array().shape == (5, 2)
    with pytest.raises(InputError, match="kind=lines: shows at most 4 models, and there are 5"):
        plot_layers(found, kind="lines")
    assert plot_layers(found.isel(model=[0]), kind="heat").axes[0].images
    many = made([f"layer_{k}" for k in range(40)], ["shape"])
    assert not plot_layers(many, kind="lines").axes[0].images


@pytest.mark.parametrize("models", [1, 2, 4, 6])
@pytest.mark.parametrize("count", [3, 12, 60])
def test_everything_stays_inside_a_figure_that_a_page_can_show(models, count):
    names = [f"block_{k}.{kind}" for k in range(count // 3) for kind in ("residual", "in", "out")]
    groups = [name.split(".")[1] for name in names]
    figure = plot_layers(of_models([f"model {'x' * 20} {k}" for k in range(models)], names, groups))
    assert figure.get_figwidth() <= PAGE / DPI
    figure.draw_without_rendering()
    (legend,) = figure.legends
    boxes = [legend.get_window_extent(),
             *(axes.get_tightbbox() for axes in figure.axes)]  # fmt: skip
    for box in boxes:
        assert box.x0 >= -1
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y0 >= -1
        assert box.y1 <= figure.bbox.y1 + 1
