"""CAL's objective, against the same loss from log-probabilities of single prompts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.config.config import Config, load_config
from experiments.tuning.checkpoint import TrainingFolder
from experiments.tuning.objectives import half_turned
from experiments.tuning.train import train
from experiments.tuning.tune import episode_stream, training_cell
from icl.errors import DataError
from icl.models.hf.model import HF

CAPTIONS = {"name": "captions", "queries": 3, "seed": 3}


def study(**changes: Any) -> Config:
    tuning = {"task": CAPTIONS, "objective": "cal", "shots": 1, "batch": 3, "steps": 1, "rank": 2, **changes}
    return load_config({"task": "counting", "model": {"name": "hf", "path": "tiny"}, "tune": tuning})


def first_loss(config: Config, folder: Path) -> float:
    spec: Any = config.tune
    stream = episode_stream(config, spec, training_cell(config, spec, None))
    return train(HF(path="tiny"), spec, stream, TrainingFolder(folder, "x")).first_loss


def logprobs(model: HF, prompt: Any, answer: str) -> torch.Tensor:
    ids = [*model.option_ids(prompt, [answer])[0], model.tokenizer.eos_token_id]
    return model.open([prompt]).suffix_logprobs([[ids]])[0][0].gather(1, torch.tensor(ids)[:, None])[:, 0]


def test_tokens_that_depend_on_the_image_have_the_weights_of_the_paper(tmp_path: Path) -> None:
    config = study()
    spec: Any = config.tune
    model, loss, tokens, largest = HF(path="tiny"), 0.0, 0, 0.0
    for one in episode_stream(config, spec, training_cell(config, spec, None)).episodes(0):
        blind = one.prompt.map(lambda part: None if part.image and part.name.startswith("query") else part)
        assert [len(blind.images), len(one.prompt.images)] == [1, 2]
        real = logprobs(model, one.prompt, one.answer)
        scores = (real - logprobs(model, blind, one.answer)).clamp(1, 5)
        means = [float(scores[max(0, t - 1) : t + 2].mean()) for t in range(len(scores))]
        loss -= sum(w * float(value) for w, value in zip(means, real, strict=True)) / sum(means) * len(real)
        tokens, largest = tokens + len(real), max(largest, *(len(means) * w / sum(means) for w in means))
    assert largest > 1.2  # the weights differ, so the losses do
    computed = first_loss(config, tmp_path / "cal")
    assert computed == pytest.approx(loss / tokens, abs=1e-4)
    assert computed != pytest.approx(first_loss(study(objective="sft"), tmp_path / "sft"), abs=1e-3)
    assert computed == pytest.approx(first_loss(study(rows=1), tmp_path / "rows"), abs=1e-5)


def test_the_control_gives_the_same_weights_to_other_tokens(tmp_path: Path) -> None:
    weights = torch.tensor([[0.0, 0.0, 0.1, 0.2, 0.7], [0.1, 0.2, 0.3, 0.3, 0.1], [0.0] * 5])
    moved = half_turned(weights, weights > 0)
    expected = torch.tensor([[0.0, 0.0, 0.7, 0.1, 0.2], [0.3, 0.1, 0.1, 0.2, 0.3], [0.0] * 5])
    torch.testing.assert_close(moved, expected)
    no_token = torch.zeros(5, dtype=torch.bool).expand(3, 5)
    assert half_turned(weights, no_token).count_nonzero() == 0
    cal, permuted = (first_loss(study(objective=name), tmp_path / name) for name in ("cal", "cal_permuted"))
    assert abs(cal - permuted) > 1e-3


def test_answers_that_do_not_depend_on_the_image_have_the_ordinary_loss(tmp_path: Path) -> None:
    changes = {"task": {"name": "binding", "ways": 2, "queries": 3, "concept_set": "seen"}, "shots": 0}
    cal, sft = (first_loss(study(objective=name, **changes), tmp_path / name) for name in ("cal", "sft"))
    assert cal == pytest.approx(sft, rel=1e-2)


def test_a_query_without_an_image_is_refused(tmp_path: Path) -> None:
    task = {"name": "conflict", "queries": 3, "modes": ["text"]}
    with pytest.raises(DataError, match=r"query '.*' has no image, which objective: cal leaves out"):
        first_loss(study(task=task), tmp_path)
