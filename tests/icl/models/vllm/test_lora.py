"""A LoRA of peft in the engine: the answers of the backend `hf`, and errors if it does not fit."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")
pytest.importorskip("peft")

import checkpoints
import groups
from adapters import saved
from reference import Reference

from decoding.arms.arm import parse_arm
from decoding.engine.requests import DecodingRequest
from icl.errors import ModelError
from icl.models.vllm.model import VLLM
from icl.types import Generation

TOWER_TOO = r".*(language_model|vision_tower).*q_proj"


@pytest.fixture(scope="module", params=("llava", "qwen2_5_vl"))
def folder(request: pytest.FixtureRequest) -> Path:
    return checkpoints.shared(request.param)


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(folder, tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def model(folder: Path, adapter: Path) -> Iterator[VLLM]:
    made = groups.tiny_engine(folder, adapter=str(adapter))
    yield made
    made.unload()


def test_answers_are_those_of_the_backend_hf_with_the_same_adapter(folder: Path, adapter: Path, model: VLLM) -> None:
    base, tuned = Reference(folder), Reference(folder)
    lora = model.lora
    assert lora is not None
    tuned.model = lora.apply_to(tuned.model, str(folder), merge=False)  # as the backend `hf` puts it on
    requests = [
        DecodingRequest(prompt, parse_arm(arm), max_new_tokens=8)
        for prompt in groups.prompts(8, seed=41)
        for arm in ("greedy", groups.ARMS[0])
    ]
    steps = decided = same = 0
    for request, answer in zip(requests, groups.run_requests(model, requests), strict=True):
        assert isinstance(answer, Generation), answer
        stops = frozenset(checkpoints.STOPS) if answer.finish == "stop" else frozenset()
        compared = tuned.compare(request.prompt, request.arm, answer.tokens, stops, None)
        assert compared.equal == compared.decided
        steps, decided = steps + compared.steps, decided + compared.decided
        same += int(base.logits(request.prompt, ())[0].argmax()) == int(tuned.logits(request.prompt, ())[0].argmax())
    assert decided > 0.8 * steps
    assert same < 0.7 * len(requests)  # the adapter says something else


def test_a_run_knows_its_adapter_by_its_weights(folder: Path, adapter: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(adapter, tmp_path / "copy")
    plain, tuned = VLLM(str(folder)).digest, VLLM(str(folder), adapter=str(adapter)).digest
    assert plain != tuned == VLLM(str(folder), adapter=str(copy)).digest


def test_an_adapter_of_another_base_is_an_error_before_any_weights_are_read(adapter: Path, tmp_path: Path) -> None:
    wider = checkpoints.saved("llava", tmp_path, width=256)
    with pytest.raises(ModelError, match="is an adapter of another model than"):
        VLLM(str(wider), adapter=str(adapter)).load()


@pytest.mark.parametrize("folder", ["llava"], indirect=True)
def test_layers_that_vllm_would_leave_out_are_an_error(folder: Path, tmp_path: Path) -> None:
    own = saved(folder, tmp_path / "lora", TOWER_TOO)
    model = groups.tiny_engine(folder, adapter=str(own))
    with pytest.raises(ModelError, match=r"does not support \d+ of the layers .* such as .*vision.*Use `merge: true`"):
        model.load()


def test_a_rank_beyond_vllms_limit_is_an_error_with_a_message(adapter: Path, folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(config | {"rank_pattern": {"q_proj": 600}}))
    with pytest.raises(ModelError, match="has rank 600, but vLLM supports at most 512"):
        VLLM(str(folder), adapter=str(copy)).arguments()


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "merged"


def check_merged(folder: Path, model: VLLM, requests: list[DecodingRequest]) -> list[Generation]:
    """Checks that a merged model of transformers takes every step of the answers, and returns them."""
    reference, lora = Reference(folder), model.lora
    assert lora is not None
    reference.model = lora.apply_to(reference.model, str(folder), merge=True)
    answers = []
    steps = decided = 0
    for request, answer in zip(requests, groups.run_requests(model, requests), strict=True):
        assert isinstance(answer, Generation), answer
        stops = frozenset(checkpoints.STOPS) if answer.finish == "stop" else frozenset()
        compared = reference.compare(request.prompt, request.arm, answer.tokens, stops, None)
        assert compared.equal == compared.decided
        steps, decided = steps + compared.steps, decided + compared.decided
        answers.append(answer)
    assert decided > 0.8 * steps
    return answers


# The last test compares LLaVA's merged answers with hf's in `make test` too.
@pytest.mark.parametrize("folder", ["llava", "qwen2_5_vl"] if groups.IS_WHOLE else ["qwen2_5_vl"], indirect=True)
def test_a_merged_adapter_gives_the_answers_of_a_separate_one_and_of_hf_merged(
    folder: Path, adapter: Path, model: VLLM, cached: Path
) -> None:
    requests = [
        DecodingRequest(prompt, parse_arm(arm), max_new_tokens=8)
        for prompt in groups.prompts(8, seed=43)
        for arm in ("greedy", groups.ARMS[0])
    ]
    model.unload()  # engines share what a process has once: one at a time
    separate = groups.run_requests(model, requests)
    model.unload()
    whole = groups.tiny_engine(folder, adapter=str(adapter), merge=True)
    assert whole.digest not in {model.digest, VLLM(str(folder)).digest}
    try:
        answers = check_merged(folder, whole, requests)
        assert "enable_lora" not in whole.arguments()
    finally:
        whole.unload()
    differing = [(a, b) for a, b in zip(answers, separate, strict=True) if a.tokens != getattr(b, "tokens", None)]
    assert len(differing) <= 1  # a near-tie may fall otherwise: merging rounds
    assert [path.name for path in cached.iterdir() if path.is_dir()] == [Path(whole.weights()).name]


@pytest.mark.parametrize("folder", ["llava"], indirect=True)
def test_a_merged_adapter_may_have_layers_and_ranks_that_vllm_does_not_support(
    folder: Path, cached: Path, tmp_path: Path
) -> None:
    own = saved(folder, tmp_path / "lora", TOWER_TOO, rank=600)
    whole = groups.tiny_engine(folder, adapter=str(own), merge=True)
    requests = [DecodingRequest(prompt, parse_arm("vcd"), max_new_tokens=6) for prompt in groups.prompts(4, seed=44)]
    try:
        check_merged(folder, whole, requests)
    finally:
        whole.unload()
