"""What a notebook shows of paths, grids, plans, figures and results."""

import dataclasses
import pathlib
import re

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import ppp_jax.analysis as pa
from ppp_jax import Grid, notebook
from ppp_jax.cli import study
from ppp_jax.sweep.plan import plan

PNG = b"\x89PNG\r\n\x1a\n"


def test_paths_of_films_pages_and_folders_show_what_is_there(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    assert (
        'src="data:image/gif;base64,R0lGODlh"' in notebook.Picture(tmp_path / "a.gif")._repr_html_()
    )
    folder = notebook.Folder(tmp_path)
    assert folder._repr_html_() is None
    (tmp_path / "index.html").write_text('<p class="x">&amp;')
    page = notebook.Page(tmp_path / "index.html")
    assert 'srcdoc="&lt;p class=&quot;x&quot;&gt;&amp;amp;"' in page._repr_html_()
    assert folder._repr_html_() == page._repr_html_()
    page.unlink()
    assert page._repr_html_() is None  # the notebook then shows the path


def test_they_are_ordinary_paths_beside(tmp_path):
    page = notebook.Page(tmp_path / "index.html")
    assert page == tmp_path / "index.html"
    assert repr(page) == repr(pathlib.Path(page))
    assert str(page.parent) == str(tmp_path)


def test_a_large_file_is_not_shown(tmp_path):
    film = notebook.Picture(tmp_path / "a.gif")
    with film.open("wb") as file:
        file.truncate(notebook.LARGEST + 1)
    assert film._repr_html_() is None


def test_a_film_a_strip_and_an_analysis_show_themselves(tmp_path):
    latents = np.random.default_rng(0).normal(size=(2, 300, 4))
    pictures = pa.ppp(latents, epsilon=0.7, by="axis_0", bins=8)
    film = pa.animate(pictures, tmp_path / "film.gif", over="axis_0")
    assert isinstance(film, notebook.Picture)
    strip = pa.plot_strip([[pictures.isel(axis_0=0)]], rows=["a"], columns=["b"], title="c")
    assert strip._repr_png_().startswith(PNG)
    out = pa.write_analysis(latents[0], tmp_path / "out", rotations=19)
    assert out._repr_html_().count("&lt;img") == len(list(out.glob("*.png"))) > 0


def test_a_grid_and_its_plan_show_their_size(tmp_path):
    grid = Grid(activations=["tanh", "relu"], seeds=range(3), epochs=2)
    assert "<td>2 cells, 6 runs of 2 epochs</td>" in grid._repr_html_()
    assert "<th>activations</th><td>tanh, relu</td>" in grid._repr_html_()
    shown = plan(dataclasses.replace(grid, widths=[6]), tmp_path)._repr_html_()
    for name in ("cells", "runs", "steps", "memory", "minutes"):
        assert re.search(f"<th>{name}</th><td>[^<]", shown), name


def test_results_show_figures_and_the_tables_that_commands_print():
    tables = {"seen": pd.DataFrame({"<a>": [1.23456]}), "long": pd.DataFrame({"b": [1]})}
    shown = study.Results(
        tables, {"f": study.Shown(Figure(), "It is <empty>.")}, silent=("long",), notes=("n<",)
    )._repr_html_()
    assert shown.count("<img") == shown.count("<table") == 1
    assert "&lt;a&gt;" in shown
    assert shown.count("It is &lt;empty&gt;.") == 2  # for readers and for those who cannot see
    assert "1.23" in shown
    assert "<pre>n&lt;</pre>" in shown
