"""Mixtures of prompts that share the demonstrations between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from decoding import (
    GroupMixture,
    GroupWeights,
    Note,
    StatefulStrategy,
    StepState,
    Strategy,
    Traits,
    UnitSumStrategy,
)
from decoding.arms.fitting import fit_mixture_weights
from decoding.formulas.distributions import constants_like, steps_per_row
from decoding.formulas.sampling import nucleus_threshold
from decoding.group_mixture import Floats
from decoding.prompt_edits import demonstration_windows, demonstrations, remove_demonstrations
from icl import (
    ConfigError,
    Count,
    Fraction,
    NonNegative,
    Positive,
    PositiveInt,
    Prompt,
    StreamKey,
    Tensor,
    build,
    component,
    later_parameter,
    parameter,
    scipy,
    torch,
)

NEG_INF = -float("inf")


@component("strategy", "nbce")
@dataclass(frozen=True)
class NBCE(UnitSumStrategy, StatefulStrategy):
    """Window of demonstrations with minimal entropy, contrasted with the prompt without demonstrations.

    Naive Bayes context extension (Su et al., NAACL 2024, 2403.17552): windows of demonstrations, pooled at each step.

        scores = (1 + beta) l(y | window) - beta l(y | no demonstrations)

    `window` is the window with minimal entropy at each step, after a top-p cut of all branches. As in the author's
    code, `eta` nats are subtracted from the entropy of the window of the step before. Tokens without probability in the
    empty context after its cut are scored by the window alone. `pooling: mean` averages the log-probabilities of all
    windows, without a cut; beta = n - 1 is then Bayes' rule for n independent windows. The whole prompt is branch 0,
    for traces and controls, and has no weight.

    Differs from the released code in the windows, which are groups of demonstrations (there parts of a long text).
    """

    beta: NonNegative = 0.25  # strength of the contrast with the empty context
    windows: Count = 0  # windows of consecutive demonstrations; 0: one per demonstration
    pooling: Literal["min_entropy", "mean"] = "min_entropy"  # how windows are pooled
    top_p: Fraction = 0.95  # cut of each branch before entropies are compared; 1: none
    eta: NonNegative = 0.1  # nats subtracted from the entropy of the last step's window

    traits = Traits(keeps_state=True, masks_in_combine=True)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        """The prompt, its windows, the query alone."""
        return prompt, *demonstration_windows(prompt, self.windows), remove_demonstrations(prompt)

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        logprobs = logits[1:].log_softmax(-1)
        if self.pooling == "mean":
            return (1 + self.beta) * logprobs[:-1].mean(0) - self.beta * logprobs[-1]
        cut = self._cut(logprobs)
        window, empty = self._pool(cut[:-1], step, states), cut[-1]
        scores: Tensor = (1 + self.beta) * window - self.beta * empty
        return scores.where(empty > NEG_INF, window)

    def _cut(self, logprobs: Tensor) -> Tensor:
        """Log-probabilities [n, B, V], -inf outside the nucleus of each row."""
        if self.top_p == 1:
            return logprobs
        rows = logprobs.flatten(0, 1)
        return rows.masked_fill(rows < nucleus_threshold(rows, self.top_p), NEG_INF).view_as(logprobs)

    def _pool(self, windows: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        """The window with minimal entropy of each row: log-probabilities [n, B, V] -> [B, V]."""
        entropies = torch.special.entr(windows.exp()).sum(-1)
        steps = steps_per_row(step, len(states))
        previous = [state.memory.get(steps[row] - 1) for row, state in enumerate(states)]
        if any(number is not None for number in previous):
            numbers_before = [-1 if number is None else number for number in previous]
            window_before = torch.stack([torch.as_tensor(one, device=entropies.device) for one in numbers_before])
            numbers = torch.arange(len(entropies), device=entropies.device)[:, None]
            entropies = torch.where(numbers == window_before, entropies - self.eta, entropies)
        chosen: Tensor = entropies.argmin(0)
        for row, state in enumerate(states):
            state.memory[steps[row]] = chosen[row]  # stays on the device, so that the host need not wait for it
        return windows[chosen, torch.arange(len(chosen), device=windows.device)]


@component("strategy", "moicl")
@dataclass(frozen=True)
class MoICL(Strategy):
    """Weighted mixture of groups of demonstrations, each read in a prompt of its own.

    Mixtures of in-context learners (Hong et al., ACL 2025, 2411.02830): groups of demonstrations as weighted experts.

        scores = sum_i w_i l(y | demonstrations of group i, query)

    By default each of n groups has the weight 1/n. `icl fit` learns the weights on a dev split from the cross-entropy
    of its options (`decoding.arms.fitting.fit_mixture_weights`). A negative weight makes an anti-expert. `top_k` keeps
    the largest weights by magnitude, without renormalization. The whole prompt is branch 0, for traces and controls,
    and has no weight. With `selection: learned`, the fit chooses the `top_k` groups together with their weights, by the
    paper's gradient for masks (I-MLE). Its control is `selection: random`: as many groups, with weights of their own.

    Differs from the released code in the hypernetwork, which predicts weights of new groups and is missing, and in the
    mask, which the paper has and the released code has not.

    A prompt with fewer groups than weights uses the first weights.
    """

    groups: Count = 0  # groups of consecutive demonstrations; 0: one per weight, or one per demonstration
    group_weights: tuple[float, ...] = parameter("weights", ())  # of the groups, in prompt order; none: all equal
    top_k: Count = 0  # number of weights that are used, the largest by magnitude; 0: all
    selection: Literal["largest", "learned", "random"] = later_parameter("largest")  # of the `top_k` groups, by the fit
    seed: int = later_parameter(0)  # random seed of the mask before its first step

    needs_labels: ClassVar[bool] = True
    weights: ClassVar[None] = None  # they depend on the number of demonstrations

    def __post_init__(self) -> None:
        if self.selection != "largest" and not self.top_k:
            raise ConfigError(
                f"moicl: selection: {self.selection} chooses groups. Set top_k to their number, which is 0."
            )

    def calibration_strategies(self, shots: int) -> tuple[Strategy, ...]:
        """One strategy per group, with the weight 1 for this group. Raises ConfigError without demonstrations."""
        count = min(self.groups or shots, shots)
        if not count:
            raise ConfigError("moicl has weights for groups of demonstrations, but there are none at 0 shots.")
        one_hot = [tuple(float(i == group) for i in range(count)) for group in range(count)]
        alone = replace(self, groups=count, top_k=0, selection="largest")
        return tuple(replace(alone, group_weights=weights) for weights in one_hot)

    def fit(self, logprobs: Tensor, gold: Sequence[int]) -> "MoICL":
        groups, top_k = logprobs.shape[1], self.top_k if self.selection != "largest" else 0
        start = (1e-3 * StreamKey(self.seed, "moicl").numpy("mask").random(groups)).tolist()
        weights = fit_mixture_weights(logprobs, gold, top_k, start, step=float(self.selection == "learned"))
        return replace(self, groups=groups, group_weights=weights)

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return logits.new_full((logits.shape[1], 1), sum(self.effective_weights(len(logits) - 1)))

    def effective_weights(self, count: int) -> tuple[float, ...]:
        """The weights of `count` groups."""
        weights = self.group_weights[:count] if self.group_weights else (1 / count,) * count
        weights += (0.0,) * (count - len(weights))
        if not self.top_k:
            return weights
        largest = sorted(range(count), key=lambda i: -abs(weights[i]))[: self.top_k]
        return tuple(weight if i in largest else 0.0 for i, weight in enumerate(weights))

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        """The prompt, and one prompt per group."""
        return prompt, *demonstration_windows(prompt, self.groups or len(self.group_weights))

    def combine(self, logits: Tensor, step: int) -> Tensor:
        experts = logits[1:].log_softmax(-1)
        weights = constants_like(self.effective_weights(len(experts)), logits)
        return (weights[:, None, None] * experts).sum(0)


@component("strategy", "parallel_icl")
@dataclass(frozen=True)
class ParallelICL(GroupMixture):
    """Mixture of clusters of demonstrations, weighted by their similarity to the query.

    Parallel-ICL (2603.16092): clusters of demonstrations read in parallel, weighted by their similarity to the query.

        v = image vector, text vector (the question and the answer; of the query, its question), or both in one
        chunks = k-means of the demonstrations' v;   even: sorted by cluster, cut into chunks of equal size
        w = softmax(s / tau),      s_n = mean of v_i . v_query in chunk n
        scores = sum_n w_n l(y | chunk n, query)

    The chunks and their weights are the prompt's note. A chunk whose weight is 0 is not read. The whole prompt is
    branch 0, for traces and controls, and has no weight. Controls: `chunks: random`, `share: equal` (`moicl` with
    clustered groups), `share: nearest` and the vote. One group is the whole prompt.

    `preset: paper` is the paper's form. Its text vectors hold the answers, so a chunk may hold one label alone. Differs
    from the released code in the embedder, which is a parameter (there SigLIP so400m; in notes on the paper CLIP
    ViT-L/14), in the start of k-means (k-means++), and in a number of demonstrations that the chunks do not divide:
    some chunks then have one more (there, demonstrations are lost). Its license permits an evaluation of that code
    only, so nothing of it runs in the tests.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"features": "both", "chunks": "even", "tau": 1.0}}

    groups: PositiveInt = 2  # number of chunks
    chunks: Literal["clustered", "even", "consecutive", "random"] = "clustered"  # how demonstrations are divided
    share: Literal["similarity", "equal", "nearest"] = "similarity"  # weights of the chunks
    tau: Positive = 0.1  # temperature of the weights; small: the nearest chunk alone
    embedder: Any = "encoder"  # embedder of images and texts: its name, or a mapping
    features: Literal["images", "texts", "both"] = later_parameter("images")  # what the embedder reads

    def __post_init__(self) -> None:
        embedder = build("embedder", self.embedder)  # refuses an unknown name
        if isinstance(self.embedder, Mapping):  # a strategy can be hashed
            object.__setattr__(self, "embedder", embedder)

    def groups_and_weights(self, prompt: Prompt) -> GroupWeights:
        """The chunks that have a weight above 0."""
        numbers = demonstrations(prompt)
        if not numbers or self.groups == 1:
            return [numbers], [1.0]
        compares = self.chunks in ("clustered", "even") or self.share != "equal"
        vectors = self.vectors(prompt, (*numbers, None)) if compares else np.zeros((len(numbers) + 1, 1))
        chunks = self._chunks(prompt, numbers, vectors[:-1])
        weights = np.full(len(chunks), 1 / len(chunks))
        if self.share != "equal":
            weights = self._weights(np.array([float((vectors[:-1][chunk] @ vectors[-1]).mean()) for chunk in chunks]))
        pairs = [(chunk, float(weight)) for chunk, weight in zip(chunks, weights, strict=True) if weight > 0]
        return [[numbers[i] for i in chunk] for chunk, _ in pairs], [weight for _, weight in pairs]

    def _weights(self, similarity: Floats) -> Floats:
        scaled = similarity / (self.tau if self.share == "similarity" else 1e-9)
        weights = np.exp(scaled - scaled.max())
        return np.asarray(weights / weights.sum())

    def _chunks(self, prompt: Prompt, numbers: Sequence[int], vectors: Floats) -> list[list[int]]:
        """Places of the demonstrations of each chunk, in prompt order."""
        count = min(self.groups, len(numbers))
        order = list(range(len(numbers)))
        if self.chunks == "random":
            order = prompt.key.order("parallel_icl/chunks", [str(number) for number in numbers])
        labels = [place * count // len(numbers) for place in np.argsort(order).tolist()]
        if self.chunks in ("clustered", "even"):
            key = prompt.key.numpy("parallel_icl/clusters")
            clusters = scipy.cluster.vq.kmeans2(vectors, count, minit="++", seed=key)[1].tolist()
            by_cluster = sorted(order, key=clusters.__getitem__)
            labels = clusters if self.chunks == "clustered" else [labels[by_cluster.index(i)] for i in order]
        chunks = [[i for i, label in enumerate(labels) if label == chunk] for chunk in range(count)]
        return [chunk for chunk in chunks if chunk]
