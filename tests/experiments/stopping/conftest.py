import json
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.running import runner
from experiments.running.run import run
from experiments.running.run_session import RunOutcome
from experiments.terminal.progress import SilentProgress
from icl.types import Sample

TASK = '''
"""Text queries, each a cluster of its own, or groups of `size`."""
from dataclasses import dataclass
from functools import cached_property

from icl.registry import component
from icl.tasks.base import Pool
from icl.types import Example


@component("task", "singles")
@dataclass(frozen=True)
class Singles:
    """Queries with one right answer."""

    count: int = 60
    size: int = 1

    title = "singles"
    pool_size = 8

    @cached_property
    def queries(self):
        groups = [f"c{i // self.size}" if self.size > 1 else None for i in range(self.count)]
        return tuple(self._example(f"q-{i:04d}", group) for i, group in enumerate(groups))

    def pool(self, query_id):
        return self._pool

    @cached_property
    def _pool(self):
        return Pool(tuple(self._example(f"p-{i}", None) for i in range(8)))

    def _example(self, name, group):
        return Example(name, (), "yes or no?", ("yes",), ("yes", "no"), "yes", group=group)
'''
ANSWERS = '''
"""Right with a chance that depends on the number of demonstrations."""
import hashlib
import os
import time

RIGHT = {0: 0.3, 1: 0.3, 2: 0.85, 3: 0.4}


def chance(*names):
    return int(hashlib.sha256(" ".join(map(str, names)).encode()).hexdigest()[:8], 16) / 2**32


def answer(request):
    time.sleep(float(os.environ.get("SLOW", "0")))
    key, shots = request.prompt.key, len(request.demos)
    if chance("fails", key.query, key.seed, shots) < float(os.environ.get("FAILING", "0")):
        raise RuntimeError("no answer")
    if str(shots) in os.environ.get("BROKEN", ""):
        raise RuntimeError("this arm is broken")
    return "yes" if chance(key.query, key.seed, shots) < RIGHT[shots] else "no"
'''
CONFIG = """
    name: t
    task: {name: "task.py:Singles"}
    model: {name: fake-scripted, answer: "answers.py:answer"}
    metrics: [strict]
    grid:
      shots: [0, 1, 2]
    compare: {to: {shots: 0}, metric: strict}
    stop: when_decided
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """Three arms on 60 queries: 1 shot is as good as 0, and 2 are much better."""
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "answers.py").write_text(ANSWERS)
    path = tmp_path / "t.yaml"
    path.write_text(dedent(CONFIG))
    return path


@pytest.fixture
def go(config_file: Path, tmp_path: Path) -> Callable[..., RunOutcome]:
    """Runs the config into a folder, with overrides."""

    def call(runs: str, *overrides: str, **more: Any) -> RunOutcome:
        return run(load_config(config_file, overrides), tmp_path / runs, SilentProgress(), **more)

    return call


@pytest.fixture
def look_files(tmp_path: Path) -> Callable[[str], dict[str, bytes]]:
    """The look files of a run by their path in it."""

    def read(runs: str) -> dict[str, bytes]:
        folder = tmp_path / runs / "t" / "looks"
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.json"))}

    return read


@pytest.fixture
def looks(look_files: Callable[[str], dict[str, bytes]]) -> Callable[..., list[dict[str, Any]]]:
    """The contents of the looks of a family of a run, in order."""

    def read(runs: str, family: int = 1) -> list[dict[str, Any]]:
        files = look_files(runs)
        return [json.loads(data) for name, data in files.items() if name.startswith(f"family-{family}/look-")]

    return read


@pytest.fixture
def interrupted(go: Callable[..., RunOutcome], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Stops a run after some samples."""
    real = runner.Runner._record

    def call(runs: str, after: int, *overrides: str) -> None:
        calls: list[Sample] = []

        def record(self: runner.Runner, sample: Sample) -> None:
            real(self, sample)
            calls.append(sample)
            if len(calls) == after:
                raise KeyboardInterrupt

        monkeypatch.setattr(runner.Runner, "_record", record)
        with pytest.raises(KeyboardInterrupt):
            go(runs, *overrides)
        monkeypatch.setattr(runner.Runner, "_record", real)

    return call
