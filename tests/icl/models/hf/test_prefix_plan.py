"""A common prefix is prefilled once, and the answers do not change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from tiny_models import prompt

from icl.edits import DiffusionNoise
from icl.models.hf.language_model import EncodedPrompt
from icl.models.hf.model import HF
from icl.models.hf.prefill import CachedPrefix, Prefiller
from icl.models.hf.prefix_plan import PrefixGroup, common_prefix_length, groups, whole_images
from icl.models.hf.session import HFSession
from icl.types import Prompt

ModelOf = Callable[[str], HF]
every = pytest.mark.parametrize("name", tiny_models.ARCHITECTURES)


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


def test_no_image_is_cut() -> None:
    one = read(1, 2, -1, -1, -1, 3, -2, -2, images=((2, 5), (6, 8)))
    assert [whole_images(one, n) for n in range(9)] == [0, 1, 2, 2, 2, 5, 6, 6, 8]
    rows = [read(*range(60), -1, -1, images=((60, 62),)), read(*range(60), -1, -1, images=((60, 62),))]
    assert groups(rows, 10) == [PrefixGroup((0, 1), 60)]
