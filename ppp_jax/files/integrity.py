"""Digests that tell whether what is read is what was written.

One form for everything kept as JSON in a run folder: the entries, and under `sha256` the digest of
all others. Who edits such a file by hand breaks its seal.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "sha256"


def digest(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, in hexadecimal; the order of keys has no say.

    Args:
      value: dictionaries, lists, texts, numbers, truth values and None.

    Raises:
      ValueError: a number is not finite, which JSON cannot hold.
      TypeError: something else that JSON cannot hold.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries with their digest as the last one.

    Args:
      entries: what JSON can hold; a seal among them is replaced.

    Example:
      >>> is_intact(sealed({"a": 1}))
      True
      >>> is_intact(sealed({"a": 1}) | {"a": 2})
      False
    """
    content = {key: value for key, value in entries.items() if key != SEAL}
    return {**content, SEAL: digest(content)}


def is_intact(entries: Any) -> bool:
    """Returns whether entries carry the digest of what they hold.

    Args:
      entries: what was read; anything that is no dictionary, and has no seal, is not intact.
    """
    try:
        return isinstance(entries, dict) and sealed(entries)[SEAL] == entries.get(SEAL)
    except (TypeError, ValueError):  # a number that is not finite was never sealed
        return False
