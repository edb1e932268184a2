"""Named datasets: real ones, downloaded or not, a synthetic manifold, and local files.

Every dataset is centred per feature and divided by *one* number, so that the training set has
mean 0 and average variance 1 per feature. Dividing each feature by its own deviation would
stretch the data along the axes; one number keeps the data's geometry up to scale, and makes a
mean squared error read as the share of the variance that is not reconstructed.
"""

import functools
import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn import datasets as sklearn_datasets

from ppp_jax.data import images
from ppp_jax.errors import InputError, enter, lookup
from ppp_jax.files import archives
from ppp_jax.files.paths import located

SPLIT_SEED = 0  # one fixed split for everyone
TEST_SHARE = 0.2
PARTS = ("x_train", "x_test", "y_train", "y_test")  # of a file
PATCH_SIDE = 8
PATCHES_TRAIN, PATCHES_TEST = 8000, 2000
MANIFOLD_SAMPLES, MANIFOLD_FEATURES, MANIFOLD_HARMONICS = 5000, 64, 3


class Shape(NamedTuple):
    """What a network's size depends on, beside the grid.

    Attributes:
      features: of a sample.
      image: `(height, width, channels)` into which the features fold, or None.
      classes: of the labels, 0 without labels.
    """

    features: int
    image: tuple[int, int, int] | None = None
    classes: int = 0


class Dataset(NamedTuple):
    """Arrays to train on.

    Attributes:
      name: what it was asked for as.
      train: `(samples, features)`, float32, standardised.
      held_out: the same, of samples that training never sees, at least two.
      train_labels: `(samples,)` integers, or None.
      held_out_labels: likewise.
      sha256: of the bytes and shape of `train` and `held_out`.
      image: `(height, width, channels)` into which a sample's features fold, or None.
    """

    name: str
    train: np.ndarray
    held_out: np.ndarray
    train_labels: np.ndarray | None
    held_out_labels: np.ndarray | None
    sha256: str
    image: tuple[int, int, int] | None = None

    @property
    def shape(self) -> Shape:
        """What a network's size depends on."""
        counted = [x for x in (self.train_labels, self.held_out_labels) if x is not None]
        whole = len(counted) == 2 and all(
            np.issubdtype(x.dtype, np.integer) and x.min() >= 0 for x in counted
        )
        classes = 1 + max(int(x.max()) for x in counted) if whole else 0
        # A class for every number up to the largest: numbers beyond the samples name no classes.
        classes = classes if classes <= len(self.train) else 0
        return Shape(self.train.shape[1], self.image, classes)

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels of `train`, `validation` and `test`, int32, zeros where there are no classes."""
        train, held_out = self.train_labels, self.held_out_labels
        if not self.shape.classes or train is None or held_out is None:
            train, held_out = np.zeros(len(self.train)), np.zeros(len(self.held_out))
        held_out = held_out.astype(np.int32)
        return train.astype(np.int32), held_out[0::2], held_out[1::2]

    @property
    def validation(self) -> np.ndarray:
        """Every other held-out sample: choices, such as the learning rate, may see these."""
        return self.held_out[0::2]

    @property
    def test(self) -> np.ndarray:
        """The other half, on which errors are reported: no choice sees it."""
        return self.held_out[1::2]


class Raw(NamedTuple):
    """A dataset as its source gives it.

    Attributes:
      train: `(samples, features)`.
      test: `(samples, features)`.
      train_labels: `(samples,)`, if there are labels.
      test_labels: `(samples,)`.
      image: height, width and channels of a sample, if it is one.
    """

    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    image: tuple[int, int, int] | None = None


def _digits() -> Raw:
    bunch = sklearn_datasets.load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(bunch.data))
    x, y = bunch.data[order], bunch.target[order]
    n_test = round(TEST_SHARE * len(x))
    return Raw(x[n_test:], x[:n_test], y[n_test:], y[:n_test], (8, 8, 1))


def _patches() -> Raw:
    rng = np.random.default_rng(SPLIT_SEED)
    train, test = [], []
    images = sklearn_datasets.load_sample_images().images
    for image in images:
        grey = image.mean(axis=-1)
        # Held-out patches come from the right-hand fifth of each photograph: patches drawn from
        # the same area overlap, and would not be held out.
        border = round((1 - TEST_SHARE) * grey.shape[1])
        train.append(_draw_patches(rng, grey[:, :border], PATCHES_TRAIN // len(images)))
        test.append(_draw_patches(rng, grey[:, border:], PATCHES_TEST // len(images)))
    shuffled = [rng.permutation(np.concatenate(part)) for part in (train, test)]
    return Raw(shuffled[0], shuffled[1], image=(PATCH_SIDE, PATCH_SIDE, 1))


def _draw_patches(rng: np.random.Generator, image: np.ndarray, count: int) -> np.ndarray:
    """Draws `count` patches without replacement, each with its own mean removed."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (PATCH_SIDE, PATCH_SIDE))
    windows = windows.reshape(-1, PATCH_SIDE, PATCH_SIDE)
    chosen = rng.choice(len(windows), size=count, replace=False)
    patches = windows[np.sort(chosen)].reshape(count, -1)
    return patches - patches.mean(axis=1, keepdims=True)


