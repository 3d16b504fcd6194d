"""Published chat templates: prompts equal golden texts of an independent renderer, and facts equal a stored table.

A new template is a new folder beside the published ones. Write the table again and read the difference:

    PYTHONPATH=.:tests python tests/icl/models/hf/test_chat_templates.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_templates import NAMES, golden_renderer, goldens, published, published_text
from tiny_models import image, turn

from icl.errors import ModelError
from icl.models.hf.rendering import PromptRenderer
from icl.models.hf.template_facts import TemplateFacts
from icl.types import Prompt, Turn

TABLE = Path(__file__).with_name("chat_templates.json")
QUESTION = "Which color?"
DEMOS = (
    turn("user", image(1), QUESTION),
    turn("assistant", "red"),
    turn("user", image(2), QUESTION),
    turn("assistant", "blue"),
    turn("user", image(3), QUESTION),
)
ONE = "Question: Which color?\nAnswer:"
CONVERSATIONS: dict[str, tuple[Turn, ...]] = {
    "a one image": DEMOS[:1],
    "b demos in turns": DEMOS,
    "c system": (turn("system", "Answer with one word."), *DEMOS),
    "d interleaved": (turn("user", image(1), f"{ONE} red\n\n", image(2), f"{ONE} blue\n\n", image(3), ONE),),
    "e two images": (turn("user", image(1), image(2), "Which one is red?"),),
    "f text first": (turn("user", "Name colors."), turn("assistant", "Yes."), turn("user", image(1), QUESTION)),
    "i two user turns": (turn("user", "Look."), turn("user", image(1), QUESTION)),
    "j question first": (turn("user", QUESTION, image(1)),),
}


def expected_texts(name: str, case: str, slot: str) -> Iterator[tuple[str, Any]]:
    """The golden text, and what the independent renderer writes for strings and for images within texts."""
    independent, template = golden_renderer(), published_text(name)
    golden = goldens()[name][case]
    if "{'type'" not in golden:
        yield "equal", golden
    turns, tokens = independent.CASES[case], independent.tokens(name)
    kinds = [{item["type"] for item in one["content"]} for one in turns]
    strings = [
        {**one, "content": one["content"][0]["text"]} if kind == {"text"} else one
        for one, kind in zip(turns, kinds, strict=True)
    ]
    yield "equal, lists as strings", independent.attempt(template, strings, **tokens)
    for after in ("", "\n"):
        texts = ["".join(item.get("text", slot + after) for item in one["content"]) for one in turns]
        within = [{**one, "content": [{"type": "text", "text": t}]} for one, t in zip(turns, texts, strict=True)]
        yield "equal, images in texts", independent.attempt(template, within, **tokens)


def result(own: PromptRenderer, case: str) -> str:
    """How a prompt compares with the independent texts, or why it is refused."""
    try:
        text = own.text(Prompt(CONVERSATIONS[case]))
    except ModelError as error:
        return str(error)
    return next((key for key, other in expected_texts(own.name, case, own.slot) if text == other), f"differs: {text}")


def stored_facts(facts: TemplateFacts) -> dict[str, Any]:
    """The facts that are not the default, with the beginning of a default system prompt."""
    plain = TemplateFacts().to_dict()
    own = {key: value for key, value in facts.to_dict().items() if value != plain[key]}
    return own | ({"default_system": own["default_system"][:40]} if "default_system" in own else {})


def entry(name: str) -> dict[str, Any]:
    own = published(name)
    return {"facts": stored_facts(own.facts), "prompts": {case: result(own, case) for case in CONVERSATIONS}}


@pytest.mark.parametrize("name", NAMES)
def test_prompts_and_facts_of_a_published_template_are_those_of_the_table(name: str) -> None:
    published_text(name)
    assert json.loads(json.dumps(entry(name))) == json.loads(TABLE.read_text(encoding="utf-8"))[name]


@pytest.mark.parametrize("name", NAMES)
def test_empty_blocks_of_a_published_template_are_before_all_answers_or_before_none(name: str) -> None:
    published_text(name)
    own = published(name)
    if not (block := own.facts.empty_block):
        return
    everywhere = own.text(Prompt(DEMOS, empty_blocks="everywhere")).partition(QUESTION)[2]
    assert everywhere.count(block) == 3
    assert everywhere.endswith(block)
    nowhere = own.text(Prompt(DEMOS, empty_blocks="nowhere")).partition(QUESTION)[2]
    assert block not in nowhere
    assert everywhere.replace(block, "") == nowhere


def write_table() -> None:
    """Writes the table of the published templates that are here."""
    table = {name: entry(name) for name in NAMES}
    TABLE.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_table()
