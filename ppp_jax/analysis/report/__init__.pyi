__all__ = [
    "answer",
    "array_page",
    "array_report",
    "drawers",
    "evidence",
    "first_look",
    "grid_report",
    "html_figure",
    "html_image",
    "html_table",
    "kept_report",
    "layer_report",
    "long_tests",
    "pages",
    "render",
    "sections",
]

from . import (
    answer,
    array_page,
    array_report,
    drawers,
    evidence,
    first_look,
    grid_report,
    kept_report,
    layer_report,
    pages,
    sections,
)
from .layer_report import long_tests
from .pages import html_figure, html_image, html_table, render
