"""The divergence of answers from text and from images, on distributions with known ones and on the shipped model."""

from typing import Any

import numpy as np
import pytest
import torch

from experiments.analyses.run_prompts import run_prompts
from experiments.analyses.text_image_divergence import _Item, analyze, divergences
from icl.errors import ConfigError

TASKS = [
    {"name": "as_text", "of": {"name": name, "queries": 3}, "form": form}
    for name in ("operators", "attribute")
    for form in ("text", "image")
]


def _items(*probabilities: tuple[str, float], seed: int = 0) -> dict[tuple[int, str], _Item]:
    """Items q0, q1, … with an answer and the probability of the first of two tokens."""
    return {
        (seed, f"q{i}"): _Item(seed, answer, i, torch.tensor([p, 1 - p]).log())
        for i, (answer, p) in enumerate(probabilities)
    }


def _kl(p: float, q: float) -> float:
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def test_equal_forms_have_no_divergence_and_the_control_has_that_of_other_answers() -> None:
    items = _items(("a", 0.9), ("b", 0.2), ("a", 0.6))
    row = divergences(items, items)
    assert (row["kl"], row["reverse"], row["same"], row["n"]) == (0, 0, 1, 3)
    expected = np.mean([_kl(0.9, 0.2), (_kl(0.2, 0.9) + _kl(0.2, 0.6)) / 2, _kl(0.6, 0.2)])
    assert (row["other"], row["gap"]) == pytest.approx((expected, expected), abs=1e-6)


def test_directions_differ_and_items_of_one_form_are_left_out() -> None:
    text, image = _items(("a", 0.9), ("b", 0.5)), _items(("a", 0.3))
    row = divergences(text, image)
    assert (row["kl"], row["reverse"]) == pytest.approx((_kl(0.9, 0.3), _kl(0.3, 0.9)), abs=1e-6)
    assert (row["same"], row["n"]) == (0, 1)
    assert np.isnan(row["other"]), "no other item has another answer"


def test_the_control_stays_within_a_seed() -> None:
    items = _items(("a", 0.9), ("b", 0.2)) | _items(("a", 0.1), ("b", 0.1), seed=1)
    expected = np.mean([_kl(0.9, 0.2), _kl(0.2, 0.9), 0, 0])
    assert divergences(items, items)["other"] == pytest.approx(expected, abs=1e-6)


def test_the_shipped_model_gives_the_divergence_of_each_prompt_alone(ran: Any) -> None:
    view = ran(model={"name": "hf", "path": "tiny"}, grid={"task": TASKS}, shots=1, seeds=[0], max_new_tokens=2)
    table = analyze(view)
    logprobs: dict[str, list[Any]] = {}
    for setting, prompts in run_prompts(view, "logits", 3):
        model: Any = prompts[0].cell.model
        logprobs[setting["task"]] = [model.open([one.prompt]).logits.double().log_softmax(-1)[0] for one in prompts]
    assert list(table["task"]) == ["operators · as image", "attribute · as image"]
    for name, row in zip(("operators", "attribute"), table.to_dict("records"), strict=True):
        pairs = zip(logprobs[f"{name} · as text"], logprobs[f"{name} · as image"], strict=True)
        assert row["kl"] == pytest.approx(np.mean([float((p.exp() * (p - q)).sum()) for p, q in pairs]), abs=1e-4)


def test_a_run_of_one_form_is_refused(ran: Any) -> None:
    view = ran(model={"name": "hf", "path": "tiny"}, task=TASKS[0], shots=0, seeds=[0], max_new_tokens=1)
    with pytest.raises(ConfigError, match=r"no task was run in both forms\. In grid, task: \[\{name: as_text"):
        analyze(view)
