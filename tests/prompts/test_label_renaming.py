"""Renamed answers, and the gold that scores a query."""

from icl.types import Context, Demo, Example
from prompts.example_changes import (
    answers_of,
    compose_names,
    gold_before_after,
    new_name,
    rivals,
    rivals_of,
    scored_example,
    with_answer,
)

QUERY = Example("q", (), "?", ("Red", "crimson"), ("red", "blue"), label="red")
SYMBOLS = {"red": "dax", "blue": "wug"}


def _context(**changes: object) -> Context:
    demos = tuple(Demo(Example(f"e{i}", (), "?", (word,)), 0.5, i) for i, word in enumerate(("blue", "green", "Blue.")))
    return Context(QUERY.query, demos[::-1], **changes)  # type: ignore[arg-type]


def test_options_come_before_demonstrated_answers_and_each_answer_once() -> None:
    assert answers_of(_context()) == ("red", "blue", "green")


def test_answers_are_compared_by_their_normalized_form() -> None:
    assert new_name("Red.", SYMBOLS) == "dax"
    assert new_name("green", SYMBOLS) == "green"


def test_symbols_are_scored_by_the_symbol_and_flips_by_the_task() -> None:
    symbols = _context(label_map=SYMBOLS, relabels_gold=True)
    scored = scored_example(QUERY, symbols)
    assert (scored.answers, scored.options, scored.label) == (("dax", "crimson"), ("dax", "wug"), "dax")
    assert gold_before_after(scored, symbols) == ("red", "dax")
    flipped = _context(label_map={"red": "blue", "blue": "red"})
    assert scored_example(QUERY, flipped) is QUERY
    assert gold_before_after(QUERY, flipped) == ("Red", "blue")


def test_a_map_that_leaves_the_right_answer_alone_says_nothing() -> None:
    assert gold_before_after(QUERY, _context(label_map={"blue": "green"})) == ()
    assert gold_before_after(QUERY, _context()) == ()


def test_a_second_map_goes_on_from_the_first() -> None:
    assert compose_names({"red": "blue", "blue": "red"}, SYMBOLS) == {"red": "wug", "blue": "dax"}
    assert compose_names({}, SYMBOLS) == SYMBOLS


def test_the_label_changes_only_if_there_is_one() -> None:
    bare = Demo(Example("e", (), "?", ("red", "crimson")))
    assert with_answer(bare, "dax").example.answers == ("dax",)
    assert with_answer(bare, "dax").example.label is None


def test_rivals_are_the_answers_of_one_question() -> None:
    def demo(rank: int, answer: str, *options: str) -> Demo:
        return Demo(Example(f"e{rank}", (), "?", (answer,), options), 0.5, rank)

    query = Example("q", (), "?", ("no",), ("yes", "no")).query
    demos = (
        demo(3, "2"),
        demo(2, "red", "red", "blue"),
        demo(1, "five"),
        demo(0, "No.", "no", "yes"),
        demo(4, "tan", "blue"),
    )
    groups = rivals_of(Context(query, demos))
    assert groups == [("yes", "no"), ("red", "blue", "tan"), ("five", "2")]
    assert rivals("Blue", groups) == ("red", "blue", "tan")
    assert rivals_of(Context(QUERY.query)) == [("red", "blue")]
    assert rivals_of(Context(Example("q", (), "?", ("a",)).query)) == []
