import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.grid.feasibility import _check_meta, check_data, check_requirements, data_digests
from experiments.grid.grid import Grid, expand
from experiments.running.run import run
from icl.errors import ConfigError, DataError, ICLError, ModelError, PlanError
from icl.registry import PACKAGES, build, entries, resolve

Write = Callable[..., Path]


def test_more_shots_than_the_pool_has_are_refused_with_the_line(yaml_file: Write) -> None:
    path = yaml_file("task: {name: SHAPES, pool_count: 3}\nmodel: fake-copy\ngrid:\n  shots: [0, 3, 4]\n")
    with pytest.raises(ConfigError) as error:
        check_data(expand(load_config(path)))
    assert str(error.value) == (
        f"{path}:4: grid.shots[2]: 4 demonstrations from a pool of 3 (task 'shapes'). "
        "Use fewer shots, or use a task with a larger pool."
    )


def test_swapped_images_need_images_that_no_demonstration_has(yaml_file: Write) -> None:
    text = (
        "task: {name: SHAPES, pool_count: 3}\nmodel: fake-copy\nshots: SHOTS\ntransforms: [{name: images, how: HOW}]\n"
    )
    for shots, how in ((2, "swapped"), (0, "swapped"), (3, "permuted")):
        check_data(expand(load_config(yaml_file(text.replace("SHOTS", str(shots)).replace("HOW", how)))))
    path = yaml_file(text.replace("SHOTS", "3").replace("HOW", "swapped"))
    with pytest.raises(ConfigError) as error:
        check_data(expand(load_config(path)))
    assert str(error.value) == (
        f"{path}:4: transforms: images puts other images of the pool in place of those of the demonstrations, and 3 "
        "shots use the whole pool of 3 (task 'shapes'). Use fewer shots, a larger pool, or how: permuted."
    )


def test_default_controls_of_a_strategy_without_a_strength_are_refused_with_the_line(
    yaml_file: Write, tmp_path: Path
) -> None:
    (tmp_path / "grows.py").write_text(
        "from dataclasses import dataclass\n"
        "from decoding.base import Strategy\n"
        "@dataclass(frozen=True)\n"
        "class Grows(Strategy):\n"
        "    def branches(self, prompt, note=None):\n"
        "        return prompt, prompt.without_images()\n"
        "    def combine(self, logits, step):\n"
        "        return logits[0] - (step >= 8) * logits[1] / 2\n"
    )
    own = tmp_path / "grows.py"
    path = yaml_file(f"task: SHAPES\nmodel: fake-copy\ndecoding: '{own}:Grows'\ncontrols: default\n")
    with pytest.raises(
        ConfigError, match=r":3: decoding: controls: default cannot be built: Grows\.combine\(\) weighs"
    ):
        expand(load_config(path))


def test_option_scoring_needs_options(yaml_file: Write) -> None:
    path = yaml_file("task: {name: SHAPES, optionless: true}\nmodel: fake-gold\nanswer_mode: options\n")
    with pytest.raises(PlanError) as error:
        check_data(expand(load_config(path)))
    assert str(error.value) == (
        f"{path}:3: answer_mode: `options` needs answers to choose from, but query 'q-0000' of task "
        "'shapes' has none. "
        "Use answer_mode: generate, or add options to the task."
    )


