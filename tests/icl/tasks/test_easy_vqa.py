"""Tests of the easy-vqa task on the package itself."""

import sys
from collections import Counter

import pytest

from icl.errors import ConfigError, DataError
from icl.registry import build, describe
from icl.tasks.few_shot_benchmarks import OPTIONS, EasyVQATask, question_type
from icl.testing.conformance import check_task


@pytest.fixture(scope="module")
def everything() -> EasyVQATask:
    return EasyVQATask(query_limit=None, support_limit=None)


def test_train_is_the_pool_and_test_the_queries(everything):
    assert (everything.pool_size, len(everything.queries)) == (38_575, 9_673)
    assert {e.meta["split"] for e in everything.queries} == {"test"}
    assert {e.meta["split"] for e in everything.pool("any").examples} == {"train"}


def test_every_answer_is_an_option_of_its_type_of_question(everything):
    examples = [*everything.queries, *everything.pool("any").examples]
    assert all(e.answer in e.options for e in examples)
    assert {e.answer for e in examples} == {answer for options in OPTIONS.values() for answer in options}
    assert set(Counter(e.meta["type"] for e in examples)) == set(OPTIONS)


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("what is the blue shape?", "shape"),
        ("what shape is present?", "shape"),
        ("what color is the shape?", "color"),
        ("what is the color of the circle?", "color"),
        ("is there not a circle?", "yes/no"),
        ("does the image contain a teal shape?", "yes/no"),
    ],
)
def test_the_type_is_read_from_the_question(question, kind):
    assert question_type(question) == kind


def test_questions_about_one_image_share_group_and_image(everything):
    groups: dict[str, set[int]] = {}
    for example in everything.queries:
        groups.setdefault(example.group, set()).add(id(example.images[0]))
    assert len(groups) == 1000
    assert all(len(images) == 1 for images in groups.values())


def test_limits_choose_nested_fixed_subsets():
    few, more, other = EasyVQATask(query_limit=50), EasyVQATask(query_limit=80), EasyVQATask(query_limit=50, seed=1)
    assert [e.id for e in few.queries] == [e.id for e in more.queries][:50]
    assert [e.id for e in few.queries] != [e.id for e in other.queries]
    small, large = EasyVQATask(support_limit=10).pool(""), EasyVQATask(support_limit=300).pool("")
    assert list(small.by_id) == list(large.by_id)[:10]
    assert EasyVQATask().pool_size == 1000


def test_the_pool_is_one_object_and_opens_no_image(monkeypatch):
    from PIL import Image as PILImage

    monkeypatch.setattr(PILImage, "open", lambda *a, **k: pytest.fail("an image was opened"))
    task = EasyVQATask(query_limit=5, support_limit=None)
    assert task.pool(task.queries[0].id) is task.pool(task.queries[1].id)
    assert len(task.pool("").digest) == 64


def test_origins_do_not_name_this_machine():
    example = EasyVQATask(query_limit=1).queries[0]
    assert example.images[0].origin.startswith("easy-vqa/test/")


def test_a_missing_package_is_a_sentence_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(DataError, match=r"pip install easy-vqa"):
        _ = EasyVQATask().queries


def test_the_config_says_queries_and_pool_size():
    task = build("task", {"name": "easy-vqa", "queries": 7, "pool_size": 9})
    assert (len(task.queries), task.pool_size) == (7, 9)
    assert describe(task) == {"name": "easy-vqa", "queries": 7, "pool_size": 9, "seed": 0}
    with pytest.raises(ConfigError, match=r"easy-vqa', queries: .* not 0"):
        build("task", {"name": "easy-vqa", "queries": 0})


def test_it_keeps_the_promises_of_a_task():
    check_task(EasyVQATask(query_limit=30, support_limit=400))


def test_more_than_there_are_is_a_sentence():
    with pytest.raises(DataError, match=r"queries: 20000 is more than the 9,673 test questions of easy-vqa"):
        _ = EasyVQATask(query_limit=20_000).queries
