"""HFSession that stand on a shared beginning hold it once, and answer as rows that hold copies."""

import functools
from collections.abc import Callable, Sequence

import pytest
import tiny_models
import torch
from tiny_models import prompt, turn
from torch import Tensor

from icl.edits import DiffusionNoise
from icl.models.hf.model import HF
from icl.models.hf.prefill import Prefiller
from icl.models.hf.session import HFSession, joined
from icl.models.hf.shared_prefix import ALIKE, ROOM, SharedPrefixLayer, moved, standing
from icl.types import Prompt

ModelOf = Callable[[str], HF]
every = pytest.mark.parametrize("name", tiny_models.ARCHITECTURES)
CLOSE = 2e-5


def branches(count: int, demonstrations: str = "a few words to begin with") -> list[Prompt]:
    """One query and its changes: most differ in the image alone, some in the length of their question."""
    own = prompt([1, 2, 3, 30], "what is it?", size=(56, 84))
    own = Prompt((turn("user", demonstrations), turn("assistant", "yes"), *own.turns), own.key)
    made = [own.edit(DiffusionNoise(50 * i), "query") if i else own for i in range(count)]
    return [
        Prompt((*p.turns[:-1], turn("user", *p.images[-1:], "?" * (i % 3 + 1), name="query")), p.key)
        for i, p in enumerate(made)
    ]


def opened(hf: HF, prompts: Sequence[Prompt], sharing: bool = True) -> HFSession:
    return Prefiller(hf.engine.runner, hf.token_budget, sharing).open(hf.engine.reader.read(prompts))


def full(rows: HFSession) -> list[SharedPrefixLayer]:
    return [layer for layer in rows.cache.layers if isinstance(layer, SharedPrefixLayer)]


def shares(rows: HFSession) -> bool:
    return any(layer.begins is not None for layer in full(rows))


def bytes_of(layers: Sequence[SharedPrefixLayer]) -> int:
    """Of the memory behind every tensor that the layers hold, each piece once."""
    held = [t for layer in layers for t in (layer.keys, layer.values, *(layer.room or ()))]
    held += [t for layer in layers if layer.begins for t in (layer.begins.keys, layer.begins.values)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}.values())


def greedy(rows: HFSession, steps: int) -> list[list[int]]:
    said: list[Tensor] = []
    for _ in range(steps):
        said.append(rows.logits.argmax(-1))
        rows.advance(said[-1])
    return torch.stack(said, 1).tolist()


def test_sixteen_branches_of_a_long_prompt_hold_its_beginning_once(model_of: ModelOf) -> None:
    hf = model_of("llava")
    prompts = branches(16, "x" * 1000)
    one = bytes_of(full(opened(hf, prompts[:1])))
    rows, copies = opened(hf, prompts), opened(hf, prompts, sharing=False)
    length = int(rows.mask[0].sum())
    rest = max(layer.keys.shape[2] for layer in full(rows))
    assert length - rest > 1000
    assert greedy(rows, 8) == greedy(copies, 8)
    own = 16 * (rest + 8 + ROOM) / length  # of one branch: what differs, what was said and the room behind it
    assert bytes_of(full(rows)) < (1.05 + own) * one
    assert bytes_of(full(copies)) > 15 * one


@every
def test_rows_on_one_beginning_answer_as_rows_with_copies(name: str, model_of: ModelOf) -> None:
    hf = model_of(name)
    rows, copies = opened(hf, branches(ALIKE + 2)), opened(hf, branches(ALIKE + 2), sharing=False)
    assert shares(rows)
    assert not shares(copies)
    assert all(layer.begins for layer in full(rows))
    assert float((rows.logits - copies.logits).abs().max()) < CLOSE
    assert greedy(rows, ROOM + 6) == greedy(copies, ROOM + 6)  # past what there is room for
    assert float((rows.logits - copies.logits).abs().max()) < CLOSE


@every
def test_rows_on_a_beginning_are_selected_joined_trimmed_and_grown_as_others(name: str, model_of: ModelOf) -> None:
    hf = model_of(name)

    def moved_about(sharing: bool) -> tuple[list[bool], list[list[int]], Tensor]:
        rows, more = opened(hf, branches(ALIKE + 2), sharing), hf.open(tiny_models.prompts()[:3])
        told = [shares(rows)]
        rows = rows.take(torch.tensor([*range(ALIKE, -1, -1), 0]))
        rows.extend([[65 + i] * (i % 4 + 1) for i in range(len(rows))])
        told.append(shares(rows))
        rows = joined([more, rows, rows.take(torch.arange(ALIKE))])
        told.append(shares(rows))
        rows.advance(torch.arange(65, 65 + len(rows)))
        rows = rows.take(torch.arange(2, len(rows)))  # the longest leaves
        rows.trim()
        scores = rows.suffix_logprobs([[[66, 67]]] * len(rows))
        few = rows.take(torch.tensor([3, 1, 0]))
        told.append(shares(few))
        few.trim()
        return told, greedy(rows, 6) + greedy(few, 6), torch.stack([own[0] for own in scores])

    shared, tokens, scores = moved_about(True)
    copied, want, wanted = moved_about(False)
    assert shared[:2] == [True, True]
    assert not shared[-1]
    assert not any(copied)
    assert tokens == want
    assert float((scores - wanted).abs().max()) < CLOSE


