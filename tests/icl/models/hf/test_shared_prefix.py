"""Rows on a shared prefix store it once, and answer as rows with copies."""

import functools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from tiny_models import prompt, turn
from torch import Tensor

from icl.edits import DiffusionNoise
from icl.models.hf.language_model import EncodedPrompt
from icl.models.hf.model import HF
from icl.models.hf.prefill import (
    MIN_SAVED_SHARE,
    CachedPrefix,
    Prefiller,
    PrefixGroup,
    common_prefix_length,
    groups,
    prefix_levels,
    whole_images,
)
from icl.models.hf.session import HFSession, join_sessions
from icl.models.hf.shared_prefix import MAX_SPARE, MIN_ROWS, SharedPrefixLayer, rows_on_prefix, shift_right
from icl.types import Prompt

ModelOf = Callable[[str], HF]
every = pytest.mark.parametrize("name", tiny_models.ARCHITECTURES)
each_kind = pytest.mark.parametrize("name", tiny_models.SAMPLE)
CLOSE = 2e-5


def branches(count: int, demonstrations: str = "a few words to begin with") -> list[Prompt]:
    """One query and its variants. Most differ in the image only, some in the length of their question."""
    own = prompt([1, 2, 3, 30], "what is it?", size=(56, 84))
    own = Prompt((turn("user", demonstrations), turn("assistant", "yes"), *own.turns), own.key)
    made = [own.edit(DiffusionNoise(50 * i), "query") if i else own for i in range(count)]
    return [
        Prompt((*p.turns[:-1], turn("user", *p.images[-1:], "?" * (i % 3 + 1), name="query")), p.key)
        for i, p in enumerate(made)
    ]


def opened(hf: HF, prompts: Sequence[Prompt], sharing: bool = True) -> HFSession:
    return Prefiller(hf.engine.runner, hf.engine.budgets.prefill_tokens, sharing).open(
        hf.engine.prompt_encoder.read(prompts)
    )


def full(rows: HFSession) -> list[SharedPrefixLayer]:
    return [layer for layer in rows.cache.layers if isinstance(layer, SharedPrefixLayer)]


def shares(rows: HFSession) -> bool:
    return any(layer.prefix is not None for layer in full(rows))


