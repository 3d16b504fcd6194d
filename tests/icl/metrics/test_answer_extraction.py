"""Extraction of answers from outputs, and the shipped cases that test the lenient score."""

import json
import time
from collections import Counter

import pytest

from experiments.cli.check import SHIPPED, disagreements, read_cases
from icl.errors import ConfigError, DataError
from icl.metrics.accuracy import Lenient, Strict
from icl.metrics.machinery.answer_extraction import extract_answer
from icl.types import Example, Generation

UNDECIDABLE = (
    "Everything is purple except",
    "bus stop",
    "ham. Short answer: cheese",
    "tabby cat",
    "polar bear",
    "river otter",
    "two-story house",
    "street market",
    "cardboard box",
    "The man, the woman and the child",
)
"""Outputs that only their question or knowledge could decide: a tabby cat is a cat, a hot dog is no dog."""


def test_the_lenient_score_agrees_with_the_shipped_cases() -> None:
    cases = read_cases(SHIPPED)
    assert len(cases) >= 3000
    assert Counter(case.right for case in cases).most_common()[1][1] >= 1000
    others = list(disagreements(Lenient(), cases))
    assert len(others) <= len(UNDECIDABLE)
    assert all(any(text in other for text in UNDECIDABLE) for other in others), others


def test_the_shipped_cases_tell_a_scorer_that_reads_bare_answers_alone_from_a_lenient_one() -> None:
    cases = read_cases(SHIPPED)
    assert len(list(disagreements(Strict(), cases))) > len(cases) / 5


@pytest.mark.parametrize(
    ("output", "text", "form", "reasoned"),
    [
        ("red", "red", "bare", False),
        ("**Red**.", "Red", "emphasized", False),
        ("The answer is **red**.", "red", "labeled", False),
        ("<think>blue?</think>\n\nred", "red", "bare", True),
        ("<think>it is red", "", "none", True),
        ("", "", "none", False),
        ("\\boxed{\\text{dark \\textbf{red}}}", "dark red", "boxed", False),
        ('```json\n{"why": "paint", "answer": "red"}\n```', "red", "json", False),
        ('{"answer": "red", "why": "the', "red", "json", False),
        ("<answer>red</answer>", "red", "tagged", False),
        ("red\nQuestion: what next?\nAnswer: blue", "red", "bare", False),
        ("A car stands near the tree in the sun.\nSo it must be **red**.", "red", "concluded", False),
        ("The old car near the tree has been painted in red.", "The old car near the tree has been painted in red",
         "sentence", False),
    ],
)  # fmt: skip
def test_the_form_of_an_answer_is_reported_with_its_text(output: str, text: str, form: str, reasoned: bool) -> None:
    answer = extract_answer(output)
    assert (answer.text, answer.form, answer.reasoned) == (text, form, reasoned)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("auto", "blue"),
        ("first_line", "It may be red"),
        ("last_line", "Verdict> green"),
        ("boxed", "gray"),
        ("none", "It may be red.\n\\boxed{gray}\n<answer>blue</answer>\nVerdict> green"),
        ("after:Verdict>", "green"),
        (r"regex:Verdict> (\w)", "g"),
        ("regex:b.ue", "blue"),
        ("after:Nothing", ""),
    ],
)
def test_each_rule_reads_its_own_part(rule: str, text: str) -> None:
    output = "It may be red.\n\\boxed{gray}\n<answer>blue</answer>\nVerdict> green"
    assert extract_answer(output, rule).text == text
    score = Lenient(rule).score(Generation(output), Example("e", (), "?", ("green",)))
    assert score == float(rule in ("after:Verdict>",))


@pytest.mark.parametrize(("rule", "says"), [("boxd", "Did you mean 'boxed'"), ("regex:(", "not a regular expression"),
                                            ("after:", "no rule 'after:'")])  # fmt: skip
def test_an_unknown_rule_is_refused(rule: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Lenient(rule)


@pytest.mark.parametrize(("output", "score"), [("a", 0), ("A", 1), ("a)", 1), ("(a)", 1), ("b", 0)])
def test_an_article_without_its_noun_is_no_letter(output: str, score: int) -> None:
    assert Lenient().score(Generation(output), Example("e", (), "?", ("cat",), ("cat", "dog"))) == score


@pytest.mark.parametrize("size", [1000, 20000])
@pytest.mark.parametrize(
    "piece",
    [
        *("*", "**a", "{", "\\boxed{", "<think>", "a ", "not ", "answer is ", "\n", '{"a":', "(A) "),
        *("<answer>", "it is a cat in ", "( a b c d ", "may 5 ", "if ", "zebras "),
    ],
)
def test_long_hostile_outputs_take_little_time(piece: str, size: int) -> None:
    import time

    start = time.process_time()
    Lenient().score(Generation(piece * (size // len(piece))), Example("e", (), "?", ("red",), ("red", "blue")))
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("no json", "is not a JSON object"),
        ("[1]", "is not a JSON object"),
        (json.dumps({"output": "x", "answers": "x", "right": True}), "'answers' must be there as a list"),
        (json.dumps({"output": "x", "answers": [], "right": True}), "at least one answer"),
        (json.dumps({"output": "x", "answers": ["x"]}), "'right' must be there as a bool"),
    ],
)
def test_a_line_that_is_no_case_is_refused_with_its_place(tmp_path, line, says) -> None:
    (tmp_path / "cases.jsonl").write_text('{"output": "x", "answers": ["x"], "right": true}\n' + line + "\n")
    with pytest.raises(DataError, match=rf"cases\.jsonl:2: .*{says}"):
        read_cases(tmp_path / "cases.jsonl")


def test_a_file_without_cases_is_refused(tmp_path) -> None:
    (tmp_path / "cases.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=r"cases\.jsonl has no case"):
        read_cases(tmp_path / "cases.jsonl")


@pytest.mark.parametrize("piece", ["1 = 2 ", "total of ", "wait, no ", "A, B, ", "statement ", "the image ", "*a* "])
def test_a_loop_of_a_base_model_is_scored_in_no_time(piece: str) -> None:
    start = time.process_time()
    for answers in (("12",), ("yes",), ("cat",)):
        Lenient().score(Generation(piece * 500), Example("q", (), "", answers))
    assert time.process_time() - start < 1
