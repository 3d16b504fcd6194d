"""Training of adapters on the shipped model: what the first step, the last and an interruption leave."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from experiments.cli.fit import draw_losses, read_curve
from experiments.cli.main import main
from experiments.config.config import Config, load_config
from experiments.config.keys import TuneSpec, TuningControl
from experiments.contexts.contexts import Retrieval, build_contexts, prompt_specs, render
from experiments.results.loaded_run import load_run
from experiments.store.lock import write_lock
from experiments.tuning.checkpoint import CURVE, STATE, Curve, TrainingFolder, replacement
from experiments.tuning.episodes import EpisodeStream, wrong_answer
from experiments.tuning.objectives import answer_logits, encode_answered
from experiments.tuning.train import train
from experiments.tuning.tune import RECORD, episode_stream, evaluation_config, training_cell, tune
from icl.errors import ConfigError, DataError, ModelError, PlanError, StoreError
from icl.models.hf.model import HF

pytest.importorskip("peft")

TRAIN: dict[str, Any] = {"name": "binding", "ways": 2, "queries": 6, "support": 2, "bank": 2, "concept_set": "seen"}
STUDY: dict[str, Any] = {
    "name": "small",
    "task": {"name": "binding", "ways": 2, "queries": 3, "support": 2, "bank": 2, "seed": 5},
    "model": {"name": "hf", "path": "tiny"},
    "max_new_tokens": 3,
    "grid": {"shots": [0, 2]},
    "tune": {"task": TRAIN, "steps": 4, "batch": 2, "save_every": 2, "rank": 2},
}


def study(**changes: Any) -> Config:
    return load_config({**STUDY, "tune": {**STUDY["tune"], **changes}})


def spec_of(config: Config) -> TuneSpec:
    assert config.tune is not None
    return config.tune


def train_once(config: Config, folder: Path, stop_after: int | None = None) -> Any:
    spec = spec_of(config)
    cell = training_cell(config, spec, None)
    stream = episode_stream(config, spec, cell)
    return train(HF(path="tiny"), spec, stream, TrainingFolder(folder, "x"), stop_after=stop_after)


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def logits_of(model: HF, config: Config) -> torch.Tensor:
    """The scores of the first answer token of the training prompts."""
    episodes = EpisodeStream(training_cell(config, spec_of(config), None), 4).episodes(0)
    return model.open([one.prompt for one in episodes]).logits.clone()


def test_no_step_leaves_the_model_bit_for_bit(tmp_path: Path) -> None:
    config = study(steps=0)
    assert train_once(config, tmp_path).steps == 0
    base, tuned = HF(path="tiny"), HF(path="tiny", adapter=str(tmp_path))
    assert base.digest != tuned.digest
    assert torch.equal(logits_of(base, config), logits_of(tuned, config))


def test_the_loaded_adapter_gives_the_logits_of_training(tmp_path: Path) -> None:
    config = study(steps=2, lr=0.01)
    model, spec = HF(path="tiny"), spec_of(config)
    stream = EpisodeStream(training_cell(config, spec, None), spec.batch)
    train(model, spec, stream, TrainingFolder(tmp_path, "x"))
    trained = logits_of(model, config)
    torch.testing.assert_close(trained, logits_of(HF(path="tiny", adapter=str(tmp_path)), config), atol=1e-4, rtol=0)
    assert (trained - logits_of(HF(path="tiny"), config)).abs().max() > 0.01


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    config = study(dropout=0.2, steps=5)
    train_once(config, tmp_path / "whole")
    train_once(config, tmp_path / "parts", stop_after=3)  # the last state is that of step 2
    assert weights(tmp_path / "parts") != weights(tmp_path / "whole")
    outcome = train_once(config, tmp_path / "parts")
    assert (outcome.steps, outcome.computed) == (5, 3)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    curves = [(tmp_path / name / CURVE).read_text() for name in ("parts", "whole")]
    assert curves[0] == curves[1]
    assert [json.loads(line)["step"] for line in curves[0].splitlines()] == [0, 1, 2, 3, 4, 5]


def test_a_damaged_state_is_a_sentence_and_never_another_adapter(tmp_path: Path) -> None:
    config = study(steps=5)
    train_once(config, tmp_path, stop_after=3)
    path = tmp_path / STATE
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")  # of the tensors
    middle = (start + len(whole)) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for damaged in (
        whole[:middle] + bytes(200) + whole[middle + 200 :],
        flipped,
        whole.replace(b'\\"step\\": 2', b'\\"step\\": 1'),
    ):
        assert damaged != whole
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"state\.safetensors is damaged \(.*checksum\)\. Remove it to train"):
            train_once(config, tmp_path)
    path.write_bytes(whole)
    assert train_once(config, tmp_path).computed == 3


def test_one_episode_is_learned_by_heart(tmp_path: Path) -> None:
    config = study(task={**TRAIN, "queries": 1}, steps=25, batch=1, lr=0.01, shots=0, save_every=100)
    outcome = train_once(config, tmp_path)
    assert outcome.first_loss > 1
    assert outcome.last_loss < 0.05


def test_dpo_raises_the_margin_between_right_and_wrong(tmp_path: Path) -> None:
    config = study(objective="dpo", steps=6, batch=2, rows=1, lr=0.01, shots=2, sft_weight=0.0)
    outcome = train_once(config, tmp_path)
    assert outcome.first_loss == pytest.approx(math.log(2), abs=1e-6)  # the model is the base model
    assert outcome.last_loss < 0.6
    episodes = EpisodeStream(training_cell(config, spec_of(config), None), 6, wrong_answer).episodes(0)
    for one in episodes:
        [(prompt, wrong)] = one.alternatives
        assert (prompt.digest, wrong != one.answer) == (one.prompt.digest, True)


def test_dpo_without_a_wrong_answer_is_refused(tmp_path: Path) -> None:
    task = {"name": "easy-vqa", "queries": 1}
    config = load_config({**STUDY, "tune": {"task": task, "objective": "dpo", "shots": 0}})
    cell = training_cell(config, spec_of(config), None)
    no_options = replace(cell.task.queries[0], options=())
    stream = EpisodeStream(cell, 1, wrong_answer)
    stream.queries = (no_options,)
    with pytest.raises(DataError, match="has no wrong answer for dpo"):
        stream.episodes(0)


def test_only_answers_have_a_loss_and_their_scores_are_those_of_decoding() -> None:
    config = study()
    model, cell = HF(path="tiny"), training_cell(config, spec_of(config), None)
    episodes = EpisodeStream(cell, 3).episodes(0)
    prompts = [one.prompt for one in episodes]
    rows = encode_answered(model, prompts, [one.answer for one in episodes])
    with torch.no_grad():
        logits, targets = answer_logits(model.engine.runner, rows)
    expected = [
        [*model.option_ids(p, [e.answer])[0], model.tokenizer.eos_token_id]
        for p, e in zip(prompts, episodes, strict=True)
    ]
    assert [[t for t in row if t >= 0] for row in targets.tolist()] == expected
    first = torch.stack([row[int((t < 0).sum())] for row, t in zip(logits, targets, strict=True)])
    torch.testing.assert_close(first, model.open(prompts).logits, atol=1e-4, rtol=0)


def test_an_episode_is_the_prompt_of_the_study_with_other_seeds_each_epoch() -> None:
    config = study(shots=2)
    cell = training_cell(config, spec_of(config), None)
    stream = EpisodeStream(cell, 6)
    prompts = {epoch: {one.prompt.digest for one in stream.episodes(epoch)} for epoch in (0, 1)}
    for epoch, digests in prompts.items():
        other = replace(cell, seed=cell.seed + epoch)
        items = build_contexts(Retrieval(cell.task, cell.model), prompt_specs([other]), cell.task.queries)
        assert {prompt.digest for [item] in items if (prompt := render(item).prompt)} == digests
    assert prompts[0] != prompts[1]


def test_each_episode_draws_one_of_the_relations() -> None:
    relations: list[Any] = ["random", {"name": "knn", "embedder": "pixels"}]
    task = {"name": "counting", "queries": 12, "pool_size": 20}
    config = study(shots=2, batch=12, task=task, relations=relations)
    spec = spec_of(config)
    stream = episode_stream(config, spec, training_cell(config, spec, None))
    fixed = [
        episode_stream(one, spec_of(one), training_cell(one, spec_of(one), None)).episodes(0)
        for one in (study(shots=2, batch=12, task=task, relations=[node]) for node in relations)
    ]
    episodes = stream.episodes(0)
    matches = [
        [e.prompt.digest == other.prompt.digest for other in others]
        for e, *others in zip(episodes, *fixed, strict=True)
    ]
    assert [sum(one) for one in matches] == [1] * 12
    assert 0 < sum(first for first, _ in matches) < 12
    assert [one.prompt.digest for one in episodes] == [one.prompt.digest for one in stream.episodes(0)]
    cell = training_cell(config, spec, TuningControl.ZERO_SHOT)
    assert all(len(one.prompt.images) == 1 for one in episode_stream(config, spec, cell).episodes(0))


def test_each_episode_draws_one_of_the_numbers_of_shots() -> None:
    task = {"name": "counting", "queries": 12, "pool_size": 20}
    config = study(shots=[0, 1, 3], batch=12, task=task)
    spec = spec_of(config)
    stream = episode_stream(config, spec, training_cell(config, spec, None))
    fixed = {
        count: episode_stream(one, spec_of(one), training_cell(one, spec_of(one), None)).episodes(1)
        for count in (0, 1, 3)
        for one in [study(shots=count, batch=12, task=task)]
    }
    episodes = stream.episodes(1)
    counts = [len(one.prompt.images) - 1 for one in episodes]
    assert set(counts) == {0, 1, 3}
    assert all(
        one.prompt.digest == fixed[count][i].prompt.digest
        for i, (count, one) in enumerate(zip(counts, episodes, strict=True))
    )
    assert [one.prompt.digest for one in stream.episodes(1)] == [one.prompt.digest for one in episodes]
    assert [len(one.prompt.images) - 1 for one in stream.episodes(0)] != counts, "each epoch draws anew"
    cell = training_cell(config, spec, TuningControl.ZERO_SHOT)
    assert all(len(one.prompt.images) == 1 for one in episode_stream(config, spec, cell).episodes(0))
    assert training_cell(config, spec, None).shots == 3
    with pytest.raises(ConfigError, match=r"tune.shots: shots must be an integer .* that is not empty"):
        study(shots=[])
    for wrong in (-2, 20_000, "two", 2.5):
        with pytest.raises(
            ConfigError, match=rf"shots\[1\]: shots\[1\] must be an integer from 0 to 10000, not {wrong!r}\."
        ):
            study(shots=[1, wrong])


def test_controls_differ_in_their_demonstrations_alone() -> None:
    config = study(shots=2)
    spec = spec_of(config)
    cells = {name: training_cell(config, spec, name) for name in (None, "zero_shot", "shuffled")}
    made = {name: EpisodeStream(cell, 6).episodes(0) for name, cell in cells.items()}
    assert len({tuple(one.answer for one in episodes) for episodes in made.values()}) == 1
    images = {name: [len(one.prompt.images) for one in episodes] for name, episodes in made.items()}
    assert images == {None: [3] * 6, "shuffled": [3] * 6, "zero_shot": [1] * 6}
    answers = [
        [[part.text for part in one.prompt.parts() if "answer" in part.name] for one in made[name]]
        for name in (None, "shuffled")
    ]
    assert answers[0] != answers[1]
    assert list(map(sorted, answers[0])) == list(map(sorted, answers[1]))


def test_training_images_among_the_test_images_are_refused(tmp_path: Path) -> None:
    config = load_config({**STUDY, "tune": {**STUDY["tune"], "task": STUDY["task"]}})
    with pytest.raises(DataError, match=r"^task: 3 of 3 queries have an image of tune\.task"):
        tune(config, tmp_path)
    dev = {**STUDY["tune"], "dev": TRAIN}
    with pytest.raises(DataError, match=r"^tune\.dev: 6 of 6 queries have an image"):
        tune(load_config({**STUDY, "tune": dev}), tmp_path)


def test_a_study_that_cannot_be_compared_is_refused_before_training(tmp_path: Path) -> None:
    """The comparison is by the first metric of the study, such as one of whole runs."""
    by_run = {**STUDY, "metrics": ["macro_f1"]}
    assert evaluation_config(load_config(by_run), ()).compare.metric == "macro_f1"  # type: ignore[union-attr]
    wrong = {**by_run, "compare": {"to": {"shots": 0}, "metric": "strict"}}
    with pytest.raises(ConfigError, match="no metric 'strict' in metrics"):
        tune(load_config(wrong), tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_loss_that_is_no_number_stops_with_the_last_good_adapter(tmp_path: Path) -> None:
    config = study(lr=1e30, warmup=0.0, save_every=1)
    with pytest.raises(
        ModelError,
        match=r"after 1 step is nan\. The adapter in .* is that of step 0\. Lower tune\.lr .* with another --out",
    ):
        train_once(config, tmp_path / "bad")
    adapter = load_file(tmp_path / "bad" / "adapter_model.safetensors")
    assert all(one.isfinite().all() for one in adapter.values())
    assert not any(one.any() for name, one in adapter.items() if "lora_B" in name)


def test_a_pass_that_does_not_fit_into_memory_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("experiments.tuning.train.chunk_loss", fail)
    with pytest.raises(
        ModelError, match=r"tune.rows: \d+ does not fit into memory: CUDA out of memory. Use fewer rows"
    ):
        train_once(study(), tmp_path)


def test_what_cannot_be_tuned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the key tune is missing"):
        tune(load_config({key: value for key, value in STUDY.items() if key != "tune"}), tmp_path)
    with pytest.raises(PlanError, match="adapters are trained on models of `hf`"):
        tune(load_config({**STUDY, "model": "fake-copy"}), tmp_path)
    with pytest.raises(ConfigError, match=r"no linear module 'q_prj'\. Did you mean 'q_proj'"):
        tune(study(modules=["q_prj"]), tmp_path)
    with pytest.raises(ConfigError, match=r"grid\.retriever: an adapter is trained in one setting"):
        tune(load_config({**STUDY, "grid": {"shots": [2], "retriever": ["random", "clip"]}}), tmp_path)
    zipped = {"model": [STUDY["model"]], "retriever": ["random"]}
    with pytest.raises(ConfigError, match=r"zip\.model: icl fit compares .* Write one model with the key model"):
        tune(load_config({**{k: v for k, v in STUDY.items() if k != "model"}, "zip": zipped}), tmp_path)
    with pytest.raises(ConfigError, match=r"tune must be a mapping of task, .*, not 3\."):
        load_config({**STUDY, "tune": 3})
    with pytest.raises(ConfigError, match=r"tune: the key 'task' is missing\. Keys: task, "):
        load_config({**STUDY, "tune": {"steps": 3}})
    with pytest.raises(ConfigError, match=r"no key 'step'\. Did you mean 'steps'"):
        load_config({**STUDY, "tune": {"task": TRAIN, "step": 3}})


def test_a_folder_that_is_a_file_or_in_use_is_refused_before_the_model_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HF, "engine", property(lambda model: pytest.fail("the model loads")))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/tuned cannot be made: "):
        tune(study(), tmp_path / "file")
    with pytest.raises(StoreError, match=r"file/tuned cannot be written: "):
        train_once(study(), tmp_path / "file" / "tuned")
    with write_lock(tmp_path / "used" / "zero_shot"), pytest.raises(StoreError, match=r"zero_shot is being run by"):
        tune(study(), tmp_path / "used", [TuningControl.ZERO_SHOT])


@pytest.mark.parametrize("name", ["state.safetensors", "adapter_model.safetensors", CURVE])
def test_a_file_that_cannot_be_written_is_a_sentence_and_training_continues_later(tmp_path: Path, name: str) -> None:
    part = tmp_path / f".{name}.part"
    part.mkdir()
    with pytest.raises(
        StoreError, match=rf"{name} cannot be written: .*[Ii]s a directory.*last checkpoint, if any, is kept"
    ):
        train_once(study(), tmp_path)
    part.rmdir()
    assert train_once(study(), tmp_path).steps == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / RECORD
    path.write_text("old")

    def write() -> None:
        with replacement(path) as part:
            part.symlink_to("/dev/full")
            part.write_text("new")

    with pytest.raises(StoreError, match=r"tune\.json cannot be written: No space left"):
        write()
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [(RECORD, "old")]
    curve = Curve(tmp_path / CURVE, 0)
    curve.path.unlink()
    curve.path.symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"losses\.jsonl cannot be written: No space left"):
        curve.append(step=1)


def test_a_curve_leaves_out_lines_that_were_cut(tmp_path: Path) -> None:
    path = tmp_path / CURVE
    path.write_bytes(b'{"step": 0}\n{"step": 1, "loss": {}\n{"loss": 1}\n\xff}\n[1]\n{"step": 2}\n{"st')
    Curve(path, 2).append(step=2, loss=0.5)
    assert path.read_text() == '{"step": 0}\n{"step": 2, "loss": 0.5}\n'


def test_an_interruption_names_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(step: int, *settings: Any) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return 0.001

    monkeypatch.setattr("experiments.tuning.train.learning_rate", interrupt)
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps(STUDY))
    assert main(["fit", str(file), "--out", str(tmp_path / "out"), "--quiet"]) == 130
    error = capsys.readouterr().err
    assert f"stopped. Last checkpoints in {tmp_path / 'out'}: tuned at step 2. Run the same command" in error


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the command has trained the adapter and a control, and run the study."""
    folder = tmp_path_factory.mktemp("tune")
    file = folder / "small.yaml"
    file.write_text(json.dumps(STUDY))
    words = ["fit", str(file), "--out", str(folder / "adapters"), "--runs", str(folder / "runs"), "--quiet"]
    assert main([*words, "--control", "zero_shot", "--figure", str(folder / "figures" / "losses.svg")]) == 0
    return folder


