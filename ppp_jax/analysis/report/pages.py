"""HTML pages, in which every name is escaped, because it may come from a stranger's run folder."""

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
    """Renders a template; its values are escaped unless they are rendered HTML (`Markup`).

    Args:
      template: Name of a file in `templates/`, without `.html.j2`.
      **values: Values of the variables that the template names.
    """
    return Markup(_TEMPLATES.get_template(f"{template}.html.j2").render(values))


def fragment(source: str, **values: Any) -> Markup:
    """Renders a short template; its values are escaped as those of `render` are.

    Args:
      source: Text of the template.
      **values: Values of the variables that the template names.

    Example:
      >>> print(fragment("<h2>{{ name }}</h2>", name="a<b"))
      <h2>a&lt;b</h2>
    """
    return Markup(_TEMPLATES.from_string(source).render(values))


def html_table(header: Sequence[object], body: Sequence[Sequence[object]]) -> Markup:
    """Renders a table as HTML that scrolls sideways.

    Args:
      header: A text per column.
      body: Rows with a text per column.
    """
    return render("table", header=header, body=body)


def html_image(png: bytes, alt: str) -> Markup:
    """Returns a picture as HTML that holds the picture itself.

    Args:
      png: The bytes of a PNG file.
      alt: A text that says what the picture shows.
    """
    return render("image", encoded=base64.b64encode(png).decode(), alt=alt)


def html_figure(figure: Figure, path: pathlib.Path, alt: str) -> Markup:
    """Saves a figure as PNG and returns it as HTML that holds the picture itself.

    Args:
      figure: The figure.
      path: The PNG file to write.
      alt: A text that says what the figure shows.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    path.write_bytes(buffer.getvalue())
    return html_image(buffer.getvalue(), alt)
