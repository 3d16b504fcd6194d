"""Interventions reach the tokens of their own rows, at every site, in every way of reading, and nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

from icl.errors import ModelError
from icl.models.hf import token_ranges
from icl.models.hf.language_model import EncodedPrompt
from icl.models.hf.model import HF
from icl.models.interventions import PartEdit, Site, SiteKind, TokenPart, Where, steer
from icl.types import Prompt
from tests.random_models.site_checks import KINDS, RandomEdit, check_sites

ModelOf = Callable[[str], HF]
LAST = Where()


@pytest.fixture(scope="module")
def hf() -> HF:
    model = HF(path="tiny", device="cpu")
    model.load()
    return model


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return tiny_models.prompts()


def add(*sites: Site, where: Where = LAST, scale: float = 1.0) -> RandomEdit:
    return RandomEdit(sites, where, scale)


def with_edit(model: HF, prompts: Sequence[Prompt], edit: RandomEdit | None) -> Tensor:
    return model.open(prompts, interventions=[edit] * len(prompts)).logits


def test_the_sites_of_the_shipped_model_conform(hf: HF, prompts: list[Prompt]) -> None:
    assert list(check_sites(hf, prompts)) == []
    assert {kind: len(hf.sites.all(kind)) for kind in KINDS} == dict.fromkeys(KINDS, 4) | {"input": 1}


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "qwen3_5"])
def test_the_sites_of_other_architectures_conform(name: str, model_of: ModelOf, prompts: list[Prompt]) -> None:
    assert list(check_sites(model_of(name), prompts[:3], kinds=("residual", "heads", "scores"))) == []


def test_no_hook_is_attached_without_an_intervention_and_none_stays(hf: HF, prompts: list[Prompt]) -> None:
    def hooks() -> int:
        modules = hf.engine.runner.model.modules()
        return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in modules)

    before, base = hooks(), hf.open(prompts).logits

    @dataclass(frozen=True)
    class Fails(RandomEdit):
        def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
            raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        hf.open(prompts, interventions=[Fails((Site("residual", 1),))] * len(prompts))
    assert hooks() == before
    rows = hf.open(prompts, interventions=[None] * len(prompts))
    assert torch.equal(rows.logits, base)
    assert not any(rows.edits)


def test_an_edit_of_the_last_layer_is_that_of_the_output_layer(hf: HF, prompts: list[Prompt]) -> None:
    """head(norm(h + v)), computed by hand from observed states."""
    last = Site("residual", -1)
    states = torch.stack([one[last][-1] for one in hf.observe(prompts, [last])])
    edit = add(Site("residual", 3))
    model = hf.engine.runner.model
    with torch.no_grad():
        by_hand = model.lm_head(model.get_decoder().norm(edit.edit(Site("residual", 3), states, [])))
    assert torch.allclose(with_edit(hf, prompts, edit), by_hand, atol=1e-4)


def test_a_layer_below_the_first_is_refused_also_by_an_onward_site(hf: HF) -> None:
    for site in (Site("residual", -99), Site("residual", -99, onward=True)):
        with pytest.raises(ModelError, match="-99"):
            hf.sites.resolve_all(site)


def on_one_beginning(prompts: list[Prompt], count: int) -> list[Prompt]:
    """Prompts with the demonstrations of the longest one and queries that differ at their end."""
    longest = max(prompts, key=lambda prompt: len(prompt.images))
    question = [part.name for part in longest.turns[-1].parts][-1]

    def ask(letter: str) -> Prompt:
        return longest.map(
            lambda part: replace(part, content=f"{part.text} {letter}?") if part.name == question else part
        )

    return [ask("abcdefgh"[i]) for i in range(count)]


def test_sites_conform_whatever_the_model_has_read_before(hf: HF, prompts: list[Prompt]) -> None:
    """A prefix that stays prefilled would split the prompts without edits, and not those with edits."""
    shared = on_one_beginning(prompts, 4)
    hf.open(shared)
    assert list(check_sites(hf, [shared[0], prompts[0]], kinds=("residual",))) == []


def test_the_check_of_sites_notices_a_prefix_of_prompts_without_the_edit(
    hf: HF, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the keys of prompts without edits, a row edited everywhere continues states that have no edit."""
    with_edits = token_ranges.with_edits

    def with_edits_and_same_key(encoder: Any, prompt: Prompt, encoded: EncodedPrompt, *settings: Any) -> EncodedPrompt:
        return replace(with_edits(encoder, prompt, encoded, *settings), key=encoded.key)

    monkeypatch.setattr(token_ranges, "with_edits", with_edits_and_same_key)
    problems = list(check_sites(hf, on_one_beginning(prompts, 4), kinds=("residual",)))
    hf.engine.prefiller.cached_prefixes.clear()  # some have edits, under keys of none
    assert any("rows in one batch differ from each row alone" in problem for problem in problems)


