"""The keys `stop_strings` and `logits_processors` of an experiment file reach the engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decoding.engine.hypotheses import cut_at_stop_string
from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.results.loaded_run import load_run
from experiments.running.run import run
from experiments.store.run_state import equivalence_digest
from experiments.store.store import Store
from icl.errors import StoreError

Mapping = Callable[..., dict[str, Any]]
CAPTIONS = {"task": {"name": "captions", "queries": 3}, "model": {"name": "hf", "path": "tiny"}, "max_new_tokens": 12}


def outputs(folder: Path) -> dict[tuple[str, str], str]:
    """(decoding, query) -> answer."""
    frame = load_run(folder).samples()
    return dict(zip(zip(frame["decoding"], frame["query"], strict=True), frame["output"], strict=True))


def digests(config: dict[str, Any]) -> list[str]:
    return [cell.digest for cell in expand(load_config(config)).cells]


def test_answers_of_the_shipped_model_end_before_the_first_stop_string(mapping: Mapping, tmp_path: Path) -> None:
    config = mapping(**CAPTIONS, grid={"decoding": ["greedy", "vcd"]})
    run(load_config(config), tmp_path)
    stop_strings = [" in the", "rectangles"]
    run(load_config({**config, "name": "stopped", "stop_strings": stop_strings}), tmp_path)
    plain, stopped = outputs(tmp_path / "t"), outputs(tmp_path / "stopped")
    assert stopped == {key: cut_at_stop_string(text, stop_strings) for key, text in plain.items()}
    assert stopped != plain
    counts = [sum(u["new_tokens"] for u in load_run(tmp_path / n).samples()["usage"]) for n in ("t", "stopped")]
    assert counts[1] < counts[0]  # the engine stops, instead of cutting the text afterwards


def test_answers_of_a_model_without_logits_are_cut(mapping: Mapping, tmp_path: Path) -> None:
    run(load_config(mapping()), tmp_path)
    plain = outputs(tmp_path / "t")
    stop = next(iter(plain.values()))[1:]
    run(load_config(mapping(name="stopped", stop_strings=[stop])), tmp_path)
    stopped = outputs(tmp_path / "stopped")
    assert stopped == {key: cut_at_stop_string(text, [stop]) for key, text in plain.items()} != plain


def test_stop_strings_are_part_of_a_cell_only_where_they_have_an_effect(mapping: Mapping) -> None:
    assert digests(mapping(stop_strings=[])) == digests(mapping())
    assert digests(mapping(stop_strings=["\n"])) != digests(mapping())
    assert digests(mapping(stop_strings=["\n"], answer_mode="options")) == digests(mapping(answer_mode="options"))
    cells = expand(load_config(mapping(stop_strings=["\n"]))).cells
    assert cells[0].config["stop_strings"] == ["\n"]
    assert equivalence_digest({**cells[0].config, "stop_strings": ["."]}) != equivalence_digest(cells[0].config)


def test_a_run_with_other_stop_strings_does_not_continue_in_the_same_folder(mapping: Mapping, tmp_path: Path) -> None:
    run(load_config(mapping()), tmp_path)
    with pytest.raises(StoreError, match=r"made with another config \(stop_strings \['!'\]\)"):
        run(load_config(mapping(stop_strings=["!"])), tmp_path)


def test_logits_processors_change_the_answers_of_their_arm_alone(mapping: Mapping, tmp_path: Path) -> None:
    penalty = {"name": "greedy", "logits_processors": [{"name": "repetition_penalty", "penalty": 100.0}]}
    run(load_config(mapping(**CAPTIONS, grid={"decoding": ["greedy", penalty]})), tmp_path)
    run(load_config(mapping(**CAPTIONS, name="alone")), tmp_path)
    answers = outputs(tmp_path / "t")
    plain = {key: text for key, text in answers.items() if key[0] == "greedy"}
    changed = {
        query: text for (arm, query), text in answers.items() if arm == "greedy, repetition_penalty(penalty=100.0)"
    }
    assert plain == outputs(tmp_path / "alone")
    assert len(changed) == len(plain)
    assert all(changed[query] != text for (_, query), text in plain.items())
    nodes = [
        Store(tmp_path / "t").read_cell(cell)["decoding"] for cell in (Store(tmp_path / "t").read_run() or {})["cells"]
    ]
    assert [node.get("logits_processors") for node in nodes] == [None, penalty["logits_processors"]]
