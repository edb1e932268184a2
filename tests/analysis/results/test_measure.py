"""How the numbers of a grid are measured."""

import pytest

from ppp_jax.analysis.results.measure import rotations_of
from ppp_jax.analysis.statistics.registry import BASIS, PLANES, PROJECTIONS


@pytest.mark.parametrize("rotations", [19, 49, 99, 200, 1000])
def test_angles_and_dips_of_several_networks_get_a_share_of_the_rotations(rotations):
    shares = {BASIS: rotations, PLANES: rotations // 2, PROJECTIONS: rotations // 4}
    for kind, share in shares.items():
        assert rotations_of(kind, rotations, seeds=2) == min(rotations, max(49, share))
        assert rotations_of(kind, rotations, seeds=1) == rotations  # p is at least 1/(K + 1)
