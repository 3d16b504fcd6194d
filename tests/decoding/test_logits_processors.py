"""Logits processors and stop strings, compared with `generate` of transformers on the shipped checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from decoding.arms.arm import default_controls, parse_arm
from decoding.arms.equivalence import is_equivalent_to_greedy
from decoding.arms.requirements import unsupported_reason
from decoding.engine.engine import run_requests
from decoding.engine.hypotheses import cut_generation
from decoding.engine.requests import DecodingRequest, Failure
from icl.errors import ConfigError
from icl.models.hf.model import HF
from icl.types import Generation, Prompt
from tests.decoding.prompts import prompt
from tests.decoding.toy import Toy

SHIPPED = Path(__file__).parents[2] / "icl/models/tiny/checkpoints/vlm"
NEW = 24
pytestmark = pytest.mark.skipif(not (SHIPPED / "config.json").exists(), reason="the shipped checkpoint is not there")


@pytest.fixture(scope="module")
def model() -> HF:
    shipped = HF(path=str(SHIPPED), dtype="float32", device="cpu")
    shipped.load()
    return shipped


def prompts() -> list[Prompt]:
    """Prompts of different lengths and numbers of images."""
    numbers = [[1, 2, 3], [4], [5, 1, 6, 2]]
    return [
        tiny_models.prompt(images, "Describe the image" + "?" * i, query=f"q{i}", size=(56, 84))
        for i, images in enumerate(numbers)
    ]


def generate(model: HF, one: Prompt, **settings: Any) -> tuple[int, ...]:
    """Tokens of transformers' greedy `generate`, without the stop token."""
    from icl.models.hf.prompt_encoding import process_prompt

    inputs = process_prompt(model.renderer, one)
    with torch.inference_mode():
        whole = model.engine.runner.model.generate(**inputs, do_sample=False, max_new_tokens=NEW, **settings)
    tokens = whole[0, inputs["input_ids"].shape[-1] :].tolist()
    return tuple(tokens[:-1] if tokens and tokens[-1] in model.stop_tokens else tokens)


def answers(model: Any, arm: Any, **settings: Any) -> list[Generation]:
    requests = [DecodingRequest(one, parse_arm(arm), max_new_tokens=NEW, **settings) for one in prompts()]
    results = run_requests(model, requests)
    assert all(isinstance(one, Generation) for one in results), results
    return [one for one in results if isinstance(one, Generation)]


def texts(results: list[Generation | Failure]) -> list[tuple[object, ...]]:
    """What does not depend on the batch: the last digits of a trace do."""
    return [(one.text, one.tokens, one.finish) for one in results if isinstance(one, Generation)]


def with_processors(*processors: Any, **arm: Any) -> dict[str, Any]:
    return {"name": "greedy", "logits_processors": list(processors), **arm}


PROCESSORS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "repetition penalty": ([{"name": "repetition_penalty", "penalty": 1.7}], {"repetition_penalty": 1.7}),
    "no repeated n-gram": ([{"name": "no_repeat_ngram", "ngram_size": 1}], {"no_repeat_ngram_size": 1}),
    "both": (
        [{"name": "repetition_penalty", "penalty": 1.3}, {"name": "NoRepeatNGramLogitsProcessor", "ngram_size": 1}],
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 1},
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("beams", [1, 3])
def test_processors_give_the_tokens_of_generate(model: HF, name: str, beams: int) -> None:
    processors, settings = PROCESSORS[name]
    arm = with_processors(*processors, **({"sampling": {"beams": beams}} if beams > 1 else {}))
    own = [one.tokens for one in answers(model, arm)]
    assert own == [generate(model, one, num_beams=beams, **settings) for one in prompts()]
    assert own != [generate(model, one, num_beams=beams) for one in prompts()]


def stop_strings_in(model: HF) -> tuple[str, ...]:
    """Texts that occur in greedy answers, one of them inside a word."""
    words = max((one.text for one in answers(model, "greedy")), key=len).split()
    return words[2], words[1][1:], "text that never occurs"


@pytest.mark.parametrize("beams", [1, 3])
def test_stop_strings_give_the_tokens_of_generate(model: HF, beams: int) -> None:
    stop = stop_strings_in(model)
    arm = {"name": "greedy", **({"sampling": {"beams": beams}} if beams > 1 else {})}
    own = answers(model, arm, stop_strings=stop)
    expected = [
        generate(model, one, num_beams=beams, stop_strings=list(stop), tokenizer=model.tokenizer) for one in prompts()
    ]
    assert [one.tokens for one in own] == expected
    assert [one.tokens for one in own] != [one.tokens for one in answers(model, arm)]
    assert not any(text in one.text for one in own for text in stop)
    assert any(one.finish == "stop" for one in own)


def test_a_contrast_stops_at_the_same_place_lazily_and_eagerly(model: HF) -> None:
    text = answers(model, "vcd")[1].text
    stop = text.split()[1]
    requests = [DecodingRequest(one, parse_arm("vcd"), max_new_tokens=NEW, stop_strings=(stop,)) for one in prompts()]
    eager = run_requests(model, requests, lazy_branches="never")
    assert texts(run_requests(model, requests, lazy_branches="always")) == texts(eager)
    assert isinstance(eager[1], Generation)
    assert eager[1].text == text.split(stop)[0]


