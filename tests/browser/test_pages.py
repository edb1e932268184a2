"""Pages in a real browser: on a phone and a screen, with its scripts, and for a screen reader."""

import functools
import html
import importlib.util
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ppp_jax.analysis import write_analysis, write_layers, write_report
from ppp_jax.cli import study
from ppp_jax.grid import Grid
from ppp_jax.sweep import sweep

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium (Debian: apt install it)"),
    pytest.mark.usefixtures("quick_compilation"),
]
GRID = Grid(
    activations=["relu", "isotropic_relu"],
    optimizers=["momentum", "adam"],
    widths=[6],
    latent_widths=[4],
    seeds=[0, 1],
    epochs=1,
    probe_samples=64,
)
WIDTHS = {"phone": 390, "screen": 1400}
AXE = importlib.util.find_spec("axe_playwright_python")  # whose file is used, and no playwright
SCRIPT = """
<script>
const report = {};
addEventListener("load", async () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
  report.inner = innerWidth;
  report.across = document.documentElement.scrollWidth;
  report.pictures = [...document.images].map(one => [one.alt, one.naturalWidth > 0]);
  report.levels = [...document.querySelectorAll("h1, h2, h3, h4")].map(one => +one.tagName[1]);
  report.tables = [...document.querySelectorAll("table.sortable")].map(table => {
    const button = table.querySelector("th:last-child button");
    const last = () => [...table.tBodies[0].rows].map(row => [...row.cells].pop().textContent);
    button.click();
    const up = last();
    button.click();
    return {up, down: last(), state: table.querySelector("th:last-child").ariaSort};
  });
  await new Promise(done => setTimeout(done, 300));  // until hints are shown
  report.regions = [...document.querySelectorAll(".wide")].map(one => ({
    wider: one.scrollWidth > one.clientWidth, hinted: !one.querySelector(".hint").hidden,
    reached: one.tabIndex === 0 && one.ariaLabel !== "", matrix: !!one.closest(".matrix"),
  }));
  report.filters = [...document.images].map(one => getComputedStyle(one).filter);
  if (window.axe) report.axe = (await axe.run()).violations.map(one => [one.id, one.nodes.length]);
  const told = parent.document.createElement("pre");
  told.id = "told";
  told.textContent = JSON.stringify(report);
  parent.document.body.replaceChildren(told);
});
</script>
"""
# A window has at least 500 pixels, but a frame in it has as few as one likes.
FRAME = '<!doctype html><body><iframe width={} height=900 style="border:0" srcdoc="{}"></iframe>'


def _study(folder):
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    table = pd.DataFrame({"activation": ["tanh", "relu"], "difference": [0.5, -12.25]})
    shown = study.Shown(figure, "A line rises from 1 to 2.")
    results = study.Results({"answers": table}, {"picture": shown})
    with study.writing(folder) as target:
        texts = {"asked": "Is it?\n\nNobody knows.", "documented": "No.", "this_run": "a run"}
        study.keep(results, target, **texts)
    return folder / "study" / "index.html"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    draw = np.random.default_rng(0)
    layers = {f"layer {k}": draw.laplace(size=(80, 4)) for k in range(3)}
    run = sweep.train(GRID, folder / "run", progress=False)
    return {
        "report": pathlib.Path(write_report(run, rotations=19, progress=False)),
        "layers": write_layers(layers, folder / "layers", rotations=19) / "index.html",
        "array": write_analysis(layers["layer 0"], folder / "array", rotations=19) / "index.html",
        "study": _study(folder),
    }


@functools.cache
def look(page, width, *, dark=False):
    """Opens a page in a frame, and returns what the script above finds there, and all errors."""
    copy = page.with_name("looked_at.html")
    axe = ""
    if AXE is not None:
        source = pathlib.Path(AXE.submodule_search_locations[0], "axe.min.js")
        axe = f"<script>{source.read_text(encoding='utf-8')}</script>"
    text = page.read_text(encoding="utf-8")
    inside = text.replace("</body>", f"{axe}{SCRIPT}</body>")
    copy.write_text(FRAME.format(width, html.escape(inside)), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += ["--window-size=1600,1000", "--virtual-time-budget=60000", "--dump-dom"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    try:
        done = subprocess.run(
            [*command, copy.as_uri()], capture_output=True, text=True, timeout=240, check=True
        )
    finally:
        copy.unlink()
    (told,) = re.findall(r'<pre id="told">(.*?)</pre>', done.stdout, re.S)
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(told)), errors


@pytest.mark.parametrize("kind", ["report", "layers", "array", "study"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_a_page_works_in_a_browser(pages, kind, width):
    found, errors = look(pages[kind], width)
    assert not errors
    assert found["inner"] == width
    assert found["across"] <= width
    assert found["pictures"]
    for alt, loaded in found["pictures"]:
        assert alt.endswith(".")
        assert loaded
    assert found["levels"][0] == 1
    assert found["levels"].count(1) == 1
    deeper = np.diff(found["levels"])
    assert deeper.max() <= 1  # no level is left out


@pytest.mark.parametrize("kind", ["report", "layers", "array", "study"])
def test_tables_sort_by_the_column_that_is_chosen(pages, kind):
    found, _ = look(pages[kind], WIDTHS["screen"])
    assert found["tables"]
    for table in found["tables"]:
        assert table["state"] == "descending"
        up, down = ([_number(text) for text in table[way]] for way in ("up", "down"))
        if None not in up:
            assert up == sorted(up)
            assert down == sorted(down, reverse=True)


def _number(text):
    found = re.search(r"[-+]?\d*\.?\d+(?:e[-+]?\d+)?", text.replace("−", "-").replace(",", ""))
    return float(found[0]) if found else None


@pytest.mark.skipif(AXE is None, reason="axe is not installed (see CONTRIBUTING.md)")
@pytest.mark.parametrize("kind", ["report", "layers", "array", "study"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_violation(pages, kind, dark):
    found, _ = look(pages[kind], WIDTHS["screen"], dark=dark)
    assert found["axe"] == []


@pytest.mark.parametrize("kind", ["report", "layers", "array", "study"])
def test_tables_that_go_on_say_so_and_the_answer_fits_on_a_phone(pages, kind):
    found, _ = look(pages[kind], WIDTHS["phone"])
    assert found["regions"]
    for region in found["regions"]:
        assert region["reached"]
        assert region["hinted"] == region["wider"]
        assert not (region["matrix"] and region["wider"])
    assert any(region["matrix"] for region in found["regions"]) == (kind in ("report", "array"))


def test_figures_keep_their_colours_in_the_dark(pages):
    found, _ = look(pages["report"], WIDTHS["screen"], dark=True)
    assert set(found["filters"]) == {"none"}


@pytest.mark.skipif(AXE is None, reason="axe is not installed (see CONTRIBUTING.md)")
@pytest.mark.parametrize("kind", ["report", "layers", "array", "study"])
def test_axe_finds_no_violation_on_a_phone(pages, kind):
    found, _ = look(pages[kind], WIDTHS["phone"])
    assert found["axe"] == []
