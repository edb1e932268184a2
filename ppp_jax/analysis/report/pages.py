"""HTML pages. Every name in them is escaped: it may come from a stranger's run folder."""

import base64
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from ppp_jax.analysis.texts import lines


def _shown(value: Any) -> Any:
    return value if isinstance(value, Markup) or not isinstance(value, str) else lines(value)


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("ppp_jax.analysis.report"),
    autoescape=True,
    finalize=_shown,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> Markup:
    """Returns a template with its values, escaped unless they are rendered HTML themselves.

    Args:
      template: a name in `templates/`, without its ending.
      **values: what the template names.
    """
    return Markup(_TEMPLATES.get_template(f"{template}.html.j2").render(values))


def fragment(source: str, **values: Any) -> Markup:
    """Returns a short template with its values, escaped as those of `render`.

    Args:
      source: the template itself.
      **values: what it names.

    Example:
      >>> print(fragment("<h2>{{ name }}</h2>", name="a<b"))
      <h2>a&lt;b</h2>
    """
    return Markup(_TEMPLATES.from_string(source).render(values))


def html_table(header: Sequence[object], body: Sequence[Sequence[object]]) -> Markup:
    """Renders a table as HTML that scrolls sideways.

    Args:
      header: a text per column.
      body: rows of texts.
    """
    return render("table", header=header, body=body)


def html_image(png: bytes, alt: str) -> Markup:
    """Returns a picture as HTML that needs no file.

    Args:
      png: the file's bytes.
      alt: what it shows.
    """
    return render("image", encoded=base64.b64encode(png).decode(), alt=alt)


def html_figure(figure: Figure, path: pathlib.Path, alt: str) -> Markup:
    """Saves a figure as PNG and returns it as HTML that needs no file.

    Args:
      figure: what to draw.
      path: where to.
      alt: what it shows.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    path.write_bytes(buffer.getvalue())
    return html_image(buffer.getvalue(), alt)
