"""A study on two nodes of a real Slurm, with a component and its module, gives the table of one process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from journeys.journey import call
from launched import files
from slurm_cluster import Cluster, lacking

from experiments.results.loaded_run import load_run

STUDY = """
name: batch
task: {name: binding, ways: 2, queries: 20}
model: {name: fake-scripted, answer: "answers.py:answer"}
metrics: [lenient, "answers.py:Copied"]
seeds: [0, 1]
grid:
  shots: [0, 2]
"""
ANSWERS = '''
"""A model that copies an answer, slowly, and notes the node that it runs on."""
import os
import time
from dataclasses import dataclass
from pathlib import Path

from icl import Metric

import copying


def answer(request):
    Path(f"node-{os.environ.get('SLURMD_NODENAME', 'none')}").touch()
    time.sleep(0.05)
    return copying.last_answer(request)


@dataclass(frozen=True)
class Copied(Metric):
    """Whether the model had something to copy."""

    better = "higher"

    def score(self, generation, example):
        return float(generation.text != copying.NOTHING)
'''
COPYING = """
NOTHING = "nothing"


def last_answer(request):
    return request.demos[-1][0].answer if request.demos else NOTHING
"""
SAMPLES = 20 * 2 * 2


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A Slurm with two nodes."""
    if why := lacking():
        pytest.skip(why)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"), nodes=2)
    cluster.start()
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield cluster
    cluster.command("scancel", "--user=root")
    cluster.stop()


def test_jobs_on_two_nodes_give_the_table_of_one_process(slurm: Cluster, tmp_path: Path) -> None:
    for name, text in (("study.yaml", STUDY), ("answers.py", ANSWERS), ("copying.py", COPYING)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    two_nodes = ("launcher=slurm", "launcher.partition=main", "launcher.nodes=2", "launcher.cpus=4")
    batch = call(tmp_path, "icl", "run", "study.yaml", *two_nodes)
    assert {path.name for path in tmp_path.glob("node-*")} == {"node-node0", "node-node1"}
    assert f"{SAMPLES} samples, 0 failed" in batch
    workers = load_run(tmp_path / "runs" / "batch").info["sessions"][0]["workers"]
    assert [(worker["state"], worker["job"].partition("_")[2]) for worker in workers] == [
        ("finished", "0"),
        ("finished", "1"),
    ]
    assert "nothing to do" in call(tmp_path, "icl", "run", "study.yaml", *two_nodes)

    call(tmp_path, "icl", "run", "study.yaml", "--runs", "alone", "--quiet")
    assert files(tmp_path / "runs" / "batch") == files(tmp_path / "alone" / "batch")
    tables = [call(tmp_path, "icl", "show", f"{runs}/batch", "scores") for runs in ("runs", "alone")]
    assert tables[0] == tables[1]
