from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import icl
from decoding.arms.arm import parse_arm
from decoding.arms.inspection import probe_prompt
from experiments.api import answer
from icl.component_json import config_nodes, to_config
from icl.errors import ConfigError, PlanError, StoreError
from icl.models.base import Request
from icl.models.fake import FakeModel


def test_a_context_in_a_notebook_is_the_one_that_a_run_shows(shapes: str, mapping: Any, tmp_path: Path) -> None:
    task = icl.load_task(shapes)
    frame = icl.run(mapping(shots=3, seeds=[4]), runs=tmp_path, quiet=True).samples().set_index("query")
    for query in task.queries:
        context = icl.retrieve("random", task, query, shots=3, seed=4)
        prompt = icl.compose("chat", context)
        assert [demo.example.id for demo in context.demos] == [demo[0] for demo in frame.loc[query.id, "demos"]]
        assert prompt.digest == frame.loc[query.id, "prompt_digest"]
        assert prompt.key == context.key


def test_a_query_may_be_given_by_its_id(shapes: str) -> None:
    task = icl.load_task(shapes, queries=3)
    assert icl.retrieve("random", task, "q-0002", shots=0).query == task.queries[2].query
    with pytest.raises(PlanError, match=r"task 'shapes' has no query 'q-002'. Did you mean 'q-0002'?"):
        icl.retrieve("random", task, "q-002")


FEWER = """
from dataclasses import dataclass
from icl.types import RetrievedExample

@dataclass(frozen=True)
class Fewer:
    needs = frozenset()

    def fit(self, pool, resources):
        self.__dict__["pool"] = pool
        return self

    def retrieve(self, queries, k, policy):
        return [tuple(RetrievedExample(e.id) for e in self.pool.examples[: k - 1]) for _ in queries]
"""


def test_fewer_demonstrations_than_shots_are_refused_as_in_a_run(shapes: str, tmp_path: Path) -> None:
    (tmp_path / "fewer.py").write_text(FEWER)
    with pytest.raises(PlanError, match="returned 2 demonstrations for 3 shots"):
        icl.retrieve(f"{tmp_path / 'fewer.py'}:Fewer", icl.load_task(shapes), "q-0000", shots=3)


def test_one_prompt_is_answered_by_several_decodings(shapes: str, toy: str) -> None:
    prompt = icl.compose("chat", icl.retrieve("random", icl.load_task(shapes), "q-0000", shots=2))
    generations = answer(icl.load_model(toy), prompt, ["greedy", {"name": "vcd", "alpha": 0}])
    assert list(generations) == ["greedy", "vcd(alpha=0)"]
    assert len({generation.text for generation in generations.values()}) == 1
    with pytest.raises(PlanError, match="decoding 'vcd' needs next-token logits"):
        answer(icl.load_model("fake-gold"), prompt, "vcd")


@dataclass(frozen=True)
class ImageCounter(FakeModel):
    def answer_to(self, request: Request) -> str:
        return f"{len(request.prompt.images)} images"


def test_a_model_that_only_answers_gets_the_prompt_and_nothing_else(shapes: str) -> None:
    prompt = icl.compose("chat", icl.retrieve("random", icl.load_task(shapes), "q-0000", shots=2))
    assert answer(ImageCounter(), prompt)["greedy"].text == "3 images"
    with pytest.raises(PlanError, match="reads demos in addition to a prompt"):
        answer(icl.load_model("fake-vote"), prompt)


class ThinkingFake(FakeModel):
    def answer_to(self, request: Request) -> str:
        return "<think> one two three four </think> red"


def test_different_decodings_of_one_label_are_refused(toy: str) -> None:
    arms = [{"name": "vcd", "alpha": alpha, "label": "mild"} for alpha in (0.5, 1.0)]
    model, prompt = icl.load_model(toy), probe_prompt(2)
    with pytest.raises(ConfigError, match=r"several decodings have the label 'mild'. Write a `label` for each"):
        icl.answer(model, prompt, decoding=arms)
    assert list(icl.answer(model, prompt, decoding=[arms[0], arms[0]], max_new_tokens=1)) == ["mild"]