def test_options_that_never_contain_the_answer_are_refused(tmp_path: Path, yaml_file: Write) -> None:
    rows = [{"question": f"{i}?", "answer": "yes", "options": ["Ja", "Nein"], "id": str(i)} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = "{question: question, answer: answer, options: options, id: id}"
    path = yaml_file(
        f"task: {{name: hub, path: {tmp_path / 'rows.jsonl'}, columns: {columns}}}\nmodel: "
        "fake-gold\nanswer_mode: options\n"
    )
    with pytest.raises(PlanError, match=r"no query of task .* in its options .*'yes' and 'Ja', 'Nein'"):
        check_data(expand(load_config(path)))


def test_a_task_without_queries_is_refused(yaml_file: Write) -> None:
    with pytest.raises(DataError, match=r"task 'shapes' has no queries."):
        check_data(expand(load_config(yaml_file("task: {name: SHAPES, queries: 0}\nmodel: fake-copy\n"))))


def test_a_strategy_that_the_model_cannot_run_is_refused_with_what_would_run(yaml_file: Write) -> None:
    path = yaml_file("task: SHAPES\nmodel: fake-gold\ngrid:\n  decoding:\n    - greedy\n    - vcd\n")
    with pytest.raises(PlanError) as error:
        check_requirements(expand(load_config(path)))
    message = str(error.value)
    assert message.startswith(f"{path}:6: grid.decoding[1]: model 'fake-gold': decoding 'vcd' needs next-token logits")
    assert message.endswith("'greedy' with answer_mode: generate runs on it; 'vcd' runs with model hf or vllm.")


def test_a_need_that_no_backend_meets_is_reported(yaml_file: Write, tmp_path: Path) -> None:
    (tmp_path / "looking.py").write_text(
        "from dataclasses import dataclass\nfrom decoding import Traits\nfrom decoding.strategies.vcd import VCD\n"
        "@dataclass(frozen=True)\nclass Looking(VCD):\n    traits = Traits(needs={'logits', 'attention'})\n"
    )
    with pytest.raises(PlanError, match=r"needs attention maps and .*; no backend here gives that\.$"):
        check_requirements(
            expand(load_config(yaml_file("task: SHAPES\nmodel: fake-gold\ndecoding: looking.py:Looking\n")))
        )


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_layer_of_a_strategy_that_the_model_lacks_is_refused_before_it_is_loaded(
    yaml_file: Write, wrapped: bool
) -> None:
    def grid(layer: int, negatives: str) -> Grid:
        node = f"{{name: crops, negatives: {negatives}, layer: {layer}}}"
        node = f"{{name: sign_flip, of: {node}}}" if wrapped else node
        return expand(load_config(yaml_file(f"task: binding\nmodel: {{name: hf, path: tiny}}\ndecoding: {node}\n")))

    lacking = grid(4, "attention")
    with pytest.raises(PlanError, match=r"decoding '.*crops.*': the model has no layer 4. Its 4 layers"):
        check_requirements(lacking)
    assert "engine" not in vars(lacking.cells[0].model)
    check_requirements(grid(3, "random_attention"))
    check_requirements(grid(4, "inputs"))  # no branch edits a layer


def test_a_model_that_scores_options_itself_does_not_normalize_them(yaml_file: Write) -> None:
    text = "task: SHAPES\nmodel: fake-gold\nanswer_mode: options\ndecoding: {name: greedy, normalize: mean}\n"
    with pytest.raises(PlanError, match="scores options by itself, so normalize: mean would change nothing"):
        check_requirements(expand(load_config(yaml_file(text))))


@pytest.mark.parametrize("text", ["answer_mode: options", "decoding: greedy", "retriever: balanced"])
def test_a_fake_passes_with_what_it_can_do(yaml_file: Write, text: str) -> None:
    grid = expand(load_config(yaml_file(f"task: SHAPES\nmodel: fake-gold\n{text}\n")))
    check_requirements(grid)
    check_data(grid)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {name: hf, path: /nowhere/at/all}", "there is no folder /nowhere/at/all"),
        ("model: {name: hf, path: EMPTY}", "has no config.json, so it is not a checkpoint"),
        ("model: {name: hf, path: CONFIG_ALONE}", "has no processor .* which a plan needs too"),
    ],
)
def test_an_incomplete_checkpoint_is_refused_before_anything_loads(
    yaml_file: Write, tmp_path: Path, text: str, message: str
) -> None:
    for name, files in (
        ("EMPTY", ()),
        ("CONFIG_ALONE", ("config.json",)),
    ):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("{}")
        text = text.replace(name, str(tmp_path / name))
    path = yaml_file(f"task: SHAPES\n{text}\n")
    with pytest.raises(ModelError, match=message) as error:
        expand(load_config(path))
    assert str(error.value).startswith(f"{path}:2: model.path: ")


def test_a_data_source_with_a_column_missing_is_an_error_with_the_line_of_the_task(
    yaml_file: Write, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "what?", "a": "x"}\n' * 3)
    columns = "{question: quest, answer: a}"
    path = yaml_file(f"model: fake-gold\ntask: {{name: hub, path: {tmp_path / 'rows.jsonl'}, columns: {columns}}}\n")
    with pytest.raises(ConfigError) as error:
        check_data(expand(load_config(path)))
    assert str(error.value).startswith(f"{path}:2: task: columns.question: ")
    assert "has no column 'quest'. Columns: q, a." in str(error.value)