def bytes_of(layers: Sequence[SharedPrefixLayer]) -> int:
    """Bytes of all tensors of the layers, each storage once."""
    tensors = [t for layer in layers for t in (layer.keys, layer.values, *(layer.buffers or ()))]
    tensors += [t for layer in layers if layer.prefix for t in (layer.prefix.keys, layer.prefix.values)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def greedy(rows: HFSession, steps: int) -> list[list[int]]:
    chosen: list[Tensor] = []
    for _ in range(steps):
        chosen.append(rows.logits.argmax(-1))
        rows.advance(chosen[-1])
    return torch.stack(chosen, 1).tolist()


def test_sixteen_branches_of_a_long_prompt_store_its_prefix_once(model_of: ModelOf) -> None:
    hf = model_of("llava")
    prompts = branches(16, "x" * 1000)
    one = bytes_of(full(opened(hf, prompts[:1])))
    rows, copies = opened(hf, prompts), opened(hf, prompts, sharing=False)
    length = int(rows.mask[0].sum())
    rest = max(layer.keys.shape[2] for layer in full(rows))
    assert length - rest > 1000
    assert greedy(rows, 8) == greedy(copies, 8)
    own = 16 * (rest + 8 + MAX_SPARE) / length  # of one branch: what differs, what was said and the room behind it
    assert bytes_of(full(rows)) < (1.05 + own) * one
    assert bytes_of(full(copies)) > 15 * one


@each_kind
def test_rows_on_one_prefix_answer_as_rows_with_copies(name: str, model_of: ModelOf) -> None:
    hf = model_of(name)
    rows, copies = opened(hf, branches(MIN_ROWS + 2)), opened(hf, branches(MIN_ROWS + 2), sharing=False)
    assert shares(rows)
    assert not shares(copies)
    assert all(layer.prefix for layer in full(rows))
    assert float((rows.logits - copies.logits).abs().max()) < CLOSE
    assert greedy(rows, MAX_SPARE + 6) == greedy(copies, MAX_SPARE + 6)  # past what there is room for
    assert float((rows.logits - copies.logits).abs().max()) < CLOSE


@each_kind
def test_rows_on_a_prefix_are_selected_joined_trimmed_and_extended_as_others(name: str, model_of: ModelOf) -> None:
    hf = model_of(name)

    def moved_about(sharing: bool) -> tuple[list[bool], list[list[int]], Tensor]:
        rows, more = opened(hf, branches(MIN_ROWS + 2), sharing), hf.open(tiny_models.prompts()[:3])
        sharing_after = [shares(rows)]
        rows = rows.take(torch.tensor([*range(MIN_ROWS, -1, -1), 0]))
        rows.extend([[65 + i] * (i % 4 + 1) for i in range(len(rows))])
        sharing_after.append(shares(rows))
        rows = join_sessions([more, rows, rows.take(torch.arange(MIN_ROWS))])
        sharing_after.append(shares(rows))
        rows.advance(torch.arange(65, 65 + len(rows)))
        rows = rows.take(torch.arange(2, len(rows)))  # the longest leaves
        rows.trim()
        scores = rows.suffix_logprobs([[[66, 67]]] * len(rows))
        few = rows.take(torch.tensor([3, 1, 0]))
        sharing_after.append(shares(few))
        few.trim()
        return sharing_after, greedy(rows, 6) + greedy(few, 6), torch.stack([own[0] for own in scores])

    shared, tokens, scores = moved_about(True)
    copied, want, expected = moved_about(False)
    assert shared[:2] == [True, True]
    assert not shared[-1]
    assert not any(copied)
    assert tokens == want
    assert float((scores - expected).abs().max()) < CLOSE


@torch.inference_mode()
def test_selected_rows_keep_their_spare_slots_so_that_the_next_step_copies_nothing(model_of: ModelOf) -> None:
    rows, fresh = (opened(model_of("llava"), branches(4)) for _ in range(2))
    for session in (rows, fresh):
        greedy(session, 2)
    rows = rows.take(torch.tensor([3, 1]))
    addresses = [layer.keys.data_ptr() for layer in full(rows)]
    want = greedy(fresh, 5)
    assert greedy(rows, 5) == [want[3], want[1]]
    assert [layer.keys.data_ptr() for layer in full(rows)] == addresses


def test_rows_of_two_prefixes_are_joined_without_copies(model_of: ModelOf) -> None:
    hf = model_of("llava")
    first, second = branches(MIN_ROWS, "x" * 400), branches(MIN_ROWS, "y" * 300)
    separate = [opened(hf, some) for some in (first, second)]
    both = join_sessions(separate)
    assert bytes_of(full(both)) < 0.4 * bytes_of(full(opened(hf, [*first, *second], sharing=False)))
    together = both.take(torch.arange(len(both)))
    assert greedy(together, 5) == greedy(separate[0], 5) + greedy(separate[1], 5)
    assert float((together.logits - torch.cat([rows.logits for rows in separate])).abs().max()) < CLOSE
    left = both.take(torch.arange(MIN_ROWS, 2 * MIN_ROWS))
    assert [len(layer.prefix.keys) for layer in full(left) if layer.prefix] == [1] * len(full(left))
    assert greedy(left, 5) == greedy(both, 5)[MIN_ROWS:]


@pytest.mark.parametrize("name", [*tiny_models.SAMPLE, "gemma3 with a wide window"])
def test_prompts_reuse_the_rows_of_an_open_session(name: str, model_of: ModelOf, wide: Callable[[], HF]) -> None:
    hf = wide() if name.endswith("window") else model_of(name)
    originals = [prompt([i, i + 1, i + 2, 70 + i], f"query {i}", query=str(i)) for i in (10, 20, 30)]
    noised = [p.edit(DiffusionNoise(500), where="query") for p in reversed(originals)] + [prompt([90], "another")]
    rows = hf.open(originals)
    rows.advance(torch.tensor([65, 66, 67]))  # what was said since is no part of the beginning
    rows = rows.take(torch.tensor([2, 0, 1, 1]))
    before, logits = hf.counters(), rows.logits.clone()
    reused = hf.open(noised, prefix_source=rows)
    after = hf.counters()
    want = opened(hf, noised, sharing=False)
    assert float((reused.logits - want.logits).abs().max()) < CLOSE
    counts = {key: after[key] - before[key] for key in ("shared_prefix_tokens", "prefill_tokens", "prompt_tokens")}
    assert rows.shares_prefix == (name not in ("gemma3", "qwen3_5"))
    if rows.shares_prefix:
        assert counts["shared_prefix_tokens"] > 0.5 * counts["prompt_tokens"]
        assert counts["prefill_tokens"] == counts["prompt_tokens"] - counts["shared_prefix_tokens"]
    else:  # it has forgotten, or never kept: all is read anew
        assert (counts["shared_prefix_tokens"], counts["prefill_tokens"]) == (0, counts["prompt_tokens"])
    assert greedy(reused, 6) == greedy(want, 6)
    assert torch.equal(rows.logits, logits)
    again = hf.open(originals)
    again.advance(torch.tensor([65, 66, 67]))
    assert greedy(rows, 6) == greedy(again.take(torch.tensor([2, 0, 1, 1])), 6)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], HF]:
    """Gemma 3 with windows that contain a whole prompt."""

    @functools.cache
    def made() -> HF:
        hf = HF(path=str(tiny_models.save("gemma3", tmp_path_factory.mktemp("wide"), tiny_models.Size(window=1024))))
        hf.load()
        return hf

    return made


