"""Pictures are the same, whichever process draws them."""

import os

import loky
import matplotlib as mpl
import pytest

from ppp_jax.analysis.report.drawers import MANY, drawers


def told(text):
    """What a process knows of itself and of how to draw."""
    return text, os.getpid(), mpl.rcParams["font.size"], os.environ.get("JAX_PLATFORMS")


FEW = [(MANY - 1, 2, 4), (MANY, 1, 4), (MANY, 2, 1)]


def refused(text):
    raise ValueError(text)


def test_many_pictures_are_drawn_by_other_processes_with_the_settings_of_this_one(monkeypatch):
    monkeypatch.setattr(loky, "cpu_count", lambda: 2)
    monkeypatch.setitem(mpl.rcParams, "font.size", 13.0)
    with drawers(MANY, 4) as call:
        waits = [call(told, f"picture {k}") for k in range(3)]
        failed = call(refused, "no such picture")
        found = [wait() for wait in waits]
        with pytest.raises(ValueError, match="no such picture"):
            failed()
    assert [text for text, *_ in found] == ["picture 0", "picture 1", "picture 2"]
    assert os.getpid() not in {process for _, process, *_ in found}
    assert {(size, platform) for *_, size, platform in found} == {(13.0, "cpu")}


@pytest.mark.parametrize(
    ("pictures", "cores", "calls"), [(MANY - 1, 2, 4), (MANY, 1, 4), (MANY, 2, 1)]
)
def test_few_pictures_are_drawn_here(pictures, cores, calls, monkeypatch):
    monkeypatch.setattr(loky, "cpu_count", lambda: cores)
    with drawers(pictures, calls) as call:
        assert call(told, "one")()[1] == os.getpid()
