"""Options in the question: by texts or letters, from the row to the score."""

from pathlib import Path
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.contexts.contexts import PromptItem, PromptSpec, Retrieval, build_contexts, render
from experiments.grid.feasibility import check_data
from experiments.grid.grid import expand
from experiments.planning.plan import make_plan
from experiments.running.recorder import as_stored
from icl.errors import DataError
from icl.metrics.accuracy import Lenient, OptionAccuracy, Strict
from icl.metrics.machinery.option_parsing import is_correct
from icl.option_listing import LETTERED, in_texts, list_options, with_listed_options, without_letters
from icl.registry import build, describe
from icl.types import Context, Demo, Example, Generation, OptionListing

REQUEST = "Answer with the option's letter from the given choices directly."
ROWS = [
    ("What is it?", "red", "green", "B"),
    ("And this?", "red", "green apple", "A"),
    ("What?", "a cat", "a dog", "A"),
]
COLUMNS = {"question": "q", "options": ["A", "B"], "answer": "answer", "hint": "hint"}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twelve questions with two options, of which half have a hint."""
    lines = ["q,A,B,answer,hint"]
    lines += [f"{q} ({i}),{a},{b},{answer},{'Look.' if i % 2 else ''}" for i in range(4) for q, a, b, answer in ROWS]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def task(path: Path, **keys: Any) -> dict[str, Any]:
    return {"name": "hub", "path": str(path), "columns": COLUMNS, "answer_is": "letter", **keys}


def config(path: Path, transforms: Any = (), **keys: Any) -> Any:
    shots = keys.pop("shots", [2])
    mapping = {"name": "r", "task": task(path, **keys), "model": "fake-copy", "grid": {"shots": shots}}
    return load_config({**mapping, "transforms": list(transforms)})


def items(path: Path, transforms: Any = (), **keys: Any) -> list[PromptItem]:
    (cell, *_) = expand(config(path, transforms, **keys)).cells
    retrieval = Retrieval(cell.task, cell.model)
    return [render(item) for (item,) in build_contexts(retrieval, [PromptSpec((cell,))], cell.task.queries)]


def test_options_of_each_row_are_listed_by_letters_after_a_hint(rows: Path) -> None:
    for item in items(rows):
        assert item.prompt is not None
        number = int(item.context.query.question.partition("(")[2][0])
        assert item.context.query.question.startswith("Hint: Look.\n") == bool(number % 2)
        letter, text = item.example.answers
        assert f"\n{letter}. {text}\n" in item.context.query.question
        assert item.context.query.question.endswith(REQUEST)
        assert item.example.options == ("A", "B")
        assert item.prompt.text.count(REQUEST) == 3
        assert {demo.example.answer for demo in item.context.demos} <= {"A", "B"}


def test_retrievers_and_pools_see_the_question_without_its_list(rows: Path) -> None:
    made = build("task", task(rows))
    for example in (*made.queries, *made.pool("").examples):
        assert REQUEST not in example.question
        assert set(example.answers) < set(example.options)


@pytest.mark.parametrize(
    ("keys", "ends"),
    [
        ({"list_options": "texts"}, "Options: red, green."),
        ({"list_options": "none"}, "What is it? (0)"),
        ({"question": "{q} {A} or {B}?"}, "What is it? (0) red or green?"),
    ],
)
def test_a_config_says_how_options_are_listed(rows: Path, keys: dict[str, Any], ends: str) -> None:
    columns = {name: column for name, column in COLUMNS.items() if name != "question" or "question" not in keys}
    item = next(
        i for i in items(rows, columns=columns, pool_fraction=0, shots=[0], **keys) if i.example.id == "test-000000"
    )
    assert item.context.query.question.endswith(ends)
    assert (item.example.answers, item.example.options) == (("green",), ("red", "green"))


def test_options_of_all_rows_are_listed_by_texts_but_yes_and_no(rows: Path) -> None:
    columns = {"question": "q", "answer": "answer"}
    listed = {"columns": columns, "answer_is": "text"}
    (item, *_) = items(rows, options=["A", "B", "C"], **listed)
    assert item.context.query.question.endswith("\nOptions: A, B, C.")
    assert item.example.answer in ("A", "B")
    (item, *_) = items(rows, options=["no", "yes"], answer_map={"A": "no", "B": "yes"}, **listed)
    assert item.context.query.question.endswith(")")
    named = [{"options": ["A", "B"], "question": "{q}\nA. {A}\nB. {B}"}]
    (item, *_) = items(rows, columns={"answer": "answer"}, answer_is="text", **named[0])
    assert "Options:" not in item.context.query.question


def test_a_transform_lists_options_in_place_of_the_task(rows: Path) -> None:
    for item in items(rows, [{"name": "option_list", "shift": 1}]):
        assert REQUEST not in item.context.query.question
        assert item.context.query.question.count("\nOptions: ") == 1
        assert item.example.answer in item.example.options
    for item in items(rows, [{"name": "option_list", "shift": 1, "letters": True}]):
        letter, text = item.example.answers
        assert f"\n{letter}. {text}\n" in item.context.query.question
        assert item.context.query.question.count(REQUEST) == 1


def test_renamed_options_have_letters_and_both_names_are_known(rows: Path) -> None:
    for item in items(rows, ["symbols"], shots=[4]):
        letter, text = item.example.answers
        assert f"\n{letter}. {text}\n" in item.context.query.question
        assert text in item.context.label_map.values()


EXAMPLE = Example("q", (), "Which?", ("red",), ("red apple", "red", "blue"), listing=LETTERED)


@pytest.mark.parametrize(
    ("output", "right"),
    [("B", 1), ("(B)", 1), ("B. red", 1), ("The answer is B.", 1), ("red", 1), ("It is red.", 1), ("A", 0), ("blue", 0),
     ("red apple", 0), ("It is a red apple.", 0), ("C. red", 0), ("red or blue", 0), ("", 0)],
)  # fmt: skip
def test_letters_and_texts_of_options_are_understood(output: str, right: int) -> None:
    listed = with_listed_options(EXAMPLE, LETTERED)
    assert (listed.answers, listed.options) == (("B", "red"), ("A", "B", "C"))
    assert Lenient().score(Generation(output), listed) == right
    assert is_correct(Generation(output), listed) == bool(right)


def test_option_scores_and_exact_answers_are_letters() -> None:
    listed = with_listed_options(EXAMPLE, LETTERED)
    assert OptionAccuracy().score(Generation("", option_scores={"A": -2.0, "B": -1.0, "C": -3.0}), listed) == 1
    assert OptionAccuracy().score(Generation("", option_scores={"A": -1.0, "B": -2.0, "C": -3.0}), listed) == 0
    assert [Strict().score(Generation(output), listed) for output in ("b", "red", "A")] == [1, 1, 0]


def test_options_that_are_letters_themselves_are_chosen_by_their_place() -> None:
    listed = with_listed_options(Example("q", (), "Which point?", ("B",), ("B", "A"), listing=LETTERED), LETTERED)
    assert (listed.answers, in_texts(listed)) == (("A",), listed)
    assert [Lenient().score(Generation(output), listed) for output in ("A", "B")] == [1, 0]


def test_a_stored_sample_is_scored_again_as_it_was_asked() -> None:
    listed = with_listed_options(EXAMPLE, LETTERED)
    sample = {"gold": list(listed.answers), "options": list(listed.options), "meta": dict(listed.meta)}
    assert as_stored(sample, EXAMPLE).answers == listed.answers
    assert Lenient().score(Generation("red apple"), as_stored(sample, EXAMPLE)) == 0
    before = {"gold": ["red"], "options": list(EXAMPLE.options)}  # stored before options had letters
    assert Lenient().score(Generation("red"), as_stored(before, EXAMPLE)) == 1


def test_a_random_answer_of_a_demonstration_keeps_its_text() -> None:
    odd = Example("d", (), "Which?", ("green",), ("red", "blue"), listing=LETTERED)
    (demo,) = list_options(Context(EXAMPLE.query, (Demo(odd),))).demos
    assert (demo.example.answers, demo.example.options) == (("green",), ("A", "B"))


def test_more_options_than_letters_are_an_error() -> None:
    many = Example("q", (), "Which?", ("1",), tuple(map(str, range(27))))
    with pytest.raises(DataError, match="27 options, more than there are letters"):
        with_listed_options(many, LETTERED)
    assert with_listed_options(many, OptionListing()).question.endswith("25, 26.")


def test_an_answer_that_is_no_option_is_refused_where_options_have_letters(rows: Path) -> None:
    columns = {"question": "q", "options": ["A", "B"], "answer": "answer"}
    with pytest.raises(DataError, match=r"the answer '[AB]' of 'test-.* is not among its options .* answer_is"):
        check_data(expand(config(rows, columns=columns, answer_is="text")))


def test_the_listing_is_part_of_the_digest_and_stored_cells_without_one_keep_theirs(rows: Path) -> None:
    by_default, without = (describe(build("task", task(rows, **keys))) for keys in ({}, {"list_options": "none"}))
    assert by_default["list_options"] == "letters"
    assert "list_options" not in without
    yes_no = {"columns": {"question": "q", "answer": "A"}, "answer_is": "text", "options": ["yes", "no"]}
    assert "list_options" not in describe(build("task", task(rows, **yes_no)))


@pytest.mark.parametrize(
    ("keys", "warns"), [({}, False), ({"list_options": "texts"}, False), ({"list_options": "none"}, True)]
)
def test_a_plan_says_that_options_are_not_in_the_prompt(rows: Path, keys: dict[str, Any], warns: bool) -> None:
    plan = make_plan(expand(config(rows, shots=[0], **keys)))
    assert [note for note in plan.unlisted if "options are not in the prompt" in note] == list(plan.unlisted)
    assert bool(plan.unlisted) == warns


@pytest.mark.parametrize(
    ("texts", "plain"),
    [
        (("A. cat", "(b) dog"), ("cat", "dog")),
        (("B. cat", "A. dog"), None),
        (("A. cat", "C. dog"), None),
        (("A. cat", "dog"), None),
    ],
)
def test_options_lose_letters_of_their_own_only_if_these_name_their_places(
    texts: tuple[str, ...], plain: tuple[str, ...] | None
) -> None:
    assert without_letters(texts) == (plain or texts)


@pytest.mark.parametrize(("question", "is_listed"), [("Is it a cat?", True), ("Is it a cat or a dog?", False)])
def test_texts_are_listed_unless_the_question_names_all_of_them(question: str, is_listed: bool) -> None:
    query = Example("q", (), question, ("cat",), ("cat", "dog"), listing=OptionListing()).query
    assert list_options(Context(query)).query.question == question + "\nOptions: cat, dog." * is_listed
