from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.config.keys import StopSpec
from experiments.config.shipped import FOLDER, find_config, shipped_configs, summary
from icl.errors import ConfigError

Write = Callable[..., Path]
BASE = "name: x\ntask: easy-vqa\nmodel: fake-copy\n"


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


def test_the_default_name_of_a_run_is_the_name_of_the_file(yaml_file: Write) -> None:
    assert load_config(yaml_file("task: easy-vqa\nmodel: fake-copy\n", "study.yaml")).name == "study"


def test_an_override_is_read_as_yaml(yaml_file: Write) -> None:
    config = load_config(yaml_file(BASE + "grid:\n  shots: [0, 4]\n"), ["grid.shots=[0, 8]", "seeds=[3]", "name=y"])
    assert (list(config.grid["shots"]), config.seeds, config.name) == ([0, 8], (3,), "y")


def test_an_override_sets_a_parameter_of_a_component_without_parameters(yaml_file: Write) -> None:
    config = load_config(yaml_file(BASE), ["model.right=0.5", "task.queries=20"])
    assert config.base["model"] == {"name": "fake-copy", "right": 0.5}
    assert config.base["task"] == {"name": "easy-vqa", "queries": 20}


def test_an_override_sets_a_parameter_of_the_default_component(yaml_file: Write) -> None:
    config = load_config(yaml_file("name: x\ntask: SHAPES\nmodel: fake-copy\n"), ["composer.answer=short"])
    assert config.base["composer"] == {"name": "chat", "answer": "short"}


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


def test_a_null_is_the_default(mapping: Callable[..., dict[str, Any]]) -> None:
    config = load_config(
        mapping(seeds=None, stop={"level": None, "futility": None}, tune={"task": "binding", "lr": None})
    )
    assert config.seeds == (0,)
    assert config.stop == StopSpec(futility=None)
    assert config.tune is not None
    assert config.tune.lr == 1e-3


NAMES = list(shipped_configs())


def test_the_relations_of_tune_are_built_with_the_file(mapping: Callable[..., dict[str, Any]]) -> None:
    tune = load_config(mapping(tune={"task": "binding", "relations": ["random", {"name": "knn"}]})).tune
    assert tune is not None
    assert all(hasattr(relation, "fit") for relation in tune.relations)
    with pytest.raises(ConfigError, match=r"tune\.relations.*no retriever named 'knm'"):
        load_config(mapping(tune={"task": "binding", "relations": ["random", "knm"]}))


def test_every_file_of_the_folder_has_a_name() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} <= set(NAMES)
    assert "quickstart" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_loads_the_shipped_file_from_any_folder(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(name) == load_config(shipped_configs()[name])


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_file_begins_with_a_sentence(name: str) -> None:
    text = summary(shipped_configs()[name])
    assert text[-1:] in (".", "?")
    assert len(text) > 20


def test_an_existing_file_wins_over_a_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("model: fake-vote\ntask: binding\n")
    assert load_config("quickstart").base["model"] == "fake-vote"


def test_a_suffix_means_a_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(Path("quickstart.yaml")) == Path("quickstart.yaml")
    with pytest.raises(ConfigError, match=r"there is no file quickstart.yaml"):
        load_config("quickstart.yaml")


def test_an_unknown_name_is_a_sentence_with_the_nearest(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no shipped experiment of that name. Did you mean 'quickstart'\?"):
        load_config("quickstrat")
    (tmp_path / "mine.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"Did you mean 'mine.yaml'\?"):
        load_config("mine")


def test_icl_ls_configs_lists_the_names_and_prints_a_file(capsys) -> None:
    assert main(["ls", "configs"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in f"\n{printed}" for name in NAMES)
    assert main(["ls", "configs", "quickstart"]) == 0
    assert capsys.readouterr().out == (FOLDER / "quickstart.yaml").read_text(encoding="utf-8")
