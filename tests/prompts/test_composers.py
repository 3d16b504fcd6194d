"""The published prompts, word for word. The shipped model is trained on exactly these."""

from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image as PILImage

from decoding.prompt_edits import remove_demonstrations, replace_instruction
from icl.errors import ConfigError
from icl.images import Image
from icl.registry import build, describe, entries
from icl.streams import StreamKey
from icl.types import Context, Demo, Example, Part, Prompt, Turn
from prompts import BaseComposer
from prompts.conformance import check_composer

LONG = (
    "Look at the examples, then answer the last question about its picture with one word, in the same form as the "
    "examples."
)


def _example(number: int, images: int = 1) -> Example:
    own_images = tuple(Image.from_pil(PILImage.new("RGB", (4, 4), (number, j, 0))) for j in range(images))
    return Example(f"e{number}", own_images, f"q{number}?", (f"a{number}", "other"))


def _context(shots: int, images: int = 1) -> Context:
    demos = tuple(Demo(_example(i, images), 0.5, i) for i in range(shots))
    return Context(_example(9, images).query, demos, StreamKey(1, "e9"))


def _composed(node: Any, context: Context) -> Prompt:
    return build("composer", node).compose(context)


def _turn_texts(prompt: Prompt) -> list[tuple[str, str]]:
    return [(t.role, "".join(p.text if p.text is not None else "<>" for p in t.parts)) for t in prompt.turns]


def test_chat() -> None:
    assert _turn_texts(_composed("chat", _context(2))) == [
        ("user", "<>q0?"),
        ("assistant", "a0"),
        ("user", "<>q1?"),
        ("assistant", "a1"),
        ("user", "<>q9?"),
    ]


def test_chat_text_first_with_an_instruction() -> None:
    node = {"name": "chat", "first": "text", "instruction": "short"}
    assert _turn_texts(_composed(node, _context(1))) == [
        ("user", "Answer with one word.\nq0?<>"),
        ("assistant", "a0"),
        ("user", "q9?<>"),
    ]


def test_interleaved() -> None:
    assert _turn_texts(_composed("interleaved", _context(2))) == [
        ("user", "<>Question: q0?\nAnswer: a0\n\n<>Question: q1?\nAnswer: a1\n\n<>Question: q9?\nAnswer:")
    ]


def test_interleaved_text_first_with_an_instruction() -> None:
    node = {"name": "interleaved", "first": "text", "instruction": "long"}
    assert _turn_texts(_composed(node, _context(1))) == [
        ("user", LONG + "\nQuestion: q0?\n<>\nAnswer: a0\n\nQuestion: q9?\n<>\nAnswer:")
    ]


@pytest.mark.parametrize("name", ["chat", "interleaved"])
def test_without_demonstrations_the_instruction_stands_before_the_query(name: str) -> None:
    prompt = _composed({"name": name, "instruction_text": "Say it."}, _context(0))
    assert len(prompt.turns) == 1
    assert _turn_texts(prompt)[0][1].startswith("Say it.\n<>")
    assert prompt.spans["instruction"] == (0, 0)


@pytest.mark.parametrize("name", ["chat", "interleaved"])
def test_names_point_at_their_parts(name: str) -> None:
    context = _context(2, images=2)
    prompt = _composed(name, context)
    at = {key: prompt.turns[t].parts[p].content for key, (t, p) in prompt.spans.items()}
    assert at["demo[1].question"] == "q1?"
    assert at["demo[1].answer"] == "a1"
    assert at["demo[1].image[1]"] == context.demos[1].example.images[1]
    assert at["query.image[0]"] == context.query.images[0]
    assert len(at) == 2 * 4 + 3


def test_delimiters() -> None:
    chat = _composed({"name": "chat", "delimiter": "\n"}, _context(0, images=2))
    assert _turn_texts(chat) == [("user", "<><>\nq9?")]
    interleaved = _composed({"name": "interleaved", "delimiter": " ## "}, _context(1))
    assert _turn_texts(interleaved) == [("user", "<>Question: q0?\nAnswer: a0 ## <>Question: q9?\nAnswer:")]


@pytest.mark.parametrize("name", ["chat", "interleaved"])
def test_two_instructions_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="instruction is 'long' and instruction_text is set too"):
        build("composer", {"name": name, "instruction": "long", "instruction_text": "mine"})


@pytest.mark.parametrize("name", list(entries("composer")))
def test_a_system_turn_stands_before_all_others_and_changes_nothing_else(name: str) -> None:
    plain, with_system = (_composed({"name": name, **more}, _context(2)) for more in ({}, {"system": "Be short."}))
    assert with_system.turns == (Turn("system", (Part("Be short.", "system"),)), *plain.turns)
    assert with_system.key == plain.key == _context(2).key
    check_composer(build("composer", {"name": name, "system": "Be short."}))
    assert describe(build("composer", {"name": name, "system": None})) == describe(build("composer", name))
    assert describe(build("composer", {"name": name, "system": ""}))["system"] == ""


def test_edits_of_demonstrations_and_instructions_leave_the_system_turn() -> None:
    node: dict[str, Any] = {"name": "chat", "system": "Be short."}
    prompt = _composed(node, _context(2))
    assert remove_demonstrations(prompt).turns == _composed(node, _context(0)).turns
    edited = replace_instruction(prompt, "Look.")
    assert [turn.role for turn in edited.turns] == [turn.role for turn in prompt.turns]
    assert edited.turns[0] == prompt.turns[0]
    assert edited.turns[1].parts[0].text == "Look."


def test_an_own_composer_has_a_system_turn_from_its_base_class() -> None:
    @dataclass(frozen=True)
    class Short(BaseComposer):
        mark: str = "!"

        def turns(self, context: Context) -> list[Turn]:
            return [Turn("user", (Part(context.query.question), Part(self.mark)))]

    prompt = Short("?", system="s").compose(_context(0))
    assert _turn_texts(prompt)[0] == ("system", "s")
    assert _turn_texts(prompt)[1][1].endswith("?")


@pytest.mark.parametrize("name", ["chat", "interleaved", "blocks", "template"])
def test_a_request_for_short_answers_follows_every_question_and_changes_nothing_else(name: str) -> None:
    request = "Answer the question using a single word or phrase."
    free, short = (
        "".join(text for _, text in _turn_texts(_composed({"name": name, "answer": form}, _context(2))))
        for form in ("free", "short")
    )
    assert short.count(request) == 3
    assert short.replace(f"\n{request}", "") == free


def test_marked_answers_are_asked_for_and_demonstrated() -> None:
    (_, (_, answer), (_, query)) = _turn_texts(_composed({"name": "chat", "answer": "marked"}, _context(1)))
    assert answer == "Answer: a0"
    assert query == '<>q9?\nEnd with "Answer: " and the answer alone.'


def test_a_question_that_a_transform_removed_leaves_the_request_alone() -> None:
    example = Example("e", (), "", ("a",))
    prompt = _composed({"name": "chat", "answer": "short"}, Context(example.query, (), StreamKey(1, "e")))
    assert _turn_texts(prompt) == [("user", "Answer the question using a single word or phrase.")]
