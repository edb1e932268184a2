__all__ = [
    "ENDINGS",
    "Facts",
    "Layers",
    "capture",
    "capture_cache",
    "capture_flax",
    "capture_torch",
    "check_rows",
    "chunks",
    "facts",
    "facts_of",
    "headers",
    "holds_layers",
    "is_run",
    "known_of",
    "layer_files",
    "layer_sources",
    "load",
    "load_groups",
    "open_layers",
    "partner_of",
    "progress",
    "rows",
    "runs",
    "sources",
    "unpacking",
]

from . import (
    capture,
    capture_cache,
    capture_flax,
    capture_torch,
    chunks,
    facts,
    headers,
    layer_files,
    layer_sources,
    load,
    progress,
    rows,
    runs,
    sources,
    unpacking,
)
from .facts import Facts, facts_of, known_of, partner_of
from .layer_files import ENDINGS, Layers, holds_layers, open_layers
from .load import is_run
from .rows import check_rows
from .runs import load_groups