def test_padding_before_a_prefix_is_trimmed_away() -> None:
    bank, written = SharedPrefixLayer(), torch.arange(12.0).reshape(1, 1, 6, 2)
    bank.update(written, -written)
    rows = rows_on_prefix(bank, [(0, 4)] * MIN_ROWS, 6)  # two slots of padding, four of the beginning
    rows.update(torch.ones(MIN_ROWS, 1, 1, 2), torch.ones(MIN_ROWS, 1, 1, 2))
    slots = rows.last(7)
    rows.trim(5)
    assert (rows.get_seq_length(), rows.prefix_slots) == (5, 4)
    assert all(torch.equal(now, before[:, :, 2:]) for now, before in zip(rows.last(5), slots, strict=True))
    rows.trim(1)
    assert (rows.get_seq_length(), rows.prefix) == (1, None)
    assert all(torch.equal(now, before[:, :, 6:]) for now, before in zip(rows.last(1), slots, strict=True))


def test_each_row_moves_by_its_own_number_of_slots() -> None:
    slots = torch.arange(24.0).reshape(3, 1, 4, 2)
    got = shift_right(slots, [1, 0, 3])
    assert torch.equal(got, torch.stack([torch.roll(row, by, 1) for row, by in zip(slots, [1, 0, 3], strict=True)]))
    assert torch.equal(shift_right(slots, [2, 2, 2]), torch.roll(slots, 2, 2))


def fixed_demonstrations(queries: int) -> list[Prompt]:
    """Queries that differ in length and in the size of their image."""
    return [prompt([1, 2, 3, 60 + i], "x" * (3 * i + 1)) for i in range(queries)]


def two_branches() -> list[Prompt]:
    """Three queries with demonstrations of their own, and for each a branch that differs at the query only."""
    own = [prompt([i, i + 1, i + 2, 70 + i], f"query {i}", query=str(i)) for i in (10, 20, 30)]
    return [*own, *(p.edit(DiffusionNoise(500), where="query") for p in own)]


def two_images_apart() -> list[Prompt]:
    """Prompts whose unshared part has a demonstration too: two images of different sizes."""
    return [prompt([1, 2, 3, 40 + i, 60 + i], "x" * (i + 1)) for i in range(4)]


def nested_shots() -> list[Prompt]:
    """Three queries with 1, 2 and 4 demonstrations each: more continue fewer. One query has a noised branch each."""
    own = [
        prompt([*range(i, i + shots), 70 + i], f"query {i}", query=str(i)) for i in (10, 20, 30) for shots in (1, 4, 2)
    ]
    return [*own, *(p.edit(DiffusionNoise(500), where="query") for p in own[:3])]


def tree_size(keys: Sequence[tuple[int, ...]]) -> int:
    """The number of different beginnings of the keys."""
    return len({key[:end] for key in keys for end in range(1, len(key) + 1)})


