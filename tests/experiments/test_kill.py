import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SLOW = '''
"""A fake that takes its time, so that it can be killed in the middle."""
import time

def answer(request):
    time.sleep(0.004)
    return request.demos[-1][0].answer
'''


def start(config: Path, runs: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "experiments.cli.main", "run", str(config), "--runs", str(runs), "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def samples(runs: Path) -> dict[tuple[str, str], Any]:
    by_key: dict[tuple[str, str], Any] = {}
    for path in (runs / "slow" / "cells").glob("*/*.jsonl"):
        for line in path.read_text().splitlines():
            sample = json.loads(line)
            assert (sample["cell"], sample["query"]) not in by_key, "a sample is there twice"
            by_key[sample["cell"], sample["query"]] = sample
    return by_key


def lines(runs: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in runs.rglob("*.jsonl"))


@pytest.fixture
def config(yaml_file: Callable[..., Path]) -> Path:
    path = yaml_file("""
        name: slow
        task: {name: SHAPES, queries: 60}
        model: {name: fake-scripted, answer: "slow.py:answer"}
        seeds: [0, 1]
        grid:
          shots: [1, 2]
          retriever: [random, balanced]
    """)
    (path.parent / "slow.py").write_text(SLOW)
    return path


def test_killed_in_the_middle_and_run_again_gives_the_samples_of_an_uninterrupted_run(
    config: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = start(config, whole)
    deaths = []
    for target in (30, 200):
        process = start(config, killed)
        deadline = time.monotonic() + 60
        while lines(killed) < target and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        deaths.append((process.returncode, lines(killed)))
    assert [code for code, _ in deaths] == [-signal.SIGKILL] * 2
    assert 30 <= deaths[0][1] < deaths[1][1] < 480, "it was not killed in the middle"
    last = start(config, killed)
    out, err = last.communicate(timeout=120)
    assert last.returncode == 0, err
    assert uninterrupted.wait(timeout=120) == 0
    assert len(samples(killed)) == 480
    assert samples(killed) == samples(whole)
    again = start(config, killed)
    out, _ = again.communicate(timeout=60)
    assert (again.returncode, out.split("   ")[0]) == (0, "nothing to do (480 samples present)")
