"""Chat templates of published models, which are files of others: one folder each, and texts of another renderer."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(os.environ.get("PUBLISHED_TEMPLATES", Path(__file__).parents[2] / "shared" / "templates"))
"""Tests of them are skipped where there are none."""


def published_template(name: str) -> str:
    return _read(f"{name}/chat_template.jinja")


def published_texts() -> Any:
    """Template -> conversation -> the text that a renderer without any code of the toolkit writes."""
    return json.loads(_read("goldens.json"))


def _read(name: str) -> str:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is missing; PUBLISHED_TEMPLATES names a folder of chat templates")
    return path.read_text(encoding="utf-8")
