"""Readers of the original files of MNIST, Fashion-MNIST and CIFAR-10."""

import gzip
import io
import math
import pathlib
import struct
import tarfile
import zlib
from typing import NamedTuple

import numpy as np

from ppp_jax.data.downloads import Remote, fetch
from ppp_jax.errors import InputError

UNSIGNED_BYTES = 0x08  # the only type code of IDX that these files have
CIFAR_SIDE, CIFAR_COLOURS, CIFAR_CLASSES = 32, 3, 10
CIFAR_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR_TEST = ("test_batch.bin",)
GREY = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue in the luma of ITU-R BT.601
IDX_DIMENSIONS = (1, 3)  # numbers of dimensions of labels and of images
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, tarfile.TarError)

_MNIST = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://yann.lecun.com/exdb/mnist/",
)
_FASHION = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
_IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_MNIST_SHA256 = (
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)
_FASHION_SHA256 = (
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)


def _idx_remotes(name: str, mirrors: tuple[str, ...], sums: tuple[str, ...]) -> tuple[Remote, ...]:
    return tuple(
        Remote(f"{name}/{file}", sha256, tuple(mirror + file for mirror in mirrors))
        for file, sha256 in zip(_IDX_FILES, sums, strict=True)
    )


REMOTES: dict[str, tuple[Remote, ...]] = {
    "mnist": _idx_remotes("mnist", _MNIST, _MNIST_SHA256),
    "fashion_mnist": _idx_remotes("fashion_mnist", _FASHION, _FASHION_SHA256),
    "cifar10": (
        Remote(
            "cifar10/cifar-10-binary.tar.gz",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            (
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/"
                "cifar-10-binary.tar.gz",
                "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/"
                "cifar-10-binary.tar.gz",
            ),
        ),
    ),
}


class Images(NamedTuple):
    """A dataset of images.

    Attributes:
      train: Training images, `(samples, height, width, channels)`, uint8.
      test: Test images, `(samples, height, width, channels)`, uint8.
      train_labels: Labels of the training images, `(samples,)`.
      test_labels: Labels of the test images, `(samples,)`.
    """

    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray


def load_idx(name: str) -> Images:
    """Loads MNIST or Fashion-MNIST, which is downloaded if it is not on disk.

    Args:
      name: Name of the dataset, `mnist` or `fashion_mnist`.

    Raises:
      InputError: A file cannot be downloaded, or is damaged.
    """
    paths = [fetch(remote, field="data", value=name) for remote in REMOTES[name]]
    train, train_labels, test, test_labels = (read_idx(path) for path in paths)
    for images, labels in ((train, train_labels), (test, test_labels)):
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            problem = f"has images of shape {images.shape} and labels of shape {labels.shape}, "
            raise InputError(
                "data", name, f"{problem}which do not match; remove {paths[0].parent} and try again"
            )
    return Images(train[..., None], test[..., None], train_labels, test_labels)


def load_cifar10(*, grey: bool) -> Images:
    """Loads CIFAR-10, which is downloaded if it is not on disk.

    Args:
      grey: Whether to return one channel of luma instead of red, green and blue.

    Raises:
      InputError: The file cannot be downloaded, or is damaged.
    """
    (remote,) = REMOTES["cifar10"]
    path = fetch(remote, field="data", value="cifar10_grey" if grey else "cifar10")
    train, train_labels = read_cifar(path, CIFAR_TRAIN)
    test, test_labels = read_cifar(path, CIFAR_TEST)
    if grey:
        train, test = ((x @ GREY).round().astype(np.uint8)[..., None] for x in (train, test))
    return Images(train, test, train_labels, test_labels)


def read_idx(path: pathlib.Path) -> np.ndarray:
    """Reads a gzipped IDX file of unsigned bytes.

    Such a file begins with the four bytes 0, 0, type and number of dimensions. The length of each
    dimension follows as a big-endian 32-bit integer, and then the values, the last dimension
    fastest (http://yann.lecun.com/exdb/mnist/).

    Args:
      path: Path of the file.

    Returns:
      The values, a uint8 array of the shape that the file states.

    Raises:
      InputError: The file is not gzipped IDX of unsigned bytes, or its length is not the stated
        one.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except _UNREADABLE as error:
        raise _refused(path, "is truncated or not gzipped") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTES:
        raise _refused(path, "is not IDX of unsigned bytes")
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if dimensions not in IDX_DIMENSIONS:
        raise _refused(path, f"has {dimensions} dimensions, but labels have 1 and images have 3")
    if len(content) < start:
        raise _refused(path, "is not IDX: its header is cut off")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if 0 in shape or math.prod(shape) != len(content) - start:
        found = f"{len(content) - start} instead of {math.prod(shape)} bytes"
        raise _refused(path, f"states the shape {shape} and has {found}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_cifar(path: pathlib.Path, members: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Reads batches of CIFAR-10's binary version.

    A batch holds for every image its label and then its red, green and blue values
    (https://www.cs.toronto.edu/~kriz/cifar.html).

    Args:
      path: Path of the `.tar.gz` archive.
      members: Names of the batches, which may be in any folder of the archive.

    Returns:
      Images, `(samples, 32, 32, 3)`, and labels, `(samples,)`, both uint8.

    Raises:
      InputError: The file is not such an archive, or a batch is missing, does not hold whole
        images, or has a label that is not a class.
    """
    pixels = CIFAR_COLOURS * CIFAR_SIDE**2
    rows = []
    for name, content in _members(path, members).items():
        if not content or len(content) % (1 + pixels):
            raise _refused(path, f"has {len(content)} bytes in {name}, which are not whole images")
        rows.append(np.frombuffer(content, np.uint8).reshape(-1, 1 + pixels))
    batch = np.concatenate(rows)
    if batch[:, 0].max() >= CIFAR_CLASSES:
        raise _refused(path, f"has the label {batch[:, 0].max()}, but CIFAR-10 has 10 classes")
    planes = batch[:, 1:].reshape(-1, CIFAR_COLOURS, CIFAR_SIDE, CIFAR_SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), batch[:, 0]


def _members(path: pathlib.Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Returns the contents of files of an archive, without unpacking the archive onto the disk."""
    found: dict[str, bytes] = {}
    try:
        # The archive is decompressed to its end, where its checksum is. Given the compressed file,
        # tarfile would stop behind the last member and not verify the checksum.
        content = gzip.decompress(path.read_bytes())
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                name = pathlib.PurePosixPath(member.name).name
                if name in names and member.isfile():
                    opened = archive.extractfile(member)
                    found[name] = b"" if opened is None else opened.read()
    except _UNREADABLE as error:
        raise _refused(path, "is truncated or not a .tar.gz") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise _refused(path, f"lacks {', '.join(missing)}")
    return {name: found[name] for name in names}


def _refused(path: pathlib.Path, problem: str) -> InputError:
    problem = f"{problem}; remove it, and the next call downloads it again"
    return InputError("data", path, problem)
