"""Arms that show fewer demonstrations than their shots, and prompts with more images than a model accepts."""

import io
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from decoding.arms.fitting import write_parameter_file
from decoding.strategies.several_prompts import MoICL
from experiments.config.config import load_config
from experiments.contexts import prompt_notes
from experiments.grid.fitted_parameters import training_images
from experiments.grid.grid import expand
from experiments.planning.plan import make_plan
from experiments.planning.plan_text import format_plan
from experiments.running.run import run
from experiments.terminal.progress import SilentProgress
from icl import Image, build

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


@pytest.mark.parametrize("kind", ["decoding", "retriever"])
def test_a_plan_and_a_run_count_queries_with_an_image_that_something_was_fitted_on(
    kind: str, mapping: Any, shapes: str, tmp_path: Path
) -> None:
    """The salt makes another task by its node, whose queries have the same images. Half of them are in the fit."""

    def config(salt: str) -> Any:
        record = {"task": {"name": shapes, "queries": 3, "salt": salt, "spoilt": "!" * (not salt)}}
        path = tmp_path / f"fitted{salt}.json"
        if kind == "decoding":
            write_parameter_file(MoICL(2, (0.5, 0.7)), path, record)
            return load_config(mapping(decoding={"name": "moicl", "fitted": str(path)}, model="fake-gold"))
        path.write_text(json.dumps({"demos": ["p-0001"], **record}))
        return load_config(mapping(retriever={"name": "fixed", "path": str(path)}, shots=1))

    (message,) = [note for note in make_plan(expand(config("x"))).notes if "fitted on images" in note]
    assert "fittedx.json were fitted on images of 3 of 6 queries, such as 'q-0000', so" in message
    progress = SilentProgress()
    if kind == "retriever":
        run(config("x"), tmp_path / "runs", progress)
        assert message in progress.notes


def test_copies_of_training_images_count_and_other_images_of_the_task_do_not() -> None:
    on, other = ({"name": "attribute", "queries": 60, "seed": seed} for seed in (1, 2))
    first, second = ([q.images[0].open() for q in build("task", node).queries] for node in (on, other))
    cell = next(iter(expand(load_config({"task": other, "model": "fake-copy", "name": "x"})).cells))
    images = training_images({"task": on}, cell)

    def jpeg(image: PIL.Image.Image) -> PIL.Image.Image:
        image.save(buffer := io.BytesIO(), "JPEG", quality=85)
        return PIL.Image.open(buffer).convert("RGB")

    copies = [change(image) for image in first for change in (jpeg, lambda one: one.resize((48, 48)), lambda one: one)]
    assert all(images.has(Image.from_pil(copy)) for copy in copies)
    assert not any(images.has(Image.from_pil(image)) for image in second)


def test_a_file_without_a_leak_does_not_hide_the_leak_of_one_with_the_same_name(
    mapping: Any, shapes: str, tmp_path: Path
) -> None:
    nodes = []
    for folder, task in {"a": {"name": shapes, "queries": 3, "salt": "x"}, "b": {"name": "binding"}}.items():
        path = tmp_path / folder / "set.json"
        path.parent.mkdir()
        path.write_text(json.dumps({"demos": ["p-0001"], "task": task}))
        nodes.append({"name": "fixed", "path": str(path)})
    config = load_config(mapping(grid={"retriever": nodes}, shots=1))
    (message,) = [note for note in make_plan(expand(config)).notes if "fitted on images" in note]
    assert "set.json were fitted on images of 3 of 6 queries" in message


def test_a_leak_that_cannot_be_checked_is_reported_and_its_task_is_built_once_per_cell(
    mapping: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = []
    read = prompt_notes.training_images
    monkeypatch.setattr(prompt_notes, "training_images", lambda *own: (builds.append(own), read(*own))[1])
    (tmp_path / "set.json").write_text(json.dumps({"demos": ["p-0001"], "task": {"name": "no-such-task"}}))
    config = load_config(mapping(retriever={"name": "fixed", "path": str(tmp_path / "set.json")}, shots=1))
    grid = expand(config)
    (message,) = [note for note in make_plan(grid).notes if "This is unknown" in note]
    assert len(builds) == len(grid.cells)
    assert "set.json may be fitted on images of these queries. This is unknown" in message
    assert "no task named 'no-such-task'" in message


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


TASK = """
import importlib.util
from dataclasses import dataclass, replace

spec = importlib.util.spec_from_file_location("shapes_of_the_tests", {shapes!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from icl.tasks.base import Pool


@dataclass(frozen=True)
class Several(module.Shapes):
    per_image: int = 3  # questions about each image

    def pool(self, query_id):
        return self._several

    def __post_init__(self):
        several = [
            replace(example, id=f"{{example.id}}-{{i}}", question=f"Question {{i}}?")
            for example in self._pool.examples
            for i in range(self.per_image)
        ]
        object.__setattr__(self, "_several", Pool(tuple(several)))

    @property
    def pool_size(self):
        return self.pool_count * self.per_image
"""
KNN = {"name": "knn", "embedder": "histogram"}


@pytest.fixture
def task(tmp_path: Path, shapes: str) -> Any:
    path = tmp_path / "several.py"
    path.write_text(TASK.format(shapes=shapes.rpartition(":")[0]), encoding="utf-8")
    return lambda per_image: {"name": f"{path}:Several", "per_image": per_image}


def repeated_image_notes(notes: Any) -> list[str]:
    return [note for note in notes if "have the same image" in note]


def test_a_plan_and_a_run_report_that_one_image_is_shown_twice(mapping: Any, task: Any, tmp_path: Path) -> None:
    config = load_config(mapping(task=task(3), retriever=KNN))
    plan = make_plan(expand(config))
    (note,) = repeated_image_notes(plan.notes)
    assert note.startswith("retriever 'knn")
    assert "in 6 of 6 prompts" in note
    assert "near_duplicate_cap" in note
    assert note in "\n".join(format_plan(plan))
    progress = SilentProgress()
    run(config, tmp_path / "runs", progress)
    assert repeated_image_notes(progress.notes) == [note]


def test_the_remedy_of_the_note_shows_each_image_once(mapping: Any, task: Any) -> None:
    cap = {"name": "near_duplicate_cap", "embedder": "histogram", "threshold": 0.9999}
    capped = mapping(task=task(3), retriever=KNN, rerankers=[cap], rerank_candidates=20)
    assert repeated_image_notes(make_plan(expand(load_config(capped))).notes) == []


@pytest.mark.parametrize(("per_image", "shots"), [(1, 2), (3, 1)])
def test_one_question_for_each_image_or_one_shot_has_no_note(
    mapping: Any, task: Any, per_image: int, shots: int
) -> None:
    config = mapping(task=task(per_image), retriever=KNN, shots=shots)
    assert repeated_image_notes(make_plan(expand(load_config(config))).notes) == []
