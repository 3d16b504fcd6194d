"""Option scoring: the log-probability that a strategy gives to whole answers.

The branches read each option token by token. At every position their next-token distributions are masked and combined
as in the token loop, followed by a log-softmax over the remaining tokens. The score of an option is the sum over its
tokens, the mean per token, or the sum per UTF-8 byte. Samplers and logits processors do not affect it.

A token that the mask removes scores FLOOR plus its log-probability under the reference. (The released code of DoLa and
MVCD also fills with -1000.) With the sum over tokens, an option with masked tokens therefore ranks below all options
without any, options with equally many masked tokens keep the order of the reference, and scores stay finite. The mean
over tokens or bytes divides FLOOR, too: a long option with one masked token can rank above a short one without any. If
all options have one token, the best option is the token that greedy decoding would choose, provided that this token is
an option.

For strategies with `traits.combines_options`, the options replace the vocabulary. Each branch scores every option as a
whole. The strategy then masks and combines these log-probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from decoding import InitialStepState, Normalize, Note, StepState
from decoding.engine import NEG_INF, combine_branches, gather_early_exits
from icl import Session, Strategy, StreamKey, Tensor, copied_to_device

FLOOR = -1000.0
"""Offset that is added to the log-probability of a masked token."""

SUFFIX_BYTES = 2**28
"""Memory for the distributions inside options. Answers are scored in groups that fit into it (at least one)."""


@dataclass
class OptionScoring:
    """The options of one prompt, and their scores once they are computed.

    Attributes:
        strategy: Combines the branches.
        rows: Rows of the branches in the session, the reference first.
        ids: Tokens of each option.
        key: Random stream of the query.
        texts: Texts of the options, for normalization.
        normalize: How scores are normalized.
        first_tokens: For each option, the first tokens of its spellings (with `traits.sums_first_tokens`).
        logprobs: Log-probability of each token of each option.
        combined_scores: One score per option, from a strategy with `traits.combines_options`.
        fault: Why there are no scores.
        memory: Values that the strategy stored, by step.
        note: What the strategy prepared for the prompt.
    """

    strategy: Strategy
    rows: tuple[int, ...]
    ids: tuple[tuple[int, ...], ...]
    key: StreamKey = StreamKey()
    texts: tuple[str, ...] = ()
    normalize: Normalize = "sum"
    first_tokens: tuple[tuple[int, ...], ...] = ()
    logprobs: list[list[float]] = field(default_factory=list)
    combined_scores: list[float] = field(default_factory=list)
    fault: str = ""
    memory: dict[int, Any] = field(default_factory=dict)
    note: Note = None

    def scores(self) -> list[float]:
        """One score per option."""
        if self.combined_scores:
            return self.combined_scores
        pairs = zip(self.logprobs, self.texts, strict=True)
        return [normalize_score(logprobs, text, self.normalize) for logprobs, text in pairs]


def normalize_score(logprobs: Sequence[float], option: str, normalize: Normalize = "sum") -> float:
    """One score from the log-probabilities of an option's tokens."""
    total = sum(logprobs)
    if normalize == "sum":
        return total
    return total / (len(logprobs) if normalize == "mean" else max(1, len(option.encode())))


def masks_all(logprobs: Sequence[Sequence[float]]) -> bool:
    """Whether each option has a masked token. logprobs: of the tokens of each option."""
    return all(min(of_option) <= FLOOR for of_option in logprobs)


def score_options(session: Session, scorings: Sequence[OptionScoring]) -> None:
    """Computes the scores of all options. The rows of the session stay unchanged."""
    for scoring in scorings:
        if not scoring.ids or not all(scoring.ids):
            scoring.fault = "an option adds no tokens to this prompt"
    usable = [scoring for scoring in scorings if not scoring.fault]
    by_token = [scoring for scoring in usable if not scoring.strategy.traits.combines_options]
    by_option = []
    for scoring in usable:
        if not scoring.strategy.traits.combines_options:
            continue
        if scoring.strategy.traits.sums_first_tokens:
            _combine_first_tokens(scoring, session.logits)
        else:
            by_option.append(scoring)
    branches = {
        (row, s.ids, s.texts, s.normalize): OptionScoring(Strategy(), (row,), s.ids, s.key, s.texts, s.normalize)
        for s in by_option
        for row in s.rows
    }
    for chunk in _chunks([*by_token, *branches.values()], session.logits.shape[-1]):
        inner = _read_options(session, chunk)
        for group in _group_by_strategy(chunk):
            _score_tokens(group, session, inner)
    for scoring in by_option:
        key = (scoring.ids, scoring.texts, scoring.normalize)
        _combine_branch_scores(scoring, [branches[row, *key] for row in scoring.rows])


