"""Strips of pictures: points on black in one scale, and what stands beside them."""

import io
import itertools

import matplotlib
import numpy as np
import pytest
from PIL import Image

from ppp_jax.analysis import plot_ppp, plot_strip, ppp
from ppp_jax.analysis.plots.paper import BLACK, COLORMAP, density_scale, half_width, point_density
from ppp_jax.analysis.plots.strips import SIZES
from ppp_jax.analysis.plots.style import PAGE
from ppp_jax.errors import InputError

EPOCHS = ["epoch 0", "epoch 2", "epoch 16"]
OPTIONS = {"epsilon": 0.6, "bins": 32}


@pytest.fixture(scope="module")
def clouds():
    """A cloud that grows in training and ends on the axes."""
    rng = np.random.default_rng(0)
    return np.stack([rng.normal(size=(1500, 5)), 2 * rng.laplace(size=(1500, 5)),
                     4 * rng.standard_t(3, size=(1500, 5))])  # fmt: skip


@pytest.fixture(scope="module")
def pictures(clouds):
    found = ppp(clouds, by="axis_0", **OPTIONS)
    return [found.isel(axis_0=k) for k in range(3)]


@pytest.fixture(scope="module")
def turned(clouds, pictures):
    extent = pictures[0].attrs["extent"]
    found = ppp(clouds, by="axis_0", rotated=0, extent=extent, **OPTIONS)
    return [found.isel(axis_0=k) for k in range(3)]


def drawn_strip(strips, **options):
    rows = [f"row {k}" for k in range(len(strips))]
    return plot_strip(strips, rows=rows, columns=EPOCHS[: len(strips[0])], title="", **options)


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def test_points_per_area_integrate_to_the_accepted_points(clouds, pictures):
    wide = ppp(clouds[2], extent=400, bandwidth=4, **OPTIONS)  # all points are far inside
    bin_area = (2 * half_width(wide) / 32) ** 2
    total = point_density(wide).sum() * bin_area
    assert total == pytest.approx(wide.accepted.item(), rel=1e-9)
    # Of single planes as of all: the densities of the planes add up to that of the pooled picture.
    apart = ppp(clouds[0], planes_apart=True, extent=pictures[0].extent, **OPTIONS)
    planes = [point_density(apart.isel(plane=k)) for k in range(10)]
    np.testing.assert_allclose(sum(planes), point_density(pictures[0]), atol=1e-9)


def test_all_panels_of_a_strip_have_one_scale_and_its_titles_are_the_epochs(pictures):
    upper, lower = drawn_strip([pictures, pictures[::-1]], style="paper").axes[:2]
    (norm,) = {id(image.norm): image.norm for image in upper.images}.values()
    assert norm is not lower.images[0].norm
    assert (norm.vmin, norm.vmax) == (0, density_scale(pictures).vmax)
    for image, picture in zip(upper.images, pictures, strict=True):
        np.testing.assert_array_equal(image.get_array(), point_density(picture))
    assert [text for text in texts_of(upper) if text.startswith("epoch")] == EPOCHS
    for picture in pictures:
        assert f"{picture.accepted.item():,} points" in texts_of(upper)
    (bar,) = upper.child_axes
    labels = [label.get_text() for label in bar.get_yticklabels()]
    assert bar.get_ylabel() == "points / area"
    assert labels == ["0", f"{norm.vmax / 4:,.0f}", f"{norm.vmax:,.0f}"]


@pytest.mark.filterwarnings("ignore::ppp_jax.analysis.EmptyPPPWarning")
def test_little_area_is_brighter_than_the_end_of_the_scale(clouds):
    # A small cloud, as before training, has the densest places but not the scale.
    small, large = (ppp(scale * clouds[0], **OPTIONS) for scale in (0.05, 1))
    top = density_scale([small, large]).vmax
    assert top < 0.05 * point_density(small).max()
    assert top > 0.5 * point_density(large).max()
    empty = ppp(np.full((9, 5), 1.0), epsilon=0.95, bins=8)
    assert density_scale([empty]).vmax == 1


