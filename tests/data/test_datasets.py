import re

import numpy as np
import pytest

from ppp_jax.data import datasets
from ppp_jax.errors import InputError


@pytest.mark.parametrize("name", sorted(datasets.OFFLINE))
def test_conventions_of_every_dataset(name):
    dataset = datasets.load(name)
    assert dataset.train.dtype == dataset.held_out.dtype == np.float32
    assert dataset.train.shape[1] == dataset.held_out.shape[1] == 64
    np.testing.assert_allclose(dataset.train.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(dataset.train.var(axis=0).mean(), 1, atol=1e-4)
    assert dataset.sha256 == datasets.load(name).sha256
    assert re.fullmatch("[0-9a-f]{64}", dataset.sha256)


@pytest.mark.parametrize("name", sorted(datasets.OFFLINE))
def test_no_sample_is_both_trained_on_and_held_out(name):
    dataset = datasets.load(name)
    train = {row.tobytes() for row in dataset.train}
    shared = [row for row in dataset.held_out if row.tobytes() in train]
    # Patches of blank sky, alike up to a grey level or two once their mean is removed.
    assert all(np.ptp(row) < 0.2 for row in shared)
    assert len(shared) < 0.01 * len(dataset.held_out)


def test_digits_are_all_there_with_their_labels():
    dataset = datasets.load("digits")
    assert len(dataset.train) + len(dataset.held_out) == 1797
    assert set(dataset.train_labels) == set(dataset.held_out_labels) == set(range(10))
    # A label still belongs to its image: nearest neighbours share it almost always.
    distance = np.linalg.norm(dataset.held_out[:, None] - dataset.train[None], axis=-1)
    agree = dataset.train_labels[distance.argmin(axis=1)] == dataset.held_out_labels
    assert agree.mean() > 0.95


def test_digits_are_the_same_from_the_installed_file_and_from_scikit_learn(monkeypatch):
    installed, loaded = datasets._installed_digits(), datasets._loaded_digits()
    for mine, theirs in zip(installed, loaded, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    found = datasets.load("digits").sha256
    assert found == "79b4bfc48096db4a4de0d81b24ecc84adc27ad14edacf4845bf093e1c3e3b611"
    # A file that is elsewhere, or another one, is not used.
    for name, value in (("DIGITS", "sklearn/nowhere.csv.gz"), ("DIGITS_SHA256", "0" * 64)):
        with monkeypatch.context() as patch:
            patch.setattr(datasets, name, value)
            assert datasets._installed_digits() is None
            assert datasets.load("digits").sha256 == found


def test_patches_have_no_mean_and_natural_statistics():
    raw = datasets.DATASETS["patches"]()
    np.testing.assert_allclose(raw.train.mean(axis=1), 0, atol=1e-9)
    patches = raw.train.reshape(-1, 8, 8)
    neighbours = np.mean(patches[:, :, 1:] * patches[:, :, :-1]) / np.mean(patches**2)
    assert neighbours > 0.5


def test_synthetic_is_two_dimensional_and_continuous():
    """Locally flat: around a point, two directions hold nearly all of the neighbours' spread."""
    x = datasets.load("synthetic").train.astype(np.float64)
    distance = np.linalg.norm(x - x[0], axis=1)
    near = x[np.argsort(distance)[1:25]] - x[0]
    spectrum = np.linalg.svd(near, compute_uv=False) ** 2
    assert spectrum[:2].sum() / spectrum.sum() > 0.9


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_local_file_is_standardised_by_its_training_set(tmp_path):
    rng = np.random.default_rng(0)
    train, test = 5 + 3 * rng.normal(size=(40, 6)), 5 + 3 * rng.normal(size=(10, 6))
    dataset = datasets.load(
        save(tmp_path / "x.npz", x_train=train, x_test=test, y_train=np.arange(40))
    )
    scale = np.sqrt(train.var(axis=0).mean())
    np.testing.assert_allclose(dataset.held_out, (test - train.mean(axis=0)) / scale, rtol=1e-4)
    assert dataset.held_out_labels is None
    np.testing.assert_array_equal(dataset.train_labels, np.arange(40))


def test_hash_depends_on_what_is_trained_on(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3))
    first = datasets.load(save(tmp_path / "a.npz", x_train=x, x_test=x[:5]))
    second = datasets.load(save(tmp_path / "b.npz", x_train=x[::-1], x_test=x[:5]))
    assert first.sha256 != second.sha256


GOOD = np.random.default_rng(0).normal(size=(20, 3))
BAD_FILES = {
    "lacks x_test": {"x_train": GOOD},
    "lacks x_train and x_test": {"x": GOOD},
    "reshape it to": {"x_train": GOOD[0], "x_test": GOOD},
    "x_test is empty": {"x_train": GOOD, "x_test": GOOD[:0]},
    "1 non-finite": {"x_train": GOOD, "x_test": np.where(GOOD[0, 0] == GOOD, np.nan, GOOD)},
    "x_train has 3 features and x_test has 2": {"x_train": GOOD, "x_test": GOOD[:, :2]},
    "convert it to real numbers": {"x_train": GOOD.astype(str), "x_test": GOOD},
    "overflow when standardised": {"x_train": 1e200 * GOOD, "x_test": GOOD},
    r"up to 2.*e-199.*overflow": {"x_train": 1e-199 * GOOD, "x_test": 1e-200 * GOOD},
    "overflow when standardised; rescale": {"x_train": GOOD, "x_test": 1e60 * GOOD},
    "are equal": {"x_train": np.ones((4, 3)), "x_test": GOOD},
    "one label per sample": {"x_train": GOOD, "x_test": GOOD, "y_train": np.arange(3)},
}


@pytest.mark.parametrize("problem", sorted(BAD_FILES))
def test_bad_file_is_one_clear_line(problem, tmp_path):
    path = save(tmp_path / "x.npz", **BAD_FILES[problem])
    with pytest.raises(InputError, match=problem) as caught:
        datasets.load(path)
    assert str(caught.value).startswith(f"data={path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 truncated"])
def test_damaged_file(content, tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read as \.npz"):
        datasets.load(str(path))


def test_damaged_compression(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x_train=GOOD, x_test=GOOD)
    content = bytearray(path.read_bytes())
    content[80:300] = bytes(220)
    path.write_bytes(content)
    with pytest.raises(InputError, match="x_train is not an array"):
        datasets.load(str(path))


def test_missing_file_and_unknown_name():
    with pytest.raises(InputError, match="no such file"):
        datasets.load("/nowhere/x.npz")
    with pytest.raises(InputError, match="did you mean digits"):
        datasets.load("digit")
