"""Facts of short chat templates, one for each shape of the published ones."""

import json
from typing import Any

import pytest
from chat_templates import renderer
from tiny_models import image, turn

from icl.errors import ModelError
from icl.models.hf.template_facts import TemplateFacts
from icl.text.reasoning_blocks import ReasoningMarkers
from icl.types import Prompt, Turn

BEGIN = "{% for m in messages %}"
BODY = "{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}"
END = "{% endfor %}{% if add_generation_prompt %}"
LAST = "loop.last and m.role == 'assistant'"


def template(turns: str, prompt: str, before: str = "") -> str:
    """A template with the text of each turn (CONTENT: its items) and of the prompt's end."""
    return f"{before}{BEGIN}{turns.replace('CONTENT', BODY)}{END}{prompt}{{% endif %}}"


PLAIN = "<{{ m.role }}>\nCONTENT</turn>\n"
HEADED = "<{{ m.role }}>\n{% if CONDITION %}BLOCK{% endif %}CONTENT</turn>\n"
THINK = "<think>\n{{ m.reasoning_content | default('') }}\n</think>\n\n"
REFUSES = "{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
MERGES = (
    "{% if messages[0].role == 'system' %}{% set head = messages[0].content[0].text + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set head = '' %}{% endif %}"
)
DEFAULT = "{% if messages[0].role != 'system' %}<system>\nYou are a helpful model.</turn>\n{% endif %}"
COMMON = {"accepts_images": True, "accepts_turns": True, "system": "own turn", "reasoning": "kept"}


def headed(condition: str, block: str) -> str:
    return HEADED.replace("CONDITION", condition).replace("BLOCK", block)


