import json
import re
from dataclasses import replace

import pytest

from experiments.store.labels import LABELS, Label, append_labels, label_key, read_labels, unite_labels
from icl.errors import StoreError


def test_the_last_label_of_a_person_counts_and_a_withdrawn_one_is_gone(tmp_path):
    for right in (True, False):
        append_labels(tmp_path, [Label("a", right, "ana", look=60)])
    append_labels(tmp_path, [Label("b", True, "ana", look=20), Label("b", None, "ana", withdrawn=True)])
    labels = read_labels(tmp_path)
    assert (labels.verdict("a"), labels.verdict("b"), labels.looks) == (False, None, (20, 60))
    assert set(labels.people) == {"a"}
    assert len((tmp_path / LABELS).read_text().splitlines()) == 4


def test_people_who_disagree_leave_an_output_unread_and_one_who_cannot_tell_does_not(tmp_path):
    append_labels(tmp_path, [Label("a", True, "ana"), Label("a", False, "bo"), Label("b", True, "ana")])
    append_labels(tmp_path, [Label("b", None, "bo")])
    labels = read_labels(tmp_path)
    assert labels.disputed == ["a"]
    assert (labels.verdict("a"), labels.verdict("b"), labels.persons) == (None, True, ["ana", "bo"])


def test_a_judge_is_no_person(tmp_path):
    append_labels(tmp_path, [Label("a", True, "qwen", judge="d1"), Label("a", False, "qwen", judge="d1")])
    labels = read_labels(tmp_path)
    assert (labels.people, labels.judged, labels.judges) == ({}, {"a": False}, ("qwen",))


@pytest.mark.parametrize("damage", [(b"true", b"tru"), (b"{", b""), (b'"bbb', b'"\xffbb')])
def test_a_label_that_a_damaged_line_took_back_does_not_return(tmp_path, damage):
    first, second = "a" * 32, "b" * 32
    append_labels(tmp_path, [Label(first, True, "ana"), Label(second, False, "ana"), Label(first, True, "ana")])
    append_labels(tmp_path, [Label(second, True, "ana"), Label(second, None, "ana", withdrawn=True)])
    *lines, last = (tmp_path / LABELS).read_bytes().splitlines(keepends=True)
    (tmp_path / LABELS).write_bytes(b"".join([*lines, last.replace(*damage)]))
    labels = read_labels(tmp_path)
    assert labels.damaged == (f"line 5 of {tmp_path / LABELS}",)
    assert (labels.verdict(first), labels.verdict(second)) == (True, None)


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"key": "a"}', '{"key": "a", "right": 1, "by": "x"}', '{"key": 1, "right": true, "by": "x"}', "\xff"],
)
def test_a_damaged_line_is_skipped_and_its_place_returned(tmp_path, line):
    append_labels(tmp_path, [Label("other", True, "ana"), Label("key", True, "ana")])
    with (tmp_path / LABELS).open("ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    append_labels(tmp_path, [Label("b", False, "ana")])
    labels = read_labels(tmp_path)
    assert labels.damaged == (f"line 3 of {tmp_path / LABELS}",)
    assert [labels.verdict(key) for key in ("other", "key", "b")] == [True, None, False]


def test_a_line_that_a_killed_process_left_is_cut_off(tmp_path):
    append_labels(tmp_path, [Label("a", True, "ana"), Label("b", True, "ana")])
    path = tmp_path / LABELS
    path.write_bytes(path.read_bytes()[:-20])
    assert read_labels(tmp_path).damaged == ()
    append_labels(tmp_path, [Label("c", False, "ana")])
    assert {key: read_labels(tmp_path).verdict(key) for key in "abc"} == {"a": True, "b": None, "c": False}


def test_a_link_is_not_written_through(tmp_path):
    (tmp_path / "other").write_text("")
    (tmp_path / LABELS).symlink_to(tmp_path / "other")
    with pytest.raises(StoreError, match="is a link"):
        append_labels(tmp_path, [Label("a", True, "ana")])


def test_a_label_is_of_question_answers_options_and_output_but_not_of_the_reasoning():
    key = label_key("q", ["a"], ["a", "b"], "<think>x</think> a ")
    assert key == label_key("q", ["a"], ["a", "b"], "a")
    others = [
        ("p", ["a"], ["a", "b"], "a"),
        ("q", ["b"], ["a", "b"], "a"),
        ("q", ["a"], [], "a"),
        ("q", ["a"], ["a", "b"], "b"),
    ]
    assert key not in {label_key(*one) for one in others}


def test_united_labels_have_equal_lines_once_and_no_names_if_they_are_pushed(tmp_path):
    runs = [tmp_path / name for name in "xyz"]
    for run in runs:
        run.mkdir()
    append_labels(runs[0], [Label("a", True, "ana", "2026-01-01T00:00:00+0000"), Label("b", True, "j", judge="d")])
    (runs[1] / LABELS).write_text((runs[0] / LABELS).read_text())
    append_labels(runs[1], [Label("a", False, "bo", "2026-01-02T00:00:00+0000")])
    assert unite_labels(runs[2], runs[:2], anonymous=True) == 3
    lines = [json.loads(line) for line in (runs[2] / LABELS).read_text().splitlines()]
    judge, *people = sorted({line["by"] for line in lines})
    assert judge == "j"
    assert len(people) == 2
    assert all(re.fullmatch("person [0-9a-f]{4}", by) for by in people)
    assert read_labels(runs[2]).disputed == read_labels(runs[1]).disputed == ["a"]


def test_a_label_that_is_given_again_after_an_undo_in_the_same_second_stays_in_a_merge(tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    out.mkdir()
    label = Label("k", True, "ana", at="2026-01-31T09:30:00+0100")
    append_labels(run, [label, replace(label, withdrawn=True), label])
    unite_labels(out, [run, run])
    assert read_labels(out).people == read_labels(run).people == {"k": {"ana": True}}
