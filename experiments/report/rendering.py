"""The templates of pages, and the digests by which a page allows its own styles and scripts."""

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl import jinja2

if TYPE_CHECKING:
    from jinja2 import Template

    from experiments.report.section import Section

TEMPLATES = Path(__file__).parent / "templates"


def load_template(name: str) -> "Template":
    """A template that escapes every text, and fails for a name that it lacks."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    ).get_template(name)


def render_body(section: "Section") -> str:
    """The sentences, tables and notes of a section as HTML."""
    body: Any = getattr(load_template("section.html.j2").module, "body")  # noqa: B009  # a macro, unknown to types
    return str(body(section))


def read_asset(name: str) -> str:
    """The text of a style sheet or a script."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def policy_digest(text: str) -> str:
    """The digest of an inline style or script, as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
