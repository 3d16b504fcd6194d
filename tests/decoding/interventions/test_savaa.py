"""SAVAA: the released steps, on scores of whole forward passes without a cache, give the same logits."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from decoding.interventions.savaa import SAVAA, Amplified, amplified, grounding, visual_grounding_entropy
from icl.errors import ModelError
from icl.models.hf.model import HF
from icl.models.hf.row_edits import ForwardEdits, RowEdit
from icl.types import Prompt
from tests.decoding.interventions.dev_split import dev, tiny
from tests.decoding.test_attention_negatives import OwnAttention, Slow, each, question

METHOD = SAVAA(visual=3.0, text=1.5, alpha=0.7, scale=0.9)


def test_the_formulas_are_those_of_the_release() -> None:
    generator = torch.Generator().manual_seed(3)
    image, logits = (4 * torch.randn(*size, generator=generator) for size in ((6, 30), (2, 30)))
    supported = grounding(image)
    for row, own in zip(logits, visual_grounding_entropy(logits, supported, 0.6), strict=True):
        p = row.softmax(-1)
        entropy = -float((p * row.log_softmax(-1)).sum()) / math.log(30)
        best = max(float(z.softmax(-1)[row.argmax()]) for z in image)
        assert float(own) == pytest.approx(0.6 * entropy + 0.4 * (1 - best), abs=1e-6)
    scores = torch.tensor([[[2.0, -2.0, 3.0, 4.0]]]).expand(2, 1, 4)
    visual, text = torch.tensor([True, True, False, False]), torch.tensor([False, False, True, False])
    new = amplified(scores, visual, text, torch.tensor([1.5, 1.0]), 2.0)
    assert new[:, 0].tolist() == [[3.0, -3.0, 1.5, 4.0], [2.0, -2.0, 3.0, 4.0]]


def slow_logits(model: HF, prompt: Prompt, tokens: list[int]) -> list[Tensor]:
    """At each step, by a pass over the whole prompt and answer, whose factors come from the passes before."""
    slow = Slow(model, prompt)
    own, end, image = OwnAttention(slow), slow.length, slow.image
    own.edit = lambda layer, scores: scores
    with torch.no_grad():
        supported = slow.model(**slow.inputs).logits[0, image].softmax(-1).max(0).values
    all_images = {i for run in model.span_tokens([prompt], ["images"])[0]["images"] for i in range(*run)}
    text = [i for i in range(end) if i not in all_images]
    factors: list[float] = []

    def edit(layer: int, scores: Tensor) -> Tensor:
        new = scores.clone()
        for step, factor in enumerate(factors):
            new[:, end + step, image] *= factor
            new[:, end + step, text] /= METHOD.text
        return new

    own.edit = edit
    logits = [slow.logits([])]
    for number in range(len(tokens)):
        p = logits[-1].softmax(-1)
        entropy = float(-(p * p.log()).nansum()) / math.log(len(p))
        vge = METHOD.alpha * entropy + (1 - METHOD.alpha) * (1 - float(supported[logits[-1].argmax()]))
        factors.append(1 + (METHOD.visual - 1) * min(1, vge / METHOD.scale))
        logits.append(slow.logits(tokens[: number + 1]))
    return logits


@each
def test_logits_are_those_of_the_released_steps(name: str, model_of: Callable[[str], HF]) -> None:
    model, prompts, tokens = model_of(name), [question(1), question(4)], [5, 9, 7]
    steered = METHOD.steered(prompts, model)
    expected = slow_logits(model, prompts[0], tokens)
    rows = model.open([steered[0], prompts[0], steered[1]])
    assert torch.allclose(rows.logits[0], rows.logits[1], atol=1e-5), "the first token is the model's own"
    for number, slow in enumerate(expected):
        assert torch.allclose(rows.logits[0], slow, atol=1e-4), float((rows.logits[0] - slow).abs().max())
        if number:
            assert float((rows.logits[0] - rows.logits[1]).abs().max()) > 1e-2
        if number < len(tokens):
            rows.advance(torch.tensor([tokens[number]] * 3))
    options = [[*tokens, 8], [5, 3], tokens[:1]]
    scores = model.open([steered[1], steered[0]]).suffix_logprobs([options[:1], options])[1]
    assert [len(one) for one in scores] == [4, 2, 1]
    assert torch.allclose(scores[0], torch.stack(expected).log_softmax(-1), atol=1e-4)
    assert torch.allclose(scores[1], scores[0][:2], atol=1e-5)
    again = model.open([steered[1], steered[0]])
    again.extend([tokens[:1], tokens[:2]])
    again.extend([tokens[1:], tokens[2:]])
    assert torch.allclose(again.logits[1], expected[-1], atol=1e-4), "a row that reads its answer again is equal"
    assert torch.allclose(again.logits[0], rows.logits[2], atol=1e-4)


def test_the_controls_have_the_risks_of_the_greedy_answer(model_of: Callable[[str], HF]) -> None:
    model, prompt, method = model_of("llava"), question(1), replace(METHOD, steps=6, scale=1.0)
    fixed, permuted = method.controls()
    (own,), (mean,), (other,) = (one.steered([prompt], model)[0].interventions for one in (method, fixed, permuted))
    assert isinstance(own, Amplified)
    rows, risks = model.open(method.steered([prompt], model)), []
    for step in range(6):
        risks += own.strengths(rows.logits, [step]).tolist()
        rows.advance(rows.logits.argmax(-1))
    assert len({round(risk, 4) for risk in risks}) > 1
    assert isinstance(mean, Amplified)
    assert isinstance(other, Amplified)
    assert mean.risks == (pytest.approx(sum(risks) / 6),)
    assert sorted(other.risks) == pytest.approx(sorted(risks))
    assert other.risks != pytest.approx(risks)
    assert other.strengths(rows.logits.expand(2, -1), [1, 7]).tolist() == pytest.approx([other.risks[1]] * 2)
    assert len({own.digest, mean.digest, other.digest}) == 3
    assert "draw" not in (method.config or {})
    assert "draw" in (permuted.config or {})


def test_texts_and_models_without_image_tokens_are_left_alone_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = dev(1, 5)[0].prompt.without_images()
    assert METHOD.steered([prompt], tiny())[0].interventions == ()
    assert replace(METHOD, visual=1.0).neutral
    assert METHOD.model_problem(tiny()) is None
    monkeypatch.setattr(HF, "image_token_problem", "this model reads text only.")
    assert METHOD.model_problem(tiny()) == "this model reads text only."


def test_an_answer_that_is_read_at_once_is_refused() -> None:
    edit = Amplified(METHOD, (), torch.zeros(4), (0,), (1,))
    row = RowEdit(edit, (), (), True, 3, 0)
    assert ForwardEdits.place([[row]], [0], [3]) is None, "nothing is edited in the prompt"
    with pytest.raises(ModelError, match=r"here the whole answer is read in one pass\. Generate the answer"):
        ForwardEdits.place([[row]], [3], [2], logits=torch.zeros(1, 4))
    with pytest.raises(ModelError, match="follows the prediction before each generated token"):
        ForwardEdits.place([[row]], [3], [1])
