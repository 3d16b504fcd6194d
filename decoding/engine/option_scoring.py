"""Option scoring: the log-probability that a strategy gives to whole answers, for any strategy.

The branches read each option token by token; at every position their next-token distributions are masked and combined
as in the token loop, and log-softmaxed over the survivors. An option's score is the sum over its tokens, or the mean a
token, or the sum a UTF-8 byte. The sampler plays no part.

A token that the mask removes scores FLOOR plus its log-probability under the reference (the released code of DoLa and
MVCD fills with -1000 too): an option that the mask touches stands behind all that it leaves whole, options that it
touches alike stay in the reference's order, and scores stay finite. For options of one token the best option is the
token that the loop would choose, where that is one of them.

A strategy that speaks `over_options` gets the options as its vocabulary instead: each branch scores the whole options
on its own, and these log-probabilities are what it masks and combines.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from decoding.base import InitialStepState, StepState, Strategy
from decoding.engine.decoding_step import NEG_INF, scores
from decoding.engine.requests import Normalize
from decoding.engine.token_loop import early_exit_rows
from icl.models.base import Session
from icl.streams import StreamKey

if TYPE_CHECKING:
    from torch import Tensor

FLOOR = -1000.0
SUFFIX_BYTES = 2**28
"""Distributions of option tokens are held for as many answers at once as fit into this (at least one)."""


@dataclass
class OptionScoring:
    """One question with its options. rows: of its branches in the session, the reference first.

    texts, normalize: how a branch scores whole options, for a strategy over options. firsts: instead, the first tokens
    of each option's spellings, whose probabilities are summed. logprobs: filled in, per option
    the log-probability of each of its tokens; `ranked`, by a strategy over options, one number an option. fault: why
    there are none. memory: what the strategy kept, by step.
    """

    strategy: Strategy
    rows: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]
    key: StreamKey = StreamKey()
    texts: tuple[str, ...] = ()
    normalize: Normalize = "sum"
    firsts: tuple[tuple[int, ...], ...] = ()
    logprobs: list[list[float]] = field(default_factory=list)
    ranked: list[float] = field(default_factory=list)
    fault: str = ""
    memory: dict[int, int] = field(default_factory=dict)

    def values(self) -> list[float]:
        """One number an option."""
        if self.ranked:
            return self.ranked
        return [normalize_score(v, text, self.normalize) for v, text in zip(self.logprobs, self.texts, strict=True)]


def normalize_score(logprobs: Sequence[float], option: str, how: Normalize = "sum") -> float:
    """One number for an option from its tokens' log-probabilities."""
    total = sum(logprobs)
    if how == "sum":
        return total
    return total / (len(logprobs) if how == "mean" else max(1, len(option.encode())))


def score(session: Session, ballots: Sequence[OptionScoring]) -> None:
    """Fills every ballot. The session's rows stay as they are."""
    for ballot in ballots:
        if not ballot.options or not all(ballot.options):
            ballot.fault = "an option has no tokens of its own after this prompt"
    whole = [ballot for ballot in ballots if not ballot.fault]
    over = [ballot for ballot in whole if ballot.strategy.traits.combines_options]
    summed = [ballot for ballot in over if ballot.strategy.traits.sums_first_tokens]
    for ballot in summed:
        _rank_first_tokens(ballot, session.logits)
    over = [ballot for ballot in over if not ballot.strategy.traits.sums_first_tokens]
    alone = {
        (row, b.options, b.texts, b.normalize): OptionScoring(
            Strategy(), (row,), b.options, b.key, b.texts, b.normalize
        )
        for b in over
        for row in b.rows
    }
    counted = [*(ballot for ballot in whole if not ballot.strategy.traits.combines_options), *alone.values()]
    for chunk in _chunks(counted, session.logits.shape[-1]):
        inner = _inner(session, chunk)
        for alike in _alike(chunk):
            _count(alike, session, inner)
    for ballot in over:
        _rank(ballot, [alone[row, ballot.options, ballot.texts, ballot.normalize] for row in ballot.rows])


def _rank(ballot: OptionScoring, branches: Sequence[OptionScoring]) -> None:
    """Whole options, as each branch scores them alone, combined like the tokens of a step."""
    ballot.fault = next((f"branch {n}: {b.fault}" for n, b in enumerate(branches) if b.fault), "")
    if ballot.fault:
        return
    _combine(ballot, torch.tensor([[b.values()] for b in branches]))


def _rank_first_tokens(ballot: OptionScoring, first: "Tensor") -> None:
    """Options as sets of first tokens."""
    if not all(ballot.firsts):
        ballot.fault = "an option has no first token that is not another option's too"
        return
    told = first[_index(ballot.rows, first)].float().log_softmax(-1)
    sets = [told[:, _index(tokens, told)].logsumexp(-1) for tokens in ballot.firsts]
    _combine(ballot, torch.stack(sets, -1)[:, None])


def _combine(ballot: OptionScoring, told: "Tensor") -> None:
    """told: [n, 1, options] log-probabilities."""
    combined, faults = combined_logprobs(ballot.strategy, told, 0, [ballot])
    ballot.fault, ballot.ranked = faults.get(0, ""), combined[0].tolist()


def option_spellings(option: str) -> tuple[str, ...]:
    """An option in every casing, with and without a leading space."""
    cased = dict.fromkeys((option, option.lower(), option.capitalize(), option.upper()))
    return (*cased, *(f" {word}" for word in cased))


