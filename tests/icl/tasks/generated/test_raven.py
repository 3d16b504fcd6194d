"""Raven's matrices: the rule holds in every matrix, and the choice by P(yes) ignores the order of candidates."""

import itertools

import pytest

from icl.metrics.base import ScoredSample
from icl.metrics.match_probabilities import chooses_right
from icl.registry import build
from icl.testing import check_task


def puzzles(**parameters):
    queries = build("task", {"name": "raven", "queries": 50, "support": 3, **parameters}).queries
    return [list(members) for _, members in itertools.groupby(queries, lambda e: e.group)]


@pytest.mark.parametrize("by", ["color", "shape"])
def test_the_right_candidate_alone_completes_the_rule(by: str) -> None:
    assert len(puzzles(by=by)) == 9  # 50 questions are rounded up to whole puzzles of 6
    for members in puzzles(by=by):
        assert len({e.images[0].digest for e in members}) == len(members) == 6
        completes = []
        for example in members:
            panels = [pair[by == "shape"] for pair in example.images[0].load.concepts]
            rows, columns = [panels[i : i + 3] for i in (0, 3, 6)], [panels[i::3] for i in range(3)]
            rule = example.secret["rule"]
            lines = {"rows": rows, "columns": columns, "square": [*rows, *columns]}[rule]
            values = set(panels[:8])
            completes.append(all(set(line) == values if rule == "square" else len(set(line)) == 1 for line in lines))
            assert (example.answer == "yes") == completes[-1]
        assert sum(completes) == 1


def test_separate_panels_are_those_of_the_matrix_in_its_order() -> None:
    together, separate = (puzzles(panels=panels, alone=True) for panels in ("together", "separate"))
    for one, other in zip(itertools.chain(*together), itertools.chain(*separate), strict=True):
        assert (one.id, one.answers, len(other.images)) == (other.id, other.answers, len(one.images[0].load.concepts))
        assert [image.load.concepts for image in other.images] == [(c,) for c in one.images[0].load.concepts]
    assert {len(e.images) for e in separate[0]} == {9, 1}


def test_it_keeps_the_promises_of_a_task() -> None:
    check_task(build("task", {"name": "raven", "queries": 18, "support": 3}))


def sample(place: int, form: str, p: float | None, gold: int = 1) -> ScoredSample:
    return ScoredSample(f"{form}{place}", p, "g", None, ("yes" if place == gold else "no",), ("yes", "no"),
                        {"candidate": place, "form": form})  # fmt: skip


def test_the_choice_is_the_highest_probability_in_any_order_and_ties_are_wrong() -> None:
    members = [sample(i, "completed", p) for i, p in enumerate((0.2, 0.6, 0.5))]
    assert {chooses_right(list(order)) for order in itertools.permutations(members)} == {1.0}
    assert chooses_right([sample(0, "completed", 0.6), *members[1:]]) == 0
    assert chooses_right(members[::2]) is None


def test_a_preference_for_a_candidate_as_such_is_subtracted() -> None:
    completed = [sample(i, "completed", p) for i, p in enumerate((0.9, 0.6, 0.5))]
    assert chooses_right(completed) == 0
    alone = [sample(i, "alone", p) for i, p in enumerate((0.9, 0.1, 0.5))]
    assert chooses_right(completed + alone) == 1
    assert chooses_right(completed + alone[:2]) is None
