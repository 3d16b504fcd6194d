"""Language models that read text only: their prompts, answers and scores are those of plain scripts of transformers."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
import transformers

from decoding.arms.arm import parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from icl.errors import ModelError
from icl.models.hf.model import HF
from icl.types import Part, Prompt, Turn
from tests.random_models.site_checks import check_sites
from tests.random_models.texts import save_text

peft = pytest.importorskip("peft")

CHAT = ("llama", "qwen3")
LENGTH = 6
OPTIONS = ("red", "dark blue", "red wine")


@pytest.fixture(scope="module")
def text_model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HF]:
    made: dict[str, HF] = {}

    def get(name: str) -> HF:
        if name not in made:
            made[name] = HF(path=str(save_text(name, tmp_path_factory.mktemp(name))))
        return made[name]

    return get


def conversation(words: list[str]) -> Prompt:
    """Demonstrations and a query as turns, from questions and answers in turn."""
    turns = [
        tiny_models.turn("assistant" if i % 2 else "user", word, name=f"demo[{i // 2}]") for i, word in enumerate(words)
    ]
    return Prompt((*turns[:-1], tiny_models.turn("user", words[-1], name="query")))


PROMPTS = [
    conversation(["  what is 1 + 1? ", "2", "what is 2 + 2?"]),
    conversation(["hello"]),
    conversation(["a?", "b", "c?", "d", "a?"]),
]
ONE_TURN = [conversation(["one: two\nthree: four\nfive:"]), conversation(["one: two\nthree:"])]


def plain_inputs(hf: HF, prompt: Prompt) -> list[int]:
    """Token ids as a script of transformers makes them: by the chat template, or of the text if there is none."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(hf.path)
    texts = [(turn.role, "".join(str(part.text) for part in turn.parts)) for turn in prompt.turns]
    if not tokenizer.chat_template:
        ids: list[int] = tokenizer(texts[0][1])["input_ids"]
        return ids
    chat = [{"role": role, "content": text} for role, text in texts]
    return list(tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"])


@pytest.mark.parametrize(("name", "prompts"), [*((name, PROMPTS) for name in CHAT), ("llama_base", ONE_TURN)])
def test_prompts_and_answers_equal_those_of_generate(
    name: str, prompts: list[Prompt], text_model_of: Callable[[str], HF]
) -> None:
    hf = text_model_of(name)
    model = transformers.AutoModelForCausalLM.from_pretrained(hf.path).eval()
    answers = run_requests(hf, [DecodingRequest(one, parse_arm("greedy"), max_new_tokens=LENGTH) for one in prompts])
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = plain_inputs(hf, prompt)
        assert list(hf.token_ids(prompt)) == ids
        rows = model.generate(torch.tensor([ids]), max_new_tokens=LENGTH, do_sample=False, pad_token_id=0)
        assert list(answer.tokens) == rows[0, len(ids) :].tolist()
    assert hf.notes == ()
    assert hf.shares_prefix
    assert hf.enable_threads()


@pytest.mark.parametrize("name", CHAT)
def test_option_scores_equal_a_plain_forward_pass(name: str, text_model_of: Callable[[str], HF]) -> None:
    hf, prompt = text_model_of(name), PROMPTS[0]
    request = DecodingRequest(prompt, parse_arm("greedy"), OPTIONS, "options")
    scores = run_requests(hf, [request])[0].option_scores
    model = transformers.AutoModelForCausalLM.from_pretrained(hf.path).eval()
    start, expected = plain_inputs(hf, prompt), []
    for option in OPTIONS:
        ids = torch.tensor([start + hf.tokenizer(option, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            logprobs = model(ids).logits[0, :-1].log_softmax(-1)
        expected.append(float(logprobs.gather(1, ids[0, 1:, None])[len(start) - 1 :].sum()))
    assert [scores[option] for option in OPTIONS] == pytest.approx(expected, abs=1e-3)


def test_strategies_that_edit_texts_run_together(text_model_of: Callable[[str], HF]) -> None:
    hf = text_model_of("llama")
    arms = ["greedy", "ced", "dola", {"name": "moicl", "groups": 2}]
    requests = [DecodingRequest(PROMPTS[2], parse_arm(arm), max_new_tokens=LENGTH) for arm in arms]
    together = [answer.tokens for answer in run_requests(hf, requests)]
    alone = [run_requests(hf, [request])[0].tokens for request in requests]
    assert together == alone
    assert len(set(together)) > 2


def test_its_sites_embeddings_and_likelihoods_are_those_of_any_model(text_model_of: Callable[[str], HF]) -> None:
    hf = text_model_of("qwen3")
    assert list(check_sites(hf, PROMPTS, kinds=("residual", "heads", "scores"))) == []
    assert hf.embed(PROMPTS).shape == (3, 64)
    assert len(hf.text_logprobs(PROMPTS[:1], "demo[0].0")[0]) > 1
    assert "reads text only" in str(hf.image_token_problem)


@pytest.mark.parametrize("name", ["llama", "llama_base"])
def test_an_image_is_refused_before_weights_are_read(
    name: str, text_model_of: Callable[[str], HF], monkeypatch: pytest.MonkeyPatch
) -> None:
    hf = HF(path=text_model_of(name).path)
    says = r"reads text only, and the prompt has an image \(query\.0\)\. Write its images as text \(transforms: "
    for use in (hf.count_tokens, hf.render, hf.before_answer):
        with pytest.raises(ModelError, match=says):
            use(tiny_models.prompt([1]))
    assert "engine" not in vars(hf)


def test_a_text_in_the_place_of_an_image_is_plain_text(text_model_of: Callable[[str], HF]) -> None:
    hf = text_model_of("llama")
    slot, text = (
        Prompt((Turn("user", (Part("a red dog", fills_image_slot=fills), Part(" what?"))),)) for fills in (True, False)
    )
    assert hf.render(slot) == hf.render(text) == "<begin><user>a red dog what?</turn><assistant>"


def test_a_base_model_without_a_template_reads_one_turn(text_model_of: Callable[[str], HF]) -> None:
    hf = text_model_of("llama_base")
    assert hf.render(ONE_TURN[1]) == "one: two\nthree:"
    prompt = hf.before_answer(ONE_TURN[1])
    assert hf.text(hf.option_ids(prompt, ["four"])[0]) == "four"
    assert hf.option_ids(prompt, ["four"])[0] == hf.tokenizer(" four", add_special_tokens=False)["input_ids"]
    with pytest.raises(ModelError, match=r"has no chat template, so .* such as interleaved\."):
        hf.render(PROMPTS[0])


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_it_runs_quantized(quantize: Any, text_model_of: Callable[[str], HF]) -> None:
    pytest.importorskip("bitsandbytes")
    hf = HF(path=text_model_of("llama").path, quantize=quantize)
    packed = [name for name, one in hf.engine.runner.model.named_modules() if "bit" in type(one).__name__]
    assert len(packed) == 3 * 7
    assert hf.open(PROMPTS).logits.isfinite().all()


def test_a_lora_adapter_merged_and_separate(text_model_of: Callable[[str], HF], tmp_path: Path) -> None:
    path = text_model_of("llama").path
    made = peft.get_peft_model(
        HF(path=path).checkpoint.weights(dtype=torch.float32), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.fill_(0.1)
    made.save_pretrained(tmp_path)
    own = str(tmp_path)
    base, tuned, merged = (
        HF(path=path, **more).open(PROMPTS).logits for more in ({}, {"adapter": own}, {"adapter": own, "merge": True})
    )
    torch.testing.assert_close(tuned, merged, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(base, tuned, atol=1e-2)


def test_the_memory_is_estimated_without_a_vision_tower(text_model_of: Callable[[str], HF]) -> None:
    needs = text_model_of("llama").memory_needs("float32")
    assert needs.tower is None
    assert needs.weights == text_model_of("llama").weights_bytes


def test_a_folder_without_a_tokenizer_is_a_sentence(text_model_of: Callable[[str], HF], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(text_model_of("llama").path, tmp_path / "copy"))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer \(tokenizer\* or vocab\*\) .*which a plan needs too"):
        HF(path=str(folder)).count_tokens(PROMPTS[0])


def test_a_replaced_question_keeps_its_place(text_model_of: Callable[[str], HF]) -> None:
    hf, prompt = text_model_of("qwen3"), PROMPTS[0]
    other = prompt.map(lambda part: replace(part, content="else?") if part.name == "query.0" else part)
    assert hf.render(other) == hf.render(prompt).replace("what is 2 + 2?", "else?")
