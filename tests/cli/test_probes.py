"""How many probe samples pictures need: by the exact null, and the same when a run goes on."""

import dataclasses
import itertools

import numpy as np
import pytest
from absl.testing import flagsaver

from ppp_jax import bases
from ppp_jax.analysis.projection.isotropic_null import acceptance
from ppp_jax.cli import probes
from ppp_jax.data import datasets
from ppp_jax.experiments import ablation as module
from ppp_jax.grid import Grid
from ppp_jax.resources import size_text
from ppp_jax.storage import manifest

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = {"activations": ["tanh"], "widths": [6], "latent_widths": [12], "optimizers": ["sgd"],
         "epochs": 1}  # fmt: skip
FLAGS = ["--activations=tanh", "--widths=6", "--optimizers=sgd", "--epochs=1", "--snapshots=0",
         "--dry_run"]  # fmt: skip
PER_SAMPLE = 66 * acceptance(12, 0.7)  # of the standard basis
SUFFICE = int(np.ceil(1000 / PER_SAMPLE))


def here(capsys, *flags):
    """Runs the main in this process; returns exit status, stdout and stderr."""
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as left:
        module.main(argv=["ablation", *FLAGS, *flags])
    return left.value.code, *capsys.readouterr()


def chosen(workdir, *, grid=None, given=None, epsilon=0.7, **more):
    how = {"overwrite": False, "pictures": True} | more
    grid = Grid(**SMALL) if grid is None else grid
    return probes.choose([grid], workdir, given=given, epsilon=epsilon, **how)


@pytest.mark.parametrize(
    "basis", ["standard", "rotated", "simplex", "cross_polytope", "thomson:5", "thomson:11"]
)
def test_planes_are_counted_once_whatever_the_signs_of_their_vectors(basis):
    """Held against the projections onto the planes, of which equal ones are found one by one."""
    vectors = bases.build(basis, 4)
    found = []
    for pair in itertools.combinations(vectors, 2):
        q, r = np.linalg.qr(np.stack(pair, axis=1))
        if abs(r[1, 1]) > 1e-3 and not any(np.allclose(q @ q.T, one, atol=1e-6) for one in found):
            found.append(q @ q.T)
    assert probes.distinct_planes(basis, 4) == len(found)


def test_two_units_have_one_plane_and_wide_layers_are_not_built():
    assert probes.distinct_planes("thomson:5", 2) == 1
    assert probes.distinct_planes("rotated", 10**6) == 10**6 * (10**6 - 1) // 2


def test_auto_is_the_least_number_of_which_a_thousand_points_are_expected(tmp_path):
    found = chosen(tmp_path, given="auto")
    assert found.samples == found.saved == SUFFICE < found.training == 1438
    assert 1000 <= found.points < 1000 + PER_SAMPLE
    everything = chosen(tmp_path, given="auto", epsilon=0.8)
    assert everything.samples == 1438
    assert probes.remark(found, 0.7) == ""


def test_auto_serves_the_most_demanding_of_a_grid(tmp_path):
    names, widths = ["tanh@simplex", "tanh"], [4, 12]
    both = Grid(**SMALL | {"activations": names, "latent_widths": widths})
    found = chosen(tmp_path, grid=both, given="auto")
    assert (found.need.activation, found.need.units, found.need.planes) == ("tanh", 12, 66)
    alone = [dataclasses.replace(both, activations=[name], latent_widths=[width])
             for name, width in itertools.product(names, widths)]  # fmt: skip
    most = max(chosen(tmp_path, grid=one, given="auto").samples for one in alone)
    assert found.samples == most == SUFFICE


