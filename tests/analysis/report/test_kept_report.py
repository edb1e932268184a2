"""A report is kept while everything that it is made of is the same, and not a call longer."""

import shutil

import matplotlib as mpl
import pytest

from ppp_jax.analysis import write_report
from ppp_jax.analysis.report import grid_report
from ppp_jax.analysis.results import provenance
from ppp_jax.analysis.statistics import registry
from ppp_jax.files import ledger
from ppp_jax.grid import Grid
from ppp_jax.sweep import sweep

pytestmark = pytest.mark.usefixtures("quick_compilation")

GRID = Grid(
    activations=["tanh"],
    widths=[6],
    latent_widths=[4],
    seeds=[0],
    epochs=1,
    probe_samples=32,
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return sweep.train(GRID, tmp_path_factory.mktemp("run"), progress=False)


@pytest.fixture
def written(workdir, tmp_path, monkeypatch):
    """A run folder with a report of two files, and a function that says if it is made anew."""
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    made = []

    def write(folder, workdir, _, **__):
        made.append(workdir)
        (folder / "index.html").write_text("a page")
        (folder / "figure.png").write_bytes(b"a figure")

    monkeypatch.setattr(grid_report, "write_into", write)

    def is_made_anew(**changed):
        made.clear()
        options = {"epsilon": 0.8, "rotations": 19} | changed
        assert write_report(copy, **options, progress=False) == copy / "report" / "index.html"
        return bool(made)

    assert is_made_anew()
    return copy, is_made_anew


def test_a_report_of_the_same_numbers_is_not_made_anew(written):
    copy, is_made_anew = written
    before = {path.name: path.read_bytes() for path in (copy / "report").iterdir()}
    assert not is_made_anew()
    assert {path.name: path.read_bytes() for path in (copy / "report").iterdir()} == before
    (copy / "report" / "thesis.tex").write_text("mine")  # a file of others is none of the report's
    assert not is_made_anew()


def _edit_page(copy):
    path = copy / "report" / "index.html"
    path.write_text(path.read_text() + " that somebody edited")


def _lose_figure(copy):
    (copy / "report" / "figure.png").unlink()


def _lose_record(copy):
    for path in (copy / "report").iterdir():
        path.unlink()


def _change_latents(copy):
    store = copy / "latents.zarr"
    kept = ledger.read(store)
    next(iter(kept.groups.values()))["pre"][..., -1] += 1
    ledger.write(store, kept)


def _change_certificates(copy):
    (copy / "certificates.json").unlink()


def _change_look(monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "font.size", 13.0)


def _change_package(monkeypatch):
    monkeypatch.setattr(provenance, "software", lambda: {"source": "of another version"})


def _register_statistic(monkeypatch):
    one = registry.STATISTICS["c4"]._replace(name="mine")
    monkeypatch.setitem(registry.STATISTICS, "mine", one)


FILES = [_edit_page, _lose_figure, _lose_record, _change_latents, _change_certificates]
SURROUNDINGS = [_change_look, _change_package, _register_statistic]


@pytest.mark.parametrize("change", FILES)
def test_a_report_is_made_anew_of_other_files(written, change):
    copy, is_made_anew = written
    change(copy)
    assert is_made_anew()


@pytest.mark.parametrize("change", SURROUNDINGS)
def test_a_report_is_made_anew_by_other_code(written, monkeypatch, change):
    _, is_made_anew = written
    change(monkeypatch)
    assert is_made_anew()


def test_a_report_is_made_anew_by_other_options(written):
    _, is_made_anew = written
    assert is_made_anew(epsilon=0.81)
    assert is_made_anew(epsilon=0.81, rotations=20)
    assert not is_made_anew(epsilon=0.81, rotations=20)
