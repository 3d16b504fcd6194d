"""Hidden states and log-probabilities of texts equal those of plain forward passes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny_models import conversations, prompt, prompts

from icl.errors import ModelError
from icl.models.hf.model import HF
from icl.types import Prompt

ModelOf = Callable[[str], HF]
some = pytest.mark.parametrize("name", ["idefics3", "qwen2_5_vl", "gemma3"])
CLOSE = 5e-5


def _alone(hf: HF, one: Prompt) -> dict[str, torch.Tensor]:
    """What the processor makes of one prompt by itself."""
    return dict(
        hf.checkpoint.processor.apply_chat_template(
            conversations([one]), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    )


@some
def test_a_state_is_the_last_hidden_one_of_a_plain_forward(name: str, model_of: ModelOf) -> None:
    hf, chosen = model_of(name), prompts()
    states = hf.embed(chosen)
    assert states.dtype == np.float32
    for row, one in zip(states, chosen, strict=True):
        with torch.no_grad():
            whole = hf.engine.runner.model(**_alone(hf, one), output_hidden_states=True)
        assert np.abs(row - whole.hidden_states[-1][0, -1].float().numpy()).max() < CLOSE


@some
def test_tokens_of_a_text_are_scored_in_their_context(name: str, model_of: ModelOf) -> None:
    """At the end of a prompt and in the middle of one, alone and in a batch of several lengths."""
    hf = model_of(name)
    prompts = [prompt([1, 2], "how many are in it?"), prompt([4], "color?"), prompt([5, 1, 6], "a long one, what?")]
    logprobs = hf.text_logprobs(prompts, "query.1")
    assert np.allclose(logprobs[1], hf.text_logprobs(prompts[1:2], "query.1")[0], atol=CLOSE)
    middle = hf.text_logprobs(prompts[:1], "demo[1].1")[0]
    cases = [*zip(logprobs, prompts, ["how many are in it?", "color?", "a long one, what?"], strict=True)]
    for own, one, text in [*cases, (middle, prompts[0], "what?")]:
        inputs = _alone(hf, one)
        ids = inputs["input_ids"][0]
        with torch.no_grad():
            scores = hf.engine.runner.model(**inputs).logits[0].float().log_softmax(-1)
        each = scores[:-1].gather(-1, ids[1:, None])[:, 0]
        begin = _place(hf, ids.tolist(), len(own), text)
        assert np.allclose(own, each[begin - 1 : begin - 1 + len(own)].numpy(), atol=CLOSE)


def _place(hf: HF, ids: list[int], size: int, text: str) -> int:
    """Where so many tokens spell the text for the first time."""
    spelled = [hf.renderer.tokenizer.decode(ids[i : i + size]).strip() for i in range(len(ids))]
    return spelled.index(text)


def test_a_prompt_without_the_text_is_refused(model_of: ModelOf) -> None:
    with pytest.raises(ModelError, match=r"has no text 'query\.question'"):
        model_of("idefics3").text_logprobs([prompts()[0]], "query.question")
