"""Shots whose prompts continue one another are read once, with the answers of runs of their own."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.config.config import load_config
from experiments.results.loaded_run import load_run
from experiments.running.run import run

LADDER = (2, 4, 8)


def samples(folder: Path, order: str, shots: tuple[int, ...]) -> tuple[pd.DataFrame, int]:
    """The samples by arm and query, and the prompt tokens that were forwarded."""
    config: dict[str, Any] = {
        "name": f"{order}-{'-'.join(map(str, shots))}",
        "task": {"name": "binding", "ways": 4, "queries": 4},
        "model": {"name": "hf", "path": "tiny", "dtype": "float32", "device": "cpu"},
        "seeds": [0],
        "max_new_tokens": 4,
        "order": order,
        "grid": {"shots": list(shots), "retriever": ["random"], "decoding": ["greedy", "vcd"]},
    }
    done = run(load_config(config), folder)
    counters = json.loads((done.folder / "run.json").read_text(encoding="utf-8"))["sessions"][-1]["counters"]
    frame = load_run(done.folder).samples()
    return frame.set_index(["shots", "retriever", "decoding", "query"]).sort_index(), counters["prefill_tokens"]


def test_a_ladder_of_nested_shots_forwards_less_and_answers_as_runs_of_each_number_alone(tmp_path: Path) -> None:
    together, tokens = samples(tmp_path, "as_retrieved", LADDER)
    alone = [samples(tmp_path, "as_retrieved", (shots,)) for shots in LADDER]
    separate = pd.concat([frame for frame, _ in alone]).sort_index()
    assert list(together["output"]) == list(separate["output"])
    for one, other in zip(together["trace"], separate["trace"], strict=True):
        for name in one:
            assert one[name] == pytest.approx(other[name], abs=2e-4), name
    assert tokens < 0.7 * sum(forwarded for _, forwarded in alone)
