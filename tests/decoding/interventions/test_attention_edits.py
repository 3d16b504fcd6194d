"""Attention scaling and knock-outs: formulas by hand, two ways of computing the same, and their sentences."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from decoding.interventions.attention_edits import CutScores, RaisedScores, cut, raised
from decoding.interventions.attention_scaling import AttentionScaling
from decoding.interventions.fit_data import FitData
from decoding.interventions.knock_out import KnockOut
from decoding.interventions.reconstructions.dara import DARA, scaled
from decoding.interventions.trainable import unnamed
from decoding.interventions.vector_file import FittedTensors
from decoding.prompt_edits import remove_query_image
from icl.errors import ConfigError, ModelError
from icl.models.hf import token_ranges
from icl.models.hf.gradients import answer_loss, encode_answers
from icl.models.hf.row_edits import KeyRanges
from icl.models.hf.token_ranges import EDIT_BITS, key_ranges, span_tokens
from icl.models.interventions import Keys, Site, Where, steer
from icl.types import Prompt
from tests.decoding.interventions.dev_split import dev, tiny, write

FIRST = Site("scores", 0)


def prompts(count: int = 3) -> list[Prompt]:
    return [one.prompt for one in dev(20, 3)[:count]]


def tokens_of(prompt: Prompt, span: str) -> list[int]:
    encoder = tiny().engine.prompt_encoder
    ranges = span_tokens(encoder, prompt, encoder.read([prompt])[0], span)
    return [token for begin, end in ranges for token in range(begin, end)]


def mass(prompt: Prompt, span: str, site: Site = FIRST) -> torch.Tensor:
    """Attention of the last token to a span, of each head [H]."""
    weights = tiny().observe([prompt], [site])[0][site][0].softmax(-1)
    return weights[:, tokens_of(replace(prompt, interventions=()), span)].sum(-1)


def test_the_formulas_by_hand() -> None:
    scores = torch.tensor([[[2.0, -1.0], [0.5, 0.0]]])
    assert torch.equal(raised(scores, 0.5), torch.tensor([[[3.0, -0.5], [0.75, 0.0]]]))
    factors = torch.tensor([2.0, 1.0])
    weights = raised(scores, 0.0, factors.log()).exp()
    assert torch.allclose(weights, scores.exp() * factors[:, None])
    assert torch.equal(raised(scores, 0.0, torch.zeros(2)), scores)
    more_heads = torch.tensor([1.0, 2.0, 9.0])
    assert torch.equal(raised(scores, 0.0, more_heads), raised(scores, 0.0, more_heads[:2]))
    assert cut(scores).softmax(-1).isfinite().all()


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_a_factor_multiplies_weights_before_they_are_normalized(factor: float) -> None:
    prompt = prompts(1)[0]
    before = mass(prompt, "images")
    after = mass(AttentionScaling(alpha=0, factor=factor).steered([prompt], tiny())[0], "images")
    assert torch.allclose(after, factor * before / (1 + (factor - 1) * before), atol=1e-4)
    assert float((after - before).abs().max()) > 1e-3


def test_only_the_named_keys_are_raised() -> None:
    prompt = prompts(1)[0]
    before = tiny().observe([prompt], [FIRST])[0][FIRST][0]
    steered = AttentionScaling(alpha=0.5, keys=("query_images",)).steered([prompt], tiny())[0]
    after = tiny().observe([steered], [FIRST])[0][FIRST][0]
    image = tokens_of(prompt, "query_images")
    assert torch.allclose(after[:, image], (before + 0.5 * before.abs())[:, image], atol=1e-4)
    others = [token for token in range(before.shape[1]) if token not in image]
    assert torch.equal(after[:, others], before[:, others])


def test_a_cut_of_all_tokens_in_all_layers_is_a_mask_of_the_forward_pass() -> None:
    prompt = prompts(1)[0]
    steered = KnockOut(tokens="all", keys=("demo_images",)).steered([prompt], tiny())[0]
    runner = tiny().engine.runner
    arguments = runner.padded(tiny().engine.prompt_encoder.read([prompt]))
    arguments["tokens"] = torch.cat([arguments["tokens"], torch.tensor([[5]])], 1)  # a generated token
    arguments["positions"] = torch.cat([arguments["positions"], arguments["positions"][..., -1:] + 1], -1)
    length = arguments["tokens"].shape[1]
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    mask[:, tokens_of(prompt, "demo_images")] = False
    arguments["mask"] = (mask | torch.eye(length, dtype=torch.bool))[None, None]
    expected = runner.forward(**arguments, keep=2)
    rows = tiny().open([steered, prompt])
    for number in range(2):
        assert torch.allclose(rows.logits[:1], expected[:, number], atol=1e-3)
        assert float((rows.logits[0] - rows.logits[1]).abs().max()) > 1e-2
        rows.advance(torch.tensor([5, 5]))


def test_a_token_keeps_its_own_key() -> None:
    prompt, site = prompts(1)[0], Site("scores", 1)
    steered = KnockOut(tokens="all", keys=("demo_answers",), layers=(1,)).steered([prompt], tiny())[0]
    before, after = (tiny().observe([one], [site], Where("demo_answers"))[0][site] for one in (prompt, steered))
    answers = tokens_of(prompt, "demo_answers")
    for number, token in enumerate(answers):
        assert torch.equal(after[number, :, token], before[number, :, token])
        assert all(bool((after[number, :, one] < -1e30).all()) for one in answers if one < token)


@pytest.mark.parametrize("method", [AttentionScaling(alpha=1.0), KnockOut()])
def test_generated_tokens_are_edited_too(method: AttentionScaling | KnockOut) -> None:
    prompt = prompts(1)[0]
    steered = method.steered([prompt], tiny())[0]
    edit: Any = steered.interventions[0]
    rows = tiny().open([steered, steer(prompt, replace(edit, where=Where()))])
    assert torch.allclose(rows.logits[0], rows.logits[1], atol=1e-4)
    rows.advance(torch.tensor([5, 5]))
    assert float((rows.logits[0] - rows.logits[1]).abs().max()) > 2e-3


def test_a_cut_leaves_no_attention_in_its_layers_alone() -> None:
    prompt = prompts(1)[0]
    steered = KnockOut(layers=(1,)).steered([prompt], tiny())[0]
    assert float(mass(steered, "demo_answers", Site("scores", 1)).abs().max()) < 1e-6
    assert torch.equal(mass(steered, "demo_answers"), mass(prompt, "demo_answers"))
    assert float(mass(prompt, "demo_answers", Site("scores", 1)).max()) > 1e-2


def test_the_digest_of_an_edit_names_all_that_decides_it() -> None:
    zeros = torch.zeros(5)
    raises = RaisedScores({FIRST: zeros}, 0.5, Keys(("images",)))
    others = (
        replace(raises, log_factors={FIRST: zeros + 1}),
        replace(raises, log_factors={Site("scores", 1): zeros}),
        replace(raises, alpha=0.25),
        replace(raises, keys=Keys(("demo_images",))),
        replace(raises, keys=Keys(("images",), draw=0)),
        replace(raises, where=Where("all")),
    )
    assert len({one.digest for one in (raises, *others)}) == 1 + len(others)
    cuts = CutScores((FIRST,), Keys(("images",)))
    changed = [
        replace(cuts, sites=(Site("scores", 1),)),
        replace(cuts, keys=Keys(("images",), own=False)),
        replace(cuts, where=Where("all")),
    ]
    assert len({one.digest for one in (cuts, *changed)}) == 1 + len(changed)


def test_methods_edit_their_own_layers_keys_and_tokens() -> None:
    prompt = prompts(1)[0]

    def edit(method: AttentionScaling | KnockOut) -> Any:
        return method.steered([prompt], tiny())[0].interventions[0]

    middle = AttentionScaling(first_layer=1, last_layer=-2, control="random_tokens", draw=3)
    assert edit(middle).sites == (Site("scores", 1), Site("scores", 2))
    assert edit(middle).keys == Keys(("images",), own=True, draw=3)
    assert edit(KnockOut(control="random_tokens", draw=2)).keys == Keys(("demo_answers",), own=False, draw=2)
    assert [edit(KnockOut(tokens=name)).where for name in ("end", "all", "query_question")] == [
        Where("end", "both"), Where("all", "both"), Where("query_question", "prompt")
    ]  # fmt: skip
    assert (KnockOut().min_shots, KnockOut(keys=("demo_images", "query_images")).min_shots) == (1, 0)
    assert AttentionScaling(keys=()).neutral
    assert KnockOut(keys=()).neutral


def test_random_tokens_are_any_but_the_keys_and_the_last_one() -> None:
    prompt = prompts(1)[0]
    encoder = tiny().engine.prompt_encoder
    read = encoder.read([prompt])[0]

    def chosen(keys: Keys) -> list[tuple[int, int]]:
        return list(key_ranges(encoder, prompt, read, keys).ranges or ())

    spans = ("images", "demo_texts", "query_question")
    named = {token for span in spans for token in tokens_of(prompt, span)}
    others = [token for token in range(len(read) - 1) if token not in named]
    assert 0 < len(others) < len(named), "so all others are taken"
    assert chosen(Keys(spans, draw=0)) == [(token, token + 1) for token in others]
    first, second = (chosen(Keys((f"demo[{i}].answer",), draw=0)) for i in range(2))
    assert len(first) == len(second)
    assert first != second, "other keys, another draw"
    assert key_ranges(encoder, prompt, read, Keys((), own=False)) == KeyRanges(None, own=False)


def test_neighbors_that_share_a_token_name_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = {"demo[0].question": (3, 6), "demo[0].answer": (5, 8), "demo[1].question": (9, 10)}
    monkeypatch.setattr(token_ranges, "text_tokens", lambda encoder, prompt, encoded, name: ranges.get(name, (20, 20)))
    encoder: Any = None
    assert span_tokens(encoder, prompts(1)[0], encoder, "demo_texts")[:3] == [(3, 6), (6, 8), (9, 10)]


def test_equal_tokens_with_other_keys_share_no_cache() -> None:
    """The parts of two prompts have other names, so the same cut has other keys."""
    prompt = prompts(1)[0]
    steered = KnockOut().steered([prompt], tiny())[0]
    renamed = steered.map(lambda p: replace(p, name="demo[0].question") if p.name == "demo[0].answer" else p)
    one, other = (tiny().engine.prompt_encoder.read([each])[0] for each in (steered, renamed))
    assert one.key[-1] != other.key[-1]
    mask = (1 << EDIT_BITS) - 1
    assert [entry & mask for entry in one.key] == [entry & mask for entry in other.key]


def test_random_tokens_are_as_many_others_and_the_same_for_equal_prompts() -> None:
    prompt = prompts(1)[0]
    encoder = tiny().engine.prompt_encoder
    read = encoder.read([prompt])[0]

    def chosen(draw: int) -> set[int]:
        ranges = key_ranges(encoder, prompt, read, Keys(("demo_answers",), draw=draw)).ranges or ()
        return {token for begin, end in ranges for token in range(begin, end)}

    answers = set(tokens_of(prompt, "demo_answers"))
    assert len(answers) == len(chosen(0)) > 0
    assert not answers & chosen(0)
    assert chosen(0) == chosen(0) != chosen(1)
    control = KnockOut(layers=(1,)).controls()[0]
    steered = control.steered([prompt], tiny())[0]
    assert float(mass(steered, "demo_answers", Site("scores", 1)).max()) > 1e-2
    assert "draw" in (control.config or {})
    assert "draw" not in KnockOut().config


def test_a_fit_of_factors_uses_its_tokens_and_records_them(monkeypatch: pytest.MonkeyPatch) -> None:
    edited: list[RaisedScores] = []

    def minimize(data: Any, edits: Any, *args: Any, **options: Any) -> list[float]:
        edited.extend(edits())
        return [1.0]

    monkeypatch.setattr("decoding.interventions.reconstructions.dara.minimize", minimize)
    data: Any = SimpleNamespace(
        model=tiny(), sources=(), choice=(), reference_accuracies=dict, accuracies=lambda edits, prompts: [0.5]
    )
    result = DARA(tokens="end", first_layer=1, keys=("query_images",)).fit(data)
    assert result.parameters == {"layers": [1, 2, 3], "keys": ["query_images"], "tokens": "end"}
    assert [one.where for one in edited] == [Where("end", "both")]
    assert edited[0].sites == tuple(Site("scores", layer) for layer in (1, 2, 3))


@pytest.mark.parametrize("tokens", ["all", "end"])
def test_fitted_factors_act_on_the_tokens_of_their_fit(tmp_path: Path, tokens: str) -> None:
    tensors = {"log_factors": torch.zeros(4, 5)}
    parameters = {"layers": [0, 1, 2, 3], "keys": ["images"], "tokens": tokens}
    edit: Any = write(tmp_path / "x.safetensors", DARA(), FittedTensors(tensors, parameters, {})).intervention()
    assert edit.where == Where(tokens, "both")


@pytest.mark.parametrize(
    "method", [AttentionScaling(), KnockOut(layers=(1,)), KnockOut(tokens="query_question", keys=("demo_images",))]
)
def test_a_mixed_batch_and_single_steps_equal_each_prompt_alone(method: AttentionScaling | KnockOut) -> None:
    steered = [*method.steered(prompts(2), tiny()), prompts(3)[2], remove_query_image(prompts(1)[0])]
    together = tiny().open(steered)
    alone = [tiny().open([one]) for one in steered]
    for token in (5, 6):
        assert torch.allclose(together.logits, torch.cat([one.logits for one in alone]), atol=1e-3)
        together.advance(torch.full((len(steered),), token))
        for one in alone:
            one.advance(torch.tensor([token]))
    chunk = tiny().open(steered)
    chunk.extend([[5, 6]] * len(steered))
    assert torch.allclose(together.logits, chunk.logits, atol=1e-3)
    plain = tiny().open(prompts(2))
    assert float((tiny().open(steered[:2]).logits - plain.logits).abs().max()) > 1e-2


def test_a_branch_without_the_image_has_keys_of_its_own() -> None:
    """Branches are made after steering: the ranges are those of the branch, not of the prompt that was steered."""
    method = AttentionScaling(alpha=1.0)
    prompt = prompts(1)[0]
    branch = remove_query_image(method.steered([prompt], tiny())[0])
    own = method.steered([remove_query_image(prompt)], tiny())[0]
    assert torch.equal(tiny().open([branch]).logits, tiny().open([own]).logits)


def test_off_attaches_nothing_and_own_scores_change_no_bit() -> None:
    assert AttentionScaling(alpha=0).neutral
    assert KnockOut(layers=()).neutral
    assert not AttentionScaling(alpha=0, factor=2.0).neutral
    prompt = prompts(1)[0]
    edit = RaisedScores({FIRST: torch.zeros(5)}, 0.0, Keys(("images",)), Where("all"))
    assert steer(prompt, edit) is prompt
    object.__setattr__(edit, "alpha", 1e-30)  # not neutral, and rounds to nothing
    assert torch.equal(tiny().open([steer(prompt, edit)]).logits, tiny().open([prompt]).logits)


def test_unknown_spans_and_layers_are_sentences() -> None:
    with pytest.raises(ConfigError, match=r"keys: 'demo_image' names no part of a prompt. Did you mean 'demo_images'"):
        AttentionScaling(keys=("demo_image",))
    with pytest.raises(ConfigError, match="tokens: 'start' names no part"):
        KnockOut(tokens="start")
    with pytest.raises(ModelError, match="has no scores of layer 9: its 4 layers are 0 to 3"):
        KnockOut(layers=(9,)).check(tiny())
    with pytest.raises(ModelError, match="has no scores of layer 9"):
        AttentionScaling(first_layer=9).check(tiny())
    flash = replace(tiny(), attn_implementation="flash_attention_2")
    assert "flash_attention_2 computes no scores" in str(AttentionScaling().model_problem(flash))
    assert KnockOut().model_problem(tiny()) is None


def test_learned_factors_start_at_off_and_lower_the_loss(tmp_path: Path) -> None:
    data = FitData(tiny(), dev(6, 1, 2), dev(6, 2, 2), max_new_tokens=4)
    result = DARA(steps=6, batch=6, rate=0.1).fit(data)
    assert result.report["last_loss"] < result.report["first_loss"]
    prompt = dev(6, 1, 2)[0]
    items = encode_answers(tiny(), [prompt.prompt], [prompt.answers[0]])
    off = scaled([0, 1, 2, 3], torch.zeros(4, 5), ("images",), "all")
    plain = answer_loss(tiny(), items, [])
    assert torch.allclose(answer_loss(tiny(), items, [unnamed(off)]), plain, atol=1e-6)
    method = write(tmp_path / "dara.safetensors", DARA(), result)
    edit = method.intervention()
    assert isinstance(edit, RaisedScores)
    assert edit.keys == Keys(("images",))
    before, after = (mass(one, "images") for one in (prompt.prompt, steer(prompt.prompt, edit)))
    factors = edit.log_factors[FIRST].exp()
    assert torch.allclose(after, factors * before / (1 + (factors - 1) * before), atol=1e-4)
    half: Any = replace(method, strength=0.5).intervention()
    assert torch.equal(half.log_factors[FIRST], edit.log_factors[FIRST] / 2)
    assert [one.control for one in method.controls()] == ["random"]  # type: ignore[attr-defined]
