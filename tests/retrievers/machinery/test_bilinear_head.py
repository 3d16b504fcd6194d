"""The head of the retriever `learned`: its scores, losses, controls and probe."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from icl.errors import DataError
from icl.types import Example
from retrievers.machinery.bilinear_head import (
    BilinearHead,
    BilinearTraining,
    Feedback,
    chosen_feedback,
    epr_loss,
    list_loss,
    ordered_pairs,
    permute_candidates,
    permute_queries,
    probe,
    same_answer,
    side_by_side,
    train_bilinear,
    usable_queries,
)

NAN = np.nan


def planted(queries: int = 80, members: int = 24, seed: int = 0, scored: int = 8) -> tuple[Any, Any, Any]:
    """Two kinds of queries; a member helps those of its kind, by its quality. Each query has a few numbers."""
    rng = np.random.default_rng(seed)
    kind, member_kind = rng.integers(2, size=queries), rng.integers(2, size=members)
    x = np.stack([kind, 1 - kind, *rng.normal(size=(3, queries))], 1).astype(np.float32)
    quality = rng.normal(size=members)
    z = np.stack([member_kind, 1 - member_kind, quality], 1).astype(np.float32)
    full = 2.0 * (kind[:, None] == member_kind) + 0.3 * quality
    feedback = np.full((queries, members), NAN, np.float32)
    for row, own in zip(feedback, full, strict=True):
        columns = rng.permutation(members)[:scored]
        row[columns] = own[columns]
    return x, z, feedback


def test_rows_of_queries_and_members_multiply_to_the_formula() -> None:
    rng = np.random.default_rng(1)
    a, b, u, x, z = (rng.normal(size=s).astype(np.float32) for s in ((2, 3), (2, 4), (4,), (5, 3), (6, 4)))
    expected = [[(a @ q) @ (b @ e) + u @ e for e in z] for q in x]
    assert np.allclose(BilinearHead(a, b, u).scores(x, z), expected, atol=1e-5)


def test_blocks_side_by_side_have_a_mean_square_of_one() -> None:
    blocks = [np.array([[0.6, 0.8]], np.float32), np.array([[1, 0, 0, 0]], np.float32)]
    joint = side_by_side(blocks)
    assert joint.shape == (1, 6)
    assert [np.square(part).mean() for part in (joint[:, :2], joint[:, 2:])] == pytest.approx([1, 1])


def test_the_list_loss_is_the_divergence_over_scored_demonstrations() -> None:
    feedback = torch.tensor([[0.0, -1.0, NAN], [NAN, -2.0, -0.5]])
    scores = torch.tensor([[0.3, 0.1, 9.0], [-5.0, 0.0, 1.0]])
    total = 0.0
    for row, columns in ((0, [0, 1]), (1, [1, 2])):
        p, q = (values[row][columns].softmax(-1) for values in (feedback / 0.5, scores))
        total += float((p * (p / q).log()).sum())
    assert float(list_loss(scores, feedback, 0.5)) == pytest.approx(total / 2)
    assert float(list_loss(feedback.nan_to_num(0), feedback, 1.0)) == pytest.approx(0, abs=1e-6)


def test_the_gradient_of_the_list_loss_is_finite_and_zero_where_nothing_was_scored() -> None:
    scores = torch.zeros(1, 3, requires_grad=True)
    list_loss(scores, torch.tensor([[0.0, -1.0, NAN]]), 1.0).backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert scores.grad[0, 2] == 0
    assert float(scores.grad[0, 0]) == pytest.approx(-float(scores.grad[0, 1]))
    assert scores.grad[0, 0] < 0


def test_the_epr_loss_is_the_cross_entropy_of_the_good_among_all_good_and_bad() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 0.0], [0.5, 0.0, 1.5, 2.0]])
    loss = epr_loss(scores, torch.tensor([0, 2]), torch.tensor([1, 3]))
    rows = scores[:, [0, 2, 1, 3]].log_softmax(-1)
    assert float(loss) == pytest.approx(-float(rows[0, 0] + rows[1, 1]) / 2)


def test_permuted_queries_have_the_rows_of_others_and_permuted_candidates_their_own_numbers() -> None:
    feedback = np.array([[i, i + 0.5, NAN] for i in range(9)], np.float32)
    rng = np.random.default_rng(0)
    queries, candidates = permute_queries(feedback, rng), permute_candidates(feedback, rng)
    assert sorted(queries[:, 0]) == sorted(feedback[:, 0])
    assert (queries[:, 0] != feedback[:, 0]).all()
    assert np.array_equal(np.isnan(candidates), np.isnan(feedback))
    assert np.array_equal(np.sort(candidates, 1), np.sort(feedback, 1), equal_nan=True)
    assert not np.array_equal(candidates, feedback, equal_nan=True)


def test_same_answer_needs_no_feedback_and_marks_what_is_not_allowed() -> None:
    queries = [Example("q", (), "?", ("Red", "crimson"))]
    members = [Example(name, (), "?", (name,)) for name in ("red", "blue", "crimson")]
    feedback = Feedback(queries, members, np.full((1, 3), NAN, np.float32), np.array([[True, True, False]]))
    assert np.array_equal(same_answer(feedback), [[5, 0, NAN]], equal_nan=True)


def test_the_share_of_ordered_pairs_counts_ties_of_scores_half() -> None:
    feedback = np.array([[3, 2, 1, NAN], [1, 1, NAN, NAN]], np.float32)
    assert ordered_pairs(np.array([[3, 2, 1, 9], [0, 0, 0, 0]], np.float32), feedback) == [1.0]
    assert ordered_pairs(np.array([[3, 3, 4, 9], [0, 0, 0, 0]], np.float32), feedback) == [pytest.approx(0.5 / 3)]


def test_early_stopping_reads_the_feedback_of_at_most_half_of_the_demonstrations() -> None:
    feedback = np.array([[1.0, 2.0, 3.0, 4.0, NAN]], np.float32)
    assert chosen_feedback(np.array([[4.0, 3.0, 2.0, 1.0, 9.0]], np.float32), feedback) == 1.5


@pytest.mark.parametrize("loss", ["list", "epr"])
def test_a_head_learns_which_demonstrations_help_which_queries(loss: Any) -> None:
    x, z, feedback = planted()
    head = train_bilinear(x, z, feedback, np.arange(len(x)), BilinearTraining(loss=loss))
    new_x, _, _ = planted(seed=0)
    _, _, everything = planted(scored=24)
    assert np.mean(ordered_pairs(head.scores(new_x, z), everything)) > 0.85


def test_the_probe_is_at_chance_without_the_cue_and_knows_match_from_quality() -> None:
    x, z, feedback = planted()
    own, without_match = probe(x, z, feedback, np.arange(len(x)), BilinearTraining(steps=60))
    assert len(own) == len(without_match) == len(x)
    assert np.mean(own) > 0.85
    assert np.mean(without_match) < 0.7
    blind, _ = probe(x[:, 2:], z[:, :2], feedback, np.arange(len(x)), BilinearTraining(steps=20))
    assert abs(np.mean(blind) - 0.5) < 0.1


def test_the_probe_and_early_stopping_keep_questions_on_one_image_together() -> None:
    """Each image has preferences of its own, so that nothing carries over to another image."""
    rng = np.random.default_rng(1)
    images = np.repeat(np.arange(16), 5)
    x, z = rng.normal(size=(16, 24)).astype(np.float32)[images], rng.normal(size=(24, 16)).astype(np.float32)
    feedback = rng.normal(size=(16, 24)).astype(np.float32)[images]
    training = BilinearTraining(steps=30, rate=0.02)
    (by_query, _), (by_image, _) = (probe(x, z, feedback, units, training) for units in (np.arange(80), images))
    assert np.mean(by_query) > 0.6
    assert abs(np.mean(by_image) - 0.5) < 0.05


def test_queries_of_one_group_or_with_a_common_image_are_one_unit(example: Any, color: Any) -> None:
    queries = [
        example("a", color("red", 1)),
        example("b", color("red", 2)),
        replace(example("c", color("red", 3)), group="g"),
        replace(example("d", color("red", 1)), group="g"),
        Example("e", (), "?", ("a",)),
    ]
    assert Feedback(queries, (), np.zeros((5, 0)), np.zeros((5, 0), bool)).units.tolist() == [0, 1, 0, 0, 2]


def test_the_last_step_of_a_short_training_counts() -> None:
    x, z, feedback = planted()
    first, last = (train_bilinear(x, z, feedback, np.arange(80), BilinearTraining(steps=n)) for n in (0, 4))
    assert not np.array_equal(first.bias, last.bias)


def test_queries_with_one_number_are_left_out_and_too_few_others_are_an_error() -> None:
    x, _, logprobs = planted(queries=11)
    queries = [Example(f"q{i}", (), "?", ("a",)) for i in range(len(x))]
    logprobs[3] = NAN
    logprobs[3, 0] = 1
    usable = usable_queries(Feedback(queries, (), logprobs, ~np.isnan(logprobs)))
    assert [query.id for query in usable.queries] == [f"q{i}" for i in range(11) if i != 3]
    assert np.array_equal(usable.logprobs, np.delete(logprobs, 3, 0), equal_nan=True)
    with pytest.raises(DataError, match="needs 10 queries with two scored demonstrations or more, and there are 9"):
        usable_queries(Feedback(usable.queries[1:], (), usable.logprobs[1:], usable.allowed[1:]))
    one_group = [replace(query, group="g") for query in queries]
    with pytest.raises(DataError, match="11 queries have 1 of them, and 3 are needed"):
        usable_queries(Feedback(one_group, (), np.zeros((11, 2)), np.ones((11, 2), bool)))
