"""A bilinear head that scores demonstrations by what the model's own answers gained from them.

    s(q, e) = (A x_q) . (B z_e) + u . z_e                         A: [d, Dq], B: [d, De], u: [De]

x_q and z_e are frozen vectors of a query and of a demonstration. The feedback F[q, e] is log p(gold of q | e, q) under
the model, with e as the only demonstration. u is the part of the score that does not depend on the query.

    list    KL(softmax_e(F[q, e] / tau), softmax_e(s(q, e)))      over the demonstrations that were scored for q
    epr     -log softmax(s(q, .))[e+] over e+, e- and those of the other queries of the batch (Rubin et al. 2022)

e+ is one of the best five of q, e- one of the worst five; of fewer than ten, the better and the worse half.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from icl import DataError, Example, Tensor, normalize_text, torch
from icl.tasks import connected_components, image_digests
from retrievers.base import Vectors

Loss = Literal["list", "epr"]
Permutation = Literal["permuted_queries", "permuted_candidates"]

SAME_ANSWER = 5.0
"""Feedback of `same_answer` for a demonstration that has the query's answer. Others have 0."""

EPR_CHOICE = 5
TOP = 4
"""Early stopping reads the mean feedback of this many best demonstrations, and of at most half of those scored."""

FOLDS = 5
LEAST_QUERIES = 2 * FOLDS
LEAST_UNITS = 3
"""One that the probe reads, one that stops a training, and one to train on."""


@dataclass(frozen=True, eq=False)
class Feedback:
    """What demonstrations are worth to training queries.

    Attributes:
        queries: Q training queries, sorted by id.
        members: E members of pools.
        logprobs: [Q, E] float32, log p(gold | member, query); NaN where it was not scored.
        allowed: [Q, E] bool, whether a member is in the query's pool and leaks nothing.
    """

    queries: Sequence[Example]
    members: Sequence[Example]
    logprobs: Vectors
    allowed: NDArray[np.bool_]

    @property
    def units(self) -> NDArray[np.int64]:
        """[Q] labels, equal for queries of one group or with a common image."""
        keys = [[one.group or one.id, *image_digests(one)] for one in self.queries]
        return np.unique(connected_components(keys), return_inverse=True)[1]


@dataclass(frozen=True)
class BilinearTraining:
    """The settings of training. temperature: tau of the loss `list`, in nats. A step reads `batch` queries."""

    loss: Loss = "list"
    dimensions: int = 8
    steps: int = 300
    rate: float = 5e-3
    decay: float = 0.1
    temperature: float = 1.0
    batch: int = 64
    seed: int = 0


@dataclass(frozen=True, eq=False)
class BilinearHead:
    """A head s(q, e) = (A x) . (B z) + u . z.

    queries: A, [d, Dq]. members: B, [d, De]. bias: u, [De].
    """

    queries: Vectors
    members: Vectors
    bias: Vectors

    def query_rows(self, x: Vectors) -> Vectors:
        """[N, Dq] -> [N, d + 1]: [A x, 1]."""
        return np.hstack([x @ self.queries.T, np.ones((len(x), 1), np.float32)])

    def member_rows(self, z: Vectors) -> Vectors:
        """[N, De] -> [N, d + 1]: [B z, u . z]. A product with a row of `query_rows` is the score."""
        return np.hstack([z @ self.members.T, (z @ self.bias)[:, None]])

    def scores(self, x: Vectors, z: Vectors) -> Vectors:
        """[Q, Dq] and [E, De] -> [Q, E]."""
        return np.asarray(self.query_rows(x) @ self.member_rows(z).T)


def side_by_side(blocks: Sequence[Vectors]) -> Vectors:
    """Blocks of unit rows side by side, each times the root of its width: numbers have a mean square of one."""
    return np.hstack([block * np.float32(block.shape[1] ** 0.5) for block in blocks])