def test_requests_with_different_stop_strings_and_processors_do_not_affect_each_other(model: HF) -> None:
    stop = stop_strings_in(model)
    penalty = with_processors({"name": "repetition_penalty", "penalty": 1.7})
    requests = [
        DecodingRequest(one, parse_arm(arm), max_new_tokens=NEW, stop_strings=strings)
        for one in prompts()
        for arm in ("greedy", penalty)
        for strings in ((), stop)
    ]
    together = run_requests(model, requests)
    assert texts(together) == [texts(run_requests(model, [one]))[0] for one in requests]
    assert len({one.tokens for one in together[4:8] if isinstance(one, Generation)}) >= 2


OWN = """
from transformers import LogitsProcessor



class Ban(LogitsProcessor):
    def __init__(self, token: int):
        self.token = token

    def __call__(self, input_ids, scores):
        scores[:, self.token] = -float("inf")
        return scores
"""


def test_a_users_processor_changes_the_scores(model: HF, tmp_path: Path) -> None:
    (tmp_path / "ban.py").write_text(OWN)
    token = answers(model, "greedy")[0].tokens[0]
    arm = with_processors({"name": f"{tmp_path}/ban.py:Ban", "token": token})
    assert all(token not in one.tokens for one in answers(model, arm))
    assert parse_arm(arm).config["logits_processors"][0]["code"]


def test_an_answer_without_any_token_left_fails_with_a_reason(model: HF, tmp_path: Path) -> None:
    (tmp_path / "ban.py").write_text(OWN.replace("scores[:, self.token]", "scores[:]"))
    arm = parse_arm(with_processors({"name": f"{tmp_path}/ban.py:Ban", "token": 0}))
    failed, fine = run_requests(
        model, [DecodingRequest(prompts()[0], arm), DecodingRequest(prompts()[0], parse_arm("greedy"))]
    )
    assert isinstance(failed, Failure)
    assert "step 0: the scores after the logits processors rule out every token" in failed.reason
    assert isinstance(fine, Generation)


def test_processors_belong_to_the_arm_and_its_controls() -> None:
    arm = parse_arm({"name": "vcd", "logits_processors": [{"name": "repetition_penalty", "penalty": 1.2}]})
    assert arm.label == "vcd, repetition_penalty(penalty=1.2)"
    assert arm.digest != parse_arm("vcd").digest
    assert arm.config["logits_processors"] == [{"name": "repetition_penalty", "penalty": 1.2}]
    assert {control.logits_processors for control in default_controls(arm)} == {arm.logits_processors}
    masked = parse_arm({"name": "mask_only", "of": "vcd", "logits_processors": ["repetition_penalty"][:0]})
    assert is_equivalent_to_greedy(masked.config, "generate", 2)
    control = next(one for one in default_controls(arm) if one.label.startswith("mask_only"))
    assert not is_equivalent_to_greedy(control.config, "generate", 2)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("repetition_penalty", r"here\.logits_processors: logits_processors must be a list such as"),
        (
            ["repetition_penlty"],
            r"here\.logits_processors\[0\]: .* no logits processor 'repetition_penlty'. Did you mean",
        ),
        ([{"name": "repetition_penalty", "penality": 1.2}], r"has no parameter 'penality'. Did you mean 'penalty'\?"),
        ([{"name": "repetition_penalty", "penalty": -1.0}], r"RepetitionPenaltyLogitsProcessor: `penalty` has to be"),
        ([{"name": "json:JSONDecoder"}], r"json:JSONDecoder is not a transformers.LogitsProcessor"),
        ([3], r"a logits processor must be a name or a mapping with the key 'name', not 3"),
    ],
)
def test_a_wrong_processor_is_an_error_of_the_config(node: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arm({"name": "vcd", "logits_processors": node}, "here")


def test_a_model_without_sessions_refuses_processors() -> None:
    arm = parse_arm({"name": "greedy", "logits_processors": [{"name": "repetition_penalty", "penalty": 1.2}]})
    reason = unsupported_reason(arm, {"generate", "strategies"})
    assert reason is not None
    assert "needs logits processors between combination and sampler" in reason
    assert unsupported_reason(arm, {"generate", "strategies"}, "options") is None  # they do not matter there


def test_a_model_without_a_tokenizer_refuses_stop_strings() -> None:
    class Session(Toy):
        @property
        def tokenizer(self) -> Any:
            from icl.models.base import LogitModel

            return LogitModel.tokenizer.fget(self)  # type: ignore[attr-defined]

    (result,) = run_requests(Session(), [DecodingRequest(prompt(1), parse_arm("greedy"), stop_strings=("a",))])  # type: ignore[arg-type]
    assert isinstance(result, Failure)
    assert "Session has no tokenizer, which stop strings need" in result.reason


def test_the_text_of_an_engine_without_stop_strings_is_cut() -> None:
    whole = Generation("a red square.\nQuestion", (1, 2, 3), "length")
    cut = cut_generation(whole, ("\n", "square"))
    assert (cut.text, cut.tokens, cut.finish) == ("a red ", (1, 2, 3), "stop")
    assert cut_generation(whole, ("blue",)) is whole
