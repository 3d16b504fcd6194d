"""What each branch said at every step, as a person reads it."""

import io
from typing import Any

import pytest
from rich.console import Console

from experiments.report.sample_detail import END_OF_TEXT, print_steps, read_steps

STEPS: dict[str, Any] = {
    "words": ["red", "blue", "", "a\x1b[31m\nvery long token indeed", "  "],
    "chosen": [1, 2],
    "top": [[[0, 1, 3], [0, 3], [1]], [[2, 4], [2], [2]]],
    "p": [[[0.6, 0.3, 0.1], [0.9, 0.04], [1.0]], [[0.75, 0.25], [1.0], [1.0]]],
    "entropy": [[0.9, 0.33, 0.0], [0.56, 0.0, 0.0]],
    "js_divergence": [[0.041], [0.0823]],
    "weights": [[2.0, -1.0]],
}
TRACE = {"plausible_tokens": [2.0, 1.0], "entropy": [0.0, 0.0], "changed": [1.0, 0.0]}


def printed(steps: Any, trace: Any, width: int) -> str:
    out = io.StringIO()
    print_steps(read_steps(steps, trace), Console(file=out, width=width))
    return out.getvalue()


def test_a_step_has_its_branches_weights_and_what_survives() -> None:
    first, second = read_steps(STEPS, TRACE)
    assert (first.chosen, first.reference, first.plausible_tokens, first.changed) == ("blue", "red", 2, True)
    assert [branch.name for branch in first.branches] == ["reference", "branch 1", "combined"]
    assert [branch.weight for branch in first.branches] == [2.0, -1.0, None]
    assert [branch.js_divergence for branch in first.branches] == [None, 0.041, None]
    assert first.branches[0].top[:2] == (("red", 0.6), ("blue", 0.3))
    assert (second.chosen, second.branches[0].top[1][0]) == (END_OF_TEXT, "␣␣")


def test_weights_of_each_step_stand_at_their_step() -> None:
    first, second = read_steps(STEPS | {"weights": [[1.5, -0.5], None]}, TRACE)
    assert [branch.weight for branch in first.branches] == [1.5, -0.5, None]
    assert [branch.weight for branch in second.branches] == [None, None, None]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_steps_fit_the_terminal_and_steer_nothing(width: int) -> None:
    text = printed(STEPS, TRACE, width)
    assert max(len(line) for line in text.splitlines() if not line.startswith("step")) <= width
    assert "\x1b" not in text
    for words in ("step 0  blue  (the reference: red)  2 tokens survive", "step 1  (end)  1 token survives"):
        assert words in text
    assert ("reference ×2.00          branch 1 ×−1.00" in text) == (width >= 80)


def test_an_older_sample_has_no_steps_and_a_strategy_of_one_branch_no_weights() -> None:
    assert read_steps(float("nan"), None) == []
    assert read_steps({}, TRACE) == []
    plain = {"words": ["red"], "chosen": [0], "top": [[[0], [0]]], "p": [[[1.0], [1.0]]], "entropy": [[0.0, 0.0]]}
    (step,) = read_steps(plain, None)
    assert [branch.name for branch in step.branches] == ["reference", "combined"]
    assert (step.plausible_tokens, step.changed, step.branches[0].weight) == (None, None, None)
    assert "×" not in printed(plain, None, 80)