def list_loss(scores: Tensor, feedback: Tensor, temperature: float) -> Tensor:
    """KL(softmax(F / tau), softmax(s)) over the scored demonstrations of each query, as a mean.

    scores: [N, E]. feedback: [N, E], NaN where it was not scored. temperature: tau, in nats.
    """
    is_scored = ~feedback.isnan()
    target = (feedback / temperature).masked_fill(~is_scored, -torch.inf).log_softmax(-1)
    predicted = scores.masked_fill(~is_scored, -torch.inf).log_softmax(-1)
    terms = target.exp() * (target.masked_fill(~is_scored, 0) - predicted.masked_fill(~is_scored, 0))
    return terms.sum(-1).mean()


def epr_loss(scores: Tensor, best: Tensor, worst: Tensor) -> Tensor:
    """Cross-entropy of each query's good demonstration among all good and bad ones of the batch.

    scores: [N, E]. best, worst: [N] long, the columns of a good and a bad demonstration of each query.
    """
    return torch.nn.functional.cross_entropy(scores[:, torch.cat([best, worst])], torch.arange(len(scores)))


def permute_queries(feedback: Vectors, rng: np.random.Generator) -> Vectors:
    """Exchanges rows along one random cycle: each query gets the feedback of another. Qualities of members stay."""
    order = rng.permutation(len(feedback))
    permuted = np.empty_like(feedback)
    permuted[order] = feedback[np.roll(order, 1)]
    return permuted


def permute_candidates(feedback: Vectors, rng: np.random.Generator) -> Vectors:
    """Exchanges the scored numbers within each row: neither match nor quality is left."""
    permuted = feedback.copy()
    for row in permuted:
        is_scored = ~np.isnan(row)
        row[is_scored] = rng.permutation(row[is_scored])
    return permuted


def same_answer(feedback: Feedback) -> Vectors:
    """[Q, E]: SAME_ANSWER where a member has an answer of the query, else 0, NaN where it is not allowed."""
    members = np.array([normalize_text(member.answer) for member in feedback.members])
    rows = [np.isin(members, [normalize_text(answer) for answer in query.answers]) for query in feedback.queries]
    return np.where(feedback.allowed, np.array(rows) * SAME_ANSWER, np.nan).astype(np.float32)


def usable_queries(feedback: Feedback) -> Feedback:
    """The queries with two numbers or more. Raises DataError if they, or their units, are too few."""
    usable = (~np.isnan(feedback.logprobs)).sum(1) > 1
    queries = [query for query, is_usable in zip(feedback.queries, usable, strict=True) if is_usable]
    usable_feedback = Feedback(queries, feedback.members, feedback.logprobs[usable], feedback.allowed[usable])
    if len(queries) < LEAST_QUERIES:
        raise DataError(
            f"a head needs {LEAST_QUERIES} queries with two scored demonstrations or more, and there are "
            f"{len(queries)}."
        )
    if (units := len(set(usable_feedback.units))) < LEAST_UNITS:
        raise DataError(
            f"a head is judged on queries of other groups and images than it was trained on. {len(queries)} queries "
            f"have {units} of them, and {LEAST_UNITS} are needed. Use more queries."
        )
    return usable_feedback


