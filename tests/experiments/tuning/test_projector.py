"""Training of the projector alone: which modules it is, what trains, and what the adapter's folder gives a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from experiments.config.config import Config, load_config
from experiments.config.keys import TuneSpec
from experiments.tuning.checkpoint import TrainingFolder
from experiments.tuning.episodes import EpisodeStream
from experiments.tuning.objectives import answer_logits, encode_answered, encode_images_repeatably
from experiments.tuning.projector import NewProjector, ProjectedImage, TrainedProjector
from experiments.tuning.train import train
from experiments.tuning.tune import training_cell
from icl.errors import ModelError
from icl.models.hf.adapter import LoraAdapter
from icl.models.hf.model import HF
from icl.models.hf.projector import CONSTANT, Call, output_rows, projector_modules, tensors
from icl.models.vllm import lora

pytest.importorskip("peft")

CONNECTOR = "model.connector"
TRAIN = {"name": "binding", "ways": 2, "queries": 6, "support": 2, "bank": 2, "concept_set": "seen"}


def study(**changes: Any) -> Config:
    tune = {"task": TRAIN, "parameters": "projector", "steps": 4, "batch": 2, "save_every": 2, "lr": 0.01}
    task = {"name": "binding", "ways": 2, "queries": 3, "support": 2, "bank": 2, "seed": 5}
    return load_config({"task": task, "model": {"name": "hf", "path": "tiny"}, "shots": 2, "tune": {**tune, **changes}})


def spec_of(config: Config) -> TuneSpec:
    assert config.tune is not None
    return config.tune


def train_once(config: Config, folder: Path, stop_after: int | None = None, model: HF | None = None) -> Any:
    spec = spec_of(config)
    stream = EpisodeStream(training_cell(config, spec, None), spec.batch)
    return train(model or HF(path="tiny"), spec, stream, TrainingFolder(folder, "x"), stop_after=stop_after)


def logits_of(model: HF) -> torch.Tensor:
    """The scores of the first answer token of the training prompts."""
    episodes = EpisodeStream(training_cell(study(), spec_of(study()), None), 4).episodes(0)
    return model.open([one.prompt for one in episodes]).logits.clone()


def test_no_step_leaves_the_model_bit_for_bit(tmp_path: Path) -> None:
    config = study(steps=0)
    train_once(config, tmp_path)
    base, tuned = HF(path="tiny"), HF(path="tiny", adapter=str(tmp_path))
    assert torch.equal(logits_of(base), logits_of(tuned))


def test_the_projector_alone_trains_and_a_run_loads_it_merged_or_not(tmp_path: Path) -> None:
    config, model = study(task={**TRAIN, "queries": 1}, shots=0, batch=1, steps=12), HF(path="tiny")
    outcome = train_once(config, tmp_path, model=model)
    assert outcome.last_loss < outcome.first_loss / 2
    stored = load_file(tmp_path / "adapter_model.safetensors")
    names = {name for name, _ in HF(path="tiny").engine.runner.model.get_submodule(CONNECTOR).named_parameters()}
    assert set(stored) == {f"base_model.model.{CONNECTOR}.{name}" for name in names}
    with pytest.raises(ModelError, match=r"has whole modules \(model\.connector\), which vLLM .*Use `merge: true`"):
        lora.arguments(LoraAdapter(str(tmp_path)))
    trained, base = logits_of(model), logits_of(HF(path="tiny"))
    assert (trained - base).abs().max() > 0.01
    for merge in (False, True):
        loaded = HF(path="tiny", adapter=str(tmp_path), merge=merge)
        torch.testing.assert_close(logits_of(loaded), trained, atol=1e-4, rtol=0)
        own = dict(loaded.engine.runner.model.named_parameters())
        for name, value in HF(path="tiny").engine.runner.model.named_parameters():
            if not name.startswith(CONNECTOR):
                assert torch.equal(own[name], value)


@pytest.mark.parametrize("parameters", ["projector", "new_projector"])
def test_a_resumed_training_equals_an_uninterrupted_one(parameters: str, tmp_path: Path) -> None:
    config = study(steps=5, parameters=parameters)
    train_once(config, tmp_path / "whole")
    train_once(config, tmp_path / "parts", stop_after=3)  # the last state is that of step 2
    assert train_once(config, tmp_path / "parts").computed == 3
    parts, whole = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("parts", "whole"))
    assert parts == whole


def test_a_new_projector_depends_on_the_seed_and_not_on_the_learned_one() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = torch.empty(160, 2560).normal_(0, 0.02)  # `initializer_range` of the text config
    state = torch.get_rng_state()
    for scale in (1, 5):
        model = HF(path="tiny")
        encode_images_repeatably(model)
        [learned] = model.engine.runner.model.get_submodule(CONNECTOR).parameters()
        learned.data *= scale
        base = logits_of(model)
        adapter = NewProjector(model, spec_of(study(seed=3)))
        [weights] = adapter.parameters.values()
        assert torch.equal(weights, expected)
        assert (logits_of(model) - base).abs().max() > 0.01
        adapter.encoder.cache.clear()
        with adapter.disabled():
            torch.testing.assert_close(logits_of(model), base, atol=1e-4, rtol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_new_projector_trains_and_a_run_loads_it(tmp_path: Path) -> None:
    one_query = {"task": {**TRAIN, "queries": 1}, "shots": 0, "batch": 1}
    config, model = study(parameters="new_projector", steps=12, **one_query), HF(path="tiny")
    outcome = train_once(config, tmp_path, model=model)
    assert outcome.last_loss < outcome.first_loss / 2
    torch.testing.assert_close(logits_of(HF(path="tiny", adapter=str(tmp_path))), logits_of(model), atol=1e-4, rtol=0)


def test_a_projector_whose_first_weights_the_class_does_not_say_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HF(path="tiny")
    encode_images_repeatably(model)
    monkeypatch.setattr(model.engine.runner.model, "_init_weights", lambda module: None)
    with pytest.raises(ModelError, match=r"Idefics3For.* does not initialize .*connector.*parameters: projector\.$"):
        NewProjector(model, spec_of(study(parameters="new_projector")))


def test_each_step_projects_anew_what_the_tower_gave_once() -> None:
    config = study()
    model, spec = HF(path="tiny"), spec_of(config)
    encode_images_repeatably(model)
    adapter = TrainedProjector(model, spec)
    episodes = EpisodeStream(training_cell(config, spec, None), 2).episodes(0)
    rows = encode_answered(model, [one.prompt for one in episodes], [one.answer for one in episodes])
    encoded = model.engine.counters.images_encoded
    runner = model.engine.runner
    before, _ = answer_logits(runner, rows, adapter.image_features)
    torch.testing.assert_close(before, answer_logits(runner, rows)[0], atol=1e-5, rtol=0)
    before.sum().backward()  # type: ignore[no-untyped-call]
    assert all(one.grad is not None and one.grad.any() for one in adapter.parameters.values())
    with torch.no_grad():
        for one in adapter.parameters.values():
            one.mul_(1.5)
        after, _ = answer_logits(runner, rows, adapter.image_features)
        with adapter.disabled():
            base, _ = answer_logits(runner, rows, adapter.image_features)
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(base, before, atol=1e-5, rtol=0)
    assert model.engine.counters.images_encoded == encoded


def test_rows_of_features_are_traced_to_the_output_that_gives_them() -> None:
    output = torch.arange(12.0).view(1, 4, 3)
    line_end = torch.full((1, 3), 7.5)
    features = torch.cat([output[0, [2, 0]], line_end, output[0, [3]], line_end])
    rows = output_rows(features, output)
    assert rows is not None
    assert rows.tolist() == [2, 0, CONSTANT, 3, CONSTANT]
    assert output_rows(features + 0.5, output) is None
    assert output_rows(line_end, output) is None
    assert output_rows(torch.cat([features, line_end + 1]), output) is None


def test_rows_that_no_output_gives_stay_when_an_image_is_projected_anew() -> None:
    double = torch.nn.Linear(2, 2, bias=False)
    double.weight.data = 2 * torch.eye(2)
    inputs, features = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[5.0, 5.0], [6.0, 8.0], [2.0, 4.0]])
    call, rows = Call(double, (inputs,), {}, None), torch.tensor([CONSTANT, 1, 0])
    image = ProjectedImage(
        "key", "", dict, {"plain": features, "layers": [features], "sizes": [3]}, {}, [call] * 2, [rows] * 2
    )
    assert torch.equal(image.project().features["plain"], features)
    double.weight.data *= 2
    renewed = image.project().features
    assert renewed["plain"].tolist() == [[5.0, 5.0], [12.0, 16.0], [4.0, 8.0]]
    assert torch.equal(renewed["layers"][0], renewed["plain"])
    assert renewed["sizes"] == [3], "features may hold numbers"
    assert list(tensors(image.features)) == [features, features]


def test_a_model_without_a_projector_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HF(path="tiny")
    encoder = model.engine.prompt_encoder.encoder
    assert encoder is not None
    assert projector_modules(model, encoder) == [CONNECTOR]
    connector = model.engine.runner.model.get_submodule(CONNECTOR)
    forward = connector.forward
    monkeypatch.setattr(connector, "forward", lambda *args, **kwargs: forward(*args, **kwargs) * 2)
    assert projector_modules(model, encoder) == [CONNECTOR]  # still the module whose output is the features
    base = model.engine.runner.model.base_model
    features = base.get_image_features

    def changed(*args: Any, **kwargs: Any) -> Any:
        output = features(*args, **kwargs)
        output.pooler_output = [one * 2 for one in output.pooler_output]
        return output

    adapter = TrainedProjector(model, spec_of(study()))
    monkeypatch.setattr(base, "get_image_features", changed)
    with pytest.raises(ModelError, match=r"changes the features of an image after its projector, .*Use smaller images"):
        logits_of(model)
    adapter.close()
    with pytest.raises(ModelError, match=r"^tune\.parameters: no module of Idefics3For.* is a projector: .*lora\.$"):
        TrainedProjector(model, spec_of(study()))
