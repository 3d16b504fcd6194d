import json
import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from decoding.arms.arm import parse_arm
from decoding.arms.fitting import fit_mixture_weights, read_parameter_file, write_parameter_file
from decoding.strategies.several_prompts import MoICL
from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.grid.grid_warnings import grid_warnings
from experiments.running.fit import fit
from experiments.running.run import run
from experiments.store.store import Store
from icl.errors import ConfigError, DataError, PlanError

Config = Callable[..., dict[str, Any]]


def option_scores(config: dict[str, Any], folder: Path) -> list[list[float]]:
    """Of the one cell, in the order of the queries."""
    run(load_config(config), folder)
    (cell,) = expand(load_config(config)).cells
    samples = {sample["query"]: sample for sample in Store(folder / "t").samples(cell.digest)}
    return [list(samples[name]["option_scores"].values()) for name in sorted(samples)]


def test_a_bias_is_fitted_on_the_references_scores_of_all_seeds(mapping: Config, toy: str, tmp_path: Path) -> None:
    result = fit(load_config(mapping(model=toy, decoding="constant_bias", seeds=[0, 1])))
    assert result.samples == 12
    scores = [
        row
        for seed in (0, 1)
        for row in option_scores(mapping(model=toy, answer_mode="options", seeds=[seed]), tmp_path / str(seed))
    ]
    from decoding.arms.fitting import fit_option_bias

    gold = [i % 3 for i in range(6)] * 2
    assert result.strategy.biases == fit_option_bias(torch.tensor(scores), gold)  # type: ignore[attr-defined]


def test_a_prior_is_the_mean_share_and_reads_no_label(mapping: Config, toy: str, tmp_path: Path) -> None:
    result = fit(load_config(mapping(model=toy, decoding="batch_calibration")))
    scores = torch.tensor(option_scores(mapping(model=toy, answer_mode="options"), tmp_path))
    assert result.strategy.prior == pytest.approx(scores.softmax(-1).mean(0).tolist(), abs=1e-5)  # type: ignore[attr-defined]


def test_weights_are_fitted_on_each_group_alone(mapping: Config, toy: str, tmp_path: Path) -> None:
    """Groups of one demonstration; a group alone is the prompt with that demonstration."""
    result = fit(load_config(mapping(model=toy, shots=3, decoding="moicl")))
    assert isinstance(result.strategy, MoICL)
    assert result.strategy.groups == len(result.strategy.group_weights) == 3
    scores = []
    for group in range(3):
        node = {"name": "moicl", "groups": 3, "weights": [float(i == group) for i in range(3)]}
        config = mapping(model=toy, shots=3, decoding=node, answer_mode="options")
        scores.append(option_scores(config, tmp_path / str(group)))
    weights = fit_mixture_weights(torch.tensor(scores).transpose(0, 1), [i % 3 for i in range(6)])
    assert result.strategy.group_weights == pytest.approx(weights, abs=1e-3)
    assert any(abs(weight - 1 / 3) > 0.05 for weight in result.strategy.group_weights)