@pytest.mark.parametrize("where", [LAST, Where("all"), Where("demo[6].1"), Where("query.0")])
@pytest.mark.parametrize("site", [Site("residual", 1), Site("scores", 1)])
def test_rows_on_a_shared_beginning_equal_each_row_alone(
    hf: HF, prompts: list[Prompt], where: Where, site: Site
) -> None:
    shared = on_one_beginning(prompts, 5)
    edits = [add(site, where=where, scale=scale) for scale in (1, 1, 2, 2)]
    together = hf.open(shared, interventions=[*edits, None]).logits
    alone = torch.cat([hf.open([p], interventions=[e]).logits for p, e in zip(shared, [*edits, None], strict=True)])
    assert float((together - alone).abs().max()) < 2e-4
    assert float((together[-1] - hf.open(shared[-1:]).logits[0]).abs().max()) < 2e-4


def test_an_edit_of_the_last_token_leaves_the_beginning_shared(hf: HF, prompts: list[Prompt]) -> None:
    shared = on_one_beginning(prompts, 6)

    def forwarded(where: Where) -> int:
        hf.engine.prefiller.cached_prefixes.clear()
        before = hf.engine.counters.prefill_tokens
        hf.open(shared, interventions=[add(Site("residual", 1), where=where, scale=1.0 + i) for i in range(6)])
        return hf.engine.counters.prefill_tokens - before

    everything = sum(hf.count_tokens(prompt) for prompt in shared)
    assert forwarded(LAST) < everything / 2
    assert forwarded(Where("all")) == everything


def test_sites_of_an_intervention_at_one_place_are_refused(hf: HF, prompts: list[Prompt]) -> None:
    """They would lose an edit. Two interventions at one place add up, and an observer may name a place twice."""
    last, same = Site("residual", -1), Site("residual", 3)
    for sites in ((last, same), (same, same)):
        with pytest.raises(
            ModelError, match=r"layers -?\d and 3 of an intervention's sites are one place \(residual of"
        ):
            hf.open(prompts[:1], interventions=[add(*sites)])
    twice = hf.open([steer(prompts[0], add(last), add(same))]).logits
    assert float((twice - with_edit(hf, prompts[:1], add(same, scale=1.0))).abs().max()) > 1e-2
    observed = hf.observe(prompts[:1], [last, same])[0]
    assert torch.equal(observed[last], observed[same])


def test_the_encoder_keeps_nothing_of_the_interventions_of_a_batch(hf: HF, prompts: list[Prompt]) -> None:
    def sizes() -> dict[str, int]:
        return {name: len(value) for name, value in vars(hf.engine.prompt_encoder).items() if isinstance(value, dict)}

    hf.open(prompts[:1])
    before = sizes()
    for scale in (2, 3, 4):
        hf.open(prompts[:1], interventions=[add(Site("residual", 1), scale=scale)])
        hf.observe(prompts[:1], [Site("residual", 1)])
    assert sizes() == before