def tokens(rows: HFSession, steps: int = 8) -> list[list[int]]:
    steps_done = []
    for _ in range(steps):
        steps_done.append(rows.logits.argmax(-1))
        rows.advance(steps_done[-1])
    return torch.stack(steps_done, 1).tolist()


@every
@pytest.mark.parametrize(
    "made", [lambda: fixed_demonstrations(5), two_branches, two_images_apart], ids=["fixed", "branches", "images"]
)
def test_prompts_on_a_shared_prefix_answer_as_if_opened_whole(
    name: str, made: Callable[[], list[Prompt]], model_of: ModelOf
) -> None:
    hf = model_of(name)
    reads = hf.engine.prompt_encoder.read(made())
    whole = Prefiller(hf.engine.runner, 8192, sharing=False).open(reads)
    before = hf.counters()
    shared = Prefiller(hf.engine.runner, 8192).open(reads)
    after = hf.counters()
    total = after["prompt_tokens"] - before["prompt_tokens"]
    assert total == sum(map(len, reads))
    assert after["prefill_tokens"] - before["prefill_tokens"] < 0.75 * total
    assert float((whole.logits - shared.logits).abs().max()) < 2e-5
    assert tokens(shared) == tokens(whole)


@each_kind
def test_prompts_that_continue_one_another_forward_their_tree_and_answer_as_if_opened_whole(
    name: str, model_of: ModelOf
) -> None:
    hf = model_of(name)
    reads = hf.engine.prompt_encoder.read(nested_shots())
    whole = Prefiller(hf.engine.runner, 8192, sharing=False).open(reads)
    before = hf.counters()
    twice = [*range(len(reads)), 4, 0]  # an equal prompt is read once
    shared = Prefiller(hf.engine.runner, 8192).open([reads[i] for i in twice])
    forwarded = hf.counters()["prefill_tokens"] - before["prefill_tokens"]
    longest = max(map(len, reads))
    if longest <= hf.engine.runner.shareable_length:
        assert forwarded <= 1.05 * tree_size([read.key for read in reads])
    assert shared.keys == tuple(reads[i].key for i in twice)
    assert float((whole.logits[twice] - shared.logits).abs().max()) < CLOSE
    expected = tokens(whole)
    assert tokens(shared) == [expected[i] for i in twice]


def test_fixed_demonstrations_are_prefilled_once_over_many_calls(folder_of: Callable[[str], Path]) -> None:
    hf = HF(path=str(folder_of("llava")))
    hf.load()
    queries = [prompt([1, 2, 3, 4, 5, 6, 7, 100 + i], "what?", size=(56, 56)) for i in range(40)]
    for start in range(0, 40, 8):
        hf.open(queries[start : start + 8])
    count = hf.counters()
    query = hf.count_tokens(prompt([100], "what?", size=(56, 56)))
    prefix = hf.count_tokens(queries[0]) - query
    distinct = prefix + 40 * query
    assert count["prompt_tokens"] == 40 * (prefix + query)
    assert count["prefill_tokens"] <= 1.1 * distinct


@pytest.mark.parametrize("differs", ["the image", "the instruction"])
def test_two_branches_of_eight_shots_that_differ_at_the_query_cost_little_more_than_one(
    differs: str, model_of: ModelOf
) -> None:
    hf = model_of("qwen2_5_vl")
    originals = [prompt([*range(9 * i, 9 * i + 9)], "what?", query=str(i), size=(56, 56)) for i in range(4)]
    if differs == "the image":
        others = [p.edit(DiffusionNoise(500), where="query") for p in originals]
    else:
        others = [
            prompt([*range(9 * i, 9 * i + 9)], "make something up", query=str(i), size=(56, 56)) for i in range(4)
        ]
    reads = hf.engine.prompt_encoder.read([*originals, *others])
    before = hf.counters()["prefill_tokens"]
    Prefiller(hf.engine.runner, 8192).open(reads)
    assert hf.counters()["prefill_tokens"] - before <= 0.6 * sum(map(len, reads))


