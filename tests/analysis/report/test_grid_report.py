import csv
import json
import re
import urllib.parse

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from ppp_jax.analysis import load_run, plot_curves, plot_ppp, plot_strip, ppp, write_report
from ppp_jax.analysis.report import sections
from ppp_jax.analysis.results.measure import measure
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.texts import as_markdown
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.sweep import sweep

pytestmark = pytest.mark.usefixtures("quick_compilation")

GRID = Grid(
    activations=["relu", "isotropic_relu"],
    widths=[6],
    latent_widths=[3, 4],
    optimizers=["sgd"],
    # The second rate makes relu diverge: an infinite loss, with a report all the same.
    learning_rates=[0.1, 1e12],
    seeds=[0, 1],
    epochs=2,
    probe_samples=100,
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return sweep.train(GRID, tmp_path_factory.mktemp("run"), progress=False)


@pytest.fixture(scope="module")
def page(workdir):
    return write_report(workdir, epsilon=0.8, rotations=19, progress=False)


@pytest.fixture(scope="module")
def measured(workdir):
    return measure(load_run(workdir, latent_width=4), epsilon=0.8, rotations=19)


def test_page_is_complete_and_self_contained(page):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r'src="(?!data:)', text)
    for link in re.findall(r'href="([^"]*)"', text):
        inside = link.startswith("#")
        assert (
            f'id="{link[1:]}"' in text or f"id={link[1:]}>" in text
            if inside
            else (page.parent / urllib.parse.unquote(link)).is_file()
        )
    # Per section: two strips pooled, one of them also in the paper's style, curves, and for both
    # kinds one seed and every seed; per width differences, two planes and the calibration. The
    # first strip of each width stands below its answer, too.
    assert len(re.findall("data:image/(?:png|webp);base64", text)) == (8 * 2 + 4 + 1) * 2
    assert "3 latent units" in text
    assert "ε = 0.8" in text
    assert len(list(page.parent.glob("*.png"))) == (8 * 2 + 4) * 2
    assert not list(page.parent.parent.glob(".report.*"))
    # Two seeds claim nothing over seeds, and the page says why, under a heading for each family.
    assert re.search(r"over seeds it cannot be judged at 2 seeds: \d+ would do", text)
    for family in (*registry.FAMILIES, "training"):
        assert text.count(f"<h4>{family.capitalize()}</h4>") == 2
    assert "Elementwise Adam" in text
    certified = json.loads((page.parent.parent / "certificates.json").read_text())
    assert all(
        row["holds"]
        for kind in (certified[k] for k in ("activations", "optimizers", "initializers"))
        for row in kind.values()
    )
    assert "O(n)" in text