def _alike(ballots: Sequence[OptionScoring]) -> list[list[OptionScoring]]:
    groups: dict[tuple[Strategy, int], list[OptionScoring]] = {}
    for ballot in ballots:
        groups.setdefault((ballot.strategy, len(ballot.rows)), []).append(ballot)
    return list(groups.values())


Inner = dict[tuple[int, tuple[int, ...]], "Tensor"]
"""(row, option) -> [tokens, V] log-probabilities before each token, from the row's prompt on; under the row's negative
number, less one, [early layers, tokens, V] of its early layers, where they are read."""


def _inner(session: Session, ballots: Sequence[OptionScoring]) -> Inner:
    """The distributions inside options of two tokens and more: each row reads each of its options once."""
    found: Inner = {}
    for exits in (False, True):
        wanted: dict[int, dict[tuple[int, ...], None]] = {}
        for ballot in ballots:
            for row in ballot.rows if ballot.strategy.traits.reads_early_exits or not exits else ():
                wanted.setdefault(row, {}).update(dict.fromkeys(o for o in ballot.options if len(o) > 1))
        rows = sorted(row for row, options in wanted.items() if options)
        if not rows:
            continue
        part = session if rows == list(range(len(session))) else session.take(_index(rows, session.logits))
        suffixes = [list(wanted[row]) for row in rows]
        read = part.suffix_early_exit_logits(suffixes) if exits else part.suffix_logprobs(suffixes)
        for row, of_row in zip(rows, read, strict=True):
            for option, distributions in zip(wanted[row], of_row, strict=True):
                found[-1 - row if exits else row, option] = distributions
    return found


def _at(ballot: OptionScoring, option: int, step: int, inner: Inner) -> "Tensor":
    """[n, V]: what the strategy is handed before a token inside an option."""
    ids = ballot.options[option]
    logits = torch.stack([inner[row, ids][step] for row in ballot.rows])
    return (
        torch.cat([logits, inner[-1 - ballot.rows[0], ids][:, step]])
        if ballot.strategy.traits.reads_early_exits
        else logits
    )


def _count(ballots: Sequence[OptionScoring], session: Session, inner: Inner) -> None:
    """Ballots of one strategy: the first tokens of all options by one combination, later ones by one a position."""
    strategy, first = ballots[0].strategy, session.logits
    for ballot in ballots:
        ballot.logprobs = [[] for _ in ballot.options]
    start = torch.stack([first[_index([b.rows[n] for b in ballots], first)] for n in range(len(ballots[0].rows))])
    if strategy.traits.reads_early_exits:
        start = torch.cat([start, early_exit_rows(session, [ballot.rows[0] for ballot in ballots])])
    told, faults = combined_logprobs(strategy, start.float(), 0, ballots)
    states: dict[tuple[int, int], StepState] = {}
    for row, fault in faults.items():
        ballots[row].fault = fault
    for row, ballot in enumerate(ballots):
        picked = told[row, _index([option[0] for option in ballot.options], told)].tolist()
        for option, value in zip(ballot.logprobs, picked, strict=True):
            option.append(value)
    for step in range(1, max(len(option) for ballot in ballots for option in ballot.options)):
        places = [(b, o) for b in ballots if not b.fault for o in range(len(b.options)) if len(b.options[o]) > step]
        if not places:
            continue
        logits = torch.stack([_at(b, o, step, inner) for b, o in places], dim=1).float()
        for b, o in places:  # each option goes on from what the strategy kept at their common first step
            states.setdefault((id(b), o), InitialStepState(b.key, dict(b.memory)))
        told, faults = combined_logprobs(strategy, logits, step, [states[id(b), o] for b, o in places])
        picked = told.gather(-1, _index([b.options[o][step] for b, o in places], told)[:, None])[:, 0].tolist()
        for i, (ballot, option_index) in enumerate(places):
            ballot.logprobs[option_index].append(picked[i])
            ballot.fault = ballot.fault or faults.get(i, "")


def combined_logprobs(
    strategy: Strategy, logits: "Tensor", step: int, states: Sequence[StepState] = ()
) -> "tuple[Tensor, dict[int, str]]":
    """[B, V]: of the combined distribution; below FLOOR, in the reference's order, where a token is ruled out."""
    combined, faults = scores(strategy, logits, step, states)
    told = combined.log_softmax(-1)
    out = combined == NEG_INF
    if bool(out.any()):
        below = FLOOR + logits[0].log_softmax(-1).clamp(min=FLOOR)
        told = torch.where(out, below, told)
    return told, faults


def _chunks(ballots: Sequence[OptionScoring], vocabulary: int) -> list[list[OptionScoring]]:
    """Neighbors whose inner distributions fit together into SUFFIX_BYTES; options of one token need none."""
    chunks: list[list[OptionScoring]] = []
    room = 0
    for ballot in ballots:
        needs = 4 * vocabulary * len(ballot.rows) * sum(len(o) for o in ballot.options if len(o) > 1)
        if not chunks or needs > room:
            chunks.append([])
            room = SUFFIX_BYTES
        chunks[-1].append(ballot)
        room -= needs
    return chunks


def _index(numbers: Sequence[int], like: "Tensor") -> "Tensor":
    return torch.tensor(list(numbers), dtype=torch.long, device=like.device)