def test_an_answer_has_a_thinking_budget_beside_the_limit_of_its_tokens(toy: str) -> None:
    prompt = probe_prompt(shots=0)
    whole = answer(ThinkingFake(), prompt, max_new_tokens=3)["greedy"]
    assert (whole.thinking, whole.finish) == ("", "length")
    cut = answer(ThinkingFake(), prompt, max_new_tokens=3, max_thinking_tokens=2)["greedy"]
    assert (cut.text, cut.thinking, cut.finish) == ("<think> one two\n</think>\n\nred", "cut", "stop")
    with pytest.raises(PlanError, match="this model cannot limit its reasoning"):
        answer(icl.load_model(toy), prompt, max_thinking_tokens=2)


def test_a_model_that_only_answers_gets_the_prompt_that_a_strategy_rewrites() -> None:
    class Conflicted(FakeModel):
        def answer_to(self, request: Request) -> str:
            text = request.prompt.text
            return "hinted" if "memory" in text else "dog" if request.prompt.images else "cat"

    prompt = probe_prompt(shots=0)
    answers = answer(Conflicted(), prompt, ["greedy", {"name": "dcd_prompt", "entity": "none"}])
    assert [generation.text for generation in answers.values()] == ["dog", "hinted"]


def test_a_run_is_read_back_as_a_frame_with_a_column_an_axis_and_a_metric(mapping: Any, tmp_path: Path) -> None:
    config = mapping(grid={"shots": [0, 2]}, seeds=[0, 1])
    frame = icl.run(config, runs=tmp_path, quiet=True).samples()
    assert {"shots", "retriever", "decoding", "seed", "query", "strict", "lenient", "vote", "failed"} <= set(frame)
    assert frame.attrs["metrics"] == ("strict", "lenient")
    assert len(frame) == 2 * 2 * 6
    assert not frame.duplicated(["cell", "query"]).any()


def test_an_axis_with_one_value_has_it_at_0_shots_too(mapping: Any, tmp_path: Path) -> None:
    one = icl.run(mapping(grid={"shots": [0, 2]}), runs=tmp_path, quiet=True).samples()
    two = icl.run(
        mapping(name="u", grid={"shots": [0, 2], "retriever": ["random", "balanced"]}), runs=tmp_path, quiet=True
    )
    assert set(one["retriever"]) == {"random"}
    assert set(two.samples()["retriever"]) == {"none", "random", "balanced"}
    assert set(two.samples()["order"]) == {"reversed"}


def test_keywords_and_overrides_change_the_config(mapping: Any, tmp_path: Path) -> None:
    run = icl.run(mapping(), {"task.queries": 3}, runs=tmp_path, quiet=True, shots=1)
    assert [len(demos) for demos in run.samples()["demos"]] == [1, 1, 1]


def test_arms_are_compared_as_the_config_says_or_as_asked(mapping: Any, tmp_path: Path) -> None:
    config = mapping(grid={"shots": [0, 2]}, compare={"to": {"shots": 0}, "metric": "strict"})
    run = icl.run({**config, "task": {**config["task"], "queries": 30}}, runs=tmp_path, quiet=True)
    (row,) = run.compare().to_dict("records")
    assert (row["shots"], row["reference_mean"]) == (2, 0.0)
    assert len(run.compare(to={"shots": 2})) == 1


def test_cells_have_counts_of_finished_and_failed_samples(mapping: Any, tmp_path: Path) -> None:
    cells = icl.run(mapping(grid={"shots": [0, 2]}), runs=tmp_path, quiet=True).cells()
    assert (list(cells["shots"]), list(cells["finished"]), list(cells["failed"])) == ([0, 2], [6, 6], [0, 0])


def test_the_error_about_a_folder_without_a_run_suggests_the_nearest(mapping: Any, tmp_path: Path) -> None:
    icl.run(mapping(name="contrast"), runs=tmp_path, quiet=True)
    with pytest.raises(StoreError, match=r"is not a run directory \(no run.json\). Did you mean 'contrast'?"):
        icl.load_run(tmp_path / "contrst")


@pytest.mark.parametrize("file", ["run.json", "cells/{}/0.jsonl", "cells/{}/cell.json"])
def test_a_file_of_a_run_names_the_run(mapping: Any, tmp_path: Path, file: str) -> None:
    run = icl.run(mapping(name="contrast"), runs=tmp_path, quiet=True)
    run_of_file = icl.load_run(run.path / file.format(run.info["cells"][0]))
    assert run_of_file.path == run.path
    assert len(run_of_file.samples()) == 6