def test_a_column_without_values_or_with_too_many_is_an_error_before_the_run(yaml_file: Write, tmp_path: Path) -> None:
    rows = [{"q": "what?", "a": f"{i}", "id": i, "few": i % 100, "empty": None} for i in range(300)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = (
        f"{{name: hub, path: {tmp_path / 'rows.jsonl'}, columns: {{question: q, answer: a, meta: [id, few, empty]}}}}"
    )

    def check(column: str) -> None:
        text = f"model: fake-gold\ntask: {task}\nby: [{column}]\n"
        check_data(expand(load_config(yaml_file(text))))

    check("few")
    for column in ("id", "answer"):
        with pytest.raises(
            ConfigError, match=rf":3: by: '{column}' has [0-9]{{3}} values, and a table has at most 100\. Use a"
        ):
            check(column)
    with pytest.raises(ConfigError, match=r":3: by: the data has no column 'empty'\. Columns: id, few, answer\."):
        check("empty")


def test_by_takes_a_column_that_no_map_names_and_an_error_lists_those_of_the_data(
    yaml_file: Write, tmp_path: Path
) -> None:
    rows = [{"q": "what?", "a": "x", "id": i, "type": "easy", "year": i % 3, "tags": ["t"]} for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = f"{{name: hub, path: {tmp_path / 'rows.jsonl'}, columns: {{question: q, answer: a, id: id}}}}"

    def check(column: str) -> None:
        check_data(expand(load_config(yaml_file(f"model: fake-gold\ntask: {task}\nby: [{column}]\n"))))

    check("type, year")
    with pytest.raises(ConfigError, match=r"no column 'typ'\. Did you mean 'type'\? Columns: type, year, answer\.$"):
        check("typ")
    with pytest.raises(
        ConfigError, match=r"Columns: type, year, answer\. 'tags' of the data set is empty, or its values are"
    ):
        check("tags")


def test_facts_that_cannot_be_stored_are_an_error_before_the_run() -> None:
    task: Any = SimpleNamespace(queries=(SimpleNamespace(id="q", meta={"kinds": {"a"}}),))
    with pytest.raises(DataError, match=r"^x: meta of query 'q' cannot be stored: Object of type set is not JSON"):
        _check_meta(task, "x")


def test_data_digests_of_other_pools_and_other_queries_differ(yaml_file: Write) -> None:
    def digests(parameters: str) -> dict[str, str]:
        return data_digests(
            expand(load_config(yaml_file(f"task: {{name: SHAPES, {parameters}}}\nmodel: fake-copy\n"))).tasks[0]
        )

    same, salted, more = digests("queries: 6"), digests("salt: x"), digests("queries: 7")
    assert same == digests("queries: 6")
    assert (salted["queries"] == same["queries"], salted["pool"] == same["pool"]) == (True, False)
    assert (more["queries"] == same["queries"], more["pool"] == same["pool"]) == (False, True)


def test_an_orderer_that_asks_the_model_needs_its_logits(yaml_file: Write) -> None:
    path = yaml_file("task: {name: SHAPES}\nmodel: fake-copy\nshots: 2\norder: entropy\n")
    with pytest.raises(PlanError, match=r":4: order: orderer 'entropy' needs the model's logits, but 'fake-copy'"):
        check_requirements(expand(load_config(path)))


def test_a_retriever_that_leaks_is_warned_of_once(yaml_file: Write) -> None:
    text = (
        "task: {name: SHAPES}\nmodel: fake-copy\nshots: 2\nseeds: [0, 1]\nretriever: {name: with_leaks, of: random}\n"
    )
    path = yaml_file(text + "rerankers: [label_balance]\n")
    (warning,) = expand(load_config(path)).warnings
    assert warning.startswith(f"{path}:5: retriever: demonstrations may be the query itself or have its image")


@pytest.mark.parametrize(
    ("node", "error", "says"),
    [
        ("{name: knn, embedder: {name: encoder, path: /nowhere/clip}}", ModelError, "/nowhere/clip"),
        (
            "{name: filtered, of: {name: knn, embedder: {name: vision, path: /nowhere/dino}}}",
            ModelError,
            "/nowhere/dino",
        ),
        ("{name: external, path: /nowhere/lists.json}", DataError, "/nowhere/lists.json cannot be read"),
        (
            "{name: reranked, of: {name: external, path: /nowhere/l.json}, rerankers: [label_balance]}",
            DataError,
            "cannot be",
        ),
        (
            "{name: invariant_select, embedder: pixels, head: /nowhere/head}",
            DataError,
            "/nowhere/head is not a saved head",
        ),
    ],
)
def test_a_retriever_whose_file_or_encoder_is_missing_fails_at_the_start(
    node: str, error: type[Exception], says: str, yaml_file: Write
) -> None:
    path = yaml_file(
        f"task: {{name: SHAPES}}\nmodel: fake-copy\nshots: 2\ngrid:\n  retriever:\n    - random\n    - {node}\n"
    )
    with pytest.raises(error, match=says) as caught:
        check_requirements(expand(load_config(path)))
    assert str(caught.value).startswith(f"{path}:7: grid.retriever[1]: ")


def test_a_metric_whose_programs_are_missing_is_refused_before_the_run(
    yaml_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icl.metrics.meteor.shutil.which", lambda name: None)
    path = yaml_file("task: SHAPES\nmodel: fake-gold\nmetrics: [lenient, meteor]\n")
    with pytest.raises(ConfigError) as error:
        check_requirements(expand(load_config(path)))
    assert str(error.value) == (
        f"{path}:3: metrics: meteor needs Java, and there is no command `java`. Install a Java runtime, such as "
        "default-jre-headless. Or leave the metric out."
    )


MILLION = 10**6


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"max_new_tokens": 10**9},
            "config: max_new_tokens: max_new_tokens must be an integer from 1 to 100000, not 1000000000.",
        ),
        ({"shots": MILLION}, "config: shots: shots must be an integer from 0 to 10000, not 1000000."),
        (
            {"grid": {"shots": [0, MILLION]}},
            "config: grid.shots[1]: shots must be an integer from 0 to 10000, not",
        ),
        ({"shots": 5000}, "config: shots: 5000 demonstrations from a pool of 9 (task 'shapes')."),
        (
            {"model": {"name": "fake-copy", "max_tokens": 4096}, "max_new_tokens": 4096},
            "config: max_new_tokens: an answer of 4,096 tokens leaves no space for a prompt: model 'fake-copy' reads "
            "4,096 tokens, prompt and answer together.",
        ),
        ({"model": {"name": "hf", "token_budget": 10**12}}, "config: model: model 'hf', token_budget: input should be"),
        ({"model": {"name": "hf", "image_cache_mb": 10**12}}, "config: model: model 'hf', image_cache_mb: input"),
        (
            {"model": {"name": "remote", "url": "http://x/v1", "model": "m", "concurrency": MILLION}},
            "config: model: model 'remote', concurrency: input should be less than or equal to 1024, not 1000000.",
        ),
        (
            {"task": {"name": "binding", "queries": 10**9}},
            "config: task: task 'binding', queries: input should be less than or equal to 100000, not 1000000000.",
        ),
    ],
)
def test_an_implausible_size_is_an_error_at_once(
    mapping: Callable[..., dict[str, Any]], tmp_path: Path, keys: dict[str, Any], sentence: str
) -> None:
    node = {key: value for key, value in mapping().items() if key not in keys.get("grid", ())}
    start = time.monotonic()
    with pytest.raises(ICLError) as caught:
        run(load_config({**node, **keys}), tmp_path)
    assert str(caught.value).startswith(sentence)
    assert time.monotonic() - start < 20
    assert not (tmp_path / "t").exists()


def test_a_plan_says_the_same(
    mapping: Callable[..., dict[str, Any]], yaml_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = yaml_file("""
        task: SHAPES
        model: {name: fake-copy, max_tokens: 2000}
        grid: {max_new_tokens: [8, 4000]}
    """)
    assert main(["plan", str(path)]) == 2
    assert "grid.max_new_tokens: an answer of 4,000 tokens leaves no space" in capsys.readouterr().err


def test_an_answer_that_fits_passes(mapping: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    done = run(load_config(mapping(model={"name": "fake-copy", "max_tokens": 4096}, max_new_tokens=4000)), tmp_path)
    assert (done.computed, done.failed) == (6, 0)


def test_generated_tasks_have_a_limit_of_queries() -> None:
    generated = [name for name in entries("task") if resolve("task", name).__module__.startswith("icl.tasks.generated")]
    assert len(generated) >= 10
    assert set(PACKAGES["task"]) == {"icl.tasks", "icl.tasks.drawings", "icl.tasks.generated"}
    for name in generated:
        with pytest.raises(ICLError, match=rf"task '{name}', queries: input should be less than or equal to 100000"):
            build("task", {"name": name, "queries": MILLION})
