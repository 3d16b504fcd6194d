"""The adapters for questions about marks: prompts of their training, rank of their matrices, and what they read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import icl
from icl.models.hf.adapter import SHIPPED_ADAPTERS, WEIGHTS
from lab.tiny import marks

pytest.importorskip("peft")


@pytest.mark.parametrize("task", marks.STAGES)
def test_a_training_prompt_gives_the_option_scores_of_the_toolkit(task: str, tmp_path: Path) -> None:
    model, processor = marks.loaded()
    stage = marks.Stage((task,), marks.STAGES[task].seed, 0.0, 1)
    node = {"name": task, "queries": 12, "seed": stage.seed}
    ids = {tuple(image.digest for image in one.images): one.id for one in icl.build("task", node).queries}
    questions = next(marks.batches(stage))[:3]
    batch = marks.encoded(processor, questions)
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    config = {"task": node, "answer_mode": "options", "shots": 0}
    run = icl.run({"name": "x", "model": {"name": "hf", "path": "tiny"}, **config}, runs=tmp_path, quiet=True)
    scores = {row["query"]: row["option_scores"] for row in run.samples().to_dict("records")}
    for row, question in enumerate(questions):
        place = int((labels[row] != marks.IGNORED).int().argmax()) - 1
        logprob = logits[row, place].log_softmax(-1)[labels[row, place + 1]]
        own = scores[ids[tuple(image.digest for image in question.images)]]
        assert float(logprob) == pytest.approx(own[question.answer], abs=1e-4)


def test_an_adapter_of_a_change_of_low_rank_is_this_change(tmp_path: Path) -> None:
    left, right = torch.randn(40, marks.RANK, generator=torch.Generator().manual_seed(0)), torch.eye(marks.RANK, 50)
    marks.write_adapter({"layer": left @ right}, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS[0])
    a, b = (tensors[f"base_model.model.layer.lora_{one}.weight"] for one in "AB")
    torch.testing.assert_close(b @ a, left @ right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("task", marks.STAGES)
def test_a_shipped_adapter_reads_the_marks_of_images(task: str, tmp_path: Path) -> None:
    folder = SHIPPED_ADAPTERS[f"tiny_{task}"]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_500_000
    models: list[dict[str, Any]] = [{"name": "hf", "path": "tiny", "adapter": f"tiny_{task}"}]
    blank = [[], [{"name": "images", "how": "blank", "where": "query"}]]
    config = {"name": "x", "task": {"name": task, "queries": 24, "seed": 1}, "answer_mode": "options", "shots": 0}
    run = icl.run(
        {**config, "metrics": ["option"], "grid": {"model": models, "transforms": blank}}, runs=tmp_path, quiet=True
    )
    score = run.samples().groupby("transforms")["option"].mean()
    assert score["none"] > 0.75
    assert score["images"] < 0.6