def _combine_branch_scores(scoring: OptionScoring, branches: Sequence[OptionScoring]) -> None:
    """Combines the options' scores under each branch like the tokens of a step."""
    scoring.fault = next((f"branch {n}: {branch.fault}" for n, branch in enumerate(branches) if branch.fault), "")
    if not scoring.fault:
        _combine_options(scoring, torch.tensor([[branch.scores()] for branch in branches]))


def _combine_first_tokens(scoring: OptionScoring, logits: Tensor) -> None:
    """Combines the summed probabilities of the options' first tokens. logits: [R, V] of the session."""
    if not all(scoring.first_tokens):
        scoring.fault = "an option shares all its possible first tokens with other options"
        return
    logprobs = logits[_index(scoring.rows, logits)].float().log_softmax(-1)
    sums = [logprobs[:, _index(tokens, logprobs)].logsumexp(-1) for tokens in scoring.first_tokens]
    _combine_options(scoring, torch.stack(sums, -1)[:, None])


def _combine_options(scoring: OptionScoring, logprobs: Tensor) -> None:
    """logprobs: log-probabilities of the options under each branch, [n, 1, options]."""
    combined, faults = combined_logprobs(scoring.strategy, logprobs, 0, [scoring])
    scoring.fault, scoring.combined_scores = faults.get(0, ""), combined[0].tolist()


def option_spellings(option: str) -> tuple[str, ...]:
    """An option in every casing, with and without a leading space."""
    casings = dict.fromkeys((option, option.lower(), option.capitalize(), option.upper()))
    return (*casings, *(f" {word}" for word in casings))


def _group_by_strategy(scorings: Sequence[OptionScoring]) -> list[list[OptionScoring]]:
    groups: dict[tuple[Strategy, int], list[OptionScoring]] = {}
    for scoring in scorings:
        groups.setdefault((scoring.strategy, len(scoring.rows)), []).append(scoring)
    return list(groups.values())


@dataclass
class _InnerDistributions:
    """Distributions before the tokens of options, by row and option.

    Attributes:
        logprobs: [tokens, V] log-probabilities.
        early_exits: [early layers, tokens, V] of the early layers, for strategies that read them.
    """

    logprobs: dict[tuple[int, tuple[int, ...]], Tensor]
    early_exits: dict[tuple[int, tuple[int, ...]], Tensor]

    def at(self, scoring: OptionScoring, option: int, step: int) -> Tensor:
        """[n, V]: what the strategy combines at a position inside an option."""
        ids = scoring.ids[option]
        logits = torch.stack([self.logprobs[row, ids][step] for row in scoring.rows])
        if not scoring.strategy.traits.reads_early_exits:
            return logits
        return torch.cat([logits, self.early_exits[scoring.rows[0], ids][:, step]])


def _read_options(session: Session, scorings: Sequence[OptionScoring]) -> _InnerDistributions:
    """The distributions inside options of several tokens. Each row reads each of its options once."""
    early = [scoring for scoring in scorings if scoring.strategy.traits.reads_early_exits]
    return _InnerDistributions(
        _read_rows(session, scorings, early_exits=False), _read_rows(session, early, early_exits=True)
    )


def _read_rows(
    session: Session, scorings: Sequence[OptionScoring], early_exits: bool
) -> dict[tuple[int, tuple[int, ...]], Tensor]:
    options_by_row: dict[int, dict[tuple[int, ...], None]] = {}
    for scoring in scorings:
        for row in scoring.rows:
            options_by_row.setdefault(row, {}).update(dict.fromkeys(ids for ids in scoring.ids if len(ids) > 1))
    rows = sorted(row for row, options in options_by_row.items() if options)
    if not rows:
        return {}
    part = session if rows == list(range(len(session))) else session.take(_index(rows, session.logits))
    suffixes = [list(options_by_row[row]) for row in rows]
    read = part.suffix_early_exit_logits(suffixes) if early_exits else part.suffix_logprobs(suffixes)
    return {
        (row, option): distributions
        for row, by_option in zip(rows, read, strict=True)
        for option, distributions in zip(options_by_row[row], by_option, strict=True)
    }