def test_the_error_about_a_path_that_is_no_run_says_what_to_give(mapping: Any, tmp_path: Path) -> None:
    icl.run(mapping(name="contrast"), runs=tmp_path / "runs", quiet=True)
    with pytest.raises(
        StoreError, match=r"runs is not a run directory, but contains runs: contrast. Use one of them.$"
    ):
        icl.load_run(tmp_path / "runs")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(StoreError, match=r"x.json is a file outside a run directory. Use the folder that contains"):
        icl.load_run(tmp_path / "x.json")
    (tmp_path / "run.json").write_text('{"format": 2}')
    with pytest.raises(StoreError, match=r"run.json is not the run.json of a run: it has no list of cells.$"):
        icl.load_run(tmp_path).samples()


def test_an_unknown_component_is_an_error(shapes: str) -> None:
    with pytest.raises(ConfigError, match=r"no retriever named 'knm'. Did you mean 'knn'?"):
        icl.retrieve("knm", icl.load_task(shapes), "q-0000")


def test_a_class_or_a_component_may_stand_for_a_name(shapes: str) -> None:
    from decoding.strategies.vcd import VCD
    from icl.models.fake import FakeGold
    from icl.registry import resolve
    from prompts.composers.turns import Chat

    task = icl.load_task(shapes)
    by_name = icl.retrieve("random", task, "q-0001", shots=2)
    cls = resolve("retriever", "random")
    for retriever in (cls, cls(), {"name": cls}):
        assert icl.retrieve(retriever, task, "q-0001", shots=2) == by_name
    assert icl.compose(Chat, by_name) == icl.compose("chat", by_name)
    assert icl.load_model(FakeGold, accuracy=0.5) == icl.load_model("fake-gold", accuracy=0.5)
    assert icl.load_task(task) is task
    assert parse_arm(VCD).label == "vcd"
    with pytest.raises(ConfigError, match="'vcd' is a strategy, not a retriever"):
        icl.retrieve(VCD, task, "q-0001")
    with pytest.raises(ConfigError, match="'str' is not a dataclass"):
        icl.retrieve(str, task, "q-0001")
    with pytest.raises(ConfigError, match=r"'Query' is not a retriever: it has no needs, fit"):
        icl.retrieve(task.queries[0].query, task, "q-0001")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda task: icl.retrieve("knn", task, None), "the query must be an example or a query of the task.*not None"),
        (lambda task: icl.retrieve("knn", None, "q-0001"), "a task must be a name or a mapping.*not None"),
        (lambda task: icl.retrieve("knn", task, "q-0001", shots="4"), "shots must be a whole number.*not '4'"),
        (lambda task: icl.retrieve("knn", task, "q-0001", shots=-1), "shots must be a whole number.*not -1"),
        (lambda task: icl.compose("chat", task.queries[0]), "Example is not a context. icl.retrieve"),
        (lambda task: icl.answer("fake-gold", "red?"), "str is not a prompt. icl.compose"),
        (lambda task: icl.run(3), "the config must be a YAML file.*not 3"),
    ],
)
def test_a_wrong_argument_is_a_sentence(shapes: str, call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call(icl.load_task(shapes))


@dataclass(frozen=True)
class InThisFile(FakeModel):
    """A model that another process can import."""

    word: str = "red"

    def answer_to(self, request: Request) -> str:
        return self.word


def test_a_config_in_a_mapping_may_hold_components_and_its_run_names_them(mapping: Any, tmp_path: Path) -> None:
    from icl.registry import resolve

    cls = resolve("retriever", "random")
    by_class = icl.run(mapping(name="u", grid={"retriever": [cls, "balanced"]}), runs=tmp_path, quiet=True)
    by_name = icl.run(mapping(name="v", grid={"retriever": ["random", "balanced"]}), runs=tmp_path, quiet=True)
    assert by_class.info["cells"] == by_name.info["cells"]
    assert by_class.config["grid"] == {"retriever": [{"name": "random"}, "balanced"]}
    assert by_class.load_config().grid == {"retriever": [{"name": "random"}, "balanced"]}
    run = icl.run(mapping(name="w", model=InThisFile(word="blue")), runs=tmp_path, quiet=True)
    assert run.config["model"] == to_config(InThisFile(word="blue"))

    @dataclass(frozen=True)
    class Local(InThisFile):
        pass

    local = icl.run(mapping(name="x", model=Local()), runs=tmp_path, quiet=True)
    assert "Local" in local.config["model"]["name"]
    assert set(local.samples()["output"]) == {"red"}
    with pytest.raises(PlanError, match="where another process cannot find it"):
        config_nodes({"model": Local()})
