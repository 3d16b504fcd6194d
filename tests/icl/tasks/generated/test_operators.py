"""Tests of operator induction."""

from collections import Counter

import pytest

from icl.errors import ConfigError
from icl.tasks.generated.operators import RESULTS, OperatorsTask, identifiable


def test_the_pool_of_a_query_uses_its_operator_and_never_its_digits():
    task = OperatorsTask(support=54)
    for query in task.queries[:12]:
        operator = RESULTS[query.secret["operator"]]
        pool = task.pool(query.id).examples
        pairs = [(e.secret["left"], e.secret["right"]) for e in pool]
        assert len(set(pairs)) == 54
        assert (query.secret["left"], query.secret["right"]) not in pairs
        assert all(e.answer == str(operator(*pair)) for e, pair in zip(pool, pairs, strict=True))
        assert all(left >= right for left, right in pairs)


def test_operators_are_equally_frequent_and_the_number_of_a_query_does_not_tell_them():
    queries = OperatorsTask(query_limit=90).queries
    assert set(Counter(q.secret["operator"] for q in queries).values()) == {30}
    assert len({tuple(q.secret["operator"] for q in queries[i : i + 3]) for i in range(0, 90, 3)}) > 3


def test_options_are_the_results_of_the_operators():
    for query in OperatorsTask().queries:
        left, right = query.secret["left"], query.secret["right"]
        assert query.options == tuple(str(n) for n in sorted({left + right, left - right, left * right}))


def test_a_named_operator_is_in_the_question_only():
    named, hidden = OperatorsTask(name_operator=True).queries[0], OperatorsTask().queries[0]
    assert named.secret["operator"] in named.question
    assert named.answers == hidden.answers
    assert "operator" not in hidden.meta
    assert hidden.secret["operator"] not in hidden.question


def test_demonstrations_identify_the_operator_only_if_one_fits():
    task = OperatorsTask(query_limit=3)
    pool = {(e.secret["operator"], e.secret["left"], e.secret["right"]): e for q in task.queries
            for e in OperatorsTask(query_limit=3, support=54).pool(q.id).examples}  # fmt: skip
    assert not identifiable([])
    assert not identifiable([pool["plus", 2, 2]])
    assert not identifiable([pool["minus", 7, 0]])
    assert identifiable([pool["plus", 3, 1]])
    assert identifiable([pool["minus", 7, 0], pool["minus", 3, 2]])


def test_a_pool_of_all_pairs_is_refused():
    with pytest.raises(ConfigError, match="support 55 is more than the 54 other pairs"):
        OperatorsTask(support=55)
