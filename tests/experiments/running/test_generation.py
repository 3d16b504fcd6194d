"""Models that only answer get a bounded number of requests at once, so that little is lost if a process dies."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.results.loaded_run import Run
from experiments.running.generation import engine_for
from experiments.running.run import run
from experiments.store.store import Store
from icl.errors import ModelError
from icl.models.base import Model

MODEL = '''
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

from icl.models.base import Model
from icl.types import Generation


@dataclass(frozen=True)
class Mine(Model):
    """Answers red, and writes the number of requests to a file."""

    abilities: ClassVar[frozenset] = frozenset({"generate"})
    needs: ClassVar[frozenset] = frozenset({"gold"})
    digest: ClassVar[str] = "mine"
    dropped: int = 0

    def count_tokens(self, prompt):
        return 1

    def generate(self, requests):
        with (Path(__file__).parent / "sizes").open("a") as file:
            print(len(requests), file=file)
        return [Generation("red") for _ in requests][self.dropped :]
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


def test_samples_answered_before_a_process_died_are_stored(mapping: Mapping, tmp_path: Path) -> None:
    node = {"name": "fake-scripted", "answer": f"{tmp_path / 'mine.py'}:answer"}
    (tmp_path / "c.yaml").write_text(json.dumps(config(mapping, tmp_path, DEADLY, node)))
    command = [sys.executable, "-m", "experiments.cli.main", "run", "c.yaml", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode == 9
    store = Store(tmp_path / "runs" / "t")
    finished = sum(len(store.finished_and_failed(digest)[0]) for digest in (store.read_run() or {})["cells"])
    assert finished == 99 // Model.generate_batch_size * Model.generate_batch_size


@pytest.mark.parametrize(
    ("more", "largest"), [("", Model.generate_batch_size), ("\n    generate_batch_size = 150\n", 150)]
)
def test_a_batch_has_few_requests_or_as_many_as_the_model_sets(
    mapping: Mapping, tmp_path: Path, more: str, largest: int
) -> None:
    run(load_config(config(mapping, tmp_path, MODEL + more, f"{tmp_path / 'mine.py'}:Mine")), tmp_path)
    sizes = list(map(int, (tmp_path / "sizes").read_text().split()))
    assert (max(sizes), sum(sizes)) == (largest, 1 + 200)  # the preflight asks one


def test_a_model_with_too_few_answers_ends_the_run(mapping: Mapping, tmp_path: Path) -> None:
    node = {"name": f"{tmp_path / 'mine.py'}:Mine", "dropped": 2}
    with pytest.raises(ModelError, match=r"^the model returned 0 answers for 1 requests\.$"):
        run(load_config(config(mapping, tmp_path, MODEL, node)), tmp_path)


CONFLICTED = """
questions = []


def answer(request):
    text = request.prompt.text
    questions.append(text)
    if "your visual memory is: dog." in text:
        return "hinted"
    if "causing a conflict" in text:
        return "reminded"
    if "What is in the image?" in text:
        return "an animal"
    return "dog" if request.prompt.images else "cat"
"""


def test_a_model_without_logits_answers_the_prompts_that_a_strategy_rewrites(mapping: Mapping, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CONFLICTED)
    node = {"name": "fake-scripted", "answer": f"{tmp_path / 'mine.py'}:answer"}
    arms = ["greedy", "dcd_prompt", {"name": "dcd_prompt", "hint": "reminder"}]
    loaded = load_config(mapping(model=node, grid={"decoding": arms}, shots=0, controls="default"))
    run(loaded, tmp_path)
    finished = Run(tmp_path / "t")
    outputs = finished.samples().groupby("decoding")["output"].unique().map(list).to_dict()
    assert outputs == {"greedy": ["dog"], "dcd_prompt": ["hinted"], "dcd_prompt(hint=reminder)": ["reminded"]}


def test_a_sample_whose_first_answers_fail_has_the_reason(mapping: Mapping, tmp_path: Path) -> None:
    broken = CONFLICTED.replace('return "an animal"', 'raise ValueError("no names")')
    (tmp_path / "mine.py").write_text(broken)
    node = {"name": "fake-scripted", "answer": f"{tmp_path / 'mine.py'}:answer"}
    loaded = load_config(mapping(model=node, grid={"decoding": ["greedy", "dcd_prompt"]}, shots=0))
    run(loaded, tmp_path)
    finished = Run(tmp_path / "t")
    failed = finished.samples().dropna(subset="failed").groupby("decoding")["failed"].unique().map(list).to_dict()
    assert set(failed) == {"dcd_prompt"}


@pytest.mark.parametrize(
    ("abilities", "is_endpoint", "module"),
    [
        ({"logits"}, False, "decoding.engine.engine"),
        ({"logits"}, True, "decoding.engine.engine"),
        ({"logits", "strategies"}, True, "decoding.engine.server_engine"),
        ({"logits", "strategies"}, False, "decoding.lockstep.engine"),
    ],
)
def test_strategies_run_where_the_model_runs_them(abilities: set[str], is_endpoint: bool, module: str) -> None:
    model: Any = SimpleNamespace(abilities=abilities, is_endpoint=is_endpoint)
    assert engine_for(model).__module__ == module


def test_equal_requests_are_sent_once_unless_the_model_reads_more_than_the_prompt(
    mapping: Mapping, tmp_path: Path
) -> None:
    """Two seeds without demonstrations have equal prompts, and other limits are other requests."""
    for needs, sizes in (("frozenset()", [6, 6]), ('frozenset({"gold"})', [12, 6])):
        folder = tmp_path / str(len(sizes) + len(needs))
        folder.mkdir()
        (folder / "mine.py").write_text(MODEL.replace('frozenset({"gold"})', needs))
        own = mapping(model=f"{folder / 'mine.py'}:Mine", shots=0)
        for seeds, limit in (([0, 1], 16), ([0], 5)):
            name = f"s{limit}"
            run(load_config({**own, "name": name, "seeds": seeds, "max_new_tokens": limit}), folder)
        answered = [int(size) for size in (folder / "sizes").read_text().split() if int(size) > 1]
        assert answered == sizes