def test_a_strip_is_drawn_to_the_half_width_of_its_widest_panel(clouds):
    strip = [ppp(scale * clouds[0], **OPTIONS) for scale in (0.5, 1)]
    (axes,) = drawn_strip([strip], style="paper").axes
    widths = [image.get_extent()[1] - image.get_extent()[0] for image in axes.images]
    assert widths == [pytest.approx(0.48), pytest.approx(0.96)]
    half = f"±{half_width(strip[1]):.2g}"
    assert texts_of(axes).count(half) == 2
    (ratios,) = drawn_strip([strip]).axes
    assert texts_of(ratios).count(half) == 1


@pytest.mark.filterwarnings("ignore::ppp_jax.analysis.EmptyPPPWarning")
def test_where_no_point_is_the_picture_is_black(clouds):
    assert COLORMAP(0.0)[:3] == matplotlib.colors.to_rgb(BLACK) == (0, 0, 0)
    corners = np.where(clouds[0] < 0, -1.0, 1.0)  # in no plane
    strip = [ppp(clouds[0], **OPTIONS), ppp(corners, epsilon=0.9, bins=32)]
    figure = drawn_strip([strip], style="paper")
    (axes,) = figure.axes
    assert any("expected" in text for text in texts_of(axes))
    for text in list(axes.texts):
        text.remove()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pixels = np.asarray(Image.open(buffer).convert("RGB"))
    (left, bottom), (right, top) = axes.transData.transform([(1.03, 0.03), (1.97, 0.97)]).astype(
        int
    )
    height = len(pixels)
    assert not pixels[height - top : height - bottom, left + 1 : right].any()
    (left, bottom), (right, top) = axes.transData.transform([(0.03, 0.03), (0.97, 0.97)]).astype(
        int
    )
    assert pixels[height - top : height - bottom, left + 1 : right].max() > 200


def test_a_compared_row_is_three_strips_and_both_ratios_share_their_scale(pictures, turned):
    notes = [["", "z 1", "z 2"]]
    figure = drawn_strip([pictures], beside=[turned], notes=notes, style="compared")
    points, ratio, rotated = figure.axes
    names = [texts_of(axes)[-1] for axes in (ratio, rotated)]
    assert names == ["row 0\nratio", "row 0\nrotated basis"]
    assert "row 0\npoints" in texts_of(points)
    np.testing.assert_array_equal(points.images[1].get_array(), point_density(pictures[1]))
    norms = {id(image.norm) for image in (*ratio.images, *rotated.images)}
    assert norms == {id(ratio.images[0].norm)} != {id(points.images[0].norm)}
    for axes, strip in ((ratio, pictures), (rotated, turned)):
        for image, picture in zip(axes.images, strip, strict=True):
            seen = np.isfinite(picture["ratio"].values) & (picture["ratio"].values > 0.25)
            values = picture["ratio"].values[seen]
            np.testing.assert_allclose(image.get_array()[seen], values)
    assert {"z 1", "z 2"} <= set(texts_of(ratio))
    assert not {"z 1", "z 2"} & {*texts_of(points), *texts_of(rotated)}
    # A gap in the rotated ones is a gap in their strip.
    gaps = [[turned[0], None, turned[2]]]
    assert len(drawn_strip([pictures], beside=gaps, style="compared").axes[2].images) == 2


