from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.running.recorder import baselines, rescore, scores
from experiments.running.run import run
from experiments.sharing.verify import wrong_scores
from experiments.stats.bounds import unread_text
from experiments.store.invocations import Invocation, read_invocations
from experiments.store.store import Store
from icl.errors import DataError
from icl.metrics.accuracy import Lenient, OptionAccuracy, Strict
from icl.metrics.machinery.yes_no import UnparsedRate
from icl.models.base import Request
from icl.types import Demo, Example, Generation


def demonstrations(*answers: str) -> list[Demo]:
    return [Demo(Example(f"d{i}", (), "?", (answer,)), 0.0, i) for i, answer in enumerate(answers)]


EXAMPLE = Example("q", (), "?", ("red",), options=("red", "Blue"))


def test_every_metric_scores_the_baselines() -> None:
    values = baselines(
        {"lenient": Lenient(), "strict": Strict()}, demonstrations("it is red", "it is red", "blue"), EXAMPLE
    )
    assert values["vote"] == {"lenient": 1.0, "strict": 0.0}
    assert values["last_copy"] == {"lenient": 0.0, "strict": 0.0}


@pytest.mark.parametrize(("voted", "right"), [("red", 1.0), ("Red", 1.0), ("blue", 0.0), ("green", 0.0)])
def test_if_options_are_scored_the_vote_is_the_chosen_option(voted: str, right: float) -> None:
    values = baselines({"option": OptionAccuracy(), "lenient": Lenient()}, demonstrations(voted, voted, "red"), EXAMPLE)
    assert values["vote"] == {"option": right, "lenient": right}


def test_a_metric_that_does_not_apply_has_no_score() -> None:
    free = Example("q", (), "?", ("red",))
    assert baselines({"unparsed_rate": UnparsedRate(), "option": OptionAccuracy()}, demonstrations("red"), free) == {}
    assert baselines({"strict": Strict()}, (), free) == {}


@dataclass(frozen=True)
class Constant:
    """A user's metric."""

    value: Any
    better = "higher"

    def score(self, generation: Generation, example: Example) -> Any:
        return self.value


@pytest.mark.parametrize("value", [2.0, -0.5, float("nan"), float("inf"), "yes", [1.0]])
def test_an_invalid_score_is_an_error(value: Any) -> None:
    with pytest.raises(DataError, match=r"mine: the score of 'red' for 'q' is .*, not a number in \[0, 1\] or None"):
        scores({"mine": Constant(value)}, Generation("red"), EXAMPLE)


@pytest.mark.parametrize("value", [0, 1, True, 0.5, 1 + 1e-12])
def test_a_number_from_0_to_1_is_a_score(value: float) -> None:
    assert scores({"mine": Constant(value), "none": Constant(None)}, Generation("red"), EXAMPLE) == {"mine": value}


Mapping = Callable[..., dict[str, Any]]
OWN = ("scores_invocation",)


def lines(store: Store) -> dict[tuple[str, str], dict[str, Any]]:
    cells = (store.read_run() or {})["cells"]
    return {(digest, line["query"]): line for digest in cells for line in store.samples(digest)}


def test_scores_and_baselines_become_those_of_a_run_with_the_metrics(mapping: Mapping, tmp_path: Path) -> None:
    answers = {"answer_mode": "options", "shots": 3}
    later = mapping(name="later", metrics=["strict"], **answers)
    at_once = mapping(name="at-once", metrics=["strict", "lenient", "option"], **answers)
    for config in (later, at_once):
        run(load_config(config), tmp_path)
    store = Store(tmp_path / "later")
    grid = expand(load_config({**at_once, "name": "later"}))
    invocation = Invocation(store)
    assert rescore(store, grid, invocation) == 6
    expected = lines(Store(tmp_path / "at-once"))
    assert {key: {k: v for k, v in line.items() if k not in OWN} for key, line in lines(store).items()} == expected
    assert {line["scores_invocation"] for line in lines(store).values()} == {2}
    assert [*read_invocations(store)] == [1, 2]
    digest = grid.cells[0].digest
    assert (store.read_cell(digest) or {})["metrics"] == (Store(tmp_path / "at-once").read_cell(digest) or {})[
        "metrics"
    ]
    assert rescore(store, grid, Invocation(store)) == 0
    assert [*read_invocations(store)] == [1, 2]


def test_failed_samples_and_queries_that_are_gone_stay_as_they_are(mapping: Mapping, tmp_path: Path) -> None:
    run(load_config(mapping(metrics=["strict"])), tmp_path)
    store = Store(tmp_path / "t")
    (digest,) = (store.read_run() or {})["cells"]
    first, second, *others = store.samples(digest)
    gone = {**first, "query": "gone"}
    failed = {k: v for k, v in second.items() if k not in ("output", "scores")} | {"failed": "no image"}
    store.replace_samples(digest, [gone, failed, *others])
    grid = expand(load_config(mapping(metrics=["lenient"])))
    assert rescore(store, grid, Invocation(store)) == 6
    after = list(store.samples(digest))
    assert after[:2] == [gone, failed]
    assert all(set(line["scores"]) == {"lenient"} for line in after[2:])


