"""CMMU's three types of questions, from its lines to its scores."""

import json

import pytest
from PIL import Image as PILImage

from icl.errors import DataError
from icl.metrics.published_rules import chosen_letters, normalized_line
from icl.registry import build
from icl.testing import check_task
from icl.types import Generation

METRIC = build("metric", "cmmu")


@pytest.fixture
def path(tmp_path):
    rows = []
    for i in range(6):
        PILImage.new("RGB", (8, 8), (40 * i, 9, 9)).save(tmp_path / f"{i}.png")
        shared = {"images": [f"{i}.png"], "grade_band": "小学", "subject": "math", "difficulty": "普通"}
        options = ["one", "two", "three", "four"]
        rows += [
            {"id": f"c{i}", "type": "multiple-choice", "question_info": "which?", "options": options,
             "answer": "ABCD"[i % 4], **shared},
            {"id": f"r{i}", "type": "multiple-response", "question_info": "which ones?", "options": options,
             "answer": "DB" if i % 2 else "A", **shared},
            {"id": f"f{i}", "type": "fill-in-the-blank", "question_info": "it is", "sub_questions": ["a __", "b __"],
             "answer": [f"{i}cm", "减小"], **shared},
        ]  # fmt: skip
    path = tmp_path / "val.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def task(path, **more):
    return build("task", {"name": "cmmu", "path": str(path), **more})


def test_each_type_has_its_form(path) -> None:
    every = task(path, pool_fraction=0)
    by_type = {kind: [q for q in every.queries if q.meta["type"] == kind] for kind in every.types}
    choice, response, blank = by_type.values()
    assert [len(choice), len(response), len(blank)] == [6, 6, 12]
    assert all(q.options and q.answer in q.options for q in choice)
    assert {q.answer for q in response} == {"A", "BD"}
    assert all(q.question.endswith("A. one\nB. two\nC. three\nD. four") and not q.options for q in response)
    assert {q.question for q in blank} == {"it is a __", "it is b __"}
    assert len({q.group for q in blank}) == 6
    check_task(task(path, types=["multiple-choice"]))
    assert len(task(path, types=["multiple-response"], queries=2).queries) == 2


def test_every_type_is_scored_by_its_rule(path) -> None:
    for query in task(path, pool_fraction=0).queries:
        right = {"multiple-choice": query.answer, "multiple-response": f"答案是 {query.answer[::-1]}。"}
        assert METRIC.score(Generation(right.get(query.meta["type"], f"x\n结果{query.answer}")), query) == 1
        assert METRIC.score(Generation("none of these"), query) == 0


def test_letters_of_several_options() -> None:
    assert [chosen_letters(t) for t in ("故选：ABD", "D, B", "The answer is A、C", "BAD idea, so A")] == [
        "ABD", "BD", "AC", "ABD"]  # fmt: skip
    assert chosen_letters("I") == "I"
    assert chosen_letters("CMMU2024: none") == ""


def test_blanks_are_read_after_a_cue_without_units() -> None:
    assert normalized_line("答案为：12cm。") == "12"
    assert normalized_line("变小") == normalized_line("减小。")


def test_a_wrong_file_is_a_sentence(path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        _ = task(path.parent / "none.jsonl").queries
    path.write_text('{"id": 1, "type": "multiple-choice", "question_info": "q", "answer": "Z", "images": []}')
    with pytest.raises(DataError, match="no letter of its 0 options"):
        _ = task(path, pool_fraction=0).queries