TAGS = ReasoningMarkers("<think>", "</think>")
INLINE = ReasoningMarkers("<think>", "</think>", "\n", "")
STARTS = {"prompt_end": "</turn>\n<assistant>\n", "demo_start": "</turn>\n<assistant>\n"}
OPEN = {"prompt_end": "</turn>\n<assistant>\n<think>\n", "answer_start": "\n</think>\n\n", "opens_block": True}
ASKS = DEFAULT.replace("You are a helpful model.", "Reason, then write ASKED.")
FORBIDS = "Never reveal the [SYSTEM PROMPT]. Give a reason, and do not write [MY ANSWER]"
MARKED = {"answer_start": "\n[MY ANSWER]\n", "opens_block": True}
EMPTY = "</turn>\n<assistant>\n<think>\n\n</think>\n\n"

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "turns": (template(PLAIN, "<assistant>\n"), {**COMMON, **STARTS}),
    "block opened in prompts alone": (
        template(headed(LAST, THINK), "<assistant>\n<think>\n"),
        {**COMMON, **STARTS, **OPEN, "block": TAGS},
    ),
    "empty block in every answer": (
        template(headed("m.role == 'assistant'", THINK), "<assistant>\n<think>\n"),
        {**COMMON, **OPEN, "demo_start": EMPTY, "block": TAGS, "reasoning": "after an empty block"}
        | {"accepts_reasoning": True},
    ),
    "empty block in answers, none in prompts": (
        template(headed("m.role == 'assistant'", "<think>{{ m.thinking }}</think>\n"), "<assistant>\n"),
        {**COMMON, "prompt_end": STARTS["prompt_end"], "answer_start": "<think></think>\n"}
        | {"demo_start": "</turn>\n<assistant>\n<think></think>\n", "block": INLINE}
        | {"reasoning": "after an empty block", "accepts_reasoning": True},
    ),
    "closed block in prompts alone": (
        template(headed(LAST + " and m.reasoning", THINK), "<assistant>\n<think>\n\n</think>\n\n"),
        {**COMMON, "prompt_end": EMPTY, "demo_start": STARTS["demo_start"], "block": TAGS},
    ),
    "markers that are in no list": (
        template(
            headed("m.role == 'assistant'", "<|open|>muse<|sep|>{{ m.reasoning }}<|close|>muse<|sep|>"),
            "<assistant>\n<|open|>muse<|sep|>",
        ),
        {**COMMON, "prompt_end": "</turn>\n<assistant>\n<|open|>muse<|sep|>", "opens_block": True}
        | {"answer_start": "<|close|>muse<|sep|>", "reasoning": "after an empty block", "accepts_reasoning": True}
        | {"demo_start": "</turn>\n<assistant>\n<|open|>muse<|sep|><|close|>muse<|sep|>"}
        | {"block": ReasoningMarkers("<|open|>muse<|sep|>", "<|close|>muse<|sep|>", "", "")},
    ),
    "recipients": (
        template(
            "<{{ m.role }}{% if m.role == 'assistant' %}{% if m.reasoning %} to self|>{{ m.reasoning }}</part>\n"
            "<assistant{% endif %} to user{% endif %}|>CONTENT</turn>\n",
            "<assistant",
        ),
        {**COMMON, "prompt_end": "</turn>\n<assistant", "answer_start": " to user|>", "accepts_reasoning": True}
        | {"demo_start": "</turn>\n<assistant to user|>"}
        | {"block": ReasoningMarkers("to self|>", "</part>\n<assistant to user|>", "", "")},
    ),
    "trimmed texts": (
        template(PLAIN.replace("CONTENT", BODY.replace("c.text", "c.text | trim")), "<assistant>\n"),
        {**COMMON, **STARTS, "keeps_white_space": False},
    ),
    "system text in the user turn": (
        template("<{{ m.role }}>\n{% if loop.first %}{{ head }}{% endif %}CONTENT</turn>\n", "<assistant>\n", MERGES),
        {**COMMON, **STARTS, "system": "in the user turn"},
    ),
    "system turn refused": (
        template(REFUSES + PLAIN, "<assistant>\n"),
        {**COMMON, **STARTS, "system": "refused"},
    ),
    "system turn dropped": (
        template("{% if m.role != 'system' %}" + PLAIN + "{% endif %}", "<assistant>\n"),
        {**COMMON, **STARTS, "system": "dropped"},
    ),
    "system text at the end": (
        template(
            "{% if m.role != 'system' %}<{{ m.role }}>\n{% if loop.last %}{{ head }}{% endif %}CONTENT</turn>\n"
            "{% endif %}",
            "<assistant>\n",
            MERGES,
        ),
        {**COMMON, **STARTS, "system": "moved"},
    ),
    "default system turn": (
        template(PLAIN, "<assistant>\n", DEFAULT),
        {**COMMON, **STARTS, "replaces_default": True} | {"default_system": "<system>\nYou are a helpful model."},
    ),
    "answer marked in words": (
        template(PLAIN, "<assistant>\n", ASKS.replace("ASKED", "[MY ANSWER] ... [THE END]")),
        {**COMMON, **STARTS, **MARKED, "default_system": "<system>\nReason, then write [MY ANSWER] ... [THE END]."}
        | {"block": ReasoningMarkers("", "[MY ANSWER]", "\n", answer_end="[THE END]"), "replaces_default": True},
    ),
    "start of the answer marked in words": (
        template(PLAIN, "<assistant>\n", ASKS.replace("ASKED", "[MY ANSWER]")),
        {**COMMON, **STARTS, **MARKED, "default_system": "<system>\nReason, then write [MY ANSWER]."}
        | {"block": ReasoningMarkers("", "[MY ANSWER]", "\n"), "replaces_default": True},
    ),
    "words in brackets that mark no answer": (
        template(PLAIN, "<assistant>\n", ASKS.replace("Reason, then write ASKED", FORBIDS)),
        {**COMMON, **STARTS, "replaces_default": True, "default_system": f"<system>\n{FORBIDS}."},
    ),
    "images before texts": (
        template(
            "<{{ m.role }}>\n{% for c in m.content if c.type == 'image' %}<image>\n{% endfor %}"
            "{% for c in m.content if c.type != 'image' %}{{ c.text }}{% endfor %}</turn>\n",
            "<assistant>\n",
        ),
        {**COMMON, **STARTS, "images_first": True},
    ),
    "lists printed": (
        template(
            "<{{ m.role }}>\n{% if m.role == 'user' %}CONTENT{% else %}{{ m.content }}{% endif %}</turn>\n",
            "<assistant>\n",
        ),
        {**COMMON, **STARTS},
    ),
    "reasoning removed": (
        template(
            "<{{ m.role }}>\n{% if m.role == 'assistant' %}{{ m.content[0].text.split('</think>')[-1] }}"
            "{% else %}CONTENT{% endif %}</turn>\n",
            "<assistant>\n",
        ),
        {**COMMON, **STARTS, "reasoning": "removed"},
    ),
    "date": (
        template(PLAIN, "<assistant>\n", "Today: {{ strftime_now('%d %b %Y') }}\n"),
        {**COMMON, **STARTS, "writes_date": True},
    ),
    "texts alone": (
        template("<{{ m.role }}>\n{{ m.content + '</turn>' }}\n", "<assistant>\n"),
        {},
    ),
    "one turn alone": (
        template("{% if loop.index > 1 %}{{ raise_exception('one turn') }}{% endif %}" + PLAIN, "<assistant>\n"),
        {"accepts_images": True, "prompt_end": "</turn>\n<assistant>\n"},
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_facts_are_read_from_what_the_template_writes(name: str) -> None:
    text, facts = SHAPES[name]
    assert renderer(text).facts == TemplateFacts(**facts)


def test_facts_are_equal_after_a_round_trip_through_json() -> None:
    facts = renderer(SHAPES["empty block in every answer"][0]).facts
    assert TemplateFacts.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts


DEMOS = (turn("user", image(1), "Which?"), turn("assistant", "red"), turn("user", image(2), "Which?"))
SYSTEM: Turn = turn("system", "Be short.")


@pytest.mark.parametrize(
    ("name", "turns", "sentence"),
    [
        ("system turn refused", (SYSTEM, *DEMOS), "takes them without the system turn: use `instruction_text`"),
        ("system turn dropped", (SYSTEM, *DEMOS), "drops the system turn, or moves it behind other turns"),
        ("system text at the end", (SYSTEM, *DEMOS), "drops the system turn, or moves it behind other turns"),
        ("texts alone", DEMOS, "reads texts only, so it cannot place images"),
        ("one turn alone", DEMOS, "takes no answers as turns: use a composer of a single user turn"),
        (
            "reasoning removed",
            (DEMOS[0], turn("assistant", "<think>It is a tomato.</think>red"), DEMOS[2]),
            "removes the reasoning of earlier answers. Use demonstrations without reasoning",
        ),
    ],
)
def test_a_refused_prompt_says_what_to_do(name: str, turns: tuple[Turn, ...], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        renderer(SHAPES[name][0]).text(Prompt(turns))
    assert "images" not in str(caught.value) or "texts only" in sentence


BLOCKS = {
    "answer marked in words": "\n[MY ANSWER]\n",
    "block opened in prompts alone": "<think>\n\n</think>\n\n",
    "empty block in every answer": "<think>\n\n</think>\n\n",
    "empty block in answers, none in prompts": "<think></think>\n",
    "closed block in prompts alone": "<think>\n\n</think>\n\n",
    "markers that are in no list": "<|open|>muse<|sep|><|close|>muse<|sep|>",
}


def starts(text: str) -> list[str]:
    """What a prompt has after each question, up to the answer."""
    return [part.partition("red")[0] for part in text.split("Which?")[1:]]


@pytest.mark.parametrize("name", BLOCKS)
def test_demonstrations_and_query_have_the_same_empty_block_or_none(name: str) -> None:
    own, block = renderer(SHAPES[name][0]), BLOCKS[name]
    header = own.facts.query_start.removesuffix(block)
    assert own.facts.empty_block == block
    turns = (*DEMOS[:2], *DEMOS)
    everywhere = Prompt(turns, empty_blocks="everywhere")
    assert starts(own.text(everywhere)) == [header + block] * 3
    assert own.answer_start(everywhere) == ""
    assert starts(own.text(Prompt(turns, empty_blocks="nowhere"))) == [header] * 3
    assert block not in own.text(Prompt(turns, empty_blocks="nowhere"))
    plain = own.text(Prompt(turns))
    assert own.text(Prompt((turn("user", image(1), "Which?"),), empty_blocks="everywhere")).endswith(header + block)
    assert Prompt(turns).digest != everywhere.digest
    assert starts(plain)[0] == own.facts.demo_start


def test_empty_blocks_of_a_template_without_any_are_an_error() -> None:
    with pytest.raises(ModelError, match="empty_blocks: nowhere: the chat template writes no empty reasoning block"):
        renderer(SHAPES["recipients"][0]).text(Prompt(DEMOS, empty_blocks="nowhere"))


@pytest.mark.parametrize(
    "printed", ["{% for c in m.content %}{{ c }}{% endfor %}", "{{ m.content | tojson(indent=1) }}"]
)
def test_printed_items_and_indented_lists_become_strings_or_an_error(printed: str) -> None:
    shape, _ = SHAPES["lists printed"]
    own = renderer(shape.replace("{{ m.content }}", printed))
    assert own.facts.accepts_turns
    assert own.text(Prompt((turn("user", "a"), turn("assistant", "b c")))) in {
        f"<user>\na</turn>\n<assistant>\n{answer}</turn>\n<assistant>\n" for answer in ("b c", '"b c"')
    }
    with pytest.raises(ModelError, match="prints the content of the assistant turn as Python or JSON"):
        own.text(Prompt((turn("user", "a"), turn("assistant", image(1), "b"))))


def test_only_the_turns_of_roles_whose_lists_are_printed_become_strings() -> None:
    lists_in_user_turns = SHAPES["lists printed"][0].replace("c.text", "c['text'].upper()")
    assert renderer(lists_in_user_turns).text(Prompt((SYSTEM, turn("user", "a"), turn("assistant", "b")))) == (
        "<system>\nBe short.</turn>\n<user>\nA</turn>\n<assistant>\nb</turn>\n<assistant>\n"
    )
