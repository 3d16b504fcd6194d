from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.config.config import load_config
from icl.errors import ConfigError

Write = Callable[..., Path]
TOP_LOGPROBS_EXPECTED = (
    "top_logprobs must be the number of tokens to store for each branch and step, an integer of 0 or more, not "
)
BASE = "name: x\ntask: easy-vqa\nmodel: fake-copy\n"


def error_message(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sedes: [1]", "grid.yaml:4: sedes: no key 'sedes'. Did you mean 'seeds'?"),
        ("seeds: [0, x]", "grid.yaml:4: seeds: seeds must be a list of integers such as [0, 1, 2], not [0, 'x']."),
        ("seeds: [1, 1]", "grid.yaml:4: seeds: duplicate seed: [1, 1]."),
        ("seeds: [true]", "grid.yaml:4: seeds: seeds must be a list of integers such as [0, 1, 2], not [True]."),
        ("shots: -1", "grid.yaml:4: shots: shots must be a number of demonstrations, 0 or more, not -1."),
        ("shots: four", "grid.yaml:4: shots: shots must be a number of demonstrations, 0 or more, not 'four'."),
        ("shots: 1.5", "grid.yaml:4: shots: shots must be a number of demonstrations, 0 or more, not 1.5."),
        (
            "grid:\n  shots: [0, -2]",
            "grid.yaml:5: grid.shots[1]: shots must be a number of demonstrations, 0 or more, not -2.",
        ),
        ("grid:\n  shots: []", "grid.yaml:5: grid.shots: the axis is empty. Give it a value, or remove it."),
        ("grid:\n  shots: 4", "grid.yaml:5: grid.shots: an axis must be a list of values, not 4."),
        ("grid: [shots]", "grid.yaml:4: grid: grid must be a mapping from axes to lists of values, not ['shots']."),
        ("grid:\n  shots: [2, 2]", "grid.yaml:5: grid.shots[1]: 2 is listed twice on this axis."),
        (
            "grid:\n  shot: [2]",
            "grid.yaml:5: grid.shot: no component reads the axis 'shot'. Did you mean 'shots'?",
        ),
        (
            "grid:\n  seeds: [1]",
            "grid.yaml:5: grid.seeds: seeds cannot be an axis, because every cell is run with every seed. Set "
            "seeds at the top",
        ),
        ("shots: [0, 4]", "grid.yaml:4: shots: shots must be a number of demonstrations, 0 or more, not [0, 4]."),
        (
            "decoding: [greedy, vcd]",
            "grid.yaml:4: decoding: a list of decoding values is an axis: write it under grid.",
        ),
        ("max_new_tokens: 0", "grid.yaml:4: max_new_tokens: max_new_tokens must be an integer of at least 1, not 0."),
        (
            "answer_mode: option",
            "grid.yaml:4: answer_mode: answer_mode must be one of generate, options, not 'option'. Did you mean "
            "'options'?",
        ),
        ("metrics: []", "grid.yaml:4: metrics: metrics must be a list of at least one metric. (icl ls metrics)"),
        ("controls: yes", "grid.yaml:4: controls: controls must be 'none' or 'default', not 'yes'."),
        ("top_logprobs: five", "grid.yaml:4: top_logprobs: " + TOP_LOGPROBS_EXPECTED + "'five'."),
        ("top_logprobs: -1", "grid.yaml:4: top_logprobs: " + TOP_LOGPROBS_EXPECTED + "-1."),
        (
            "stop_strings: x",
            "grid.yaml:4: stop_strings: stop_strings must be a list of strings that end an answer, such as",
        ),
        ("tune: {task: binding, lr: 0}", "grid.yaml:4: tune.lr: lr must be above 0, not 0."),
        ("tune: {task: binding, lr: .inf}", "grid.yaml:4: tune.lr: lr must be a finite number, not inf."),
        ("tune: {task: binding, lr: .nan}", "grid.yaml:4: tune.lr: lr must be above 0, not nan."),
        (
            "tune: {task: binding, sft_weight: 1e39}",
            "grid.yaml:4: tune.sft_weight: sft_weight must be a finite number, not 1e+39.",
        ),
        ("tune: {task: binding, steps: -1}", "grid.yaml:4: tune.steps: steps must be at least 0, not -1."),
        ("tune: {task: binding, warmup: 1}", "grid.yaml:4: tune.warmup: warmup must be below 1, not 1."),
        ("tune: {task: binding, alpha: yes}", "grid.yaml:4: tune.alpha: alpha must be a number, not 'yes'."),
        ("exclude: {shots: 0}", "grid.yaml:4: exclude: exclude must be a list of mappings, such as [{shots: 0}]."),
        ("exclude: [{shot: 0}]", "grid.yaml:4: exclude[0].shot: no axis 'shot'. Did you mean 'shots'?"),
        ("compare: {metric: strict}", "grid.yaml:4: compare: compare needs 'to', the reference's value of an axis"),
        ("compare: {to: {decode: x}}", "grid.yaml:4: compare.to.decode: no axis 'decode'. Did you mean 'decoding'?"),
        (
            "compare: {to: {shots: 0}, correction: holmes}",
            "grid.yaml:4: compare.correction: correction must be one of holm, none,",
        ),
        (
            "transforms: x",
            "grid.yaml:4: transforms: transforms must be a list of components, applied in order, or none, not 'x'.",
        ),
        (
            "zip:\n  shots: [0, 2]\n  order: [random]",
            "grid.yaml:4: zip: paired axes have different lengths (shots 2, order 1).",
        ),
        ("zip:\n  shots: [1, 1]\n  order: [random, random]", "grid.yaml:4: zip: pair 2 is the same as pair 1."),
        ("grid: {shots: [0]}\nzip: {shots: [0]}", "grid.yaml:5: zip.shots: shots is in grid and in zip. Keep one."),
    ],
)
def test_a_mistake_is_reported_with_file_line_key_and_remedy(yaml_file: Write, text: str, sentence: str) -> None:
    assert error_message(yaml_file(BASE + text + "\n")).startswith(sentence)


