__all__ = [
    "answer",
    "array_report",
    "evidence",
    "grid_report",
    "html_image",
    "html_table",
    "kept_report",
    "layer_report",
    "long_tests",
    "pages",
    "render",
]

from . import (
    answer,
    array_report,
    evidence,
    grid_report,
    kept_report,
    layer_report,
    pages,
)
from .layer_report import long_tests
from .pages import html_image, html_table, render