def _synthetic() -> Raw:
    """A smooth closed surface: a torus, bent into feature space by random low harmonics.

    x(θ, φ) = Σ_{a,b} c_ab cos(aθ + bφ) + s_ab sin(aθ + bφ), a, b = 0…3, with normal coefficients
    damped by 1/(a² + b²). Continuous, two-dimensional, and with no preferred feature: whatever
    quantises here, the data did not do it.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    frequency = np.array(
        [(a, b) for a in range(MANIFOLD_HARMONICS + 1) for b in range(MANIFOLD_HARMONICS + 1)][1:]
    )
    damping = 1 / np.sum(frequency**2, axis=1, keepdims=True)
    cosine, sine = damping * rng.normal(size=(2, len(frequency), MANIFOLD_FEATURES))
    phase = rng.uniform(0, 2 * np.pi, size=(MANIFOLD_SAMPLES, 2)) @ frequency.T
    x = np.cos(phase) @ cosine + np.sin(phase) @ sine
    n_test = round(TEST_SHARE * len(x))
    return Raw(x[n_test:], x[:n_test])


def _flat(load_images: Callable[[], images.Images]) -> Raw:
    """Returns images as rows, in a random order: probes are the first ones."""
    found = load_images()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(found.train))
    train, test = (x.reshape(len(x), -1) for x in (found.train, found.test))
    return Raw(train[order], test, found.train_labels[order], found.test_labels,
                found.train.shape[1:])  # fmt: skip


OFFLINE: dict[str, Callable[[], Raw]] = {
    "digits": _digits,
    "patches": _patches,
    "synthetic": _synthetic,
}
DOWNLOADED: dict[str, Callable[[], images.Images]] = {
    "mnist": functools.partial(images.load_idx, "mnist"),
    "fashion_mnist": functools.partial(images.load_idx, "fashion_mnist"),
    "cifar10": functools.partial(images.load_cifar10, grey=False),
    "cifar10_grey": functools.partial(images.load_cifar10, grey=True),
}
DATASETS: dict[str, Callable[[], Raw]] = {
    **OFFLINE,
    **{name: functools.partial(_flat, loader) for name, loader in DOWNLOADED.items()},
}


def register_dataset(name: str, load_raw: Callable[[], Raw]) -> Callable[[], Raw]:
    """Adds a dataset: grids and flags know it from then on.

    Args:
      name: of the dataset.
      load_raw: returns the samples; they are standardised, and split for validation, like others.

    Returns:
      The function.

    Raises:
      InputError: the name is none, or is taken.
    """
    return enter(DATASETS, name, load_raw, field="data")


def load(name: str | os.PathLike[str]) -> Dataset:
    """Loads a dataset by name, or from an `.npz` file.

    Args:
      name: `digits` (scikit-learn's 1,797 handwritten digits of 8×8), `patches` (10,000 grey 8×8
        patches of scikit-learn's two sample photographs), `synthetic` (a smooth torus in 64
        features); `mnist`, `fashion_mnist`, `cifar10` (colour) and `cifar10_grey`, which are
        downloaded once into `$PPP_DATA_DIR`; or the path of an `.npz` with `x_train` and `x_test`
        of shape `(samples, features)`, or `(samples, height, width, channels)`, and optionally
        `y_train` and `y_test` of shape `(samples,)`.

    Returns:
      The standardised `Dataset`; the same one at every call.

    Raises:
      InputError: unknown name, a download that fails, or a file that is missing, unreadable,
        incomplete, of the wrong shape, not finite, or larger than the memory.

    Example:
      >>> load("digits").train.shape
      (1438, 64)
    """
    if not isinstance(name, str | os.PathLike) or not isinstance(os.fspath(name), str):
        raise InputError("data", name, f"must be one of {', '.join(DATASETS)}, or a path")
    name = os.fspath(name)
    is_file = name.endswith(".npz")
    raw = _from_file(name) if is_file else _named(name)
    train, test = _standardise(name, raw)
    digest = hashlib.sha256()
    for x in (train, test):
        digest.update(repr(x.shape).encode())
        digest.update(np.ascontiguousarray(x).tobytes())
    return Dataset(name, train, test, raw.train_labels, raw.test_labels, digest.hexdigest(),
                   raw.image)  # fmt: skip


def _named(name: str) -> Raw:
    try:
        return lookup(DATASETS, name, field="data")()
    except InputError as error:
        raise InputError("data", name, f"{error.problem}, or the path of an .npz") from None


def _standardise(name: str, raw: Raw) -> tuple[np.ndarray, np.ndarray]:
    """Centres each feature and divides by one number, both of the training set alone."""
    if not np.ptp(raw.train, axis=0).any():
        raise InputError("data", name, "every training sample is the same; nothing can be learned")
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        mean = raw.train.mean(axis=0, dtype=np.float64)
        scale = np.sqrt(raw.train.var(axis=0, dtype=np.float64).mean())
        train, test = (((x - mean) / scale).astype(np.float32) for x in (raw.train, raw.test))
    if not (np.isfinite(train).all() and np.isfinite(test).all() and train.any()):
        largest = max(np.abs(x).max() for x in (raw.train, raw.test))
        problem = f"has values (up to {largest:g}) that standardising overflows; rescale the data"
        raise InputError("data", name, problem)
    return train, test


def _from_file(name: str) -> Raw:
    path = located("data", name)
    if not path.exists():
        raise InputError("data", name, "no such file; give an existing .npz")
    if not path.is_file():
        raise InputError("data", name, "is no regular file; give an .npz")
    arrays = _read(name, path)
    for key in ("x_train", "x_test"):
        _check_samples(name, key, arrays[key])
    train, test = arrays["x_train"], arrays["x_test"]
    if train.shape[1:] != test.shape[1:]:
        sizes = (" × ".join(str(n) for n in x.shape[1:]) for x in (train, test))
        found = "x_train has {} features, x_test {}".format(*sizes)
        raise InputError("data", name, f"{found}; they must agree")
    train_labels, test_labels = (_check_labels(name, arrays, split) for split in ("train", "test"))
    image = train.shape[1:] if train.ndim == 4 else None
    train, test = (x.reshape(len(x), -1) for x in (train, test))
    return Raw(train, test, train_labels, test_labels, image)


def _read(name: str, path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads what data consists of, and nothing else that may be in the file."""
    how = "write it with numpy.savez(path, x_train=..., x_test=...)"
    try:
        if archives.is_npy(path):
            raise archives.ReadError(f"is one array, an .npy by its content; {how}")
        archive = archives.Archive(path)
        missing = [key for key in ("x_train", "x_test") if key not in archive.members]
        if missing:
            found = ", ".join(archive.members) or "nothing"
            raise InputError("data", name, f"lacks {' and '.join(missing)} (found: {found})")
        keys = [key for key in PARTS if key in archive.members]
        archives.check_size(sum(archive.header(key).size for key in keys), archive.most)
        return {key: archive[key] for key in keys}
    except InputError:
        raise
    except archives.ReadError as error:
        raise InputError("data", name, str(error)) from None
    except archives.UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) else "damaged or not an archive"
        raise InputError("data", name, f"cannot be read as .npz ({reason}); {how}") from None


