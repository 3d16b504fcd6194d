"""Arms that show fewer demonstrations than their shots, and prompts with more images than a model accepts."""

from pathlib import Path
from typing import Any

from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.planning.plan import make_plan
from experiments.running.run import run
from experiments.terminal.progress import SilentProgress

FEW = """
from dataclasses import dataclass

from icl.models.fake import FakeCopy


@dataclass(frozen=True)
class Few(FakeCopy):
    max_images: int = 2
"""


def test_a_plan_and_a_run_report_dropped_demonstrations(mapping: Any, tmp_path: Path) -> None:
    small = {"name": "fake-copy", "max_tokens": 120, "image_tokens": 20}
    config = load_config(mapping(model=small, grid={"shots": [1, 8]}))
    (message,) = [note for note in make_plan(expand(config)).notes if "context" in note]
    assert message.startswith(
        "model 'fake-copy', 8 shots: 6 of 6 prompts that were read are longer than its context of 120"
    )
    assert (
        "of the demonstrations are left out of each, the least similar first. Tables still call them 8 shots" in message
    )
    progress = SilentProgress()
    run(config, tmp_path / "runs", progress)
    assert [note for note in progress.notes if "context" in note] == [message]


def test_a_plan_reports_prompts_with_more_images_than_the_model_accepts(mapping: Any, tmp_path: Path) -> None:
    (tmp_path / "few.py").write_text(FEW, encoding="utf-8")
    config = load_config(mapping(model={"name": f"{tmp_path / 'few.py'}:Few"}, grid={"shots": [1, 2]}))
    assert [note for note in make_plan(expand(config)).notes if "images" in note] == [
        "model 'Few', 2 shots: 6 of 6 prompts that were read have up to 3 images, and model.max_images allows 2. "
        "Such samples fail: set it higher, or leave it out."
    ]


def test_there_is_no_note_if_all_prompts_fit(mapping: Any) -> None:
    assert not [
        note
        for note in make_plan(expand(load_config(mapping(grid={"shots": [1, 4]})))).notes
        if "prompts that were" in note
    ]


def test_a_plan_reports_why_a_sample_has_no_prompt(mapping: Any) -> None:
    plan = make_plan(expand(load_config(mapping(model={"name": "fake-copy", "max_tokens": 10, "image_tokens": 20}))))
    (message,) = [note for note in plan.notes if "has no prompt" in note][:1]
    assert message.startswith("sample ")
    assert "takes 22 tokens without any demonstration, and the model's context of 10 leaves 0" in message
    assert sum("has no prompt" in note for note in plan.notes) == 3
