"""Tests of fast binding."""

from collections import Counter

import pytest

from icl.errors import ConfigError
from icl.registry import build
from icl.tasks.generated.binding import BindingTask
from icl.tasks.generated.wording import NONCE
from icl.tasks.generated.world import HELD_OUT_CONCEPTS


def concept(example):
    pair = example.secret["concept"]
    return tuple(pair) if isinstance(pair, list) else pair


def test_a_name_means_one_concept_in_an_episode_and_the_query_is_named_there():
    task = BindingTask(ways=4)
    for query in task.queries[:20]:
        pool = task.pool(query.id).examples
        meaning = {(e.answer, concept(e)) for e in pool}
        assert len(meaning) == len({name for name, _ in meaning}) == len({c for _, c in meaning}) == 4
        assert (query.answer, concept(query)) in meaning
        assert set(query.options) == {name for name, _ in meaning}
        assert set(query.options) <= set(NONCE)


def test_names_and_concepts_are_redrawn_for_every_query():
    queries = BindingTask(query_limit=100).queries
    assert len({query.options for query in queries}) > 95
    assert len({concept(query) for query in queries}) > 12
    named = Counter(query.answer for query in queries)
    assert named.most_common(1)[0][1] <= 6


def test_the_gold_stands_at_no_special_place_among_the_options():
    places = Counter(query.options.index(query.answer) for query in BindingTask(ways=4, query_limit=400).queries)
    assert all(70 <= places[place] <= 130 for place in range(4))


def test_the_support_is_balanced_over_the_ways_at_every_whole_round():
    task = BindingTask(ways=4, support=5)
    for query in task.queries[:5]:
        answers = [e.answer for e in task.pool(query.id).examples]
        assert len(answers) == task.pool_size == 20
        for rounds in range(1, 6):
            assert set(Counter(answers[: 4 * rounds]).values()) == {rounds}


def test_more_concepts_than_ways_are_in_the_pool_and_no_option():
    task = BindingTask(ways=2, concepts=8)
    query = task.queries[0]
    pool = task.pool(query.id).examples
    assert len(query.options) == 2
    assert len({e.answer for e in pool}) == 8
    assert set(query.options) < {e.answer for e in pool}


def test_images_of_the_pool_come_from_a_bank_and_the_querys_does_not():
    task = BindingTask(query_limit=60, bank=8)
    pool_digests = {e.images[0].digest for q in task.queries for e in task.pool(q.id).examples}
    assert len(pool_digests) <= 8 * len(HELD_OUT_CONCEPTS)
    query_digests = {q.images[0].digest for q in task.queries}
    assert len(query_digests) == 60
    assert not query_digests & pool_digests


@pytest.mark.parametrize("by", ["color", "shape", "texture", "size", "count"])
def test_a_concept_by_one_attribute_leaves_the_others_open(by):
    task = BindingTask(by=by, ways=2, support=16)
    pool = task.pool(task.queries[0].id).examples
    drawings = [e.images[0].load for e in pool]
    assert {getattr(d, by) for d in drawings} == {concept(e) for e in pool}
    others = {(d.color, d.shape) for d in drawings}
    assert len(others) > 2
    assert others <= set(HELD_OUT_CONCEPTS)
    assert len({e.answer for e in pool}) == 2


def test_similar_concepts_share_a_color_or_a_shape_with_one_of_them():
    task = BindingTask(ways=6, similar=True)
    for query in task.queries[:20]:
        concepts = {concept(e) for e in task.pool(query.id).examples}
        assert len(concepts) == 6
        shared = [
            {other for other in HELD_OUT_CONCEPTS if other[0] == c or other[1] == s} for c, s in HELD_OUT_CONCEPTS
        ]
        assert any(concepts <= near for near in shared)


def test_the_hint_names_the_attribute():
    assert BindingTask(by="color", hint=True).queries[0].question == "what is this color called?"
    assert BindingTask(by="color").queries[0].question == "what is this?"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ways": 4, "by": "size"}, "4 ways and 4 concepts in the pool do not fit: .* <= 3,"),
        ({"ways": 4, "concepts": 2}, "4 ways and 2 concepts"),
        ({"support": 9, "bank": 8}, "support 9 is more than the bank of 8"),
        ({"similar": True, "ways": 8}, "8 ways and 8 concepts .* <= 7, the number of similar concepts"),
        ({"similar": True, "by": "size"}, "similar: true is for pairs"),
        ({"hint": True}, "hint: true needs 'by'"),
        ({"by": "hue"}, "by: input should be 'pair'"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(change, says):
    with pytest.raises(ConfigError, match=f"^here: task 'binding'.*{says}"):
        build("task", {"name": "binding", **change}, "here")