def test_the_command_writes_a_file_that_a_config_names(
    yaml_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = yaml_file(
        "name: t\ntask: SHAPES\nmodel: TOY\nshots: 2\ncontrols: default\ncompare: {to: {decoding: greedy}}\n"
    )
    out = tmp_path / "weights.json"
    assert main(["fit", str(path), "decoding={name: moicl, top_k: 1}", f"--out={out}"]) == 0
    assert f"decoding: {{name: moicl, fitted: {out}}}" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content["strategy"] == "moicl"
    assert content["fitted_on"]["samples"] == 6
    again = yaml_file(
        "name: t\ntask: SHAPES\nmodel: TOY\nshots: 2\ndecoding: {name: moicl, fitted: weights.json}\n", "again.yaml"
    )
    (cell,) = expand(load_config(again)).cells
    written = parse_arm({"name": "moicl", **content["parameters"]})
    assert cell.decoding.digest == written.digest  # what counts is in the file, not its name
    assert cell.config["decoding"]["strategy"]["top_k"] == 1
    (over,) = expand(load_config(again, ["decoding={name: moicl, fitted: weights.json, top_k: 2}"])).cells
    assert over.config["decoding"]["strategy"]["top_k"] == 2


def test_a_network_is_fitted_on_the_prompts_and_weighs_the_groups_of_a_run(
    yaml_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "name: t\ntask: SHAPES\nmodel: TOY\nshots: 3\nanswer_mode: options\ndecoding: "
    node = "{name: moicl_hypernetwork, embedder: pixels, features: images, hidden: 2, steps: 5}"
    out = tmp_path / "network.safetensors"
    assert main(["fit", str(yaml_file(text + node)), f"--out={out}"]) == 0
    assert "fitted       moicl_hypernetwork, loss " in capsys.readouterr().out
    path = yaml_file(text + "{name: moicl_hypernetwork, fitted: network.safetensors}", "run.yaml")
    (cell,) = expand(load_config(path)).cells
    assert cell.config["decoding"]["strategy"]["embedder"] == "pixels"
    assert cell.decoding.parameter_sources[0].on["samples"] == 6
    scores = {}
    for name, config in (
        ("equal", load_config(yaml_file(text + "moicl", "equal.yaml"))),
        ("weighted", load_config(path)),
    ):
        run(config, tmp_path / name)
        (arm,) = expand(config).cells
        scores[name] = [sample["option_scores"] for sample in Store(tmp_path / name / "t").samples(arm.digest)]
    assert scores["weighted"] != scores["equal"]


@pytest.mark.parametrize(
    ("decoding", "out", "message"),
    [
        (
            "moicl_hypernetwork",
            "x.json",
            r"`icl fit` writes tensors for moicl_hypernetwork, so .*x\.json must end in \.safetensors",
        ),
        ("moicl", "x.safetensors", r"writes JSON for moicl, so .*x\.safetensors must not end in \.safetensors"),
    ],
)
def test_the_suffix_of_the_file_is_checked_before_the_fit(
    decoding: str, out: str, message: str, mapping: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.running.fit._option_scores", None)
    with pytest.raises(ConfigError, match=message):
        fit(load_config(mapping(model="fake-gold", decoding=decoding)), Path(out))


def test_a_network_of_another_embedder_is_refused_before_the_model_is_loaded(
    yaml_file: Callable[..., Path], tmp_path: Path
) -> None:
    text = "name: t\ntask: SHAPES\nmodel: TOY\nshots: 3\nanswer_mode: options\ndecoding: "
    node = "{name: moicl_hypernetwork, embedder: pixels, features: images, hidden: 2, steps: 1}"
    out = tmp_path / "network.safetensors"
    assert main(["fit", str(yaml_file(text + node)), f"--out={out}"]) == 0
    other = "{name: moicl_hypernetwork, fitted: network.safetensors, embedder: histogram}"
    config = load_config(yaml_file(text + other, "run.yaml"))
    with pytest.raises(PlanError, match=r"run\.yaml:6: decoding: the network .* was fitted with another embedder"):
        run(config, tmp_path / "runs")


def test_a_control_of_a_fitted_strategy_has_its_parameters(tmp_path: Path) -> None:
    write_parameter_file(MoICL(2, (0.5, 0.7)), tmp_path / "w.json")
    arm = parse_arm({"name": "mask_only", "of": {"name": "moicl", "fitted": str(tmp_path / "w.json")}})
    assert arm.strategy.of == MoICL(2, (0.5, 0.7))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file"),
        ("{", "was not written by `icl fit`"),
        ("[]", "was not written by `icl fit`"),
        ('{"format": "x, 2", "strategy": "moicl", "parameters": {}}', "has the format 'x, 2'"),
    ],
)
def test_a_file_that_is_not_of_fitted_parameters_is_an_error(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        parse_arm({"name": "moicl", "fitted": str(path)}, "x.yaml:3: decoding")


def test_the_error_about_a_binary_file_does_not_contain_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    path.write_bytes(b"\x80\x04" + 500 * b"x")
    with pytest.raises(ConfigError, match=r"by `icl fit` \(UnicodeDecodeError: .* in position 0") as caught:
        parse_arm({"name": "moicl", "fitted": str(path)}, "x.yaml:3: decoding")
    assert "xxx" not in str(caught.value)


def test_a_file_of_another_strategy_is_an_error(tmp_path: Path) -> None:
    write_parameter_file(MoICL(), tmp_path / "w.json")
    with pytest.raises(ConfigError, match="has parameters of 'moicl', not of 'constant_bias'"):
        read_parameter_file(str(tmp_path / "w.json"), "constant_bias")


def test_a_pipe_or_a_folder_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("pipe", "is a pipe, a device or a socket, not a file"), (".", "is a directory, not a file")):
        with pytest.raises(ConfigError, match=message):
            parse_arm({"name": "moicl", "fitted": str(tmp_path / name)}, "x.yaml:3: decoding")


def warnings(keys: dict[str, Any]) -> list[str]:
    return [line for line in grid_warnings(expand(load_config(keys))) if "the parameters in" in line]


def test_parameters_used_on_another_model_task_or_the_same_queries_are_reported(
    mapping: Config, toy: str, tmp_path: Path
) -> None:
    test, path = {"name": "binding", "ways": 2, "queries": 4}, tmp_path / "bias.json"
    dev = test | {"seed": 1}
    result = fit(load_config(mapping(model=toy, decoding="constant_bias", task=dev)))
    write_parameter_file(result.strategy, path, result.how)
    node = {"name": "constant_bias", "fitted": str(path)}
    own = {"model": toy, "decoding": node, "answer_mode": "options", "task": test}
    assert warnings(mapping(**own)) == []
    (same,) = warnings(mapping(**own | {"task": dev | {"queries": 3}}))
    assert same.startswith(
        f"config: decoding: the parameters in {path} were fitted on queries that 'binding · 2-way' also has"
    )
    (other,) = warnings(mapping(**own | {"model": {"name": toy, "salt": "x"}}))
    assert "were fitted on another model (digest " in other
    (task,) = warnings(mapping(**own | {"task": test | {"ways": 3}}))
    assert "were fitted on another task (" in task
    old = {**json.loads(path.read_text()), "fitted_on": {}}
    path.write_text(json.dumps(old))
    (incomplete,) = warnings(mapping(**own))
    assert "have no record of the model and task that they were fitted on" in incomplete
    control = {"name": "mask_only", "of": node}
    assert len(warnings(mapping(**own | {"decoding": control}))) == 1


def test_the_error_about_several_settings_has_the_command_that_chooses_one(
    yaml_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = yaml_file(
        """
        name: t
        task: SHAPES
        model: TOY
        grid:
          shots: [0, 1, 2]
          retriever: [random, {name: knn, by: question}]
          decoding: [greedy, {name: moicl, top_k: 1}]
          decoding.groups: [1, 2]
        zip:
          order: [reversed, random]
          rerankers: [none, [label_balance]]
        """
    )
    out = tmp_path / "w.json"
    assert main(["fit", str(path), "task.salt=x", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "several values of shots (0, 1, 2), retriever (random, knn)" in error
    command = shlex.split(error.strip().splitlines()[-1])
    assert command[:4] == ["icl", "fit", str(path), "task.salt=x"]
    assert "grid.shots=[2]" in command
    assert main(command[1:]) == 0
    assert json.loads(out.read_text())["fitted_on"]["shots"] == 2


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        (
            {"decoding": "vcd"},
            ConfigError,
            "no decoding here has parameters to fit. adaptive_shots, batch_calibration, constant_bias, moicl and",
        ),
        ({"decoding": "moicl", "shots": 0}, ConfigError, "there are none at 0 shots"),
        ({"grid": {"shots": [1, 2]}, "decoding": "moicl"}, ConfigError, "several values of shots"),
        ({"decoding": "constant_bias", "model": "fake-copy"}, PlanError, "needs"),
    ],
)
def test_a_strategy_without_parameters_or_with_several_settings_is_an_error(
    keys: dict[str, Any], error: type[Exception], message: str, mapping: Config, toy: str
) -> None:
    with pytest.raises(error, match=message):
        fit(load_config(mapping(**{"model": toy, **keys})))


def test_a_task_without_options_is_an_error(mapping: Config, toy: str, shapes: str) -> None:
    with pytest.raises(DataError, match="a query without options"):
        fit(load_config(mapping(model=toy, decoding="constant_bias", task={"name": shapes, "optionless": True})))


def test_the_error_about_decodings_on_an_axis_has_the_whole_command(
    yaml_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = yaml_file("name: t\ntask: SHAPES\nmodel: TOY\ngrid: {shots: [1, 2], decoding: [greedy, vcd]}\n")
    out = str(tmp_path / "w.json")
    assert main(["fit", str(path), "decoding=moicl", "shots=2"]) == 2
    assert "Write 'grid.decoding=[moicl]' 'grid.shots=[2]'." in capsys.readouterr().err
    assert main(["fit", str(path), "--out", out]) == 2
    command = shlex.split(capsys.readouterr().err.splitlines()[-1])
    assert command[3:5] == ["grid.decoding=[moicl]", "grid.shots=[2]"]
    assert main(command[1:]) == 0
    assert json.loads(Path(out).read_text())["strategy"] == "moicl"


def test_queries_that_cannot_be_used_are_counted_by_reason(
    mapping: Config, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.running import fit as module

    render = module.render

    def spoilt(item: Any) -> Any:
        item = render(item)
        number = int(item.example.id[-1])
        if number == 0:
            return replace(item, prompt=None, failure="no room")
        changes = {1: {"options": ()}, 2: {"answers": ("purple",)}, 3: {"options": ("red",)}}
        return replace(item, example=replace(item.example, **changes.get(number, {})))

    monkeypatch.setattr(module, "render", spoilt)
    result = fit(load_config(mapping(model=toy, decoding="constant_bias")))
    assert result.samples == 2
    assert result.left_out == {
        "no room": 1,
        "a query without options": 2,
        "a query whose answer is not among its options": 1,
    }
    assert fit(load_config(mapping(model=toy, decoding="batch_calibration"))).samples == 3, "it reads no answer"
    monkeypatch.setattr(module, "render", lambda item: replace(render(item), prompt=None, failure="no room"))
    with pytest.raises(DataError, match="nothing to fit on: no room"):
        fit(load_config(mapping(model=toy, decoding="constant_bias")))


def test_a_model_that_fails_for_a_query_leaves_it_out(
    mapping: Config, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from decoding.engine.requests import Failure
    from experiments.running import fit as module

    engine_for = module.engine_for

    def failing(model: Any) -> Any:
        def answer(model: Any, requests: Any) -> Any:
            answers = list(engine_for(model)(model, requests))
            return [Failure("out of memory"), *answers[1:]]

        return answer

    monkeypatch.setattr(module, "engine_for", failing)
    result = fit(load_config(mapping(model=toy, decoding="constant_bias")))
    assert (result.samples, result.left_out) == (5, {"out of memory": 1})


def test_the_file_of_parameters_names_the_setting(mapping: Config, toy: str) -> None:
    how = fit(load_config(mapping(model=toy, decoding="constant_bias", seeds=[2, 5]))).how
    assert (how["seeds"], how["samples"], how["shots"], how["retriever"]) == ([2, 5], 12, 2, {"name": "random"})
    assert "decoding" not in how
