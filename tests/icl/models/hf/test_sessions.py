"""Rows of a batched session equal single prompts, on architectures with different kinds of cache."""

from collections.abc import Callable
from typing import Any

import pytest
import tiny_models
import torch
from live_storages import LiveStorages
from tiny_models import conversations, prompts
from torch import Tensor

from icl.memory import RowIndex
from icl.models.hf import layers
from icl.models.hf.layers import mask_of_chunk, mask_of_rows
from icl.models.hf.model import HF
from icl.models.hf.session import HFSession, join_sessions
from icl.models.hf.shared_prefix import SharedPrefixLayer
from icl.types import Prompt
from lab.bench.decoding import prompts_of

PROMISED = ("llava", "qwen2_5_vl", "idefics3", "smolvlm", "internvl")
ALL = (*PROMISED, "gemma3", "llava_onevision", "qwen3_5")
CLOSE = 2e-5
"""Logits are of unit size; a wrong position, mask or token type shows as 1e-2 and more."""

ModelOf = Callable[[str], HF]

every = pytest.mark.parametrize("name", ALL)
each_kind = pytest.mark.parametrize("name", tiny_models.SAMPLE)


def greedy(rows: HFSession, steps: int) -> Tensor:
    """[R, steps] tokens."""
    tokens = []
    for step in range(steps):
        tokens.append(rows.logits.argmax(-1))
        if step < steps - 1:
            rows.advance(tokens[-1])
    return torch.stack(tokens, 1)


