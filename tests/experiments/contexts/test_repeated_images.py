"""A pool with several questions an image, from which the nearest demonstrations all show one image."""

from pathlib import Path
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.planning.plan import make_plan
from experiments.planning.plan_text import format_plan
from experiments.running.run import run
from experiments.terminal.progress import SilentProgress

ASKED = """
import importlib.util
from dataclasses import dataclass, replace

spec = importlib.util.spec_from_file_location("shapes_of_the_tests", {shapes!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from icl.tasks.base import Pool


@dataclass(frozen=True)
class Asked(module.Shapes):
    asked: int = 3  # questions an image

    def pool(self, query_id):
        return self._several

    def __post_init__(self):
        several = [
            replace(one, id=f"{{one.id}}-{{i}}", question=f"Question {{i}}?")
            for one in self._pool.examples
            for i in range(self.asked)
        ]
        object.__setattr__(self, "_several", Pool(tuple(several)))

    @property
    def pool_size(self):
        return self.pool_count * self.asked
"""
KNN = {"name": "knn", "embedder": "histogram"}


@pytest.fixture
def task(tmp_path: Path, shapes: str) -> Any:
    path = tmp_path / "asked.py"
    path.write_text(ASKED.format(shapes=shapes.rpartition(":")[0]), encoding="utf-8")
    return lambda asked: {"name": f"{path}:Asked", "asked": asked}


def _told(notes: Any) -> list[str]:
    return [note for note in notes if "have the same image" in note]


def test_a_plan_and_a_run_say_that_one_image_is_shown_twice(mapping: Any, task: Any, tmp_path: Path) -> None:
    config = load_config(mapping(task=task(3), retriever=KNN))
    found = make_plan(expand(config))
    (note,) = _told(found.notes)
    assert note.startswith("retriever 'knn")
    assert "in 6 of 6 prompts" in note
    assert "near_duplicate_cap" in note
    assert note in "\n".join(format_plan(found))
    said = SilentProgress()
    run(config, tmp_path / "runs", said)
    assert _told(said.notes) == [note]


def test_the_named_remedy_shows_each_once_and_nothing_is_said(mapping: Any, task: Any) -> None:
    cap = {"name": "near_duplicate_cap", "embedder": "histogram", "threshold": 0.9999}
    capped = mapping(task=task(3), retriever=KNN, rerankers=[cap], rerank_candidates=20)
    assert _told(make_plan(expand(load_config(capped))).notes) == []


@pytest.mark.parametrize(("asked", "shots"), [(1, 2), (3, 1)])
def test_nothing_is_said_of_one_question_a_image_or_one_shot(mapping: Any, task: Any, asked: int, shots: int) -> None:
    config = mapping(task=task(asked), retriever=KNN, shots=shots)
    assert _told(make_plan(expand(load_config(config))).notes) == []
