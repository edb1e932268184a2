"""Named datasets (bundled, downloaded and synthetic ones), and local files.

Every dataset is centred per feature and divided by *one* number, so that the training set has
mean 0 and average variance 1 per feature. Dividing each feature by its own standard deviation would
stretch the data along the axes. Dividing by one number keeps the data's geometry up to scale, and
makes the mean squared error the fraction of the variance that is not reconstructed
(docs/method.md §11).
"""

import functools
import gzip
import hashlib
import importlib.metadata
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ppp_jax import references
from ppp_jax.data import images
from ppp_jax.errors import InputError, enter, lookup, printable, shortened
from ppp_jax.files import archives
from ppp_jax.files.paths import located

SPLIT_SEED = 0  # fixed, so that all grids use the same split
TEST_FRACTION = 0.2
PARTS = ("x_train", "x_test", "y_train", "y_test")  # arrays that a user's .npz can hold
# scikit-learn's file of digits, by the SHA-256 of its bytes.
DIGITS = "sklearn/datasets/data/digits.csv.gz"
DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
PATCH_SIDE = 8
PATCHES_TRAIN, PATCHES_TEST = 8000, 2000
MANIFOLD_SAMPLES, MANIFOLD_FEATURES, MANIFOLD_HARMONICS = 5000, 64, 3


class Shape(NamedTuple):
    """The shape of a dataset's samples and labels, on which the size of a network depends.

    Attributes:
      features: Number of features of a sample.
      image: `(height, width, channels)` of a sample if it is an image, otherwise None.
      classes: Number of classes; 0 if there are no class labels.
    """

    features: int
    image: tuple[int, int, int] | None = None
    classes: int = 0


class Dataset(NamedTuple):
    """A standardised dataset, split into training and held-out samples.

    Attributes:
      name: Name or path by which the dataset was loaded.
      train: Standardised training samples, `(samples, features)`, float32.
      held_out: Standardised samples that training never sees, `(samples, features)`, float32. There
        are at least two.
      train_labels: Labels of the training samples, `(samples,)`, or None.
      held_out_labels: Labels of the held-out samples, `(samples,)`, or None.
      sha256: SHA-256 of the bytes and shapes of `train` and `held_out`.
      image: `(height, width, channels)` of a sample if it is an image, otherwise None.
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
        """The shape of the samples and labels, on which the size of a network depends."""
        labels = [x for x in (self.train_labels, self.held_out_labels) if x is not None]
        whole = len(labels) == 2 and all(
            np.issubdtype(x.dtype, np.integer) and x.min() >= 0 for x in labels
        )
        classes = 1 + max(int(x.max()) for x in labels) if whole else 0
        # There is a class for every number up to the largest label. Labels that would make more
        # classes than there are samples are other numbers, such as identifiers.
        classes = classes if classes <= len(self.train) else 0
        return Shape(self.train.shape[1], self.image, classes)

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels of `train`, `validation` and `test`, int32; zeros if there are no classes."""
        train, held_out = self.train_labels, self.held_out_labels
        if not self.shape.classes or train is None or held_out is None:
            train, held_out = np.zeros(len(self.train)), np.zeros(len(self.held_out))
        held_out = held_out.astype(np.int32)
        return train.astype(np.int32), held_out[0::2], held_out[1::2]

    @property
    def validation(self) -> np.ndarray:
        """Every other held-out sample; choices, such as that of the learning rate, use these."""
        return self.held_out[0::2]

    @property
    def test(self) -> np.ndarray:
        """The other held-out samples, on which errors are reported and no choice is based."""
        return self.held_out[1::2]


class Raw(NamedTuple):
    """A dataset before it is standardised.

    Attributes:
      train: Training samples, `(samples, features)`.
      test: Held-out samples, `(samples, features)`.
      train_labels: Labels of the training samples, `(samples,)`, or None.
      test_labels: Labels of the held-out samples, `(samples,)`, or None.
      image: `(height, width, channels)` of a sample if it is an image, otherwise None.
    """

    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    image: tuple[int, int, int] | None = None


def _digits() -> Raw:
    pixels, digits = _installed_digits() or _loaded_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(pixels))
    x, y = pixels[order], digits[order]
    n_test = round(TEST_FRACTION * len(x))
    return Raw(x[n_test:], x[:n_test], y[n_test:], y[:n_test], (8, 8, 1))


