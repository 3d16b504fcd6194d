"""Training of an intervention's tensors on the shipped model: the loss, the file, an interruption and the controls."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from decoding.interventions.aim import AIM
from decoding.interventions.reconstructions.m2iv import M2IV
from decoding.interventions.vector_file import read_vector_file
from decoding.interventions.virtual_tokens import DemonstrationBank
from decoding.prompt_edits import remove_demonstrations
from experiments.cli.main import main
from experiments.config.config import Config, load_config
from experiments.config.keys import TuningControl
from experiments.results.loaded_run import load_run
from experiments.tuning.checkpoint import CURVE, TrainingFolder
from experiments.tuning.objectives import IGNORED, chunk_loss, distillation_loss
from experiments.tuning.train import TrainingOutcome, train
from experiments.tuning.tune import episode_stream, training_cell, tune
from icl.errors import ConfigError, ModelError
from icl.models.hf.model import HF
from icl.models.interventions import Site
from icl.registry import build
from icl.types import Prompt

pytest.importorskip("peft")

TASK: dict[str, Any] = {"name": "operators", "operator": "minus", "queries": 4, "seed": 2}
STUDY: dict[str, Any] = {
    "name": "small",
    "task": {**TASK, "queries": 3, "seed": 1},
    "model": {"name": "hf", "path": "tiny"},
    "max_new_tokens": 3,
    "grid": {"shots": [0, 2]},
    "tune": {
        "task": TASK, "parameters": "vectors", "objective": "distill", "sft_weight": 0.0, "steps": 4, "batch": 2,
        "lr": 0.02, "save_every": 2,
    },
}  # fmt: skip
FILE = "vectors.safetensors"


def study(**changes: Any) -> Config:
    return load_config({**STUDY, "tune": {**STUDY["tune"], **changes}})


def train_once(config: Config, folder: Path, stop_after: int | None = None) -> TrainingOutcome:
    assert config.tune is not None
    stream = episode_stream(config, config.tune, training_cell(config, config.tune, None))
    return train(HF(path="tiny"), config.tune, stream, TrainingFolder(folder, "x"), stop_after=stop_after)


def episodes(config: Config, count: int = 2) -> list[tuple[Prompt, str]]:
    assert config.tune is not None
    cell = training_cell(config, config.tune, None)
    return [
        (one.prompt, one.answer) for one in episode_stream(config, replace(config.tune, batch=count), cell).episodes(0)
    ]


def method(path: Path, **parameters: Any) -> Any:
    name = read_vector_file(path).method
    return build("intervention", {"name": name, "fitted": str(path), "transfer": True, **parameters})


def test_the_distance_of_two_distributions_counts_answers_alone() -> None:
    student, teacher = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    targets = torch.tensor([[IGNORED, 1, 2], [0, 3, 4]])
    p, q = teacher.softmax(-1), student.softmax(-1)
    each = (p * (p.log() - q.log())).sum(-1)
    torch.testing.assert_close(distillation_loss(student, teacher, targets), each.sum() - each[0, 0])
    assert distillation_loss(teacher, teacher, targets) == 0


@pytest.mark.parametrize("parameters", ["vectors", "lora"])
def test_distillation_begins_at_the_distance_of_prompts_with_and_without_demonstrations(
    tmp_path: Path, parameters: str
) -> None:
    config = study(steps=1, sft_weight=0.5, parameters=parameters, rank=2)
    model = HF(path="tiny")
    loss, tokens = 0.0, 0
    for prompt, answer in episodes(config):
        ids = [*model.option_ids(prompt, [answer])[0], model.tokenizer.eos_token_id]
        teacher, student = (
            model.open([one]).suffix_logprobs([[ids]])[0][0] for one in (prompt, remove_demonstrations(prompt))
        )
        loss += float(F.kl_div(student, teacher, log_target=True, reduction="sum"))
        loss -= 0.5 * float(student.gather(1, torch.tensor(ids)[:, None]).sum())
        tokens += len(ids)
    assert train_once(config, tmp_path).first_loss == pytest.approx(loss / tokens, abs=1e-4)


def test_no_step_changes_no_bit_and_steps_lower_the_loss(tmp_path: Path) -> None:
    config = study(steps=0)
    train_once(config, tmp_path / "none")
    model = HF(path="tiny")
    prompts = [remove_demonstrations(prompt) for prompt, _ in episodes(config)]
    assert not method(tmp_path / "none" / FILE).vectors.any()
    off = method(tmp_path / "none" / FILE).steered(prompts, model)
    assert off[0].interventions
    assert torch.equal(model.open(off).logits, model.open(prompts).logits)
    outcome = train_once(study(task={**TASK, "queries": 2}, steps=12), tmp_path / "some")
    assert outcome.last_loss < 0.1 * outcome.first_loss
    steered = method(tmp_path / "some" / FILE).steered(prompts, model)
    few_shot = model.open([prompt for prompt, _ in episodes(config)]).logits
    distances = [float((model.open(p).logits.softmax(-1) - few_shot.softmax(-1)).norm()) for p in (steered, prompts)]
    assert distances[0] < distances[1]


def test_the_file_gives_the_logits_of_training(tmp_path: Path) -> None:
    config = study(steps=3)
    outcome = train_once(config, tmp_path)
    steered = method(tmp_path / FILE)
    model = HF(path="tiny")
    total, tokens = 0.0, 0
    assert config.tune is not None
    stream = episode_stream(config, config.tune, training_cell(config, config.tune, None))
    for one in stream.episodes(3):
        ids = [*model.option_ids(one.prompt, [one.answer])[0], model.tokenizer.eos_token_id]
        [student] = steered.steered([remove_demonstrations(one.prompt)], model)
        logprobs = [model.open([p]).suffix_logprobs([[ids]])[0][0] for p in (one.prompt, student)]
        total += float(F.kl_div(logprobs[1], logprobs[0], log_target=True, reduction="sum"))
        tokens += len(ids)
    assert outcome.last_loss == pytest.approx(total / tokens, abs=1e-4)


@pytest.mark.parametrize("intervene", ["m2iv", "aim", "context_vectors"])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path, intervene: str) -> None:
    config = study(steps=5, intervene=intervene)
    train_once(config, tmp_path / "whole")
    train_once(config, tmp_path / "parts", stop_after=3)  # the last state is that of step 2
    files = [tmp_path / name / FILE for name in ("parts", "whole")]
    assert files[0].read_bytes() != files[1].read_bytes()
    assert train_once(config, tmp_path / "parts").computed == 3
    assert files[0].read_bytes() == files[1].read_bytes()
    assert read_vector_file(files[0]).digest == read_vector_file(files[1]).digest
    assert method(files[0]).problem() is None


def test_a_loss_that_is_no_number_leaves_the_last_good_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []

    def second_is_nan(*settings: Any) -> torch.Tensor:
        calls.append(None)
        return chunk_loss(*settings) * (math.nan if len(calls) == 2 else 1)

    monkeypatch.setattr("experiments.tuning.train.chunk_loss", second_is_nan)
    with pytest.raises(ModelError, match=r"after 1 step is nan\. The adapter in .* is that of step 0\."):
        train_once(study(save_every=1), tmp_path)
    assert not read_vector_file(tmp_path / FILE).tensors["vectors"].any()


def test_training_goes_on_from_a_file_and_other_sites_are_a_parameter(tmp_path: Path) -> None:
    node = {"name": "m2iv", "kinds": ["mlp"], "tokens": "end"}
    train_once(study(steps=2, intervene=node), tmp_path / "first")
    file = tmp_path / "first" / FILE
    edit = method(file).intervention()
    assert (edit.sites, edit.where.span, edit.where.part) == (tuple(Site("mlp", i) for i in range(4)), "end", "both")
    train_once(study(steps=0, intervene={"name": "m2iv", "fitted": str(file)}), tmp_path / "second")
    assert torch.equal(method(tmp_path / "second" / FILE).vectors, method(file).vectors)
    half = method(file, strength=0.5).intervention()
    assert (half.strength, M2IV().neutral) == (0.5, False)


def test_a_trained_map_begins_at_the_ridge_regression_and_keeps_its_demonstrations(tmp_path: Path) -> None:
    config = study(intervene="aim", objective="sft", steps=1, lr=1e-3)
    outcome = train_once(config, tmp_path)
    model = HF(path="tiny")
    prompts, answers = map(list, zip(*episodes(config), strict=True))
    assert config.tune is not None
    stream = episode_stream(config, config.tune, training_cell(config, config.tune, None))
    ridge = AIM().start(model, stream.prompts(), 0)
    bank = DemonstrationBank()
    total, tokens = 0.0, 0
    for virtual, prompt, answer in zip(
        bank.virtual(prompts, model, ridge.tensors["map"], ()), prompts, answers, strict=True
    ):
        ids = [*model.option_ids(prompt, [answer])[0], model.tokenizer.eos_token_id]
        total -= float(model.open([virtual]).suffix_logprobs([[ids]])[0][0].gather(1, torch.tensor(ids)[:, None]).sum())
        tokens += len(ids)
    assert outcome.first_loss == pytest.approx(total / tokens, abs=1e-4)
    trained = method(tmp_path / FILE)
    assert not torch.equal(trained.vectors, ridge.tensors["map"])
    assert len(trained.steered(prompts, model)[0].images) == 1
    assert [len(prompt.images) for prompt in prompts] == [3, 3]


def test_a_map_of_demonstrations_needs_them_in_training_and_in_the_study(tmp_path: Path) -> None:
    config = load_config({**STUDY, "grid": {"shots": [2]}, "tune": {**STUDY["tune"], "intervene": "aim"}})
    with pytest.raises(ConfigError, match=r"so nothing trains without them\. Leave out --control zero_shot"):
        tune(config, tmp_path, [TuningControl.ZERO_SHOT])
    keys = {**STUDY["tune"], "intervene": "aim", "shots": [0, 2]}
    several = load_config({**STUDY, "grid": {"shots": [2]}, "tune": keys})
    with pytest.raises(ConfigError, match=r"so nothing trains without them\. Set tune\.shots above 0"):
        tune(several, tmp_path)
    with pytest.raises(ConfigError, match=r"grid\.shots: the study tests 'aim' without demonstrations"):
        tune(study(intervene="aim"), tmp_path)


def test_every_part_of_the_pooling_module_trains(tmp_path: Path) -> None:
    node = {"name": "context_vectors", "count": 2}
    files = []
    for steps in (0, 2):
        train_once(study(intervene=node, steps=steps), tmp_path / str(steps))
        files.append(method(tmp_path / str(steps) / FILE).vectors)
    before, after = (one.split([2, 2, 1, 160]) for one in files)
    assert [bool((a != b).any()) for a, b in zip(before, after, strict=True)] == [True] * 4


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the command has trained vectors and a control, and run the study."""
    folder = tmp_path_factory.mktemp("tune")
    file = folder / "small.yaml"
    file.write_text(json.dumps(STUDY))
    words = ["fit", str(file), "--out", str(folder / "adapters"), "--runs", str(folder / "runs"), "--quiet"]
    assert main([*words, "--control", "zero_shot"]) == 0
    return folder


