"""Running out of memory halves a batch. No prompt is lost and no answer changes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny_models import prompt, prompts

from icl.errors import ModelError
from icl.memory import BatchLimit
from icl.models.hf.batch_halving import run_within_limit
from icl.models.hf.model import HF

FolderOf = Callable[[str], Path]


@contextmanager
def room_for(module: torch.nn.Module, rows: int) -> Iterator[list[int]]:
    """Forward passes of more rows fail as on a full device. Yields the batch sizes that were tried."""
    tried: list[int] = []

    def check(_: torch.nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
        size = len(args[0]) if args else len(kwargs["input_ids"])
        tried.append(size)
        if size > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")

    hook = module.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield tried
    finally:
        hook.remove()


@pytest.fixture
def hf(folder_of: FolderOf) -> HF:
    model = HF(path=str(folder_of("llava")))
    model.load()
    return model


def test_a_prefill_continues_in_halves(hf: HF) -> None:
    batch = [prompt([i], "what?") for i in range(8)]
    want = hf.open(batch).logits
    with room_for(hf.engine.runner.model, 3) as tried:
        got = hf.open(batch).logits
    assert tried == [8, 4, 2, 2, 2, 2]
    assert float((got - want).abs().max()) < 2e-5


def test_prompts_on_a_shared_prefix_continue_in_halves(hf: HF) -> None:
    batch = [prompt([1, 2, 3, 4, 20 + i], "what?") for i in range(6)]
    want = hf.open(batch).logits
    hf.engine.prefiller.cached_prefixes.clear()
    with room_for(hf.engine.runner.model, 2) as tried:
        got = hf.open(batch).logits
    assert max(tried) == 6
    assert float((got - want).abs().max()) < 2e-5


def test_the_vision_tower_continues_in_halves(hf: HF) -> None:
    want = hf.open([prompt([1, 2, 3, 4])]).logits
    hf.engine.prompt_encoder.encoder.cache.clear()
    with room_for(hf.engine.runner.model.base_model.vision_tower, 1) as tried:
        got = hf.open([prompt([1, 2, 3, 4])]).logits
    assert tried == [4, 2, 1, 1, 1, 1]
    assert float((got - want).abs().max()) < 2e-5


def test_options_continue_in_halves(hf: HF) -> None:
    rows = hf.open(prompts())
    suffixes = [[[65, 66, 67], [68, 69], [70]]] * len(rows)
    want = rows.suffix_logprobs(suffixes)
    with room_for(hf.engine.runner.model, 4):
        got = rows.suffix_logprobs(suffixes)
    assert all(
        float((a - b).abs().max()) < 2e-5 for x, y in zip(got, want, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_a_single_prompt_that_does_not_fit_is_reported(hf: HF) -> None:
    with (
        room_for(hf.engine.runner.model, 0),
        pytest.raises(ModelError, match="out of memory with a batch of one of the prompts: CUDA out of memory"),
    ):
        hf.open(prompts()[:2])


@pytest.mark.parametrize("limit", [1, 7, 40, 10_000])
def test_batches_are_the_largest_that_fit_and_few_sizes_are_computed(limit: int) -> None:
    items = [1 + number % 9 for number in range(300)]
    sizes: list[int] = []

    def size(batch: Sequence[int]) -> int:
        sizes.append(len(batch))
        return sum(batch)

    batches = run_within_limit(lambda batch: [list(batch)], items, BatchLimit(limit), "numbers", size=size)
    assert [item for batch in batches for item in batch] == items
    for batch, following in pairwise(batches):
        assert len(batch) == 1 or sum(batch) <= limit
        assert sum(batch) + following[0] > limit
    assert sum(sizes) < 12 * len(items)


def test_other_errors_are_not_taken_for_memory() -> None:
    def run(batch: object) -> list[int]:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        run_within_limit(run, [1, 2], BatchLimit(2), "things")


def test_the_cpus_allocator_counts_as_out_of_memory() -> None:
    def run(batch: list[int]) -> list[int]:
        if len(batch) > 1:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return batch

    assert run_within_limit(run, [1, 2, 3], BatchLimit(3), "things") == [1, 2, 3]


def test_the_budget_bounds_the_padded_tokens_of_a_forward(folder_of: FolderOf, hf: HF) -> None:
    small = HF(path=str(folder_of("llava")), token_budget=200)
    small.load()
    batch = [*prompts(), *(prompt([1, 2, 3, 20 + i], "what?" * i) for i in range(6))]
    sizes: list[int] = []
    hook = small.engine.runner.model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    got = small.open(batch).logits
    hook.remove()
    assert max(sizes) <= 200
    assert float((got - hf.open(batch).logits).abs().max()) < 2e-5


def test_a_prefill_that_failed_is_not_tried_again_and_frees_prefixes_and_features(hf: HF) -> None:
    batch = [prompt([i], "what?") for i in range(8)]
    want = hf.open(batch).logits
    hf.open([prompt([1, 2, 3, 4, 20 + i], "what?") for i in range(6)])  # caches their prefix
    assert hf.engine.prefiller.cached_prefixes
    assert len(hf.engine.prompt_encoder.encoder.cache) > 8
    with room_for(hf.engine.runner.model, 3) as tried:
        first = hf.open(batch).logits
        second = hf.open(batch).logits
    assert tried == [8, 4, *[2] * 8]
    assert not hf.engine.prefiller.cached_prefixes
    assert float((first - want).abs().max()) < 2e-5
    assert float((second - want).abs().max()) < 2e-5


def test_a_single_prompt_that_fails_does_not_lower_the_limit_of_later_prefills(hf: HF) -> None:
    with room_for(hf.engine.runner.model, 0), pytest.raises(ModelError, match="a batch of one of the prompts"):
        hf.open(prompts()[:2])
    assert hf.engine.prefiller.limit.now == hf.engine.budgets.prefill_tokens