def test_rows_keep_their_interventions_through_take_join_and_beams(hf: HF, prompts: list[Prompt]) -> None:
    every = add(Site("residual", 2), where=Where(part="both"))
    rows = hf.open(prompts, interventions=[every, None] * (len(prompts) // 2) + [None] * (len(prompts) % 2))
    plain = hf.open(prompts[:1])
    joined = rows.take(torch.tensor([1, 0])).join(plain)
    joined.advance(torch.tensor([5, 5, 5]))
    alone = hf.open(prompts[:1], interventions=[every])
    alone.advance(torch.tensor([5]))
    plain.advance(torch.tensor([5]))
    assert float((joined.logits[1] - alone.logits[0]).abs().max()) < 2e-4
    assert float((joined.logits[2] - plain.logits[0]).abs().max()) < 2e-4
    assert float((joined.logits[1] - joined.logits[2]).abs().max()) > 1e-2


def test_observed_states_are_those_of_every_layer(hf: HF, prompts: list[Prompt]) -> None:
    read = hf.engine.prompt_encoder.read(prompts)
    output = hf.engine.runner.call_model(**hf.engine.runner.padded(read[:1]), states=True)
    sites = hf.sites.all("residual")
    whole = hf.observe(prompts[:1], sites, Where("all"))[0]
    ends = hf.observe(prompts, sites)
    for layer in range(3):  # transformers normalizes the last one
        assert torch.allclose(whole[sites[layer]], output.hidden_states[layer + 1][0], atol=1e-4)
        assert torch.allclose(ends[0][sites[layer]][0], whole[sites[layer]][-1], atol=1e-4)
    image = hf.observe(prompts[:1], sites[:1], Where("query.0"))[0][sites[0]]
    assert len(image) == read[0].ends[-1] - read[0].starts[-1]
    heads = hf.observe(prompts[:1], [Site("heads", 0)])[0][Site("heads", 0)]
    assert heads.shape == (1, 5, 32)


def test_an_observer_of_a_session_sees_each_row_once(hf: HF, prompts: list[Prompt]) -> None:
    @dataclass
    class Counts:
        sites: tuple[Site, ...] = (Site("residual", 0),)
        where: Where = LAST
        rows: list[int] = field(default_factory=list)

        def see(self, site: Site, x: Tensor, rows: Sequence[int]) -> None:
            self.rows += rows

    counts = Counts()
    opened = hf.open([*prompts, *prompts], observe=counts)
    assert float((opened.logits[: len(prompts)] - hf.open(prompts).logits).abs().max()) < 2e-4
    assert sorted(counts.rows) == list(range(2 * len(prompts)))


def test_a_site_that_the_model_lacks_is_named_with_the_nearest(model_of: ModelOf) -> None:
    sites = model_of("qwen3_5").sites
    linear = next(i for i, layer in enumerate(sites.layers) if hasattr(layer, "linear_attn"))
    kinds: list[SiteKind] = ["heads", "scores"]
    for kind in kinds:
        message = rf"has no {kind} of layer {linear}.*linear_attn.*nearest layer with {kind} is"
        with pytest.raises(ModelError, match=message):
            sites.resolve(Site(kind, linear))
    with pytest.raises(ModelError, match="has no residual of layer 99: its 3 layers are 0 to 2"):
        sites.resolve(Site("residual", 99))


def test_an_unknown_part_of_the_prompt_is_an_error(hf: HF, prompts: list[Prompt]) -> None:
    with pytest.raises(ModelError, match=r"the prompt has no part 'demo\[7\].answer'"):
        hf.observe(prompts, [Site("residual", 0)], Where("demo[7].answer"))


def test_prompts_with_different_interventions_have_different_digests(prompts: list[Prompt]) -> None:
    one, other = add(Site("residual", 1)), add(Site("residual", 2))
    plain = prompts[0]
    assert (
        len({plain.digest, steer(plain, one).digest, steer(plain, other).digest, steer(plain, one, other).digest}) == 4
    )
    assert steer(plain, replace(one, neutral=True)) is plain


def test_heads_are_replaced_before_an_adapter_of_the_projection(prompts: list[Prompt], tmp_path: Path) -> None:
    """The projection itself runs, so an adapter that is merged and one that is not give the same."""
    peft = pytest.importorskip("peft")
    weights = HF(path="tiny").checkpoint.weights(dtype=torch.float32)
    tuned = peft.get_peft_model(weights, peft.LoraConfig(r=2, target_modules=r".*text_model.*o_proj"))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2, generator=draw)
    tuned.save_pretrained(tmp_path)
    separate, merged = (HF(path="tiny", device="cpu", adapter=str(tmp_path), merge=merge) for merge in (False, True))
    edit = add(Site("heads", 2), where=Where(part="both"))
    moved = with_edit(separate, prompts, edit)
    assert float((moved - with_edit(merged, prompts, edit)).abs().max()) < 1e-3
    assert float((moved - with_edit(separate, prompts, None)).abs().max()) > 1e-2


def test_the_sites_of_a_quantized_model_conform(prompts: list[Prompt]) -> None:
    pytest.importorskip("bitsandbytes")
    quantized = HF(path="tiny", device="cpu", quantize="nf4")
    assert list(check_sites(quantized, prompts[:2], kinds=("residual", "heads"))) == []


def test_an_edit_of_the_answer_alone_moves_its_own_row_alone(hf: HF, prompts: list[Prompt]) -> None:
    """Rows of one prompt share no last token with a row that is edited after it."""
    prompt = prompts[0]
    steered = steer(prompt, add(Site("residual", 2), where=Where(part="answer"), scale=5.0))
    token = torch.tensor([5])

    def step(rows: list[Prompt]) -> Tensor:
        session = hf.open(rows)
        session.advance(token.expand(len(rows)))
        return session.logits

    assert torch.allclose(hf.open([steered]).logits, hf.open([prompt]).logits, atol=1e-3)
    plain, moved = step([prompt])[0], step([steered])[0]
    assert not torch.allclose(plain, moved, atol=0.1)
    for rows in ([prompt, steered, prompt], [steered, prompt]):
        for logits, own in zip(step(rows), rows, strict=True):
            assert torch.allclose(logits, moved if own is steered else plain, atol=1e-3)
    answer = [[5, 6, 7]]
    alone = [hf.open([own]).suffix_logprobs([answer])[0][0] for own in (prompt, steered)]
    together = [own[0] for own in hf.open([prompt, steered]).suffix_logprobs([answer, answer])]
    assert not torch.allclose(alone[0], alone[1], atol=0.1)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(alone, together, strict=True))


