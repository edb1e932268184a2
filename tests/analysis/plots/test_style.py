"""The style of figures: sizes of texts as they are shown, colours, and names at ends of lines."""

import itertools
import string

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.text import Text

import ppp_jax.analysis as pa
from ppp_jax.analysis.io.facts import Facts
from ppp_jax.analysis.plots import curves, evidence, figures, labels, style
from ppp_jax.analysis.report import evidence as report
from ppp_jax.analysis.results.measure import SITES, measure
from ppp_jax.analysis.results.verdicts import difference_table
from ppp_jax.networks import interpolated
from tests.analysis.results.test_verdicts import made_up

NAMES = ("tanh", "relu", "leaky_relu", "isotropic_tanh", "isotropic_relu", "isotropic_leaky_relu",
         "gelu", "tanh@haar:3")  # fmt: skip
CSS_PIXELS = 12  # which are 9 pt


def drawn_texts(figure):
    """Draws a figure, and returns the texts that were drawn: no tick beyond an axis."""
    found = {}

    def record(text, renderer):
        if text.get_visible() and text.get_text().strip():
            found[id(text)] = text
        return draw(text, renderer)

    draw = Text.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        figure.draw_without_rendering()
        found.clear()  # of what was drawn before the layout was known
        figure.draw_without_rendering()
    return list(found.values())


def assert_readable(figure):
    """Asserts that a page shows all texts in 9 pt or more, whole, and none over another."""
    shown = [(text, text.get_window_extent()) for text in drawn_texts(figure)]
    width, height = figure.bbox.width, figure.bbox.height
    assert width <= style.PAGE + 1e-6
    assert shown
    for text, box in shown:
        assert text.get_fontsize() * figure.dpi / 72 >= CSS_PIXELS - 1e-6, text
        assert min(box.x0, box.y0) >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text
    for (one, box), (other, beside) in itertools.combinations(shown, 2):
        assert not box.padded(-1.5).overlaps(beside.padded(-1.5)), (one, other)


def lines_of(axes):
    return [line for line in axes.lines if not line.get_label().startswith("_")]


# ------------------------------------------------------------------------------------ colours


def test_colours_are_told_apart_also_from_white():
    rgb = np.array([to_rgb(colour) for colour in style.COLOURS])
    apart = np.linalg.norm(rgb[:, None] - rgb[None], axis=-1)
    assert apart[~np.eye(len(rgb), dtype=bool)].min() > 0.25
    linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (1.05 / (luminance + 0.05)).min() > 2


def test_every_activation_has_a_look_of_its_own_and_partners_share_a_colour():
    # The names say nothing: what is isotropic is a fact, and so is whose partner it is.
    letters = string.ascii_letters[:24]
    known = {}
    for one, two in zip(letters[::2], letters[1::2], strict=True):
        known |= {one: Facts(False, "", "", two), two: Facts(True, "", "", None)}
    seen = style.looks(known)
    assert list(seen) == list(known)
    assert len(set(seen.values())) == len(known)
    for one, two in zip(letters[::2], letters[1::2], strict=True):
        assert seen[one].color == seen[two].color
        assert seen[one].marker != seen[two].marker
        assert seen[one].linestyle != seen[two].linestyle
    assert len({seen[one].color for one in letters[: 2 * len(style.COLOURS) : 2]}) == len(
        style.COLOURS
    )


def test_a_look_depends_on_the_place_in_the_grid_alone():
    known = {name: interpolated.get(name) for name in NAMES}
    seen, renamed = style.looks(known), {
        str(k): Facts(one.isotropic, "", "", str(NAMES.index(one.partner)) if one.partner in NAMES
                      else None)
        for k, one in enumerate(known.values())
    }  # fmt: skip
    assert list(style.looks(renamed).values()) == list(seen.values())
    assert seen["tanh"].color == seen["isotropic_tanh"].color != seen["tanh@haar:3"].color
    alone = style.looks({"isotropic_tanh": known["isotropic_tanh"]})
    assert alone["isotropic_tanh"].color == style.COLOURS[0]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=1, max_size=21))
