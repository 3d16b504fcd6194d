"""Processes are killed at random moments; nothing finished is lost and nothing stale is read. Damaged files are mended.

`ICL_KILLS=200` kills 200 processes that compute in each kind of run, and as many that read; 20 runs with workers; and
damages files of 200 runs. The default is a few.
"""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.results.loaded_run import load_run
from experiments.running.run import run
from experiments.store.invocations import read_invocations
from experiments.store.store import Store
from icl.errors import StoreError

KILLS = int(os.environ.get("ICL_KILLS", "2"))
SLOW = '''
"""A fake that takes its time, so that it can be killed in the middle."""
import time

def answer(request):
    time.sleep(0.004)
    return request.demos[-1][0].answer if request.demos else "red"
'''
PLAIN = """
    name: slow
    task: {name: SHAPES, queries: 60}
    model: {name: fake-scripted, answer: "slow.py:answer"}
    seeds: [0, 1]
    grid:
      shots: [1, 2]
      retriever: [random, balanced]
"""
STOPPED = """
    name: slow
    task: {name: SHAPES, queries: 60}
    model: {name: fake-scripted, answer: "slow.py:answer"}
    metrics: [strict]
    grid: {shots: [0, 1, 2]}
    compare: {to: {shots: 0}, metric: strict}
    stop: when_decided
"""
PROCESSES = multiprocessing.get_context("fork")
OWN = ("invocation", "scores_invocation")
"""Fields that say which process computed a sample."""


