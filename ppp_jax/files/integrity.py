"""Digests by which changes of JSON files are detected.

All JSON files of a run folder have the same form: their entries, and under `sha256` the digest of
all other entries, which is called the seal. Editing such a file by hand breaks its seal.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "sha256"


def digest(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, in hexadecimal. It does not depend on the order of keys.

    Args:
      value: Value composed of dictionaries, lists, texts, numbers, booleans and None.

    Raises:
      ValueError: A number is not finite, which JSON cannot represent.
      TypeError: The value contains another type, which JSON cannot represent.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Returns entries together with their digest as the last entry.

    Args:
      entries: Entries that JSON can represent. A seal among them is replaced.

    Example:
      >>> is_intact(sealed({"a": 1}))
      True
      >>> is_intact(sealed({"a": 1}) | {"a": 2})
      False
    """
    content = {key: value for key, value in entries.items() if key != SEAL}
    return {**content, SEAL: digest(content)}


def is_intact(entries: Any) -> bool:
    """Returns whether entries carry the digest of their other entries.

    Args:
      entries: Parsed content of a file. It is not intact if it is not a dictionary or has no seal.
    """
    try:
        return isinstance(entries, dict) and sealed(entries)[SEAL] == entries.get(SEAL)
    except (TypeError, ValueError):  # e.g. a number that is not finite, which is never sealed
        return False
