"""Edits of attention scores by token, in padded rows and behind dropped slots, against a loop over slots."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from icl.models.hf.attention_calls import AttentionCall
from icl.models.hf.row_edits import ALL_KEYS, KeyRanges, Placed, ScorePlaces
from icl.models.interventions import END, Intervention, Site

SLOTS, HEADS, SIZE = 7, 2, 4
SITE = Site("scores", 0)
PLACES = ((0, 1), (0, 2), (2, 0), (2, 1), (2, 2))
"""(row, column) of the addressed tokens: rows differ in their number, and row 1 has none."""


@dataclass(frozen=True, eq=False)
class Constant:
    """An edit that sets all scores to one number, also those of hidden keys and of other tokens."""

    value: float = 0.5
    digest: str = "constant"
    neutral: bool = False
    sites: tuple[Site, ...] = (SITE,)
    where: Any = END

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        return torch.full_like(x, self.value)


@dataclass(eq=False)
class Recorder:
    """An observer that records what it receives."""

    sites: tuple[Site, ...] = (SITE,)
    where: Any = END
    scores: list[Tensor] = field(default_factory=list)

    def see(self, site: Site, x: Tensor, rows: Sequence[int]) -> None:
        self.scores.append(x)


def call_of(offsets: Sequence[int], width: int) -> AttentionCall:
    """A call of rows whose slots before the offset are padding, with a causal mask."""
    generator = torch.Generator().manual_seed(width)
    query = torch.randn(len(offsets), HEADS, width, SIZE, generator=generator)
    key, value = torch.randn(2, len(offsets), 1, SLOTS, SIZE, generator=generator)
    slot = torch.arange(SLOTS)
    causal = slot <= torch.arange(SLOTS - width, SLOTS)[:, None]
    mask = torch.stack([causal & (slot >= offset) for offset in offsets])[:, None]
    return AttentionCall(query, key, value, mask, 0.5, True)


def placed(
    acts: Any, places: Sequence[tuple[int, int]], offsets: Sequence[int], width: int, keys: Sequence[KeyRanges]
) -> Placed:
    rows, columns = ([place[i] for place in places] for i in range(2))
    tokens = [SLOTS - width + column - offsets[row] for row, column in places]
    return Placed(acts, rows, columns, rows, tokens, [keys[row] for row in rows])


def by_loop(call: AttentionCall, output: Tensor, waves: Sequence[Placed], offsets: Sequence[int]) -> Tensor:
    """The output after edits, one token and one slot at a time."""
    scores = {place: call.scores(torch.tensor([place[0]]), torch.tensor([[place[1]]]))[0, 0] for place in PLACES}
    for one in waves:
        for row, column, token, keys in zip(one.rows, one.columns, one.tokens, one.keys, strict=True):
            for slot in range(SLOTS):
                key, own = slot - offsets[row], scores[row, column][:, slot]
                is_named = keys.ranges is None or any(begin <= key < end for begin, end in keys.ranges)
                if is_named and (keys.own or key != token) and bool(own.isfinite().all()):
                    own[:] = one.acts.value  # type: ignore[union-attr]
    result = output.clone()
    for (row, column), own in scores.items():
        before = call.scores(torch.tensor([row]), torch.tensor([[column]]))[0, 0]
        result[row, column] += (own.softmax(-1) - before.softmax(-1)) @ call.value[row, 0]
    return result


@pytest.mark.parametrize("offsets", [(0, 0, 0), (2, 0, 0), (0, 0, 2), (0, 1, -3), (2, 0, -3), (-1, 0, -3)])
@pytest.mark.parametrize(
    "keys",
    [
        (ALL_KEYS,) * 3,
        (KeyRanges(None, own=False),) * 3,
        (KeyRanges(((1, 3), (4, 5))), ALL_KEYS, KeyRanges(((2, 4), (8, 20)), own=False)),
    ],
)
def test_scores_are_edited_by_token(offsets: tuple[int, ...], keys: tuple[KeyRanges, ...]) -> None:
    width = 3
    call = call_of(offsets, width)
    output = torch.randn(len(offsets), width, HEADS, SIZE, generator=torch.Generator().manual_seed(9))
    first = placed(Constant(), PLACES, offsets, width, keys)
    second = placed(Constant(-1.0), PLACES[1:4], offsets, width, [KeyRanges(((0, 2),))] * 3)
    assert isinstance(first.acts, Intervention)
    for own in ([first], [second, first], [first, second]):
        waves = [[(SITE, one)] for one in own]
        torch.testing.assert_close(ScorePlaces(waves).edited(waves, call, output), by_loop(call, output, own, offsets))


@pytest.mark.parametrize("offsets", [(0, 0, 0), (2, 0, -3)])
def test_an_observer_receives_scores_by_token(offsets: tuple[int, ...]) -> None:
    call, recorder = call_of(offsets, 3), Recorder()
    waves = [[(SITE, placed(recorder, PLACES, offsets, 3, (ALL_KEYS,) * 3))]]
    output = torch.zeros(3, 3, HEADS, SIZE)
    assert ScorePlaces(waves).edited(waves, call, output) is output
    for (row, column), own in zip(PLACES, recorder.scores[0], strict=True):
        slots = call.scores(torch.tensor([row]), torch.tensor([[column]]))[0, 0]
        for token in range(own.shape[-1]):
            slot = token + offsets[row]
            expected = slots[:, slot] if 0 <= slot < SLOTS else torch.full((HEADS,), -torch.inf)
            assert torch.equal(own[:, token], expected)
