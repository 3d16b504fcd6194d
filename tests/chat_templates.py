"""Published chat templates, and a renderer of a chat template without its checkpoint."""

import importlib.util
import re
from datetime import date
from functools import cache
from types import ModuleType
from typing import Any

from published_templates import SHARED as PUBLISHED
from published_templates import published_template as published_text
from published_templates import published_texts
from random_models.common import tokenizer
from transformers import ProcessorMixin

from icl.models.hf.rendering import PromptRenderer

NAMES = sorted(path.parent.name for path in PUBLISHED.glob("*/chat_template.jinja")) or ["chat_template"]

MARKS = re.compile(r"<\|[^<>|]*\|>|<[^<>|]*>|\[IMG\]|\]<\]image\[>\[")
IMAGE = re.compile("im(g|age)|pad|patch", re.IGNORECASE)
STARTS = re.compile("start|begin|end")


class Words:
    """A tokenizer with special tokens, and without a vocabulary."""

    unk_token = unk_token_id = None
    all_special_tokens: tuple[str, ...] = ()

    def __init__(self, tokens: dict[str, str]) -> None:
        self.special_tokens_map, self.bos_token = tokens, tokens.get("bos_token")

    def convert_tokens_to_ids(self, token: str) -> int:
        return len(token)


class Processor(ProcessorMixin):  # type: ignore[misc]
    """A processor with a chat template."""

    def __init__(self, template: str, slot: str, tokenizer: Any) -> None:
        self.chat_template, self.image_token, self.tokenizer = template, slot, tokenizer


DAY = date(2026, 11, 30)
"""The day of the golden texts."""


def renderer(template: str, slot: str = "<image>", name: str = "checkpoint", **tokens: str) -> PromptRenderer:
    return PromptRenderer(Processor(template, slot, Words(tokens)), name, day=DAY)


def with_byte_tokens(own: PromptRenderer) -> PromptRenderer:
    """A renderer of the same template with a byte tokenizer, to which all bracketed marks are special tokens."""
    marks = tuple(dict.fromkeys(mark for mark in MARKS.findall(own.template) if mark != own.slot))
    words = tokenizer({"image_token": own.slot}, marks)
    for name, token in own.tokenizer.special_tokens_map.items():
        setattr(words, name, token)
    return PromptRenderer(Processor(own.template, own.slot, words), own.name)


def published(name: str) -> PromptRenderer:
    """The renderer of a published template, with the special tokens that its golden texts have."""
    template = published_text(name)
    return renderer(template, image_slot(name), name, **golden_renderer().tokens(name))


@cache
def goldens() -> dict[str, dict[str, Any]]:
    return published_texts()  # type: ignore[no-any-return]


@cache
def golden_renderer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_renderer", PUBLISHED / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def image_slot(name: str) -> str:
    """The placeholder of an image: what a turn with two images has twice, without the marks around it."""
    text = goldens()[name]["e two images"]
    if not isinstance(text, str):
        return "<image>"
    marks = [mark for mark in MARKS.findall(text) if text.count(mark) == 2 and IMAGE.search(mark)]
    return min(marks, key=lambda mark: bool(STARTS.search(mark)))
