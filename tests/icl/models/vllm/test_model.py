"""The component `vllm`: token ids and answers of the checkpoint, start of the engine, refusals."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import environment
import groups
import transformers

from decoding.arms.arm import parse_arm
from decoding.engine.requests import DecodingRequest, Failure
from icl.errors import ModelError
from icl.models.base import Request
from icl.models.small.folder import INSTALL, MODULES, checkpoint_folder
from icl.models.vllm.model import VLLM

ARCHITECTURES = ("llava", "qwen2_5_vl")
MISSING = [module for module in MODULES if find_spec(module) is None]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest) -> Path:
    return checkpoints.shared(request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[VLLM]:
    made = groups.tiny_engine(folder)
    yield made
    made.unload()


def greedy(folder: Path, prompts: list[Any], length: int) -> list[tuple[list[int], list[int]]]:
    """(ids of the prompt, ids of the answer) by `generate` of transformers."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    weights = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    answers = []
    for conversation in checkpoints.tiny_models().conversations(prompts):
        inputs = processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        ids = weights.generate(**inputs, max_new_tokens=length, do_sample=False)[0].tolist()
        size = inputs["input_ids"].shape[1]
        answers.append((ids[:size], ids[size:]))
    return answers


PROMPTS = groups.prompts(12, seed=21)


def test_prompts_and_greedy_answers_are_those_of_generate(folder: Path, model: VLLM) -> None:
    check_greedy(model, PROMPTS, greedy(folder, PROMPTS, 8))


@pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} are not installed: {INSTALL}")
def test_greedy_answers_of_the_small_model_are_those_of_generate() -> None:
    """In a process of its own: vLLM runs the class of transformers here, and replaces operations of transformers.

    The checkpoint is that of the cache: tests/icl/models/small assembles it anew.
    """
    folder = checkpoint_folder()
    with ProcessPoolExecutor(1, environment.importing_vllm()) as other:
        answers = other.submit(groups.greedy_tokens, folder, 6, 21).result()
    stops = set(transformers.GenerationConfig.from_pretrained(folder).eos_token_id)
    expected = greedy(folder, PROMPTS[:6], 8)
    assert answers == [(len(read), [token for token in tokens if token not in stops]) for read, tokens in expected]


def check_greedy(model: VLLM, prompts: list[Any], expected: list[tuple[list[int], list[int]]]) -> None:
    answers = model.generate([Request(prompt, max_new_tokens=8) for prompt in prompts])
    for prompt, answer, (read, tokens) in zip(prompts, answers, expected, strict=True):
        assert model.engine.inputs.of(prompt)["prompt_token_ids"] == read
        stopped = tokens[-1] in model.stop_tokens
        assert list(answer.tokens) == (tokens[:-1] if stopped else tokens)
        assert answer.finish == ("stop" if stopped else "length")
        assert answer.usage.prompt_tokens == len(read) == model.count_tokens(prompt)


def test_ids_that_differ_from_the_checkpoints_own_are_an_error(model: VLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = model.engine.inputs
    own = type(inputs.hf).ids
    monkeypatch.setattr(type(inputs.hf), "ids", lambda hf, prompt: (*own(hf, prompt)[:5], 65, *own(hf, prompt)[5:]))
    with pytest.raises(ModelError, match="they differ from token 5 on"):
        inputs.of(groups.prompts(1, seed=22)[0])


def test_images_go_by_their_digest_and_are_processed_once(model: VLLM) -> None:
    prompt = groups.prompts(1, seed=23)[0]
    first, second = model.engine.inputs.of(prompt), model.engine.inputs.of(prompt)
    assert first["mm_hashes"]["image"] == [image.digest for image in prompt.images]
    assert second["mm_kwargs"]["image"] == [None] * len(prompt.images)  # in the engine already


def test_shared_prefixes_are_in_the_prefix_cache(model: VLLM) -> None:
    tiny = checkpoints.tiny_models()
    prompts = [tiny.prompt([1, 2, 3, 4], f"question {i}?", f"fixed{i}") for i in range(8)]
    requests = [DecodingRequest(prompt, parse_arm("greedy"), max_new_tokens=2) for prompt in prompts]
    before = dict(model.counters())
    groups.run_requests(model, requests, trace=False)
    read, cached = (model.counters()[key] - before[key] for key in ("prompt_tokens", "cached_tokens"))
    assert cached > 0.6 * read


def test_an_image_is_encoded_once_wherever_it_occurs(model: VLLM) -> None:
    tiny = checkpoints.tiny_models()
    orders = ([51, 52, 53], [53, 51, 52], [52], [53, 52, 51], [51, 53])  # no beginning of one is that of another
    prompts = [tiny.prompt(order, f"question {i}?", f"order{i}") for i, order in enumerate(orders)]
    assert isinstance(model, groups.Watched)
    before = model.scheduler.counts["encoder inputs"]
    answers = groups.run_requests(
        model, [DecodingRequest(prompt, parse_arm("greedy"), max_new_tokens=2) for prompt in prompts]
    )
    assert not any(isinstance(answer, Failure) for answer in answers)
    assert model.scheduler.counts["encoder inputs"] - before == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"scheduling_policy": "priority"}, "priority policy preempts single branches"),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}},
            "speculative decoding drafts each branch on its own",
        ),
        ({"max_num_batched_tokens": 0}, "does not start"),
    ],
)
@pytest.mark.parametrize("folder", ["llava"], indirect=True)  # the check reads the engine's configuration
def test_an_engine_that_cannot_run_strategies_does_not_start(
    folder: Path, arguments: dict[str, Any], sentence: str, request: pytest.FixtureRequest
) -> None:
    if "speculative_config" in arguments:
        # In a process of its own: it imports numba, and vLLM 0.32 starts no engine in a process that has.
        request.getfixturevalue("engine_processes")
    with pytest.raises(ModelError, match=sentence):
        groups.tiny_engine(folder, **arguments).load()


