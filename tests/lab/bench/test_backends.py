"""The comparison of backends: pair by pair on equal prompts, with explained differences."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.grid.grid import expand
from experiments.store.store import FORMAT
from icl.errors import ModelError
from lab.bench.backends import MODELS, compare_backends, config, samples, table


def sample(output: str, right: int, gap: list[float], logprob: list[float], **more: Any) -> dict[str, Any]:
    fields = {"output": output, "prompt_digest": "p", "scores": {"lenient": right}, "seed": 0}
    return fields | {"trace": {"gap": gap, "logprob": logprob}} | more


HERE = {
    ("t", 0, "q1"): sample("red", 1, [2.0, 1.0], [-0.1, -0.2]),
    ("t", 0, "q2"): sample("blue", 1, [0.5, 0.003], [-0.4, -0.7]),
    ("t", 0, "q3"): sample("green", 0, [0.9, 0.8], [-0.5, -0.6]),
    ("t", 0, "q4"): sample("dog", 1, [3.0], [-0.1]),
    ("u", 0, "q1"): sample("", 0, [1.0], [-0.3]),
}
THERE = {
    ("t", 0, "q1"): sample("red", 1, [2.0, 1.0], [-0.101, -0.2]),
    ("t", 0, "q2"): sample("blur", 0, [0.5, 0.001], [-0.4, -0.7]),
    ("t", 0, "q3"): sample("gray", 0, [0.9, 0.8], [-0.5, -0.6]),
    ("t", 0, "q4"): sample("cat", 0, [3.0], [-0.1], prompt_digest="another"),
    ("u", 0, "q1"): sample("", 0, [1.0], [-0.3]),
}


def test_pairs_differences_and_explained_ones_are_counted() -> None:
    first, second = compare_backends("vllm", HERE, THERE)
    assert (first.pairs, first.same, first.right, first.right_there, first.p) == (3, 1, 2, 1, 1.0)
    assert first.log_prob_difference == pytest.approx(0.001)
    assert first.margins == (0.8, 0.003)
    assert first.explained == 1
    assert (second.task, second.pairs, second.same, second.margins) == ("u", 1, 1, ())


def test_a_failed_sample_of_a_backend_has_no_pair() -> None:
    broken = THERE | {("t", 0, "q1"): {"failed": "no", "prompt_digest": "p", "seed": 0}}
    assert compare_backends("vllm", HERE, broken)[0].pairs == 2


def test_the_table_has_a_row_for_each_backend_that_was_run(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no run of 'hf'"):
        list(table(tmp_path))
    for name, fields in (("hf", HERE), ("vllm", THERE)):
        folder = tmp_path / name
        cell = folder / "cells" / "c"
        cell.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"format": FORMAT, "cells": ["c"]}))
        (cell / "cell.json").write_text(json.dumps({"format": FORMAT, "labels": {"task": "t", "shots": 0}}))
        lines = [one | {"cell": "c", "query": key[2]} for key, one in fields.items() if key[0] == "t"]
        (cell / "0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(samples(tmp_path / "hf")) == 4
    _, _, row = table(tmp_path)
    assert row == "| t | vllm | 3 | 33.3 % | 0.667 | 0.333 | 1.00 | 0.001 | 0.003 to 0.8 | 1 of 2 |"


@pytest.mark.parametrize("name", ["hf", "nf4", "vllm"])
def test_every_backend_gets_the_same_cells(name: str) -> None:
    grid = expand(config(name, MODELS[name], queries=3))
    own = {(cell.shots, str(cell.labels["retriever"]), str(cell.labels["decoding"])) for cell in grid.cells}
    assert len(own) == 4 + 2 * 4
    assert all(len(cell.task.queries) == 3 for cell in grid.cells)