def test_the_default_gives_way_only_where_a_picture_of_all_seeds_would_be_empty(tmp_path):
    few = Grid(**SMALL, probe_samples=100)  # of 1,438, 142 points are expected at ε = 0.8
    assert chosen(tmp_path, grid=few, epsilon=0.8).replaced == 100
    assert chosen(tmp_path, grid=few, epsilon=0.8).samples == 1438
    sixteen = dataclasses.replace(few, seeds=range(16))
    assert chosen(tmp_path, grid=sixteen, epsilon=0.8).samples == 100
    assert chosen(tmp_path, grid=few, epsilon=0.8, pictures=False).samples == 100
    assert chosen(tmp_path, grid=few, epsilon=0.8, given=100).samples == 100
    hopeless = chosen(tmp_path, grid=few, epsilon=0.95)  # not even all samples would do
    assert (hopeless.samples, hopeless.replaced) == (100, None)
    assert "give --probe_samples" not in probes.remark(hopeless, 0.95)


def test_auto_goes_on_with_the_number_of_the_folder(tmp_path):
    grid, number = Grid(**SMALL), chosen(tmp_path, given="auto").samples
    trained = dataclasses.replace(grid, probe_samples=number)
    conditions = manifest.conditions({cell.shape: 1 for cell in grid.cells})
    made = manifest.create(trained, datasets.load("digits"), conditions)
    (tmp_path / manifest.MANIFEST).write_text(made.to_text())
    wider = dataclasses.replace(grid, latent_widths=[12, 16])
    for again in ({}, {"epsilon": 0.8}, {"grid": wider}):
        for given in ("auto", None):
            found = chosen(tmp_path, given=given, **again)
            assert (found.samples, found.stored, found.automatic) == (number, True, False)
    assert chosen(tmp_path, given=50).samples == 50  # which the folder then refuses
    assert chosen(tmp_path, given="auto", epsilon=0.8, overwrite=True).samples == 1438
    text = probes.remark(chosen(tmp_path, given=None, epsilon=0.83), 0.83)
    assert text.endswith("give --probe_samples=auto in another --workdir or lower --epsilon to 0.7")


def test_the_plan_says_the_number_and_what_is_expected(tmp_path, capsys):
    run = f"--workdir={tmp_path / 'run'}"
    flags = [run, "--seeds=0:2", "--latent_widths=12", "--epsilon=0.7", "--probe_samples=auto"]
    status, stdout, stderr = here(capsys, *flags)
    assert (status, stderr) == (None, "")
    line = stdout.splitlines()[-1]
    assert line.startswith(f"probes      {SUFFICE:,} of 1,438 training samples (auto), of which ")
    assert f"{SUFFICE * PER_SAMPLE:,.0f} points of isotropic latents fall into a picture" in line
    assert "(tanh, 12 units, 66 planes, epsilon 0.7)" in line
    assert f"latents     {size_text(2 * 2 * 2 * 12 * 4 * SUFFICE)} on disk" in stdout


def test_a_number_that_leaves_pictures_empty_is_warned_of_in_one_line(tmp_path, capsys):
    run = f"--workdir={tmp_path / 'run'}"
    flags = [run, "--latent_widths=4,12", "--seeds=0:2", "--probe_samples=30", "--epsilon=0.7"]
    status, stdout, stderr = here(capsys, *flags)
    assert not status
    assert stderr.startswith("probe_samples: 30, of which ")
    assert stderr.endswith("give --probe_samples=auto or lower --epsilon to 0.35\n")
    assert stderr.count("\n") == 1
    assert f"{30 * PER_SAMPLE:.0f} points" in stderr
    assert f"{60 * PER_SAMPLE:.0f} into that of all 2 seeds" in stderr
    assert stdout.splitlines()[-1].startswith("probes      30 of 1,438 training samples, of which ")


def test_epsilon_of_the_remedy_lets_a_thousand_points_be_expected():
    need = probes.Need("tanh", 12, 66, 66 * acceptance(12, 0.9))
    epsilon = probes._enough_epsilon(need, 500)
    assert 500 * 66 * acceptance(12, epsilon) >= 1000 > 500 * 66 * acceptance(12, epsilon + 0.01)
    assert probes._enough_epsilon(need, 10) == 0