def test_parts_of_a_grid_have_at_most_six_activations_and_keep_partners_together(made):
    known = {
        str(k): Facts(isotropic, "", "", str(partner))
        for k, (isotropic, partner) in enumerate(made)
    }
    parts = style.split(known)
    assert sorted(itertools.chain(*parts)) == sorted(known)
    assert max(map(len, parts)) <= style.MOST_LINES
    places = {name: k for k, part in enumerate(parts) for name in part}
    for family in style.families(known):
        assert len({places[name] for name in family}) == 1
    together = {frozenset(family) for family in style.families(known)}
    for facts in known.values():
        partner = known.get(facts.partner)
        if not facts.isotropic and partner is not None and partner.isotropic:
            first = next(one for one, other in known.items()
                         if other.partner == facts.partner and not other.isotropic)  # fmt: skip
            assert frozenset((first, facts.partner)) in together


def test_what_has_an_order_gets_darker():
    for count in (1, 2, 6):
        light = [np.mean(to_rgb(colour)) for colour in style.shades(count)]
        assert len(light) == count
        assert light == sorted(light, reverse=True)
        assert len(set(light)) == count


# --------------------------------------------------------------------------------- pa.style()


def test_the_style_is_for_its_block_alone_and_decorates_functions():
    before = dict(matplotlib.rcParams)
    with pa.style():
        inside = plt.figure().add_subplot()
        inside.set_title("a title")

    @pa.style()
    def drawn():
        return plt.figure().add_subplot()

    decorated, plain = drawn(), plt.figure().add_subplot()
    assert dict(matplotlib.rcParams) == before
    for axes in (inside, decorated):
        assert axes.figure.dpi * axes.xaxis.label.get_fontsize() / 72 == CSS_PIXELS
        assert [axes.plot([0, 1])[0].get_color() for _ in range(2)] == list(style.COLOURS[:2])
    assert plain.plot([0, 1])[0].get_color() != style.COLOURS[0]
    plt.close("all")


# ----------------------------------------------------------------------------- ends of lines


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(0.1, 50),
    st.floats(-100, 100), st.floats(1, 1000),
)  # fmt: skip
def test_labels_are_spread_no_more_than_they_must(wanted, distance, low, extent):
    high = low + extent
    found = labels.spread(wanted, distance, low, high)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(found[order]) >= distance * (1 - 1e-9)).all()
    if distance * (len(wanted) - 1) <= extent:
        assert found.min() >= low - 1e-6
        assert found.max() <= high + 1e-6
        apart = (np.diff(np.sort(wanted)) >= distance).all()
        if apart and min(wanted) >= low and max(wanted) <= high:
            np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 9])
@pytest.mark.parametrize("ends", ["equal", "near", "apart", "outside"])
def test_no_label_is_over_another(count, ends):
    figure, panels = figures.page_panels(2, 2, width=style.PAGE / 2, height=190)
    places = {"equal": np.zeros(count), "near": np.linspace(0, 0.05, count),
              "apart": np.linspace(0, 1, count), "outside": np.linspace(-9, 9, count)}  # fmt: skip
    for axes in panels.flat:
        for k, end in enumerate(places[ends]):
            axes.plot([0, 1, 2], [0.5, end, np.nan], label=f"isotropic_{k}")
        axes.set(ylim=(-0.1, 1.1), title="a title", xlabel="epoch")
        shown = labels.label_lines(axes)
        assert len(shown.texts) == count
    assert_readable(figure)
    for axes in panels.flat:
        (own,) = axes.findobj(labels.LineLabels)
        right = axes.get_window_extent().x1
        heights = [text.get_window_extent().y0 for text in own.texts]
        assert heights == sorted(heights)  # as the lines end
        assert all(text.get_window_extent().x0 > right for text in own.texts)


def test_a_line_without_a_finite_point_has_no_label():
    axes = figures.page_figure(300, 200).add_subplot()
    axes.plot([0, 1], [np.nan, np.nan], label="dead")
    assert labels.label_lines(axes).texts == []
    axes.figure.draw_without_rendering()