def test_vectors_and_their_control_are_arms_beside_the_plain_prompt(done: Path) -> None:
    frame = load_run(done / "runs" / "small").samples()
    assert len(frame) == 3 * 2 * 3  # interventions, shots, queries
    assert frame.groupby("intervene").size().to_dict().pop("none") == 6
    tuned, control = (read_vector_file(done / "adapters" / name / FILE) for name in ("tuned", "zero_shot"))
    assert tuned.tensors["vectors"].any()
    curves = {
        name: [json.loads(line)["loss"] for line in (done / "adapters" / name / CURVE).read_text().splitlines()]
        for name in ("tuned", "zero_shot")
    }
    assert curves["tuned"][0] > 0.1
    assert max(curves["zero_shot"]) < 0.01  # a teacher without demonstrations is the model without vectors
    assert (tuned.record["control"], control.record["control"]) == (None, "zero_shot")
    assert tuned.record["template_digest"] == control.record["template_digest"]
    assert len(tuned.record["sources"]) == 4


def test_finished_training_is_not_repeated(done: Path) -> None:
    assert [one.computed for one in tune(study(), done / "adapters", [TuningControl.ZERO_SHOT])] == [0, 0]


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tune\.intervene: 'ltv' has no tensors that train\. Use .*m2iv"):
        tune(study(intervene="ltv"), tmp_path)
    with pytest.raises(ConfigError, match="leave nothing that trains"):
        tune(study(intervene={"name": "m2iv", "control": "random"}), tmp_path)
    with pytest.raises(ConfigError, match="vectors train without reasoning, where acts_in: think means nothing"):
        tune(study(intervene={"name": "m2iv", "acts_in": "think"}), tmp_path)
    with pytest.raises(ConfigError, match=r"tune\.intervene: .* with parameters: vectors only, and parameters is lora"):
        tune(study(parameters="lora", objective="sft", intervene="m2iv"), tmp_path)
    with pytest.raises(ConfigError, match=r"tune\.objective: vectors train with sft or distill"):
        tune(study(objective="dpo"), tmp_path)
    with pytest.raises(ConfigError, match=r"reads no demonstrations that distill could teach\. Set tune\.shots"):
        tune(study(shots=0), tmp_path)
    with pytest.raises(ConfigError, match="further values of intervene, so it cannot be zipped"):
        tune(load_config({**STUDY, "grid": {}, "zip": {"shots": [0, 2], "intervene": ["none", "none"]}}), tmp_path)
    assert "is trained by `icl fit`" in str(M2IV().problem())