def own_inputs(hf: HF, chosen: list[Prompt]) -> dict[str, Tensor]:
    """What the processor makes of the same conversations by itself, left padded."""
    return dict(
        hf.checkpoint.processor.apply_chat_template(
            conversations(chosen),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
    )


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def states(rows: HFSession) -> list[Tensor]:
    """Every tensor that the rows hold, copied."""
    tensors = [rows.mask, rows.position, rows.logits]
    for layer in rows.cache.layers:
        for value in vars(layer).values():
            tensors += [v for v in (value.values() if isinstance(value, dict) else [value]) if isinstance(v, Tensor)]
    return [tensor.clone() for tensor in tensors]


@every
def test_a_batch_gives_each_prompt_the_logits_and_tokens_it_has_alone(name: str, model_of: ModelOf) -> None:
    hf, batch = model_of(name), prompts()
    together = hf.open(batch)
    alone = [hf.open([prompt]) for prompt in batch]
    assert gap(together.logits, torch.cat([rows.logits for rows in alone])) < CLOSE
    tokens = greedy(together, 12)
    assert tokens.tolist() == [greedy(rows, 12)[0].tolist() for rows in alone]
    assert gap(together.logits, torch.cat([rows.logits for rows in alone])) < CLOSE
    assert len(tokens.unique()) > 8


@each_kind
def test_a_greedy_loop_over_a_session_equals_generate(name: str, model_of: ModelOf) -> None:
    hf, steps = model_of(name), 14
    batch = [p for p in prompts() if p.images]
    inputs = own_inputs(hf, batch)
    width, model = inputs["input_ids"].shape[1], hf.engine.runner.model
    whole = model.generate(**inputs, max_new_tokens=steps, do_sample=False, eos_token_id=[319])[:, width:].tolist()
    stops = [whole[0][3], whole[1][6]]  # so that rows leave at different steps
    want = model.generate(**inputs, max_new_tokens=steps, do_sample=False, eos_token_id=stops)[:, width:].tolist()
    rows, alive, answers = hf.open(batch), list(range(len(batch))), [[] for _ in batch]
    for step in range(steps):
        tokens = rows.logits.argmax(-1)
        for query, token in zip(alive, tokens.tolist(), strict=True):
            answers[query].append(token)
        going = [i for i, token in enumerate(tokens.tolist()) if token not in stops]
        if not going or step == steps - 1:
            break
        if len(going) < len(alive):
            rows, alive, tokens = rows.take(torch.tensor(going)), [alive[i] for i in going], tokens[going]
            rows.trim()
        rows.advance(tokens)
    assert answers == [row[: len(answer)] for row, answer in zip(want, answers, strict=True)]
    assert len({len(answer) for answer in answers}) > 1, "all rows stopped together: the case tests less than it should"


@each_kind
def test_new_rows_own_their_states_and_leave_their_sources_as_they_were(name: str, model_of: ModelOf) -> None:
    hf = model_of(name)
    first, second = hf.open(prompts()[:3]), hf.open(prompts()[3:])
    before = states(first) + states(second)
    taken = first.take(torch.tensor([2, 0, 0]))
    both = taken.join(second)
    both.advance(both.logits.argmax(-1))
    both.extend([[5, 6, 7], [8], [9, 9], [10], [11, 12]])
    both.take(torch.tensor([1])).trim()
    taken.suffix_logprobs([[[1, 2]], [[3, 4, 5]], [[6]]])
    taken.trim()
    taken.advance(torch.tensor([1, 2, 3]))
    assert all(map(torch.equal, before, states(first) + states(second)))


@each_kind
def test_rows_retained_in_place_equal_rows_taken(name: str, model_of: ModelOf) -> None:
    hf, chosen = model_of(name), torch.tensor([4, 0, 0, 2])
    source, rows = hf.open(prompts()), hf.open(prompts())
    taken = source.take(chosen)
    rows.retain(chosen)
    assert len(rows) == 4
    assert rows.keys == taken.keys
    assert all(map(torch.equal, states(rows), states(taken)))
    assert torch.equal(greedy(rows, 4), greedy(taken, 4))


@each_kind
def test_rows_absorbed_in_place_equal_rows_joined(name: str, model_of: ModelOf) -> None:
    hf = model_of(name)
    first, second = hf.open(prompts()[:3]), hf.open(prompts()[3:])
    rows, other = hf.open(prompts()[:3]), hf.open(prompts()[3:])
    joined = first.join(second)
    rows.absorb(other)
    assert (len(rows), rows.keys, rows.width) == (5, joined.keys, joined.width)
    assert all(map(torch.equal, states(rows), states(joined)))
    assert torch.equal(greedy(rows, 4), greedy(joined, 4))


def test_absorbing_rows_frees_the_layers_one_by_one(model_of: ModelOf) -> None:
    hf, count = model_of("llava"), 32
    with torch.inference_mode():
        session, other = (hf.open([prompts()[2]] * count) for _ in range(2))
        for rows in (session, other):
            rows.cache.layers = [copy for layer in rows.cache.layers for copy in independent_copies(layer, 8)]
        with LiveStorages() as live:
            for layer in (*session.cache.layers, *other.cache.layers):
                live.follow(layer.keys)
                live.follow(layer.values)
            joined = 2 * (layer.keys.nbytes + layer.values.nbytes)  # without the spare slots of the parts
            del layer
            stored = live.now
            session.absorb(other)
        rest = 2 * session.layer_logits.nbytes + session.mask.nbytes * 4
    assert stored + joined <= live.peak <= stored + joined + rest < 1.5 * stored


def test_retaining_rows_copies_one_layer_at_a_time(model_of: ModelOf) -> None:
    hf, rows = model_of("llava"), 64
    with torch.inference_mode():
        session = hf.open([prompts()[2]] * rows)
        session.cache.layers = [copy for layer in session.cache.layers for copy in independent_copies(layer, 8)]
        num_layers = len(session.cache.layers)
        with LiveStorages() as live:
            for layer in session.cache.layers:
                live.follow(layer.keys)
                live.follow(layer.values)
            del layer
            stored = live.now
            session.retain(torch.arange(rows - 1, -1, -1))
        rest = session.layer_logits.nbytes + session.mask.nbytes * 4
    assert stored * (1 + 1 / num_layers) <= live.peak <= stored * (1 + 1 / num_layers) + rest < 1.5 * stored


def independent_copies(layer: SharedPrefixLayer, count: int) -> list[SharedPrefixLayer]:
    """Layers with the rows of this one in memory of their own."""
    return [layers.select_rows(layer, RowIndex(range(len(layer.keys)))) for _ in range(count)]


@each_kind
def test_joined_rows_of_different_widths_equal_rows_opened_together(name: str, model_of: ModelOf) -> None:
    hf, batch = model_of(name), prompts()
    together = hf.open(batch)
    parts = join_sessions([hf.open([prompt]) for prompt in reversed(batch)]).take(torch.tensor([4, 3, 2, 1, 0]))
    assert greedy(parts, 8).tolist() == greedy(together, 8).tolist()
    assert gap(parts.logits, together.logits) < CLOSE


@each_kind
def test_chunks_of_unequal_length_equal_their_tokens_one_by_one(name: str, model_of: ModelOf) -> None:
    hf = model_of(name)
    rows = hf.open(prompts())
    draw = torch.Generator().manual_seed(0)
    rounds = [
        [torch.randint(0, 256, (length,), generator=draw).tolist() for length in lengths]
        for lengths in ([1, 5, 2, 9, 3], [7, 1, 3, 1, 40], [2, 2, 11, 4, 1])
    ]
    alone = []
    for i in range(len(rows)):
        row = rows.take(torch.tensor([i]))
        for token in (t for chunks in rounds for t in chunks[i]):
            row.advance(torch.tensor([token]))
        alone.append(row)
    for chunks in rounds:
        rows.extend(chunks)
    assert gap(rows.logits, torch.cat([row.logits for row in alone])) < CLOSE
    assert greedy(rows, 6).tolist() == [greedy(row, 6)[0].tolist() for row in alone]


@each_kind
def test_dropping_rows_and_trimming_changes_no_other_row(name: str, model_of: ModelOf) -> None:
    hf = model_of(name)
    whole = hf.open(prompts())
    part = whole.take(torch.tensor([1, 3]))
    width = part.width
    part.trim()
    assert part.width == int(part.mask.sum(1).max()) < width
    assert greedy(part, 8).tolist() == greedy(whole, 8)[[1, 3]].tolist()


@each_kind
def test_suffix_log_probabilities_are_those_of_whole_forwards(name: str, model_of: ModelOf) -> None:
    hf, batch = model_of(name), prompts()
    rows = hf.open(batch)
    before = states(rows)
    suffixes = [[[65, 66, 67], [65, 66, 68, 69], [70]], [[71, 72]], [], [[73], [74, 75, 76, 77, 78]], [[79, 80, 81]]]
    scores = rows.suffix_logprobs(suffixes)
    assert all(map(torch.equal, before, states(rows)))
    assert [len(own) for own in scores] == [len(own) for own in suffixes]
    for i, own in enumerate(suffixes):
        for suffix, got in zip(own, scores[i], strict=True):
            row = hf.open([batch[i]])
            want = [row.logits]
            for token in suffix[:-1]:
                row.advance(torch.tensor([token]))
                want.append(row.logits)
            assert got.shape == (len(suffix), rows.logits.shape[1])
            assert gap(got, torch.cat(want).log_softmax(-1)) < CLOSE


def test_options_with_a_common_beginning_share_it(model_of: ModelOf) -> None:
    hf = model_of("llava")
    rows = hf.open(prompts()[:2])
    before = hf.counters()["suffix_tokens"]
    rows.suffix_logprobs([[[65, 66, 67], [65, 66, 68], [9]], [[9], [10]]])
    assert hf.counters()["suffix_tokens"] - before == 2


def test_sessions_opened_in_inference_mode_go_on_outside_of_it(model_of: ModelOf) -> None:
    hf, batch = model_of("qwen3_5"), [tiny_models.prompt([1, 2, 3, 30 + i], "why?") for i in range(4)]
    want = greedy(hf.open(batch), 6)
    with torch.inference_mode():
        inside = hf.open(batch)
        rest = inside.take(torch.tensor([0, 1, 2, 3]))
        tokens = greedy(inside, 6)
    outside = hf.open([tiny_models.prompt([1, 2, 3, 40 + i], "why?") for i in range(4)])  # on the beginning kept inside
    outside.extend([[1, 2], [3], [4, 5, 6], [7]])
    outside.trim()
    assert torch.equal(tokens, want)
    assert torch.equal(greedy(rest.take(torch.tensor([0, 1, 2, 3])), 6), want)


@each_kind
def test_prompts_are_opened_in_order_and_equal_ones_once(name: str, model_of: ModelOf) -> None:
    hf = model_of(name)
    a, b, c = prompts()[:3]
    before = hf.counters()
    rows = hf.open([c, a, b, a, c])
    after = hf.counters()
    want = hf.open([a, b, c])
    assert gap(rows.logits, want.logits[[2, 0, 1, 0, 2]]) < CLOSE
    total = sum(map(hf.count_tokens, (a, b, c)))
    assert after["prompt_tokens"] - before["prompt_tokens"] == total
    assert after["prefill_tokens"] - before["prefill_tokens"] <= total
    assert after["num_images"] - before["num_images"] == 8


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> HF:
    hf = HF(path="tiny", dtype="float32", device="cpu", attn_implementation=request.param)
    hf.load()
    return hf


def test_steps_with_the_mask_of_the_attention_equal_steps_with_the_mask_of_tokens(
    model: HF, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short = prompts_of(0)[:2]
    prompts = [long, type(short)(short.turns[-1:], short.key)]

    def decode() -> torch.Tensor:
        session, logits = model.open(prompts), []
        assert session.has_padding
        for _ in range(3):
            session.advance(session.logits.argmax(-1))
            logits.append(session.logits)
        session.extend([[5, 6], [7]])
        return torch.stack([*logits, session.logits])

    with torch.inference_mode():
        by_attention = decode()
        runner: Any = model.engine.runner
        monkeypatch.setitem(vars(runner), "is_from_transformers", False)
        by_tokens = decode()
    torch.testing.assert_close(by_attention, by_tokens, atol=1e-6, rtol=0)


def test_a_mask_of_rows_and_a_chunk_by_hand() -> None:
    rows = mask_of_rows([1, 3], 3, 5, torch.device("cpu"))[:, :5]
    assert rows.int().tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert mask_of_chunk(rows, [1, 0]).int().tolist() == [[0, 0, 1, 1, 0], [1, 1, 1, 1, 1]]
