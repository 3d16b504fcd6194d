"""Marked text becomes a prompt, or an error that says which piece is wrong."""

import pytest

from icl.errors import ConfigError
from icl.streams import StreamKey
from icl.types import Context, Example, Part
from prompts.markup import NUL, Mark, prompt_of, role_mark

CONTEXT = Context(Example("q", (), "which?", ()).query, (), StreamKey(3, "q"))
PARTS = {name: Part(f"<{name}>", name) for name in ("a", "b")}
A, B, USER, ASSISTANT = Mark.of("a"), Mark.of("b"), role_mark("user"), role_mark("assistant")


def _turns(text: str) -> list[tuple[str, str]]:
    prompt = prompt_of(text, PARTS, CONTEXT, "template 't'")
    assert prompt.key == CONTEXT.key
    return [(turn.role, "".join(str(part.text) for part in turn.parts)) for turn in prompt.turns]


def test_text_and_pieces_stand_in_the_turns_that_the_marks_begin() -> None:
    assert _turns(f"one {A} two{B}") == [("user", "one <a> two<b>")]
    text = f"{USER}\n  x {A}\n {ASSISTANT} y {USER}z{B}\n"
    assert _turns(text) == [("user", "x <a>"), ("assistant", "y"), ("user", "z<b>\n")]
    assert _turns(f"{USER}{A}{ASSISTANT}{USER}{B}") == [("user", "<a>"), ("user", "<b>")]


def test_pieces_keep_their_names_and_text_has_none() -> None:
    (turn,) = prompt_of(f"one {A}{B}", PARTS, CONTEXT, "t").turns
    assert [part.name for part in turn.parts] == ["", "a", "b"]


@pytest.mark.parametrize(("text", "says"), [
    (f"{A}", "it lacks b"),
    ("", "it lacks a, b"),
    (f"{A}{B}{A}", "it contains a more than once"),
    (f"{A}{B}{NUL}", "a filter changed a piece"),
    (f"{A}{B}{NUL}A{NUL}", "a filter changed a piece into 'A'"),
    (f"{A}{B}{NUL}@system{NUL}", "a filter changed a piece into '@system'"),
    (f"{A}{B}{NUL}user{NUL}", "a filter changed a piece into 'user'"),
    (f"{USER}{A}{ASSISTANT}{B}", "the prompt ends in the assistant's turn"),
])  # fmt: skip
def test_a_changed_missing_or_repeated_piece_is_an_error(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"^template 't', query 'q': {says}"):
        _turns(text)


def test_no_text_and_no_piece_is_no_prompt() -> None:
    with pytest.raises(ConfigError, match="ends in the assistant's turn"):
        prompt_of("", {}, CONTEXT, "t")


def test_a_mark_carries_the_number_of_its_image() -> None:
    assert (Mark.of("a").number, Mark.of("a", 3).number) == (0, 3)
    assert Mark.of("a", 3) == f"{NUL}a{NUL}"
