"""Language models that read text only: an engine gives the answers of `generate`, scores options, runs strategies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups
import transformers

from decoding.arms.arm import parse_arm
from decoding.engine.requests import DecodingRequest
from icl.errors import ModelError
from icl.models.vllm.model import VLLM
from icl.types import Generation, Prompt
from tests.random_models.texts import save_text

PROMPTS = [
    checkpoints.tiny_models().prompt([], question, f"q{i}")
    for i, question in enumerate(("what is 1 + 1?", "hello", "x" * 50, " is it red or blue? "))
]
OPTIONS = ("red", "dark blue", "red wine")
LENGTH = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLM]:
    size = checkpoints.tiny_models().Size(width=128, layers=2)  # heads of 32, as vLLM's attention for CPUs needs
    made = groups.tiny_engine(save_text("llama", tmp_path_factory.mktemp("llama"), size=size))
    yield made
    made.unload()


def plain(folder: str, prompt: Prompt) -> tuple[list[int], list[int]]:
    """(ids of the prompt, ids of the greedy answer) by a script of transformers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    weights = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    chat = [{"role": turn.role, "content": "".join(str(part.text) for part in turn.parts)} for turn in prompt.turns]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    ids = weights.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)[0].tolist()
    size = inputs["input_ids"].shape[1]
    return ids[:size], [token for token in ids[size:] if token != tokenizer.eos_token_id]


def run(model: VLLM, requests: list[DecodingRequest]) -> list[Generation]:
    answers = groups.run_requests(model, requests)
    assert all(isinstance(answer, Generation) for answer in answers), answers
    return answers


def test_prompts_and_answers_are_those_of_generate(model: VLLM) -> None:
    answers = run(model, [DecodingRequest(one, parse_arm("greedy"), max_new_tokens=LENGTH) for one in PROMPTS])
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids, tokens = plain(model.path, prompt)
        assert model.engine.inputs.of(prompt)["prompt_token_ids"] == ids
        assert list(answer.tokens) == tokens


def test_groups_contrast_and_mix_texts(model: VLLM) -> None:
    demos = (
        checkpoints.tiny_models().turn("user", "a?", name="demo[0]"),
        checkpoints.tiny_models().turn("assistant", "b", name="demo[0]"),
    )
    prompt = Prompt((*demos, *PROMPTS[0].turns), PROMPTS[0].key)
    arms = ["greedy", "ced", {"name": "moicl", "groups": 1}]
    answers = run(model, [DecodingRequest(prompt, parse_arm(arm), max_new_tokens=LENGTH) for arm in arms])
    assert answers[0].tokens == answers[2].tokens != answers[1].tokens


def test_options_are_scored(model: VLLM) -> None:
    scores = run(model, [DecodingRequest(PROMPTS[0], parse_arm("greedy"), OPTIONS, "options")])[0].option_scores
    assert set(scores) == set(OPTIONS)
    assert all(value < 0 for value in scores.values())


def test_an_image_is_refused_with_the_sentence_of_hf(model: VLLM) -> None:
    with pytest.raises(ModelError, match="reads text only, and the prompt has an image"):
        model.count_tokens(checkpoints.tiny_models().prompt([1]))


def test_it_is_a_folder_without_a_processor(model: VLLM) -> None:
    assert not any("processor" in file.name for file in Path(model.path).iterdir())