def train_bilinear(
    x: Vectors, z: Vectors, feedback: Vectors, units: NDArray[np.int64], training: BilinearTraining
) -> BilinearHead:
    """The head of the best step on a fifth of the units of queries, trained on the others.

    Args:
        x: [Q, Dq], queries.
        z: [E, De], members.
        feedback: [Q, E], NaN where it was not scored. Each query has two numbers or more.
        units: [Q] labels, two or more. Queries of one unit stay together.
        training: The settings. The head is looked at after every tenth step, and after the last one.
    """
    rng = np.random.Generator(np.random.Philox(training.seed))
    generator = torch.Generator().manual_seed(training.seed)
    labels = rng.permutation(np.unique(units))
    parts = np.split(labels, [max(len(labels) // FOLDS, 1)])
    held_out, train = (np.concatenate([np.flatnonzero(units == label) for label in part]) for part in parts)
    rows, members, targets = (torch.from_numpy(np.ascontiguousarray(one)) for one in (x, z, feedback))
    a, b = (
        (torch.randn(training.dimensions, width, generator=generator) / width**0.5).requires_grad_()
        for width in (x.shape[1], z.shape[1])
    )
    u = torch.zeros(z.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([a, b, u], lr=training.rate, weight_decay=training.decay)

    def head() -> BilinearHead:
        return BilinearHead(*(one.detach().numpy().copy() for one in (a, b, u)))

    best, chosen = -np.inf, head()
    for step in range(training.steps):
        batch = rng.permutation(train)[: training.batch]
        scores = (rows[batch] @ a.T) @ (members @ b.T).T + members @ u
        if training.loss == "list":
            loss = list_loss(scores, targets[batch], training.temperature)
        else:
            loss = epr_loss(scores, *_good_and_bad(feedback[batch], rng))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 10 == 9 or step == training.steps - 1:
            current = head()
            reached = chosen_feedback(current.scores(x[held_out], z), feedback[held_out])
            if reached > best:
                best, chosen = reached, current
    return chosen


def chosen_feedback(scores: Vectors, feedback: Vectors) -> float:
    """The mean feedback of the TOP scored demonstrations of each query that the scores put first. [Q, E] both."""
    is_scored = ~np.isnan(feedback)
    order = np.argsort(-np.where(is_scored, scores, -np.inf), axis=1, kind="stable")
    counts = np.minimum(TOP, is_scored.sum(1) // 2)
    ranked = np.take_along_axis(feedback, order, 1)
    return float(np.mean([row[:count].mean() for row, count in zip(ranked, counts, strict=True) if count]))


def ordered_pairs(scores: Vectors, feedback: Vectors) -> list[float]:
    """For each query, the share of pairs of scored demonstrations that the scores order as the feedback does.

    Pairs of equal feedback do not count, equal scores count half. Queries without a pair are left out. [Q, E] both.
    """
    shares = []
    for row, target in zip(scores, feedback, strict=True):
        is_scored = ~np.isnan(target)
        left, right = np.triu_indices(int(is_scored.sum()), 1)
        signs = [np.sign(values[is_scored][left] - values[is_scored][right]) for values in (row, target)]
        if (counted := signs[1] != 0).any():
            shares.append(float((1 + signs[0] * signs[1])[counted].mean() / 2))
    return shares


def probe(
    x: Vectors, z: Vectors, feedback: Vectors, units: NDArray[np.int64], training: BilinearTraining
) -> tuple[list[float], list[float]]:
    """`ordered_pairs` of queries whose unit a head did not see, in FOLDS folds: with its own feedback, and with that
    of other queries (which leaves the quality of a demonstration, and no match).
    """
    rng = np.random.Generator(np.random.Philox(training.seed))
    labels, places = np.unique(units, return_inverse=True)
    fold = (rng.permutation(len(labels)) % FOLDS)[places]
    shares: tuple[list[float], list[float]] = ([], [])
    for number in range(min(FOLDS, len(labels))):
        train, test = fold != number, fold == number
        for share, target in zip(shares, (feedback[train], permute_queries(feedback[train], rng)), strict=True):
            head = train_bilinear(x[train], z, target, units[train], training)
            share.extend(ordered_pairs(head.scores(x[test], z), feedback[test]))
    return shares


def _good_and_bad(feedback: Vectors, rng: np.random.Generator) -> Iterator[Tensor]:
    """A random column of the best and one of the worst EPR_CHOICE of each row, [N] long each."""
    order = np.argsort(-np.where(np.isnan(feedback), -np.inf, feedback), axis=1, kind="stable")
    counts = (~np.isnan(feedback)).sum(1)
    among = np.minimum(EPR_CHOICE, counts // 2)
    rows = np.arange(len(feedback))
    yield torch.from_numpy(order[rows, rng.integers(among)])
    yield torch.from_numpy(order[rows, counts - 1 - rng.integers(among)])
