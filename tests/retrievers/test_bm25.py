"""BM25 against its formula, written out for a pool of three."""

from collections.abc import Callable
from math import log
from typing import Any

import pytest

from icl.tasks.base import Pool
from retrievers.base import Resources
from retrievers.bm25 import BM25

Make = Callable[..., Any]


@pytest.fixture
def pool(example: Make) -> Pool:
    texts = ["Which red cat?", "red red dog", "a dog a dog a dog"]
    return Pool(tuple(example(f"e{i}", None, "cat" if i else "dog", question=text) for i, text in enumerate(texts)))


def test_scores_are_the_formula(pool: Pool) -> None:
    mean = (3 + 3 + 6) / 3

    def adds(df: int, tf: int, length: int) -> float:
        return log(1 + (3 - df + 0.5) / (df + 0.5)) * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * length / mean))

    scores = BM25().fit(pool, Resources()).scores("RED dog, red!")
    assert scores == pytest.approx([2 * adds(2, 1, 3), 2 * adds(2, 2, 3) + adds(2, 1, 3), adds(2, 3, 6)])


def test_the_rare_word_decides_and_the_rest_follow_in_pool_order(pool: Pool, example: Make) -> None:
    (demos,) = BM25().fit(pool, Resources()).retrieve([example("q", None, question="which cat, red cat").query], 3)
    assert demos[0].id == "e0"
    (none,) = BM25().fit(pool, Resources()).retrieve([example("q", None, question="nothing of it").query], 3)
    assert [(one.id, one.score) for one in none] == [("e0", 0), ("e1", 0), ("e2", 0)]


def test_idf_is_never_negative(pool: Pool) -> None:
    """A word that all members have has a small positive weight. The original idf would reverse the order."""
    texts = BM25(text="both").fit(pool, Resources())
    assert (texts.scores("dog") > 0).all()


def test_text_selects_the_searched_field(pool: Pool) -> None:
    assert BM25(text="answer").fit(pool, Resources()).scores("cat").argmax() == 1
    assert BM25(text="answer").fit(pool, Resources()).scores("cat")[0] == 0


def test_the_query_is_not_its_own_demonstration(pool: Pool) -> None:
    (demos,) = BM25().fit(pool, Resources()).retrieve([pool.examples[0].query], 2)
    assert [one.id for one in demos] == ["e1", "e2"]