def start(config: Path, runs: Path, *overrides: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "experiments.cli.main", "run", str(config), "--runs", str(runs), "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, *overrides], text=True, env=environment, start_new_session=True, **pipes)


def samples(runs: Path) -> dict[tuple[str, str], Any]:
    """The finished samples of a run, without the numbers of the processes.

    A sample may be there twice, in equal lines, if a process was killed while it merged the files of workers.
    """
    by_key: dict[tuple[str, str], Any] = {}
    for path in (runs / "slow" / "cells").glob("*/*.jsonl"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            sample = json.loads(line)
            own = {k: v for k, v in sample.items() if k not in OWN}
            assert by_key.setdefault((sample["cell"], sample["query"]), own) == own, "a sample is there twice"
    return by_key


def lines(runs: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in runs.glob("*/cells/*/*.jsonl"))


def looks(runs: Path) -> dict[str, bytes]:
    return {str(path.relative_to(runs)): path.read_bytes() for path in runs.glob("slow/looks/*/look-*.json")}


def check_reading(runs: Path) -> None:
    """What is read, with the cache that an earlier reader left, is what the lines have."""
    store = Store(runs / "slow")
    try:
        frame = load_run(runs / "slow").samples()
    except StoreError as error:  # killed before run.json
        assert "is not a run directory" in str(error)  # noqa: PT017
        return
    cells = (store.read_run() or {})["cells"]
    stored = {(digest, line["query"]): line for digest in cells for line in store.samples(digest)}
    rows = {(row["cell"], row["query"]): row for row in frame.to_dict("records")}
    assert rows.keys() == stored.keys()
    for key, line in stored.items():
        for name in ("output", "seed", "invocation", "demos", "prompt"):
            assert rows[key].get(name) == line.get(name) or not line.get(name), (key, name)
        assert {name: rows[key][name] for name in line["scores"]} == line["scores"]
    invocations = read_invocations(store)
    assert {
        number for line in stored.values() for number in (line["invocation"], line.get("scores_invocation", 1))
    } <= {*invocations}
    assert [*invocations] == list(range(1, len(invocations) + 1))


def killed_reader(runs: Path, delay: float) -> None:
    """Kills a process that reads the run and writes its cache."""
    reader = PROCESSES.Process(target=lambda: load_run(runs / "slow").samples())
    reader.start()
    reader.join(delay)
    reader.kill()
    reader.join()


def killed_runner(config: Path, runs: Path, overrides: list[str], rng: random.Random) -> bool:
    """Kills a process that computes, at a random moment. Returns whether it was still at work."""
    process = PROCESSES.Process(target=lambda: run(load_config(config, overrides), runs))
    process.start()
    if rng.random() < 0.7:  # after some samples, else at any time from the start on
        target, deadline = lines(runs) + rng.randrange(1, 40), time.monotonic() + 60
        while lines(runs) < target and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
    process.join(rng.random() * 0.3)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.fixture
def config(yaml_file: Callable[..., Path]) -> Path:
    path = yaml_file(PLAIN)
    (path.parent / "slow.py").write_text(SLOW)
    return path


def finished(before: Mapping[Any, Any], after: Mapping[Any, Any], names: tuple[str, ...] = ()) -> bool:
    """Whether each finished sample is still there, apart from these fields."""

    def own(sample: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in sample.items() if name not in names}

    return all(key in after and own(sample) == own(after[key]) for key, sample in before.items())


@pytest.mark.parametrize("kind", ["plain", "stop", "rescore"])
def test_runs_that_are_killed_at_random_moments_lose_nothing_and_read_nothing_stale(
    kind: str, yaml_file: Callable[..., Path], tmp_path: Path
) -> None:
    config = yaml_file(STOPPED if kind == "stop" else PLAIN)
    (config.parent / "slow.py").write_text(SLOW)
    whole = tmp_path / "whole"
    run(load_config(config), whole)
    rng = random.Random(kind)
    kills = turn = 0
    while kills < KILLS:
        runs, turn = tmp_path / f"killed-{turn}", turn + 1
        while kills < KILLS:
            before = samples(runs)
            metrics = rng.choice(["[strict]", "[strict, lenient]"]) if kind == "rescore" else ""
            was_killed = killed_runner(config, runs, [f"metrics={metrics}"] if metrics else [], rng)
            killed_reader(runs, rng.random() * 0.2)
            check_reading(runs)
            assert finished(before, samples(runs), ("scores", "baselines") if metrics else ())
            kills += was_killed
            if not was_killed:  # it has finished
                break
        run(load_config(config), runs)
        check_reading(runs)
        assert samples(runs) == samples(whole)
        assert lines(runs) == lines(whole)
        assert looks(runs) == looks(whole)
        assert run(load_config(config), runs).computed == 0
    assert (looks(whole) != {}) == (kind == "stop")


def damage(path: Path, rng: random.Random) -> None:
    """What a power cut leaves of a file: a part of it, zeros after a part, or nothing."""
    data = path.read_bytes()
    start = rng.randrange(len(data))
    how = rng.random()
    if how < 0.25:
        path.unlink()
    else:
        path.write_bytes(data[:start] + bytes(len(data) - start if how < 0.5 else 0))


@pytest.mark.parametrize("kind", ["plain", "stop"])
def test_the_same_command_mends_a_run_of_which_files_are_damaged(
    kind: str, yaml_file: Callable[..., Path], tmp_path: Path
) -> None:
    config = yaml_file(STOPPED if kind == "stop" else PLAIN)
    (config.parent / "slow.py").write_text(SLOW)
    whole, runs, rng = tmp_path / "whole", tmp_path / "damaged", random.Random(kind)
    run(load_config(config), whole)
    images = {path.name: path.read_bytes() for path in whole.glob("slow/images/*.png")}
    for _ in range(KILLS * 2):
        shutil.rmtree(runs, ignore_errors=True)
        shutil.copytree(whole, runs)
        files = [path for path in runs.rglob("*") if path.suffix in (".json", ".jsonl", ".png") and path.name[0] != "."]
        for path in rng.sample(sorted(files), rng.randint(1, 4)):
            damage(path, rng)
        for name in ("run.json", "invocations.jsonl"):  # costs and machines cannot be made again
            try:
                run(load_config(config), runs)
                break
            except StoreError as error:
                assert f"{name} is damaged" in str(error)  # noqa: PT017
                assert re.search("[Rr]emove it", str(error))  # noqa: PT017
                (runs / "slow" / name).unlink()
        run(load_config(config), runs)
        assert samples(runs) == samples(whole)
        assert lines(runs) == lines(whole)
        assert looks(runs) == looks(whole)
        assert {path.name: path.read_bytes() for path in runs.glob("slow/images/*.png")} == images
    assert images


def wait_for_workers(runs: Path) -> None:
    """Workers whose command is gone end soon; those that were still starting have written no file of their own."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(works_in(str(runs), path) for path in Path("/proc").glob("[0-9]*")):
        time.sleep(0.05)


def works_in(folder: str, process: Path) -> bool:
    """Whether a command line names a file of this folder."""
    with suppress(OSError):  # it has just ended
        return folder in (process / "cmdline").read_bytes().decode(errors="replace")
    return False


def test_workers_that_are_killed_lose_nothing(config: Path, tmp_path: Path) -> None:
    """One of two workers, or all processes of the command, die at a random moment; the last command finishes."""
    whole, killed, rng = tmp_path / "whole", tmp_path / "killed", random.Random("workers")
    run(load_config(config), whole)
    kills = 0
    while kills < max(1, KILLS // 10):
        before = samples(killed)
        process = start(config, killed, "launcher.workers=2")
        target, deadline = lines(killed) + rng.randrange(1, 40), time.monotonic() + 120
        while lines(killed) < target and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.poll() is None:
            kills += 1
            workers = [json.loads(path.read_text())["process"] for path in killed.glob("slow/launch/*-1.json")]
            with suppress(ProcessLookupError):  # it has just ended by itself
                if workers and rng.random() < 0.5:
                    os.kill(workers[-1], signal.SIGKILL)
                else:
                    os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=120)
        wait_for_workers(killed)
        check_reading(killed)
        assert finished(before, samples(killed))
        if len(samples(killed)) == 480:
            killed = tmp_path / f"killed-{kills}"
    last = start(config, killed)
    _, err = last.communicate(timeout=240)
    assert last.returncode == 0, err
    assert samples(killed) == samples(whole)
    assert lines(killed) == lines(whole) == 480


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
    _, err = last.communicate(timeout=120)
    assert last.returncode == 0, err
    assert uninterrupted.wait(timeout=120) == 0
    assert len(samples(killed)) == 480
    assert samples(killed) == samples(whole)
    assert lines(killed) == 480
    again = start(config, killed)
    out, _ = again.communicate(timeout=60)
    assert (again.returncode, out.split("   ")[0]) == (0, "nothing to do (480 samples present)")