def _score_tokens(scorings: Sequence[OptionScoring], session: Session, inner: _InnerDistributions) -> None:
    """Scores the options of one strategy: first tokens in one combination, later ones in one per position."""
    strategy, logits = scorings[0].strategy, session.logits
    for scoring in scorings:
        scoring.logprobs = [[] for _ in scoring.ids]
    num_branches = len(scorings[0].rows)
    first = torch.stack([logits[_index([s.rows[n] for s in scorings], logits)] for n in range(num_branches)])
    if strategy.traits.reads_early_exits:
        first = torch.cat([first, gather_early_exits(session, _index([s.rows[0] for s in scorings], logits))])
    logprobs, faults = combined_logprobs(strategy, first.float(), 0, scorings)
    states: dict[tuple[int, int], StepState] = {}
    for row, fault in faults.items():
        scorings[row].fault = fault
    for row, scoring in enumerate(scorings):
        values = logprobs[row, _index([ids[0] for ids in scoring.ids], logprobs)].tolist()
        for option_logprobs, value in zip(scoring.logprobs, values, strict=True):
            option_logprobs.append(value)
    for step in range(1, max(len(ids) for scoring in scorings for ids in scoring.ids)):
        places = [(s, o) for s in scorings if not s.fault for o in range(len(s.ids)) if len(s.ids[o]) > step]
        if not places:
            continue
        stacked = torch.stack([inner.at(s, o, step) for s, o in places], dim=1).float()
        for s, o in places:  # each option continues from the state after the common first step
            states.setdefault((id(s), o), InitialStepState(s.key, dict(s.memory), s.note))
        logprobs, faults = combined_logprobs(strategy, stacked, step, [states[id(s), o] for s, o in places])
        tokens = _index([s.ids[o][step] for s, o in places], logprobs)
        values = logprobs.gather(-1, tokens[:, None])[:, 0].tolist()
        for i, (scoring, option) in enumerate(places):
            scoring.logprobs[option].append(values[i])
            scoring.fault = scoring.fault or faults.get(i, "")


def combined_logprobs(
    strategy: Strategy, logits: Tensor, step: int, states: Sequence[StepState] = ()
) -> tuple[Tensor, dict[int, str]]:
    """Log-probabilities of the combined distribution, and row -> fault.

    Args:
        strategy: Combines the branches.
        logits: [n, B, V] float32.
        step: Number of the token, from 0.
        states: State of each row; initial states by default.

    Returns:
        [B, V] log-probabilities. Masked tokens are below FLOOR, in the order of the reference.
    """
    scores, faults = combine_branches(strategy, logits, step, states)
    logprobs = scores.log_softmax(-1)
    is_masked = scores == NEG_INF
    if bool(is_masked.any()):
        logprobs = floor_masked(logprobs, logits[0], is_masked)
    return logprobs, faults


def floor_masked(logprobs: Tensor, reference: Tensor, is_masked: Tensor) -> Tensor:
    """Log-probabilities [B, V] in which masked tokens are below FLOOR, in the order of the reference [B, V]."""
    return torch.where(is_masked, FLOOR + reference.log_softmax(-1).clamp(min=FLOOR), logprobs)


def _chunks(scorings: Sequence[OptionScoring], vocabulary: int) -> list[list[OptionScoring]]:
    """Consecutive scorings with inner distributions that fit SUFFIX_BYTES. Options of one token need no memory."""
    chunks: list[list[OptionScoring]] = []
    free_bytes = 0
    for scoring in scorings:
        size = 4 * vocabulary * len(scoring.rows) * sum(len(ids) for ids in scoring.ids if len(ids) > 1)
        if not chunks or size > free_bytes:
            chunks.append([])
            free_bytes = SUFFIX_BYTES
        chunks[-1].append(scoring)
        free_bytes -= size
    return chunks


def _index(numbers: Sequence[int], like: Tensor) -> Tensor:
    return copied_to_device(list(numbers), torch.long, like.device)