def test_the_losses_of_all_adapters_are_drawn(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = (done / "figures" / "losses.svg").read_text()
    curves = {name: done / "adapters" / name / CURVE for name in ("tuned", "zero_shot")}
    assert [step for step, _ in read_curve(curves["tuned"], "loss")] == list(range(5))
    draw_losses({"tuned": curves["tuned"]}, tmp_path / "one.svg")
    draw_losses(curves, tmp_path / "both.svg")
    assert (tmp_path / "both.svg").read_text() == content != (tmp_path / "one.svg").read_text()
    (tmp_path / CURVE).write_text('{"step": 0, "loss": 3.0, "dev_loss": 2.0}\n{"step": 1, "loss": 2.5}\n')
    assert read_curve(tmp_path / CURVE, "dev_loss") == [(0, 2.0)]
    draw_losses({"tuned": tmp_path / CURVE}, tmp_path / "two.svg")
    assert "loss on dev episodes" in (tmp_path / "two.svg").read_text()
    assert "loss on dev episodes" not in content
    (tmp_path / CURVE).write_text("{")
    with pytest.raises(StoreError, match=r"losses\.jsonl is no file of losses"):
        read_curve(tmp_path / CURVE, "loss")
    assert main(["fit", str(done / "small.yaml"), "--figure", "losses.bmp"]) == 2
    assert "losses.bmp must end in .pdf, .png, .svg" in capsys.readouterr().err


def test_the_arms_before_and_after_differ_by_the_adapter_alone(done: Path) -> None:
    frame = load_run(done / "runs" / "small").samples()
    assert len(frame) == 3 * 2 * 3  # models, shots, queries
    assert frame.groupby(["shots", "query"])["demos"].agg(lambda demos: len(set(map(str, demos)))).eq(1).all()
    # The labels of adapters are cut if the path is long.
    base, *tuned = sorted(set(frame["model"]), key=lambda label: label != "tiny(adapter=None)")
    assert (base, len(tuned)) == ("tiny(adapter=None)", 2)


def test_finished_training_is_not_repeated_and_other_settings_are_refused(done: Path) -> None:
    assert [one.computed for one in tune(load_config(STUDY), done / "adapters", [TuningControl.ZERO_SHOT])] == [0, 0]
    with pytest.raises(StoreError, match="training state of other settings"):
        tune(study(lr=0.5), done / "adapters")
    record = json.loads((done / "adapters" / "zero_shot" / RECORD).read_text())
    task = training_cell(study(), spec_of(study()), None).task
    examples = [one for query in task.queries for one in (query, *task.pool(query.id).examples)]
    images = {image.digest for example in examples for image in example.images}
    assert (record["control"], record["steps"], record["images"]) == ("zero_shot", 4, len(images))


@pytest.mark.parametrize(("key", "node"), [("task", 4), ("dev", 4), ("nearest", "kn"), ("relations", [7])])
def test_a_wrong_component_is_named_with_its_key(key: str, node: Any) -> None:
    with pytest.raises(ConfigError, match=rf"tune\.{key}(\[0\])?: "):
        study(**{key: node})


def test_relations_need_demonstrations(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="relations: the episodes have no demonstrations"):
        tune(study(shots=0, relations=["random"]), tmp_path)