# The test before has a refusal of an engine's process, and test_engine_requirements the sentence. This one has workers.
@pytest.mark.applies(groups.IS_WHOLE)
@pytest.mark.parametrize("folder", ["llava"], indirect=True)  # takes long to start
def test_a_refusal_of_an_engine_process_is_reported_with_its_reason(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot run in this engine: pipeline stages hold several steps in flight"):
        groups.tiny_engine(folder, pipeline_parallel_size=2).load()


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("bitsandbytes", r"does not start: .*bitsandbytes.* use one that vLLM has for cpu, or the backend 'hf'"),
        ("fp8", r"does not start: torch.float32 is not supported .*fp8.*bfloat16.* use one that vLLM has for cpu"),
    ],
)
def test_a_quantization_that_the_device_does_not_support_is_an_error_with_a_message(
    folder: Path, method: str, sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence) as error:
        VLLM(str(folder), quantization=method, cache_gib=0.25, max_model_len=512).load()
    assert "\n" not in str(error.value)
    assert "validation error" not in str(error.value)


def test_a_model_with_image_masks_is_refused_on_a_cpu(tmp_path: Path) -> None:
    gemma = checkpoints.saved("gemma3", tmp_path)
    with pytest.raises(ModelError, match=r"tokens of an image attend to each other, .* or the backend 'hf'"):
        groups.tiny_engine(gemma).load()


def test_a_folder_that_is_no_checkpoint_is_an_error_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no config"):
        VLLM(str(tmp_path)).load()


@pytest.mark.parametrize("folder", ["llava"], indirect=True)  # takes long to start
def test_it_runs_in_separate_processes_and_can_be_restarted(
    folder: Path, engine_processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, engine, scheduler and worker run in other processes. Faults and traces still arrive."""
    poison = Path(groups.__file__).with_name("poison.py")
    arms = [
        parse_arm(arm)
        for arm in (
            groups.ARMS[0],
            groups.ARMS[2],
            {"name": f"{poison}:Poison"},
            {"name": f"{poison}:Poison", "branch_count": 2},
        )
    ]
    prompts = groups.prompts(2, seed=25)
    requests = [DecodingRequest(prompt, arm, max_new_tokens=6) for prompt in prompts for arm in arms]
    model = groups.tiny_engine(folder)
    separate = groups.run_requests(model, requests)
    model.unload()
    monkeypatch.setitem(os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    inside = groups.run_requests(model, requests)
    model.unload()
    assert [getattr(a, "tokens", None) for a in separate] == [getattr(a, "tokens", None) for a in inside]
    assert [getattr(a, "trace", None) for a in separate] == [getattr(a, "trace", None) for a in inside]
    failed = [a.reason for a in separate if isinstance(a, Failure)]
    assert failed == [a.reason for a in inside if isinstance(a, Failure)]
    assert all("step 2: the combined scores of Poison rule out every token" in reason for reason in failed)
    assert failed


def test_queries_of_several_heads_are_rotated_by_the_positions_of_their_tokens() -> None:
    """vLLM's own kernel for CPUs rotates them by the numbers of rows (LFM2)."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.layers.rotary_embedding import get_rope

    model = VLLM(max_images=1)
    queries, keys = torch.randn(5, 4, 32), torch.randn(5, 2, 32)
    with set_current_vllm_config(EngineArgs(model.weights(), **model.arguments()).create_engine_config()):
        rotate = get_rope(32, 64, is_neox_style=True, rope_parameters={"rope_type": "default"}, dtype=torch.float32)
        own = rotate(torch.arange(5), queries.clone(), keys.clone())
    alone = rotate.forward_native(torch.arange(5), queries.flatten(1), keys.flatten(1))
    assert all(torch.equal(a.flatten(1), b) for a, b in zip(own, alone, strict=True))
