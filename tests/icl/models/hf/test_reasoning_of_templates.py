"""Reasoning blocks in the form of each chat template: outputs are read, and limited, with markers of the template."""

from functools import cache

import pytest
from chat_templates import NAMES, published, published_text, renderer, with_byte_tokens
from tiny_models import image, turn

from decoding.engine.thinking_budget import Thinking, begin_thinking
from icl.models.hf.rendering import PromptRenderer
from icl.models.hf.text_processor import AnswerDecoder
from icl.text.reasoning_blocks import SplitOutput, split_reasoning
from icl.types import Prompt
from tests.icl.models.hf.test_template_facts import SHAPES

PROMPT = Prompt((turn("user", image(1), "Which color?"),))
OWN = [name for name, (_, facts) in SHAPES.items() if "block" in facts]
REASONING, ANSWER = "It is blue. No, red.", "red"


class Model:
    """The parts of a model that read outputs."""

    stop_tokens = frozenset[int]()

    def __init__(self, own: PromptRenderer) -> None:
        self.own, self.tokenizer, self.reasoning_block = own, own.tokenizer, own.facts.block

    def render(self, prompt: Prompt) -> str:
        return self.own.text(prompt)

    def text(self, tokens: list[int]) -> str:
        return AnswerDecoder(self.tokenizer, self.own.facts).text(tokens)

    def encoded(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))


@cache
def model_of(name: str) -> Model:
    own = renderer(SHAPES[name][0]) if name in SHAPES else published(name)
    return Model(with_byte_tokens(own))


def reasoned(model: Model) -> str:
    """An output with reasoning, and with the end of its turn."""
    facts = model.own.facts
    assert facts.block is not None
    opening = "" if facts.opens_block else f"{facts.block.opening}\n"
    if facts.block.answer_end:
        return f"{REASONING}{facts.block.forced}{ANSWER}\n{facts.block.answer_end}"
    end = model.own.text(Prompt((*PROMPT.turns, turn("assistant", ANSWER)))).rpartition(ANSWER)[2]
    return f"{opening}{REASONING}{facts.block.forced}{ANSWER}{end[:12] if end.startswith('<|close|>') else ''}"


def check(name: str) -> None:
    model = model_of(name)
    text = model.text(model.encoded(reasoned(model)))
    assert REASONING in text
    assert split_reasoning(text).has_reasoning
    assert split_reasoning(text).answer == ANSWER
    direct = model.text(model.encoded(model.own.facts.answer_start + ANSWER))
    assert split_reasoning(direct).answer == ANSWER


def test_an_output_without_the_marker_that_the_template_asks_for_is_an_answer() -> None:
    model = model_of("answer marked in words")
    assert split_reasoning(model.text(model.encoded(f"{ANSWER}[THE END]"))) == SplitOutput(ANSWER)


def read(model: Model, limit: int, tokens: list[int]) -> tuple[Thinking, list[int]]:
    """The state and the tokens after an output under a budget, whose forced tokens come in place of the model's."""
    thinking = begin_thinking(model, PROMPT, limit)
    assert thinking is not None
    chosen: list[int] = []
    rest = list(tokens)
    while rest or thinking.forced:
        chosen.append(thinking.forced.pop(0) if thinking.forced else rest.pop(0))
        thinking.read(chosen)
    return thinking, chosen


def check_budget(name: str) -> None:
    model = model_of(name)
    block, answer = model.reasoning_block, model.encoded(ANSWER)
    assert block is not None
    tokens = model.encoded(reasoned(model).partition(block.closing)[0] + block.closing + block.leads_on) + answer
    closed, chosen = read(model, len(tokens), tokens)
    assert (closed.end, closed.num_answer_tokens, chosen) == ("closed", len(answer), tokens)
    opening = "" if model.own.facts.opens_block else block.opening
    size = len(model.encoded(opening))
    cut, chosen = read(model, size + 5, [*model.encoded(opening), *model.encoded("12345"), *answer])
    assert (cut.end, cut.num_tokens, cut.num_answer_tokens) == ("cut", size + 5, len(answer))
    assert chosen == [*model.encoded(opening), *model.encoded("12345"), *model.encoded(block.forced), *answer]
    assert split_reasoning(cut.text(model, chosen)).answer == ANSWER


@pytest.mark.parametrize("name", OWN)
def test_an_output_is_read_with_the_markers_of_its_template(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", OWN)
def test_a_budget_closes_the_block_of_the_template(name: str) -> None:
    check_budget(name)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_in_the_form_of_a_published_template_are_read_and_limited(name: str) -> None:
    published_text(name)
    if model_of(name).reasoning_block is not None:
        check(name)
        check_budget(name)
