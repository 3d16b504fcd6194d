"""`icl fit` of a retriever: the model's feedback, its file, and where a head may be used."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.grid.feasibility import check_requirements
from experiments.grid.fitted_parameters import fitted_records, training_images
from experiments.grid.grid import expand
from experiments.grid.grid_warnings import grid_warnings
from experiments.running import feedback as module
from experiments.running import paid_calls
from experiments.running.feedback import RetrieverFit, fit_retriever
from experiments.running.paid_calls import gold_probability
from experiments.running.run import run
from experiments.store.store import Store
from icl.errors import ConfigError, DataError, ModelError, PlanError
from icl.registry import build
from icl.types import Example
from retrievers.learned import Learned

Config = Callable[..., dict[str, Any]]
NODE = {"name": "learned", "embedder": "histogram", "text": None, "candidates": 4, "steps": 10}
QUERIES = 12


@pytest.fixture
def study(any_study: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Config:
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "cache"))
    return any_study


@pytest.fixture(scope="module")
def any_study(mapping: Config, toy: str, shapes: str) -> Config:
    task = {"name": shapes, "queries": QUERIES}
    return lambda **keys: mapping(**{"model": toy, "task": task, "retriever": NODE, "shots": 2} | keys)


def fit(config: dict[str, Any], out: Path) -> RetrieverFit:
    result = fit_retriever(load_config(config), out)
    result.heads.save(out)
    return result


def calls(head: Path) -> list[dict[str, Any]]:
    """The lines of the feedback beside a head."""
    return [json.loads(line) for line in head.with_suffix(".feedback.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def fitted(any_study: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a head of the study and its feedback."""
    folder = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICL_CACHE", str(tmp_path_factory.mktemp("cache")))
        fit(any_study(), folder / "head.safetensors")
    return folder


@pytest.fixture
def head(fitted: Path, tmp_path: Path) -> Path:
    """A copy of `fitted`."""
    return shutil.copytree(fitted, tmp_path, dirs_exist_ok=True) / "head.safetensors"


def used(study: Config, path: Path, **keys: Any) -> dict[str, Any]:
    return study(**{"retriever": {"name": "learned", "embedder": "histogram", "fitted": str(path)}} | keys)


def test_the_feedback_is_the_probability_of_the_gold_in_a_run_with_one_demonstration(
    study: Config, head: Path, tmp_path: Path
) -> None:
    """The same numbers by another way: one run whose retriever lists a demonstration, and its option scores."""
    lines = {line["query"]: line for line in calls(head)}
    lists = {query: line["demos"] for query, line in lines.items()}
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    external = {"name": "external", "path": str(tmp_path / "lists.json")}
    config = study(shots=1, retriever=external, answer_mode="options", decoding={"name": "greedy", "normalize": "mean"})
    run(load_config(config), tmp_path / "runs")
    (cell,) = expand(load_config(config)).cells
    for sample in Store(tmp_path / "runs" / "t").samples(cell.digest):
        assert sample["option_scores"] == pytest.approx(lines[sample["query"]]["scores"], abs=1e-4)


def test_the_gold_is_compared_with_all_options_or_stands_alone() -> None:
    def gold(scores: dict[str, float], answers: tuple[str, ...], options: tuple[str, ...]) -> float:
        return gold_probability(scores, Example("q", (), "Which color?", answers, options))

    scores = {"red": -1.0, "blue": -1.0, "green": -1.0}
    assert gold(scores, ("Red.",), tuple(scores)) == pytest.approx(1 / 3)
    assert gold(scores, ("red", "blue"), tuple(scores)) == pytest.approx(2 / 3)
    assert gold({"crimson": -3.0, "red": -1.0}, ("crimson", "red"), ()) == pytest.approx(np.exp(-1))


def test_each_query_has_as_many_numbers_as_candidates_and_the_file_says_what_they_cost(
    study: Config, head: Path
) -> None:
    lines = calls(head)
    assert Counter(line["query"] for line in lines) == dict.fromkeys(Counter(line["query"] for line in lines), 4)
    assert len(lines) == 4 * QUERIES
    record = Learned(fitted=str(head)).file.record
    assert (record["calls"], record["tokens"]) == (len(lines), sum(line["tokens"] for line in lines))


def test_an_open_answer_has_feedback_too(study: Config, shapes: str, tmp_path: Path) -> None:
    fit(study(task={"name": shapes, "queries": QUERIES, "optionless": True}), tmp_path / "open.safetensors")
    assert {len(line["scores"]) for line in calls(tmp_path / "open.safetensors")} == {1}