def test_a_longer_prefix_replaces_a_cached_one(model_of: ModelOf) -> None:
    hf = model_of("llava")
    hf.open(fixed_demonstrations(5))
    before = hf.counters()["prefill_tokens"]
    branches = [prompt([1, 2, 3, 8, 9, 10, 11, 80], "why?", query="a")]
    branches.append(branches[0].edit(DiffusionNoise(500), where="query"))
    rows = hf.open(branches)
    length = int(rows.mask[0].sum())
    assert hf.counters()["prefill_tokens"] - before < 1.4 * length


def read(*key: int, images: tuple[tuple[int, int], ...] = ()) -> EncodedPrompt:
    ids = torch.tensor(key)
    starts, ends = tuple(a for a, _ in images), tuple(b for _, b in images)
    return EncodedPrompt(ids, ids, None, (), tuple(key), starts, ends)


def test_the_longest_cached_prefix_is_used_and_leaves_a_token_to_read(model_of: ModelOf) -> None:
    prefiller = Prefiller(model_of("llava").engine.runner, 8192)
    nothing: Any = None
    prefiller.cached_prefixes = [CachedPrefix(tuple(range(length)), nothing) for length in (3, 5)]
    assert [prefiller._cached_prefix_length(read(*range(length))) for length in (3, 4, 5, 6, 9)] == [0, 3, 3, 5, 5]
    assert prefiller._cached_prefix_length(read(0, 1, 9, 3, 4, 5)) == 0


def test_common_prefix_length_counts_equal_leading_entries() -> None:
    assert common_prefix_length((1, 2, 3), (1, 2, 4, 5)) == 2
    assert common_prefix_length((1, 2), (1, 2, 4, 5)) == 2
    assert common_prefix_length((), (1,)) == 0
    assert common_prefix_length((7, 2), (1, 2)) == 0


def test_groups_save_the_most_and_leave_each_prompt_a_token() -> None:
    a, b = tuple(range(100)), tuple(range(200, 300))
    rows = [read(*a, 1), read(*b, 1), read(*a, 2), read(*b, 2), read(*a), read(500)]
    plan = {group.members: group.shared for group in groups(rows, 10)}
    assert plan == {(0, 2, 4): 99, (1, 3): 100, (5,): 0}


def test_prefixes_that_save_too_little_are_not_shared() -> None:
    rows = [read(*range(30), 7), read(*range(30), 8)]
    assert groups(rows, 31) == [PrefixGroup((0,)), PrefixGroup((1,))]
    assert groups(rows, 29) == [PrefixGroup((0, 1), 30)]


@pytest.mark.parametrize("seed", range(8))
def test_levels_save_what_a_prefix_tree_saves_except_for_short_beginnings(seed: int) -> None:
    draw = random.Random(seed)
    keys = {tuple(draw.choices((1, 2), k=draw.randint(1, 12))) for _ in range(20)}
    keys = [key for key in keys if not any(other != key and other[: len(key)] == key for other in keys)]
    rows = [read(*key) for key in keys]
    levels, saved = prefix_levels(rows)
    assert 0 in levels
    at_most = sum(map(len, keys)) - tree_size(keys)
    lost = sum(max(len(key) // MIN_SAVED_SHARE, 1) for key in keys)  # each may give up so much for a lower level
    assert at_most - lost <= saved <= at_most


def test_a_ladder_has_two_levels_with_the_longest_prompt_first() -> None:
    ladder = [read(*range(100 * q, 100 * q + size), 900 + size) for q in (1, 2) for size in (20, 80, 40)]
    assert prefix_levels(ladder) == ([1, 0, 1, 1, 0, 1], 2 * (20 + 40))
    assert prefix_levels([read(1, *range(10, 60)), read(1, *range(70, 120))]) == ([0, 0], 0)


def test_no_image_is_cut() -> None:
    one = read(1, 2, -1, -1, -1, 3, -2, -2, images=((2, 5), (6, 8)))
    assert [whole_images(one, n) for n in range(9)] == [0, 1, 2, 2, 2, 5, 6, 6, 8]
    rows = [read(*range(60), -1, -1, images=((60, 62),)), read(*range(60), -1, -1, images=((60, 62),))]
    assert groups(rows, 10) == [PrefixGroup((0, 1), 60)]