def _installed_digits() -> tuple[np.ndarray, np.ndarray] | None:
    """Reads the digits from the file that scikit-learn installs, without importing scikit-learn.

    The import takes as long as that of JAX, and needs SciPy's statistics besides.

    Returns:
      Pixels and digits as `load_digits` returns them, or None if the file is elsewhere or another.
    """
    try:
        path = importlib.metadata.distribution("scikit-learn").locate_file(DIGITS)
        packed = pathlib.Path(str(path)).read_bytes()
    except (importlib.metadata.PackageNotFoundError, OSError):
        return None
    if hashlib.sha256(packed).hexdigest() != DIGITS_SHA256:
        return None
    table = _table(packed)
    return table[:, :-1], table[:, -1].astype(int)


@functools.lru_cache(maxsize=1)  # a sweep asks for the same digits again and again
def _table(packed: bytes) -> np.ndarray:
    """Returns the rows of a packed table of numbers, which nobody can change."""
    table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",")
    table.flags.writeable = False
    return table


def _loaded_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets  # it takes a second or two to import

    bunch = datasets.load_digits()
    return bunch.data, bunch.target


def _patches() -> Raw:
    from sklearn import datasets  # it takes a second to import

    rng = np.random.default_rng(SPLIT_SEED)
    train, test = [], []
    images = datasets.load_sample_images().images
    for image in images:
        grey = image.mean(axis=-1)
        # Held-out patches come from the right-hand fifth of each photograph. If they came from the
        # same area as training patches, they would overlap and would not be held out.
        border = round((1 - TEST_FRACTION) * grey.shape[1])
        train.append(_draw_patches(rng, grey[:, :border], PATCHES_TRAIN // len(images)))
        test.append(_draw_patches(rng, grey[:, border:], PATCHES_TEST // len(images)))
    shuffled = [rng.permutation(np.concatenate(part)) for part in (train, test)]
    return Raw(shuffled[0], shuffled[1], image=(PATCH_SIDE, PATCH_SIDE, 1))


def _draw_patches(rng: np.random.Generator, image: np.ndarray, count: int) -> np.ndarray:
    """Draws `count` patches without replacement, and subtracts from each its own mean."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (PATCH_SIDE, PATCH_SIDE))
    windows = windows.reshape(-1, PATCH_SIDE, PATCH_SIDE)
    chosen = rng.choice(len(windows), size=count, replace=False)
    patches = windows[np.sort(chosen)].reshape(count, -1)
    return patches - patches.mean(axis=1, keepdims=True)


def _synthetic() -> Raw:
    """Draws samples of a smooth closed surface, a torus bent into feature space by low harmonics.

    The surface is x(θ, φ) = Σ_{a,b} c_ab cos(aθ + bφ) + s_ab sin(aθ + bφ), a, b = 0…3, with random
    normal coefficients damped by 1/(a² + b²). It is continuous and two-dimensional, and its law
    prefers no feature. If latents quantise on these data, the data are not the cause.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    frequency = np.array(
        [(a, b) for a in range(MANIFOLD_HARMONICS + 1) for b in range(MANIFOLD_HARMONICS + 1)][1:]
    )
    damping = 1 / np.sum(frequency**2, axis=1, keepdims=True)
    cosine, sine = damping * rng.normal(size=(2, len(frequency), MANIFOLD_FEATURES))
    phase = rng.uniform(0, 2 * np.pi, size=(MANIFOLD_SAMPLES, 2)) @ frequency.T
    x = np.cos(phase) @ cosine + np.sin(phase) @ sine
    n_test = round(TEST_FRACTION * len(x))
    return Raw(x[n_test:], x[:n_test])


def _flat(load_images: Callable[[], images.Images]) -> Raw:
    """Returns images as rows. Training images are shuffled, because the first ones are probes."""
    found = load_images()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(found.train))
    train, test = (x.reshape(len(x), -1) for x in (found.train, found.test))
    return Raw(
        train[order], test, found.train_labels[order], found.test_labels, found.train.shape[1:]
    )


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
OWN = tuple(DATASETS.values())  # the entries of this package, without those that users register


def register_dataset(name: str, load_raw: Callable[[], Raw]) -> Callable[[], Raw]:
    """Adds a dataset, which grids and flags accept from then on.

    Registering a name again replaces what a user registered under it before.

    Args:
      name: Name of the new dataset.
      load_raw: Function that returns the samples: a `Raw`; a tuple `(x_train, x_test)` or
        `(x_train, x_test, y_train, y_test)` of arrays; or a dictionary of these. They are
        standardised, and the held-out ones are split into validation and test samples, as for every
        dataset.

    Returns:
      The function `load_raw`.

    Raises:
      InputError: The name is not an identifier, or is that of a dataset of this package.
    """
    return enter(DATASETS, name, load_raw, field="data", own=OWN)


def load(name: str | os.PathLike[str]) -> Dataset:
    """Loads a dataset by name, by a reference, or from an `.npz` file.

    Args:
      name: Name of a dataset, path of an `.npz` file, or a reference `module:attribute` to arrays
        of one's own or to a function that returns them (`register_dataset`). `digits` are
        scikit-learn's 1,797 handwritten digits of 8×8 pixels, `patches` are 10,000 grey 8×8 patches
        of scikit-learn's two sample photographs, and `synthetic` is a smooth torus in 64 features.
        `mnist`, `fashion_mnist`, `cifar10` (in colour) and `cifar10_grey` are downloaded once into
        `$PPP_DATA_DIR`. Of the first two, copies that lie there as an `.npz` or as IDX files are
        used (`images.load_idx`). An `.npz` file of one's own holds `x_train` and `x_test` of shape
        `(samples, features)` or `(samples, height, width, channels)`, and optionally `y_train` and
        `y_test` of shape `(samples,)`.

    Returns:
      The standardised `Dataset`. Every call returns the same samples.

    Raises:
      InputError: The name is unknown, the download fails, a copy at hand has other content, or
        the file is missing, unreadable, incomplete, of the wrong shape, not finite, or larger than
        free memory.

    Example:
      >>> load("digits").train.shape
      (1438, 64)
    """
    if not isinstance(name, str | os.PathLike) or not isinstance(os.fspath(name), str):
        raise InputError("data", name, f"must be one of {', '.join(DATASETS)}, or a path")
    name = os.fspath(name)
    ending = pathlib.PurePath(name).suffix.lower()
    if ending in _SLIPS and not references.is_reference(name):
        raise InputError("data", name, _SLIPS[ending])
    is_file = name.endswith(".npz")
    raw = _from_file(name) if is_file else _named(name)
    train, test = _standardise(name, raw)
    digest = hashlib.sha256()
    for x in (train, test):
        digest.update(repr(x.shape).encode())
        digest.update(np.ascontiguousarray(x).tobytes())
    return Dataset(
        name, train, test, raw.train_labels, raw.test_labels, digest.hexdigest(), raw.image
    )


# What to do with files of other kinds.
_SAVE = "numpy.savez('data.npz', x_train=x[:n], x_test=x[n:])"
_SLIPS = {
    ".npy": f"is one array, without held-out samples; x = numpy.load(path), then {_SAVE}",
    ".csv": f"is a table; x = pandas.read_csv(path).to_numpy('float32'), then {_SAVE}",
    ".parquet": f"is a table; x = pandas.read_parquet(path).to_numpy('float32'), then {_SAVE}",
}


def _named(name: str) -> Raw:
    if references.is_reference(name):
        return _brought(name, references.get(name, field="data").value)
    try:
        load_raw = lookup(DATASETS, name, field="data")
    except InputError as error:
        raise InputError("data", name, f"{error.problem}, or the path of an .npz") from None
    return load_raw() if any(load_raw is one for one in OWN) else _brought(name, load_raw)


def _brought(name: str, given: Any) -> Raw:
    """Returns the samples that a user's function returns, or that an attribute holds."""
    if callable(given):
        try:
            given = given()
        except InputError:
            raise
        except Exception as error:  # whatever the user's function raises
            why = shortened(printable(f"{type(error).__name__}: {error}"))
            raise InputError("data", name, f"fails ({why}); correct it") from error
    if isinstance(given, Raw):
        parts: Any = dict(zip(PARTS, given[:4], strict=True))
    elif isinstance(given, Mapping):
        parts = {key: given.get(key) for key in PARTS}
    elif isinstance(given, tuple | list) and len(given) in (2, 4):
        parts = dict(zip(PARTS, given, strict=False))
    else:
        problem = f"gives a {type(given).__name__}; it must give (x_train, x_test) or (x_train, "
        raise InputError("data", name, f"{problem}x_test, y_train, y_test)")
    arrays = {key: np.asarray(part) for key, part in parts.items() if part is not None}
    missing = [key for key in ("x_train", "x_test") if key not in arrays]
    if missing:
        raise InputError("data", name, f"lacks {' and '.join(missing)}; give both")
    raw = _from_arrays(name, arrays)
    return raw._replace(image=given.image or raw.image) if isinstance(given, Raw) else raw


def _standardise(name: str, raw: Raw) -> tuple[np.ndarray, np.ndarray]:
    """Centres each feature and divides by one number; both are computed from the training set."""
    if not np.ptp(raw.train, axis=0).any():
        problem = "all training samples are equal; give samples that differ"
        raise InputError("data", name, problem)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        mean = raw.train.mean(axis=0, dtype=np.float64)
        scale = np.sqrt(raw.train.var(axis=0, dtype=np.float64).mean())
        train, test = (((x - mean) / scale).astype(np.float32) for x in (raw.train, raw.test))
    if not (np.isfinite(train).all() and np.isfinite(test).all() and train.any()):
        largest = max(np.abs(x).max() for x in (raw.train, raw.test))
        problem = f"has values (up to {largest:g}) that overflow when standardised; rescale them"
        raise InputError("data", name, problem)
    return train, test


def _from_file(name: str) -> Raw:
    path = located("data", name)
    if not path.exists():
        raise InputError("data", name, "no such file; give the path of an existing .npz")
    if not path.is_file():
        raise InputError("data", name, "is not a regular file; give the path of an .npz")
    return _from_arrays(name, _read(name, path))


def _from_arrays(name: str, arrays: dict[str, np.ndarray]) -> Raw:
    """Checks a user's arrays, and returns them as samples."""
    for key in ("x_train", "x_test"):
        _check_samples(name, key, arrays[key])
    train, test = arrays["x_train"], arrays["x_test"]
    if train.shape[1:] != test.shape[1:]:
        sizes = (" × ".join(str(n) for n in x.shape[1:]) for x in (train, test))
        found = "x_train has {} features and x_test has {}".format(*sizes)
        raise InputError("data", name, f"{found}; both need the same features")
    train_labels, test_labels = (_check_labels(name, arrays, split) for split in ("train", "test"))
    image = train.shape[1:] if train.ndim == 4 else None
    train, test = (x.reshape(len(x), -1) for x in (train, test))
    return Raw(train, test, train_labels, test_labels, image)


def _read(name: str, path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a dataset, and no other array of the file."""
    how = "write it with numpy.savez(path, x_train=..., x_test=...)"
    try:
        if archives.is_npy(path):
            raise archives.ReadError(f"is a single array (its content is that of an .npy); {how}")
        archive = archives.Archive(path)
        missing = [key for key in ("x_train", "x_test") if key not in archive.members]
        if missing:
            found = ", ".join(archive.members) or "nothing"
            problem = f"lacks {' and '.join(missing)} (found: {found}); {how}"
            raise InputError("data", name, problem)
        keys = [key for key in PARTS if key in archive.members]
        archives.check_size(sum(archive.header(key).size for key in keys), archive.most)
        return {key: archive[key] for key in keys}
    except InputError:
        raise
    except archives.ReadError as error:
        raise InputError("data", name, str(error)) from None
    except archives.UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged or no archive"
        raise InputError("data", name, f"cannot be read as .npz ({reason}); {how}") from None


def _check_samples(name: str, key: str, x: np.ndarray) -> None:
    if x.ndim in (2, 4) and not x.size:
        raise InputError("data", name, f"{key} is empty, of shape {x.shape}; add samples to it")
    if x.ndim == 3:
        problem = f"{key} has shape {x.shape}; images need an axis of channels, {key}[..., None], "
        raise InputError("data", name, f"{problem}and other samples the shape (samples, features)")
    if x.ndim not in (2, 4):
        raise InputError(
            "data", name, f"{key} has shape {x.shape}; reshape it to (samples, features)"
        )
    if x.dtype.kind not in "iuf":  # excludes complex numbers and times, which NumPy calls numbers
        raise InputError("data", name, f"{key} is of type {x.dtype}; convert it to real numbers")
    if key == "x_test" and len(x) < 2:
        raise InputError(
            "data",
            name,
            "x_test needs at least two samples: one half is used to choose learning rates, "
            "the other to report errors; add samples to it",
        )
    bad = x.size - np.count_nonzero(np.isfinite(x))
    if bad:
        raise InputError("data", name, f"{key} has {bad} non-finite values; remove them")


def _check_labels(name: str, arrays: dict[str, np.ndarray], split: str) -> np.ndarray | None:
    labels = arrays.get(f"y_{split}")
    samples = len(arrays[f"x_{split}"])
    if labels is not None and labels.shape != (samples,):
        raise InputError(
            "data",
            name,
            f"y_{split} has shape {labels.shape}; give one label per sample, shape ({samples},)",
        )
    return labels
