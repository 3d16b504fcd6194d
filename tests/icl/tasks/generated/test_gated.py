"""Tests of two rules in one pool."""

from collections import Counter

import pytest

from icl.errors import ConfigError
from icl.registry import build
from icl.tasks.generated.operators import ATTRIBUTE_OF, GatedTask


def test_the_image_decides_which_rule_answers() -> None:
    shapes, sums = GatedTask(), GatedTask("operator")
    for example in (*shapes.queries, *shapes.pool("").examples):
        assert example.answer == example.secret[ATTRIBUTE_OF[example.secret["texture"]]]
        assert example.options == tuple(example.secret[one] for one in ("color", "shape", "texture", "size"))
    for example in (*sums.queries, *sums.pool("").examples):
        left, right = example.secret["left"], example.secret["right"]
        assert example.answer == str(left * right if left % 2 else left + right)
        assert len(example.options) == 2
    for task in (shapes, sums):
        assert min(Counter(query.secret["rule"] for query in task.queries).values()) > 60


def test_half_of_a_misleading_pool_is_small_and_answers_with_the_texture() -> None:
    task = GatedTask(misleading=True, support=200)
    small = [member for member in task.pool("").examples if member.secret["size"] == "small"]
    assert 80 < len(small) < 120
    assert all(member.answer == member.secret["texture"] for member in small)
    assert all(
        m.answer == m.secret[ATTRIBUTE_OF[m.secret["texture"]]] for m in task.pool("").examples if m not in small
    )
    assert [query.answer for query in task.queries] == [query.answer for query in GatedTask().queries]
    with pytest.raises(ConfigError, match="misleading: true is for rule: attribute"):
        build("task", {"name": "gated", "rule": "operator", "misleading": True})


def test_splits_share_the_pool_and_no_image() -> None:
    train, test = GatedTask(split="train", query_limit=30), GatedTask(query_limit=30)
    assert train.pool("").digest == test.pool("").digest
    groups = [train.queries, test.queries, test.pool("").examples]
    digests = [{image.digest for example in group for image in example.images} for group in groups]
    assert sum(map(len, digests)) == len(set.union(*digests))
    assert not {query.id for query in train.queries} & {query.id for query in test.queries}
