"""Of a large run folder a page with one strip is there while the tests are computed."""

import pytest
import xarray as xr

from ppp_jax.analysis import write_report
from ppp_jax.analysis.io.runs import load_groups
from ppp_jax.analysis.report import first_look, grid_report, sections
from ppp_jax.grid import Grid
from ppp_jax.sweep import sweep

pytestmark = pytest.mark.usefixtures("quick_compilation")

GRID = Grid(
    activations=["relu", "isotropic_relu"],
    widths=[6],
    latent_widths=[4],
    optimizers=["sgd"],
    learning_rates=[20.0],  # makes isotropic_relu diverge
    seeds=[0, 1],
    epochs=1,
    probe_samples=100,
)
OPTIONS = {"epsilon": 0.8, "rotations": 19}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return sweep.train(GRID, tmp_path_factory.mktemp("run"), progress=False)


@pytest.fixture
def strips(monkeypatch):
    """The panels of every strip that is drawn in this process, by the title."""
    drawn = {}
    for module in (first_look, sections):
        plot = module.plot_strip

        def kept(panels, *, module=module, plot=plot, **options):
            drawn[module.__name__, options["title"]] = panels, options["beside"]
            return plot(panels, **options)

        monkeypatch.setattr(module, "plot_strip", kept)
    return drawn


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_a_page_stands_there_until_the_report_does(workdir, strips, monkeypatch, capsys):
    monkeypatch.setattr(first_look, "MANY", 1)
    with monkeypatch.context() as patched:
        patched.setattr(grid_report, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_report(workdir, **OPTIONS, progress=True)
    page = workdir / "report" / "index.html"
    assert f"a first look, before the tests: {page}" in capsys.readouterr().err
    text = page.read_text(encoding="utf-8")
    assert "The tests are being computed" in text
    assert 'href="first-look.png"' in text
    assert "Density in the privileged planes of relu, isotropic_relu, epoch 0 to epoch 1" in text

    assert write_report(workdir, **OPTIONS, progress=False) == page
    assert "being computed" not in page.read_text(encoding="utf-8")
    assert not (page.parent / "first-look.png").exists()
    # Its pictures are those of the report's own strip, at both ends.
    (early,) = [one for (module, _), one in strips.items() if module == first_look.__name__]
    title = next(t for _, t in strips if "pre-activation · 2 seeds pooled" in t)
    late = strips[sections.__name__, title]
    for shown, final in zip(early, late, strict=True):
        for name, row, whole in zip(GRID.activations, shown, final, strict=True):
            assert len(row) == len(whole) == 2
            for one, other in zip(row, whole, strict=True):
                xr.testing.assert_identical(one, other)
                assert (one["accepted"].sum() > 0) == (name == "relu")  # the other diverged

    with monkeypatch.context() as patched:
        patched.setattr(grid_report, "measure", interrupted)
        before = page.read_bytes()
        with pytest.raises(KeyboardInterrupt):  # an earlier report stays until the new one is there
            write_report(workdir, **{**OPTIONS, "epsilon": 0.7}, progress=False)
    assert page.read_bytes() == before


def test_of_few_pictures_there_is_none(workdir):
    assert not first_look.takes_long(dataset for _, dataset in load_groups(workdir))