def _check_samples(name: str, key: str, x: np.ndarray) -> None:
    if x.ndim in (2, 4) and not x.size:
        raise InputError("data", name, f"{key} is empty, of shape {x.shape}; give it samples")
    if x.ndim not in (2, 4):
        raise InputError(
            "data", name, f"{key} has shape {x.shape}; reshape it to (samples, features)"
        )
    if x.dtype.kind not in "iuf":  # neither complex numbers nor times, which NumPy counts to them
        raise InputError("data", name, f"{key} is of type {x.dtype}; convert it to real numbers")
    if key == "x_test" and len(x) < 2:
        raise InputError("data", name, "x_test needs at least two samples: one half is for "
                         "choosing learning rates, the other for the error reported")  # fmt: skip
    bad = x.size - np.count_nonzero(np.isfinite(x))
    if bad:
        raise InputError("data", name, f"{key} has {bad} non-finite values; remove them")


def _check_labels(name: str, arrays: dict[str, np.ndarray], split: str) -> np.ndarray | None:
    labels = arrays.get(f"y_{split}")
    samples = len(arrays[f"x_{split}"])
    if labels is not None and labels.shape != (samples,):
        raise InputError(
            "data", name, f"y_{split} has shape {labels.shape}; it needs ({samples},), one label "
            "per sample"
        )  # fmt: skip
    return labels