def test_a_cell_without_samples_gets_its_metrics_and_no_invocation(mapping: Mapping, tmp_path: Path) -> None:
    run(load_config(mapping(metrics=["strict"])), tmp_path)
    store = Store(tmp_path / "t")
    (digest,) = (store.read_run() or {})["cells"]
    (store.cell_folder(digest) / "0.jsonl").unlink()
    grid = expand(load_config(mapping(metrics=["lenient"])))
    assert rescore(store, grid, Invocation(store)) == 0
    assert not (store.cell_folder(digest) / "0.jsonl").exists()
    assert set((store.read_cell(digest) or {})["metrics"]) == {"lenient"}
    assert [*read_invocations(store)] == [1]


def test_a_renamed_answer_is_scored_by_its_stored_gold(mapping: Mapping, tmp_path: Path) -> None:
    symbols = {"transforms": [{"name": "symbols"}], "shots": 3}
    run(load_config(mapping(name="later", metrics=["unparsed_rate"], **symbols)), tmp_path)
    run(load_config(mapping(name="later", metrics=["strict"], **symbols)), tmp_path)
    run(load_config(mapping(name="at-once", metrics=["strict"], **symbols)), tmp_path)
    (later, at_once) = (lines(Store(tmp_path / name)) for name in ("later", "at-once"))
    assert {k: line["scores"] for k, line in later.items()} == {k: line["scores"] for k, line in at_once.items()}
    assert {k: line["baselines"] for k, line in later.items()} == {k: line["baselines"] for k, line in at_once.items()}


def prose(request: Request) -> str:
    """The bare answer, and for green prose that names two colors."""
    (gold,) = request.gold
    return "Compared with green, this is more like red." if gold == "green" else gold


def test_an_output_without_a_certain_reading_is_marked_for_the_metrics_that_read_text(
    mapping: Mapping, tmp_path: Path
) -> None:
    config = mapping(model={"name": "fake-scripted", "answer": f"{__file__}:prose"}, metrics=["strict", "lenient"])
    run(load_config(config), tmp_path)
    store = Store(tmp_path / "t")
    marked = {query: line.get("unread", []) for (_, query), line in lines(store).items()}
    assert marked == {f"q-{i:04d}": ["lenient"] if i % 3 == 1 else [] for i in range(6)}
    frame = load_run(tmp_path / "t").samples()
    texts = frame["unread:lenient"].tolist()
    assert [bool(text) for text in texts] == [i % 3 == 1 for i in range(6)]
    assert texts[1] == unread_text(frame["output"][1], frame["gold"][1], frame["options"][1])
    assert "unread:strict" not in frame
    grid = expand(load_config(config))
    assert list(wrong_scores(load_run(tmp_path / "t"), grid)) == []
    (digest,) = (store.read_run() or {})["cells"]
    store.replace_samples(digest, [{k: v for k, v in s.items() if k != "unread"} for s in store.samples(digest)])
    problems = list(wrong_scores(load_run(tmp_path / "t"), grid))
    assert len(problems) == 2
    assert problems[0].endswith("the stored answer is marked unread for no metric, and it is for lenient")


def test_answers_of_a_run_from_before_the_reader_are_read_when_it_is_run_again(
    mapping: Mapping, tmp_path: Path
) -> None:
    config = mapping(model={"name": "fake-scripted", "answer": f"{__file__}:prose"}, metrics=["lenient"])
    run(load_config(config), tmp_path)
    store = Store(tmp_path / "t")
    (digest,) = (store.read_run() or {})["cells"]
    now = lines(store)
    cell = store.read_cell(digest) or {}
    old = {"lenient": {k: v for k, v in cell["metrics"]["lenient"].items() if k != "reader"}}
    store.replace_samples(digest, [{k: v for k, v in s.items() if k != "unread"} for s in store.samples(digest)])
    store.write_cell(digest, {**cell, "metrics": old})
    store.write_run({**(store.read_run() or {}), "metrics": old})
    frame = load_run(tmp_path / "t").samples()
    assert "unread:lenient" not in frame
    assert view_run(load_run(tmp_path / "t")).answer_notes[-1].startswith("every output counts as read by lenient")
    assert list(wrong_scores(load_run(tmp_path / "t"), expand(load_config(config)))) == []
    run(load_config(config), tmp_path)
    assert {key: {k: v for k, v in line.items() if k not in OWN} for key, line in lines(store).items()} == now
    assert not any("counts as read" in note for note in view_run(load_run(tmp_path / "t")).answer_notes)