def test_rows_of_two_beginnings_are_joined_without_copies(model_of: ModelOf) -> None:
    hf = model_of("llava")
    first, second = branches(ALIKE, "x" * 400), branches(ALIKE, "y" * 300)
    apart = [opened(hf, some) for some in (first, second)]
    both = joined(apart)
    assert bytes_of(full(both)) < 0.4 * bytes_of(full(opened(hf, [*first, *second], sharing=False)))
    together = both.take(torch.arange(len(both)))
    assert greedy(together, 5) == greedy(apart[0], 5) + greedy(apart[1], 5)
    assert float((together.logits - torch.cat([rows.logits for rows in apart])).abs().max()) < CLOSE
    left = both.take(torch.arange(ALIKE, 2 * ALIKE))
    assert [len(layer.begins.keys) for layer in full(left) if layer.begins] == [1] * len(full(left))
    assert greedy(left, 5) == greedy(both, 5)[ALIKE:]


@pytest.mark.parametrize("name", [*tiny_models.ARCHITECTURES, "gemma3 with a wide window"])
def test_prompts_opened_beside_a_session_begin_on_its_rows(
    name: str, model_of: ModelOf, wide: Callable[[], HF]
) -> None:
    hf = wide() if name.endswith("window") else model_of(name)
    seen = [prompt([i, i + 1, i + 2, 70 + i], f"query {i}", query=str(i)) for i in (10, 20, 30)]
    noised = [p.edit(DiffusionNoise(500), where="query") for p in reversed(seen)] + [prompt([90], "another")]
    rows = hf.open(seen)
    rows.advance(torch.tensor([65, 66, 67]))  # what was said since is no part of the beginning
    rows = rows.take(torch.tensor([2, 0, 1, 1]))
    before, held = hf.counters(), rows.logits.clone()
    beside = hf.open(noised, prefix_source=rows)
    after = hf.counters()
    want = opened(hf, noised, sharing=False)
    assert float((beside.logits - want.logits).abs().max()) < CLOSE
    told = {key: after[key] - before[key] for key in ("lent_tokens", "prefill_tokens", "prompt_tokens")}
    assert rows.shares_prefix == (name not in ("gemma3", "qwen3_5"))
    if rows.shares_prefix:
        assert told["lent_tokens"] > 0.5 * told["prompt_tokens"]
        assert told["prefill_tokens"] == told["prompt_tokens"] - told["lent_tokens"]
    else:  # it has forgotten, or never kept: all is read anew
        assert (told["lent_tokens"], told["prefill_tokens"]) == (0, told["prompt_tokens"])
    assert greedy(beside, 6) == greedy(want, 6)
    assert torch.equal(rows.logits, held)
    again = hf.open(seen)
    again.advance(torch.tensor([65, 66, 67]))
    assert greedy(rows, 6) == greedy(again.take(torch.tensor([2, 0, 1, 1])), 6)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], HF]:
    """Gemma 3 whose windows hold a whole prompt."""

    @functools.cache
    def made() -> HF:
        hf = HF(path=str(tiny_models.save("gemma3", tmp_path_factory.mktemp("wide"), tiny_models.Size(window=1024))))
        hf.load()
        return hf

    return made


def test_padding_before_a_beginning_is_trimmed_away() -> None:
    bank, written = SharedPrefixLayer(), torch.arange(12.0).reshape(1, 1, 6, 2)
    bank.update(written, -written)
    rows = standing(bank, [(0, 4)] * ALIKE, 6)  # two slots of padding, four of the beginning
    rows.update(torch.ones(ALIKE, 1, 1, 2), torch.ones(ALIKE, 1, 1, 2))
    held = rows.last(7)
    rows.trim(5)
    assert (rows.get_seq_length(), rows.front) == (5, 4)
    assert all(torch.equal(now, before[:, :, 2:]) for now, before in zip(rows.last(5), held, strict=True))
    rows.trim(1)
    assert (rows.get_seq_length(), rows.begins) == (1, None)
    assert all(torch.equal(now, before[:, :, 6:]) for now, before in zip(rows.last(1), held, strict=True))


def test_each_row_moves_by_its_own_number_of_slots() -> None:
    slots = torch.arange(24.0).reshape(3, 1, 4, 2)
    got = moved(slots, [1, 0, 3])
    assert torch.equal(got, torch.stack([torch.roll(row, by, 1) for row, by in zip(slots, [1, 0, 3], strict=True)]))
    assert torch.equal(moved(slots, [2, 2, 2]), torch.roll(slots, 2, 2))