def test_a_killed_fit_pays_for_nothing_twice(
    study: Config, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paid_calls, "CHUNK", 10)
    sent: list[int] = []
    answer = paid_calls.answer

    def killed(model: Any, requests: Any, *more: Any) -> None:
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(len(requests))
        answer(model, requests, *more)

    out = tmp_path / "killed.safetensors"
    monkeypatch.setattr(paid_calls, "answer", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(study(), out)
    monkeypatch.setattr(paid_calls, "answer", answer)
    assert fit(study(), out).calls == 4 * QUERIES - sum(sent)
    one, other = ({line["key"]: line["scores"] for line in calls(path)} for path in (head, out))
    assert one.keys() == other.keys()
    assert Learned(fitted=str(out)).file.record["calls"] == 4 * QUERIES
    for part in ("queries", "members", "bias"):
        assert np.allclose(*(getattr(Learned(fitted=str(path)).file.heads["none"], part) for path in (head, out)))


def test_another_loss_costs_no_call_and_more_candidates_cost_the_new_ones(study: Config, head: Path) -> None:
    assert fit(study(retriever=NODE | {"loss": "epr"}), head).calls == 0
    assert 0 < fit(study(retriever=NODE | {"candidates": 6}), head).calls <= 3 * QUERIES


@pytest.mark.parametrize("feedback", ["single", "banzhaf"])
def test_a_prompt_that_lost_demonstrations_to_the_context_is_no_feedback_of_them(
    feedback: str, study: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render, lost = module.render, []

    def without_first(item: Any) -> Any:
        item = render(item)
        if [demo.example.id for demo in item.context.demos][:1] != ["p-0001"]:
            return item
        lost.append(item)
        return replace(item, num_dropped=1)

    monkeypatch.setattr(module, "render", without_first)
    out = tmp_path / "short.safetensors"
    result = fit(study(retriever=NODE | {"feedback": feedback}), out)
    assert dict(result.left_out) == {"demonstrations do not fit into the model's context.": len(lost)}
    assert lost
    assert not any(line["demos"][:1] == ["p-0001"] for line in calls(out))


def test_banzhaf_values_come_from_as_many_calls_on_sets(study: Config, tmp_path: Path) -> None:
    out = tmp_path / "sets.safetensors"
    assert fit(study(retriever=NODE | {"feedback": "banzhaf"}), out).calls <= 4 * QUERIES
    demos = [line["demos"] for line in calls(out)]
    assert {len(one) for one in demos} - {1}
    node = {"name": "learned", "embedder": "histogram", "fitted": str(out)}
    assert build("retriever", node).file.settings["feedback"] == "banzhaf"
    with pytest.raises(ConfigError, match="candidates: 5"):
        build("retriever", node | {"candidates": 5}).file  # noqa: B018
    assert fit(study(), out).calls <= 4 * QUERIES


def test_what_another_fit_added_to_the_file_changes_no_head(study: Config, head: Path) -> None:
    before = Learned(fitted=str(head)).file.heads
    assert fit(study(retriever=NODE | {"candidates": 8}), head).calls > 0
    assert fit(study(), head).calls == 0
    after = Learned(fitted=str(head)).file.heads
    for name, one in before.items():
        assert all(np.array_equal(getattr(one, part), getattr(after[name], part)) for part in ("queries", "members"))


def test_feedback_under_another_intervention_is_paid_anew(mapping: Config, tmp_path: Path) -> None:
    keys = {"model": {"name": "hf", "path": "tiny"}, "task": {"name": "gated", "queries": 10, "support": 4}}
    study, out = mapping(retriever=NODE | {"candidates": 2}, shots=1, **keys), tmp_path / "head.safetensors"
    assert fit(study, out).calls == 20
    assert fit(study | {"intervene": {"name": "attention_scaling"}}, out).calls == 20


@pytest.mark.parametrize("keys", [{"model": {"salt": "x"}}, {"composer": {"name": "chat", "system": "Answer."}}])
def test_feedback_of_another_model_or_composer_is_paid_anew(keys: Any, study: Config, toy: str, head: Path) -> None:
    keys = {"model": {"name": toy, **keys["model"]}} if "model" in keys else keys
    assert fit(study(**keys), head).calls == 4 * QUERIES
    assert fit(study(), head).calls == 0


def test_numbers_that_are_not_finite_are_an_error(
    study: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.5] * 5)
    monkeypatch.setattr(module, "gold_probability", lambda scores, example: next(values, float("nan")))
    with pytest.raises(
        ModelError, match=r"query 'q-\d+' with the demonstrations 'p-.*: the model's log-probability of the gold is nan"
    ):
        fit(study(), tmp_path / "head.safetensors")


def test_a_head_that_orders_no_better_than_one_of_other_queries_is_reported() -> None:
    shares = [0.4, 0.6, 0.5, 0.7, 0.3]
    (warning,) = module._warnings({"probe": shares, "probe_without_match": shares[::-1]})
    assert warning.startswith("this embedder does not show which demonstrations help")
    assert "(0.50) than a head trained on the feedback of other queries (0.50)" in warning
    good = {"probe": [0.9, 0.8, 0.85], "probe_without_match": [0.8, 0.9, 0.85]}
    assert "shows which demonstrations are good, but not for which query" in next(module._warnings(good))
    assert not list(module._warnings({"probe": [0.9, 0.8, 0.85], "probe_without_match": [0.5, 0.5, 0.5]}))


def test_a_task_with_too_few_queries_and_no_shots_are_errors(study: Config, shapes: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a head needs 10 queries"):
        fit(study(task=shapes), tmp_path / "head.safetensors")
    with pytest.raises(ConfigError, match="a retriever is fitted at 1 shot or more, and shots is 0"):
        fit(study(shots=0), tmp_path / "head.safetensors")


def test_shots_and_decodings_may_differ_but_not_composers(study: Config, tmp_path: Path) -> None:
    config = study(grid={"shots": [1, 2], "decoding": ["greedy", {"name": "greedy", "normalize": "mean"}]})
    del config["shots"]
    assert fit(config, tmp_path / "head.safetensors").calls == 4 * QUERIES
    with pytest.raises(
        ConfigError, match="retrievers are fitted in one setting, and this file has several values of retriever"
    ):
        fit(study(grid={"retriever": [NODE, NODE | {"loss": "epr"}]}), tmp_path / "head.safetensors")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model": {"salt": "x"}}, "the numbers in head.safetensors are of another model"),
        ({"composer": {"name": "chat", "system": "Answer."}}, "were fitted with the composer"),
        ({"task": {"pool_count": 8}}, "were fitted on the task"),
    ],
)
def test_a_head_of_another_model_composer_or_task_is_refused_unless_it_says_transfer(
    keys: Any, message: str, study: Config, head: Path
) -> None:
    names = {key: study()[key]["name"] for key in ("task",)} | {"model": study()["model"]}
    keys = {key: {"name": names[key], **value} if key in names else value for key, value in keys.items()}
    with pytest.raises(PlanError, match=message):
        check_requirements(expand(load_config(used(study, head, **keys))))
    node = {"name": "learned", "embedder": "histogram", "fitted": str(head), "transfer": True}
    check_requirements(expand(load_config(study(retriever=node, **keys))))
    wrapped = {"name": "filtered", "of": {**node, "transfer": False}, "max_similarity": 1, "embedder": "histogram"}
    with pytest.raises(PlanError, match=message):
        check_requirements(expand(load_config(study(retriever=wrapped, **keys))))