def test_tables_say_what_the_run_says(page, workdir):
    with (page.parent / "cells_latent_3.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    row = next(r for r in rows if r["activation"] == "relu" and float(r["learning_rate"]) == 0.1)
    errors = load_run(workdir, latent_width=3)["test_mse"].isel(step=-1)
    errors = errors.sel(activation="relu", rate=0).values.ravel()
    np.testing.assert_allclose(float(row["test_mse"]), errors.mean(), rtol=1e-5)
    assert float(row["test_mse_low"]) <= errors.mean() <= float(row["test_mse_high"])
    assert row["diverged"] == "0"
    wild = next(r for r in rows if r["activation"] == "relu" and float(r["learning_rate"]) > 1)
    assert wild["diverged"] == "2"
    assert wild["test_mse"] == ""


def test_runs_table_has_a_row_per_run_and_snapshot(page):
    with (page.parent / "runs_latent_4.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2 * 3
    assert {row["epoch"] for row in rows} == {"0", "1", "2"}


def test_statistics_are_of_the_right_run(workdir, measured):
    dataset, statistics = load_run(workdir, latent_width=4), measured.runs
    one = dataset["pre"].isel(activation=1, rate=0, seed=1, step=2).squeeze()
    expected = ppp(one, epsilon=0.8).acceptance_ratio
    got = statistics["acceptance_ratio_pre"].isel(activation=1, rate=0, seed=1, step=2).item()
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_load_names_what_is_missing(workdir, tmp_path):
    with pytest.raises(InputError, match=r"path=.*holds no latents\.zarr"):
        load_run(tmp_path)
    with pytest.raises(InputError, match=r"latent_width=None: is ambiguous; name one of \[3, 4\]"):
        load_run(workdir)
    with pytest.raises(InputError, match="latent_width=5: is not in this grid"):
        load_run(workdir, latent_width=5)
    with pytest.raises(InputError, match="epsilon=2"):
        write_report(workdir, epsilon=2)
    with pytest.raises(InputError, match="rotations=18: must be at least 19"):
        write_report(workdir, rotations=18)


def test_plots_take_axes_and_give_them_back():
    picture = ppp(np.random.default_rng(0).normal(size=(3000, 4)), bins=32)
    axes = Figure().add_subplot()
    assert plot_ppp(picture, ax=axes) is axes
    drawn = axes.images[0].get_array()
    seen = np.isfinite(picture["ratio"].values)
    np.testing.assert_allclose(drawn[seen], np.maximum(picture["ratio"].values[seen], 0.25))
    np.testing.assert_array_equal(~np.ma.getmaskarray(drawn), seen)
    values = xr.DataArray(
        np.arange(12.0).reshape(2, 2, 3),
        dims=("activation", "seed", "step"),
        coords={
            "activation": ["f", "g"],
            "activation_isotropic": ("activation", [False, True]),
            "activation_partner": ("activation", ["g", ""]),
            "epoch": ("step", [0, 1, 2]),
        },
        name="error",
    )
    axes = Figure().add_subplot()
    assert plot_curves(values, ax=axes) is axes
    solid, dashed = axes.lines
    np.testing.assert_array_equal(solid.get_ydata(), values.sel(activation="f").median("seed"))
    assert [line.get_label() for line in axes.lines] == ["f", "g"]
    assert solid.get_color() == dashed.get_color()
    assert solid.get_linestyle() == "-" != dashed.get_linestyle()
    bands = [band.get_paths()[0].vertices[:, 1] for band in axes.collections]
    assert [band.min() for band in bands] == [0.75, 6.75]  # the lower quartile at the first step


def test_a_pipe_in_a_header_is_no_new_column():
    lines = as_markdown(["|C4|", "q"], [["0.1", "0.2"]]).splitlines()
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {4}
    assert {len(line) for line in lines} == {len(lines[0])}


def pair():
    clouds = np.random.default_rng(0).laplace(size=(2000, 4)) * [1, 1, 1, 3]
    picture = ppp(clouds, epsilon=0.6, bins=32)
    return picture, ppp(clouds, epsilon=0.6, bins=32, rotated=0, extent=picture.extent)


def test_a_picture_and_its_rotated_one_have_one_colour_scale():
    picture, turned = pair()
    axes = plot_ppp(picture, beside=turned)
    both = axes.figure.axes[:2]
    assert both[0] is axes
    assert [one.images[0].norm for one in both] == [axes.images[0].norm] * 2
    assert both[1].get_title() == f"rotated basis: A/A0 = {turned.acceptance_ratio:.3g}"
    for one, shown in zip(both, (picture, turned), strict=True):
        values = one.images[0].get_array()
        seen = np.isfinite(shown["ratio"].values) & (shown["ratio"].values > 0.25)
        np.testing.assert_allclose(values[seen], shown["ratio"].values[seen])
    top = np.concatenate([x["ratio"].values.ravel() for x in (picture, turned)])
    assert axes.images[0].norm.vmax == pytest.approx(max(4, np.nanquantile(top, 0.999)))
    with pytest.raises(InputError, match="ax=Axes: must be None where two pictures"):
        plot_ppp(picture, beside=turned, ax=axes)
    with pytest.raises(InputError, match="must be a picture in a rotated basis"):
        plot_ppp(picture, beside=picture)
    with pytest.raises(InputError, match="must have the ε of the picture"):
        plot_ppp(picture, beside=turned.assign_coords(epsilon=0.5))


def test_a_strip_draws_rotated_pictures_where_there_are_any():
    picture, turned = pair()
    figure = plot_strip(
        [[picture, picture], [picture, picture]],
        rows=["a", "b"],
        columns=["first", "last"],
        title="",
        beside=[[None, turned], [None, None]],
        notes=[["", "z 3"], ["", ""]],
    )
    above, below = figure.axes[:2]
    assert [len(axes.images) for axes in (above, below)] == [3, 2]
    assert len({id(image.norm) for image in above.images}) == 1
    texts = {text.get_text(): text.get_position()[0] for text in above.texts}
    assert (texts["first"], texts["last"], texts["rotated basis"]) == (0.5, 1.5, 2.5)
    assert texts["z 3"] == 1.5  # below the picture whose z it is
    for table, field in (([[None]], "beside"), ([["", ""]], "notes")):
        with pytest.raises(InputError, match=rf"{field}=list: must be 1 lists of 2"):
            plot_strip([[picture, picture]], rows=["a"], columns=["b", "c"], title="",
                       **{field: table * 2})  # fmt: skip


def test_strips_show_rotated_latents_and_their_null(workdir, measured):
    section = next(sections.sections_of(load_run(workdir, latent_width=4), measured))
    strips = sections._strips(section, "pre", ["relu"], 0.8)
    (pictures,), (beside,) = strips.pooled.panels, strips.pooled.beside
    assert [one is None for one in beside] == [False, True, False]
    clouds = section.latents["pre"].sel(activation="relu").isel(step=2)
    expected = ppp(clouds, epsilon=0.8, rotated=0, bins=sections.BINS)
    np.testing.assert_allclose(beside[2]["acceptance_ratio"], expected.acceptance_ratio)
    assert beside[2].attrs["extent"] == pictures[2].attrs["extent"]
    at = {"activation": "relu"}
    null = section.pooled["acceptance_ratio_pre_null"].sel(at).values
    assert strips.pooled.notes[0][0].startswith(f"random {null[0]:.2g}, z ")
    assert strips.pooled.notes[0][1] == ""
    one = section.statistics["acceptance_ratio_pre_null"].sel(at).isel(seed=1, step=2).item()
    assert strips.seeds.notes[0][1].startswith(f"random {one:.2g}, z ")


def test_the_table_of_contents_reads_as_words(page):
    text = page.read_text(encoding="utf-8")
    contents = text.partition("<nav")[2].partition("</nav>")[0]
    titles = re.findall(r'<a href="#[^"]+">([^<]+)</a>', contents)
    assert len(titles) == 2 * (6 + 2) + 2  # of two widths evidence and rates, and the whole grid
    assert all(title[0].isupper() for title in titles)
    assert contents.count("mlp, 3 latent units") == 1
    assert any(
        re.match(r"Pictures: optimiser sgd \(.*\), learning rate .*, initial weights ", title)
        for title in titles
    )


def test_figures_keep_their_colours_in_the_dark(page):
    rules = page.read_text(encoding="utf-8").partition("<style>")[2].partition("</style>")[0]
    assert "filter:" not in rules
    assert "8px var(--frame)" in rules
