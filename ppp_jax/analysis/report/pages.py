"""HTML pages, in which every name is escaped, because it may come from a stranger's run folder."""

import base64
import io
import pathlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ppp_jax.analysis.texts import lines

HYPHENATED = {
    "".join(parts): Markup("&shy;").join(parts)
    for parts in (("acti", "vation"), ("covari", "ance"), ("quanti", "sed"))
}  # heads of columns that may break, so that a matrix fits on a phone
QUALITY = 50  # of the compressed pictures in pages, beside which the PNG files are exact


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


def html_table(
    header: Sequence[object],
    body: Sequence[Sequence[object]],
    *,
    label: str = "Table",
    caption: str = "",
) -> Markup:
    """Renders a table as HTML that scrolls by itself; a page sorts it by the column that is chosen.

    Args:
      header: A text per column.
      body: Rows with a text per column.
      label: What the table is, for screen readers.
      caption: A text above the table; '' is none.
    """
    label = caption or label
    return render("table", header=header, body=body, label=label, caption=caption)


def breakable(name: str) -> Markup:
    """Returns a name as HTML that may go on in the next line after each of its underscores.

    Args:
      name: The name, which is escaped.

    Example:
      >>> print(breakable("isotropic_a<b"))
      isotropic_<wbr>a&lt;b
    """
    return Markup("_<wbr>").join(lines(name).split("_"))


def matrix_table(header: Sequence[str], body: Sequence[Sequence[str]], **names: str) -> Markup:
    """Renders an answer's matrix as `html_table` does, whose long names may take several lines.

    Args:
      header: A text per column.
      body: Rows with a text per column, of which the first is a name.
      **names: `label` and `caption` of `html_table`.
    """
    rows = [[breakable(name), *texts] for name, *texts in body]
    return html_table([HYPHENATED.get(text, text) for text in header], rows, **names)


def html_image(png: bytes, alt: str, *, file: str = "") -> Markup:
    """Returns a picture as HTML that holds the picture itself, compressed.

    Args:
      png: The bytes of a PNG file.
      alt: A sentence that says what the picture shows.
      file: Name of the PNG file beside the page, to which the picture leads; '' is none.
    """
    return _html_image(Image.open(io.BytesIO(png)).convert("RGB"), png, alt, file)


def html_figure(figure: Figure, path: pathlib.Path, alt: str) -> Markup:
    """Saves a figure as PNG and returns it as HTML that holds the picture itself, and leads to it.

    Args:
      figure: The figure.
      path: The PNG file to write, beside the page.
      alt: A sentence that says what the figure shows.
    """
    buffer, canvas = io.BytesIO(), FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.save(buffer, format="png")
    path.write_bytes(buffer.getvalue())
    return _html_image(picture, buffer.getvalue(), alt, path.name)


def _html_image(picture: Image.Image, png: bytes, alt: str, file: str) -> Markup:
    buffer = io.BytesIO()
    picture.save(buffer, format="webp", quality=QUALITY)
    size = {"width": picture.width, "height": picture.height}
    kind, content = ("webp", buffer.getvalue()) if buffer.tell() < len(png) else ("png", png)
    encoded = base64.b64encode(content).decode()
    return render("image", encoded=encoded, kind=kind, alt=alt, file=quote(file), **size)