def test_rows_in_different_parts_share_the_whole_prompt_but_its_end(hf: HF, prompts: list[Prompt]) -> None:
    """`think` and `answer` leave the prompt alone, and rows on one beginning equal each row alone."""
    every = add(Site("residual", 1), where=Where("all", "both"), scale=2.0)
    edits = [PartEdit(every, "think"), PartEdit(every, "answer"), None, PartEdit(every, "think"), every]
    rows, part = on_one_beginning(prompts, 5), TokenPart("think")
    hf.engine.prefiller.cached_prefixes.clear()
    before = hf.engine.counters.prefill_tokens
    hf.open(rows[:4], interventions=edits[:4])
    assert hf.engine.counters.prefill_tokens - before < 0.5 * sum(map(hf.count_tokens, rows[:4]))
    together, plain = hf.open(rows, interventions=edits), hf.open(rows)
    assert float((together.logits - plain.logits)[:4].abs().max()) < 2e-4
    together.advance(torch.full((5,), 5), [part] * 5)
    plain.advance(torch.full((5,), 5))
    gaps = (together.logits - plain.logits).abs().amax(-1)
    assert float(gaps[[1, 2]].max()) < 2e-4
    assert float(gaps[[0, 3, 4]].min()) > 0.05
    for row, (prompt, edit) in enumerate(zip(rows, edits, strict=True)):
        alone = hf.open([prompt], interventions=[edit])
        alone.advance(torch.tensor([5]), [part])
        assert float((alone.logits[0] - together.logits[row]).abs().max()) < 2e-4


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3", "qwen3_5"])
def test_rows_with_recurrent_states_and_windows_keep_the_parts_of_outputs(
    name: str, model_of: ModelOf, prompts: list[Prompt]
) -> None:
    """Chunks of unequal lengths equal steps, also where the chunks of each length run by themselves."""
    model, rows = model_of(name), prompts[:3]
    site = Site("residual", 0)
    edits = [None, PartEdit(add(site, where=Where("all", "both"), scale=4.0), "think"), PartEdit(add(site), "answer")]
    parts = [TokenPart("think"), TokenPart("answer", True), TokenPart("answer")]
    steps, chunks = (model.open(rows, interventions=edits) for _ in range(2))
    for token, part in zip((5, 6, 7), parts, strict=True):
        steps.advance(torch.full((3,), token), [part] * 3)
    chunks.extend([[5], [5, 6], [5]], [parts[:1], parts[:2], parts[:1]])
    chunks.extend([[6, 7], [7], [6, 7]], [parts[1:], parts[2:], parts[1:]])
    assert float((steps.logits - chunks.logits).abs().max()) < 1e-3
    with pytest.raises(ModelError, match="unknown to which part generated tokens belong"):
        model.open(rows, interventions=edits).advance(torch.tensor([5, 5, 5]))
