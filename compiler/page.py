"""Pages of their own from templates: for `--report` of a compilation and of a profile.

A page has no script and loads nothing: its content security policy allows only its own style sheet, by hash.
Whatever comes from the model is text for the template engine, which escapes it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import jinja2

from ..ir.errors import InternalError
from .summary import bytes_text, count_text, seconds_text


def render_page(template: str, **values: object) -> str:
    """A template of this folder as text; values: what it names."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(bytes=bytes_text, count=count_text, seconds=seconds_text)
    text = environment.get_template(template).render(**values)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    if style is None:
        raise InternalError(f"the page {template} has no style sheet")
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    return text.replace("@policy@", f"default-src 'none'; style-src 'sha256-{digest}'", 1)
