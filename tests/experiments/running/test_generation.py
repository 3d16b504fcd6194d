"""Models that only answer: asked a bounded number of requests at once, so that little is lost with a process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.running.run import run
from experiments.store.store import Store
from icl.errors import ModelError
from icl.models.base import Model

MODEL = '''
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from icl.models.base import Model
from icl.types import Generation


@dataclass(frozen=True)
class Mine(Model):
    """Says red, and notes how many requests it was given."""

    abilities: ClassVar[frozenset] = frozenset({"generate"})
    needs: ClassVar[frozenset] = frozenset({"gold"})
    digest: ClassVar[str] = "mine"
    forgets: int = 0

    def count_tokens(self, prompt):
        return 1

    def generate(self, requests):
        with (Path(__file__).parent / "asked").open("a") as file:
            print(len(requests), file=file)
        return [Generation("red") for _ in requests][self.forgets :]
'''
DEADLY = """
import os

calls = []


def answer(request):
    calls.append(request)
    if len(calls) == 100:
        os._exit(9)
    return ""
"""
Mapping = Callable[..., dict[str, Any]]


def config(mapping: Mapping, folder: Path, code: str, node: Any) -> dict[str, Any]:
    (folder / "mine.py").write_text(code)
    return mapping(task=mapping()["task"] | {"queries": 200}, model=node)


def test_what_was_answered_before_a_process_died_is_there(mapping: Mapping, tmp_path: Path) -> None:
    node = {"name": "fake-scripted", "answer": f"{tmp_path / 'mine.py'}:answer"}
    (tmp_path / "c.yaml").write_text(json.dumps(config(mapping, tmp_path, DEADLY, node)))
    command = [sys.executable, "-m", "experiments.cli.main", "run", "c.yaml", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode == 9
    store = Store(tmp_path / "runs" / "t")
    kept = sum(len(store.finished_and_failed(digest)[0]) for digest in (store.read_run() or {})["cells"])
    assert kept == 99 // Model.generate_batch_size * Model.generate_batch_size


@pytest.mark.parametrize(
    ("more", "most"), [("", Model.generate_batch_size), ("\n    generate_batch_size = 150\n", 150)]
)
def test_a_model_is_asked_few_requests_at_once_or_as_many_as_it_says(
    mapping: Mapping, tmp_path: Path, more: str, most: int
) -> None:
    run(load_config(config(mapping, tmp_path, MODEL + more, f"{tmp_path / 'mine.py'}:Mine")), tmp_path)
    asked = list(map(int, (tmp_path / "asked").read_text().split()))
    assert (max(asked), sum(asked)) == (most, 200)


def test_a_model_that_owes_answers_ends_the_run(mapping: Mapping, tmp_path: Path) -> None:
    node = {"name": f"{tmp_path / 'mine.py'}:Mine", "forgets": 2}
    with pytest.raises(ModelError, match=r"^the model gave 30 answers to 32 requests\.$"):
        run(load_config(config(mapping, tmp_path, MODEL, node)), tmp_path)
