"""Tests of attribute selection."""

from collections import Counter

from icl.tasks.generated.scenes import AttributeTask


def test_only_the_answers_of_the_pool_reveal_the_attribute():
    task = AttributeTask(query_limit=40)
    for query in task.queries[:12]:
        attribute = query.secret["asked"]
        assert query.answer == query.secret[attribute]
        assert all(e.answer == e.secret[attribute] for e in task.pool(query.id).examples)
        assert attribute not in f"{query.question} {query.meta} {query.id}"
    assert len({q.question for q in task.queries}) == 1


def test_attributes_are_equally_frequent():
    assert set(Counter(q.secret["asked"] for q in AttributeTask(query_limit=40).queries).values()) == {10}


def test_options_are_the_four_true_answers_about_the_querys_image():
    for query in AttributeTask().queries:
        assert len(set(query.options)) == 4
        drawing = query.images[0].load
        assert query.options == (drawing.color, drawing.shape, drawing.texture, drawing.size)


def test_the_pools_share_a_bank_of_images():
    task = AttributeTask(query_limit=40, bank=50)
    assert len({e.images[0].origin for q in task.queries for e in task.pool(q.id).examples}) == 50