def test_single_planes_make_strips_too(clouds):
    found = ppp(clouds, by="axis_0", planes_apart=True, top=2, **OPTIONS)
    strips = [[found.isel(plane=p, axis_0=k) for k in range(3)] for p in range(2)]
    figure = drawn_strip(strips, style="paper")
    for axes, strip in zip(figure.axes, strips, strict=True):
        assert f"{strip[0].accepted.item():,} points" in texts_of(axes)
        np.testing.assert_array_equal(axes.images[2].get_array(), point_density(strip[2]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("style", ["ratio", "paper", "compared"])
def test_texts_have_room_and_a_page_shows_them_in_9_pt(style, size, pictures, turned):
    names, count = ["tanh@thomson:32", "isotropic_tanh"], 13 if style != "compared" else 8
    pairs = [(pictures * 5)[:count], (turned * 5)[:count]]
    more = {"beside": [pairs[1]] * 2} if style == "compared" else {}
    notes = [["rotations: 0.0012, z −12.3"] * count] * 2
    columns = ["epoch 100", "learning rate 0.001"] * 3 + ["a\nb"] * (count - 6)
    more |= {"title": "a title " * 20, "notes": notes, "style": style, "size": size}
    figure = plot_strip([pairs[0]] * 2, rows=names, columns=columns, **more)
    figure.draw_without_rendering()
    texts = [  # those that are drawn at all
        text
        for text in figure.findobj(matplotlib.text.Text)
        if text.get_text().strip() and text.get_window_extent().width > 1
    ]
    boxes = [text.get_window_extent() for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        assert text.get_fontsize() * figure.dpi / 72 >= 9 * 96 / 72 - 1e-9
        assert (min(box.x0, box.y0) >= 0) & (box.x1 <= figure.bbox.x1), text
        assert box.y1 <= figure.bbox.y1, text
    for one, other in itertools.combinations(range(len(texts)), 2):
        assert not boxes[one].overlaps(boxes[other]), (texts[one], texts[other])
    width = figure.get_figwidth() * figure.dpi
    assert width <= PAGE + 1e-9 if size == "page" else width > 2500
    lines = 3 if style == "compared" else 1 if size == "print" else 2
    assert len([axes for axes in figure.axes if axes.images]) == 2 * lines


@pytest.mark.parametrize("style", ["ratio", "paper"])
def test_strips_that_go_on_below_show_every_picture_once_in_one_scale(style, pictures, turned):
    strip = (pictures * 6)[:16]
    beside = [None] * 15 + [turned[0]]
    names = [f"seed {k}" for k in range(16)]
    more = {"beside": [beside] * 2, "style": style}
    figure = plot_strip([strip, strip], rows=["a", "b"], columns=names, title="", **more)
    lines = [axes for axes in figure.axes if axes.images]
    assert [texts_of(axes).count("a") for axes in lines] == [1, 0, 1, 0]
    seen = [image.get_array() for axes in lines[::2] for image in axes.images]
    assert len(seen) == 17
    assert len({image.norm for axes in lines[::2] for image in axes.images}) == 1
    heads = [text for axes in lines for text in texts_of(axes) if text.startswith("seed")]
    assert heads == names
    widths = {axes.get_xlim()[1] for axes in lines}
    assert len(widths) == 1
    halves = {text for axes in lines for text in texts_of(axes) if text.startswith("±")}
    assert len(halves) == 1


def test_one_picture_alone_has_the_style_too(pictures, turned):
    axes = plot_ppp(pictures[1], beside=turned[1], style="paper")
    left, right, bar = axes.figure.axes
    assert left.images[0].norm is right.images[0].norm
    np.testing.assert_array_equal(right.images[0].get_array(), point_density(turned[1]))
    assert bar.get_ylabel() == "accepted points per unit area"
    linear = matplotlib.colors.Normalize(0, 3)
    assert plot_ppp(pictures[1], norm=linear, style="paper").images[0].norm is linear


def test_what_cannot_be_drawn_is_one_line(clouds, pictures):
    with pytest.raises(InputError, match="style=black: must be 'ratio' or 'paper' or 'compared'"):
        drawn_strip([pictures], style="black")
    with pytest.raises(InputError, match="style=compared: must be 'ratio' or 'paper'"):
        plot_ppp(pictures[0], style="compared")
    with pytest.raises(InputError, match="size=poster: must be 'page' or 'print'"):
        drawn_strip([pictures], size="poster")
    with pytest.raises(InputError, match=r"norm=Normalize: must be a matplotlib\.colors\.LogNorm"):
        plot_ppp(pictures[0], norm=matplotlib.colors.Normalize(0, 1))
    compared = {"style": "compared"}
    with pytest.raises(InputError, match="beside=None: must hold pictures in a rotated basis"):
        drawn_strip([pictures], **compared)
    with pytest.raises(InputError, match="beside=standard: must be a picture in a rotated basis"):
        drawn_strip([pictures], beside=[pictures], **compared)
    other = ppp(clouds[0], rotated=0, extent=3, **OPTIONS)
    with pytest.raises(InputError, match=r"beside=extent 3: .* give ppp extent="):
        drawn_strip([pictures], beside=[[other, None, None]], **compared)