def test_a_head_that_was_fitted_on_the_test_queries_is_reported(study: Config, head: Path, shapes: str) -> None:
    def leaks(**keys: Any) -> list[str]:
        lines = grid_warnings(expand(load_config(used(study, head, **keys))))
        return [line for line in lines if "the numbers in head.safetensors were fitted on queries that" in line]

    assert len(leaks()) == 1
    assert len(leaks(task={"name": shapes, "queries": 5})) == 1
    (cell,) = expand(load_config(used(study, head))).cells
    ((file, record),) = fitted_records(cell)
    other = replace(cell, config={**cell.config, "task": {**cell.config["task"], "salt": "x"}})
    assert file == head.name
    assert sorted(training_images(record, other).by_digest) == record["images"]
    assert not training_images(record, cell).by_digest  # said as above


def test_default_controls_of_a_retriever_are_arms(study: Config, head: Path) -> None:
    def labels(**keys: Any) -> list[str]:
        return [cell.labels["retriever"] for cell in expand(load_config(used(study, head, **keys))).cells]

    assert len(labels()) == 1
    with_controls = labels(controls="default")
    assert len(with_controls) == 5
    for name in ("permuted_queries", "permuted_candidates", "same_answer", "knn"):
        assert sum(name in label for label in with_controls) == 1
    assert len(labels(controls="default", shots=0)) == 1
    learned = {"name": "learned", "embedder": "histogram", "fitted": str(head)}
    config = study(controls="default", grid={"retriever": [learned, {"name": "knn", "embedder": "histogram"}]})
    del config["retriever"]
    assert len(expand(load_config(config)).cells) == 5  # the neighbors of the file are the control


def test_the_command_fits_continues_and_prints_what_the_embedder_sees(
    yaml_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "cache"))
    text = """
        name: t
        task: {name: SHAPES, queries: 12}
        model: TOY
        shots: 2
        retriever: {name: learned, embedder: histogram, text: null, candidates: 4, steps: 10}
    """
    path, out = yaml_file(text), tmp_path / "head.safetensors"
    assert main(["fit", str(path), f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "feedback     48 calls of the model (" in printed
    assert "48 of them now" in printed
    assert "of pairs of demonstrations in the model's order, for queries new to the head" in printed
    assert f"retriever: {{name: learned, fitted: {out}}}" in printed
    assert main(["fit", str(path), f"--out={out}"]) == 0
    assert " 0 of them now" in capsys.readouterr().out
    assert main(["fit", str(path), "--out=head.npz"]) == 2
    assert "must end in .safetensors" in capsys.readouterr().err
    with FileLock(tmp_path / ".head.lock"):
        assert main(["fit", str(path), f"--out={out}"]) == 2
    assert f"another process fits {out}" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["fit", str(path), f"--out={tmp_path / 'file' / 'head.safetensors'}"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    out.with_suffix(".feedback.jsonl").write_bytes(b"damaged\n{}\n")
    assert main(["fit", str(path), f"--out={out}"]) == 2
    assert "is damaged. Remove the line: its call is then made again." in " ".join(capsys.readouterr().err.split())