# ------------------------------------------------------------------------ figures of reports


@pytest.fixture(scope="module")
def measured():
    with matplotlib.rc_context({"font.size": 5}):  # which is not the style's
        yield measure(made_up(NAMES), epsilon=0.6, rotations=19)


def test_a_forest_plot_can_be_read(measured):
    table = difference_table(measured.runs)
    figure = evidence.plot_forest(table, labels=["activation"])
    assert_readable(figure)
    panel = figure.axes[0]
    rows = table[table["quantity"] == table["quantity"].iloc[0]]
    names = [f"{row.activation} − {row.against}" for row in rows.itertuples()]
    assert [text.get_text() for text in panel.get_yticklabels()] == names
    points = [line for line in panel.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(
        [line.get_xdata()[0] for line in points], rows["difference"], rtol=1e-12
    )
    for line, row in zip(points, rows.itertuples(), strict=True):
        sides = {True: style.ABOVE, False: style.BELOW}
        wanted = sides[row.difference > 0] if row.q <= 0.05 else style.NEITHER
        assert line.get_color() == wanted


def test_many_quantities_of_a_forest_plot_go_on_below(measured):
    table = difference_table(measured.runs)
    parts = [table.assign(quantity=table["quantity"] + f"_{k}") for k in range(3)]
    many = table.iloc[:0]
    for part in parts:
        many = part if many.empty else type(table)([*many.to_dict("records"),
                                                    *part.to_dict("records")])  # fmt: skip
    figure = evidence.plot_forest(many, labels=["activation"])
    assert_readable(figure)
    assert sum(axes.axison for axes in figure.axes) == many["quantity"].nunique()


@pytest.mark.parametrize("site", SITES)
def test_planes_have_at_most_six_lines_a_panel_and_all_activations(measured, site):
    figure = evidence.plot_plane(measured.runs, site=site, labels=["activation"])
    assert_readable(figure)
    shown = [[line.get_label() for line in lines_of(axes)] for axes in figure.axes]
    assert max(map(len, shown)) <= style.MOST_LINES
    assert sorted(itertools.chain(*shown)) == sorted(NAMES)


def test_curves_have_at_most_six_lines_a_panel_and_all_activations(measured):
    runs = measured.runs
    part = runs.isel(dict.fromkeys(("depth", "width", "optimizer", "initializer", "rate"), 0))
    pairs = [("train_mse", "test_mse"), ("shape_pre", "shape_post")]
    figure = curves.plot_pairs(part, pairs=pairs)
    assert_readable(figure)
    shown = [[line.get_label() for line in lines_of(axes)] for axes in figure.axes]
    assert max(map(len, shown)) <= style.MOST_LINES
    assert sorted(itertools.chain(*shown)) == sorted(NAMES * 4)
    for axes, label in zip(figure.axes, shown, strict=True):
        seen = style.looks({name: interpolated.get(name) for name in NAMES})
        for line, name in zip(lines_of(axes), label, strict=True):
            assert line.get_color() == seen[name].color


def test_calibration_can_be_read():
    _, figure = report.calibration_figure(60, 4)
    assert_readable(figure)


def test_pages_of_a_single_curve_can_be_read():
    values = xr.DataArray(
        np.random.default_rng(0).normal(size=(3, 4, 5)),
        dims=("activation", "seed", "step"),
        coords={"activation": list("abc"), "epoch": ("step", [0, 1, 2, 4, 100])},
        name="error",
    )
    figure = pa.plot_curves(values).figure
    assert_readable(figure)
    plt.close("all")


def test_curves_on_polar_axes_can_be_read():
    clouds = np.random.default_rng(0).laplace(size=(500, 5))
    figure = pa.plot_srm(pa.srm(clouds, epsilon=0.6)).figure
    assert figure.dpi * min(text.get_fontsize() for text in figure.findobj(Text)) / 72 >= CSS_PIXELS
    plt.close("all")