@pytest.mark.parametrize(
    "axes",
    [
        {"answer_mode": "options"},
        {"grid": {"answer_mode": ["generate", "options"]}},
        {"zip": {"answer_mode": ["options"]}},
    ],
)
def test_the_metric_option_is_added_wherever_options_are_scored(mapping: Any, axes: dict[str, Any]) -> None:
    assert load_config(mapping(**axes)).metrics == ("strict", "lenient", "option")
    assert load_config(mapping()).metrics == ("strict", "lenient")


def test_a_name_that_is_not_a_folder_name_is_refused(yaml_file: Write) -> None:
    path = yaml_file("name: ../up\ntask: easy-vqa\nmodel: fake-copy\n")
    assert error_message(path) == "grid.yaml:1: name: '../up' names a folder: letters, digits, '.', '_' and '-' only."


def test_the_default_name_of_a_run_is_the_name_of_the_file(yaml_file: Write) -> None:
    assert load_config(yaml_file("task: easy-vqa\nmodel: fake-copy\n", "study.yaml")).name == "study"


@pytest.mark.parametrize("key", ["task", "model"])
def test_a_task_and_a_model_are_required(yaml_file: Write, key: str) -> None:
    lines = [line for line in BASE.splitlines() if not line.startswith(key)]
    assert error_message(yaml_file("\n".join(lines))) == f"grid.yaml: the key {key} is missing. (icl ls {key}s)"


def test_an_override_is_read_as_yaml(yaml_file: Write) -> None:
    config = load_config(yaml_file(BASE + "grid:\n  shots: [0, 4]\n"), ["grid.shots=[0, 8]", "seeds=[3]", "name=y"])
    assert (list(config.grid["shots"]), config.seeds, config.name) == ([0, 8], (3,), "y")


def test_an_override_sets_a_parameter_of_a_component_without_parameters(yaml_file: Write) -> None:
    config = load_config(yaml_file(BASE), ["model.right=0.5", "task.queries=20"])
    assert config.base["model"] == {"name": "fake-copy", "right": 0.5}
    assert config.base["task"] == {"name": "easy-vqa", "queries": 20}


def test_an_override_can_change_an_item_of_a_list(yaml_file: Write) -> None:
    config = load_config(yaml_file(BASE + "grid:\n  decoding: [greedy, vcd]\n"), ["grid.decoding.1.alpha=2"])
    assert config.grid["decoding"] == ["greedy", {"name": "vcd", "alpha": 2}]


def test_an_override_can_change_an_item_of_a_list_outside_of_the_grid(yaml_file: Write) -> None:
    config = load_config(yaml_file(BASE + "metrics: [strict, lenient]\n"), ["metrics.1=f1"])
    assert config.metrics == ("strict", "f1")


def test_an_override_can_add_an_axis_of_a_parameter(yaml_file: Write) -> None:
    assert load_config(yaml_file(BASE), ["grid.decoding.alpha=[0.5,1]"]).grid == {"decoding.alpha": [0.5, 1]}


def test_an_empty_override_removes_a_key(yaml_file: Write) -> None:
    assert load_config(yaml_file(BASE + "exclude: [{shots: 0}]\n"), ["exclude="]).exclude == []


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("shots=2", "command line: shots is an axis of the grid. Write 'grid.shots=[2]'."),
        ("shots", "command line: 'shots' is not of the form key=value, such as grid.shots=[0,4]."),
        ("sots=2", "command line: sots: no key 'sots'. Did you mean 'shots'?"),
        ("grid.shots=4", "command line: grid.shots: an axis must be a list of values, not 4."),
        (
            "grid.shots=[1,-1]",
            "command line: grid.shots[1]: shots must be a number of demonstrations, 0 or more, not -1.",
        ),
        ("grid.shots.7=1", "command line: grid.shots.7: grid.shots is a list of 2 values; '7' is not a valid index."),
        ("seeds.a=1", "command line: seeds.a: seeds is 3, which has no keys."),
        ("seeds=[1", "command line: seeds:1: not valid YAML:"),
    ],
)
def test_the_error_of_a_wrong_override_names_the_command_line(yaml_file: Write, override: str, sentence: str) -> None:
    assert error_message(yaml_file(BASE + "seeds: 3\ngrid:\n  shots: [0, 4]\n"), override).startswith(sentence)


def test_overrides_do_not_change_the_mapping_itself(mapping: Callable[..., dict[str, Any]]) -> None:
    source = mapping(grid={"shots": [0, 1]})
    del source["shots"]
    load_config(source, {"grid.shots": [5]})
    assert source["grid"] == {"shots": [0, 1]}


def test_top_logprobs_can_be_set_by_the_file_or_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(BASE)
    assert load_config(path).top_logprobs == 0
    assert load_config(path, ["top_logprobs=3"]).top_logprobs == 3


def test_lazy_branches_is_auto_by_default(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(BASE)
    assert load_config(path).lazy_branches == "auto"
    assert load_config(path, ["lazy_branches=never"]).lazy_branches == "never"
    with pytest.raises(
        ConfigError,
        match=r"lazy_branches must be one of auto, always, never, not 'nevr'. Did "
        r"you mean",
    ):
        load_config(path, ["lazy_branches=nevr"])
