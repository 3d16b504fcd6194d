"""Facts about a strategy, found by calling it: its branches, its weights, and the hidden temperature of their sum.

A strategy need not declare its weights. They are measured on random logits, at several steps, as the slope of the
combined scores when the logits of one branch change. Weights that differ between measurements count as varying (None).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product

from icl import PIL, ConfigError, Image, Part, Prompt, Strategy, StreamKey, Tensor, Turn, spans, torch

VOCABULARY = 64
EXITS = 4
"""Number of early layers in measurements."""
STEPS = (0, 1, 8, 64)
"""Steps of measurements. The weights of some strategies depend on the step."""


def probe_prompt(shots: int = 2) -> Prompt:
    """A small prompt with named parts, images and different answers, and another one as its paired prompt."""
    return replace(_make_prompt(shots, "probe", 99), paired_prompt=_make_prompt(shots, "other probe", 98))


def _make_prompt(shots: int, query: str, number: int) -> Prompt:
    parts: list[Part] = []
    for i in range(shots):
        demo = spans.demo(i)
        parts += [
            Part(_image(i), spans.image(demo)),
            Part("Which color?", spans.question(demo)),
            Part(("red", "blue", "green")[i % 3], spans.answer(demo)),
        ]
    parts += [Part(_image(number), spans.image(spans.QUERY)), Part("Which color?", spans.QUESTION)]
    return Prompt((Turn("user", tuple(parts)),), StreamKey(0, query))


def probe_branches(strategy: Strategy, prompt: Prompt | None = None) -> tuple[Prompt, ...]:
    """The branches of a prompt, by default of `probe_prompt()`. Raises ConfigError if they are not prompts."""
    branches = call_branches(strategy, prompt)
    if not isinstance(branches, Sequence) or not branches or not all(isinstance(one, Prompt) for one in branches):
        name = type(strategy).__name__
        raise ConfigError(f"{name}.branches() returned no tuple of prompts: {branches!r:.80} (icl check strategy …).")
    return branches


def call_branches(strategy: Strategy, prompt: Prompt | None = None) -> tuple[Prompt, ...]:
    """Whatever `branches` returns for a prompt. The generation of `prepare` returns different sentences."""
    prompt = probe_prompt() if prompt is None else prompt
    (note,) = strategy.prepare([prompt], lambda prompts, max_new_tokens: [f"square {i}" for i in range(len(prompts))])
    return strategy.branches(prompt, note)


@lru_cache
def branch_count(strategy: Strategy) -> int:
    """Number of prompts that a strategy reads."""
    return len(probe_branches(strategy))


def logits_count(strategy: Strategy) -> int:
    """Number of distributions that `combine` receives in measurements."""
    return branch_count(strategy) + (EXITS if strategy.traits.reads_early_exits else 0)


def has_reference_scores(strategy: Strategy) -> bool:
    """Whether the class leaves the scores to `Strategy`, so that they are the logits of branch 0."""
    inherited = Strategy.combine, Strategy.combine_stateful, Strategy.mask
    methods = type(strategy).combine, type(strategy).combine_stateful, type(strategy).mask
    return methods == inherited and not strategy.traits.rows_per_beam


def declares_weights(strategy: Strategy) -> bool:
    """Whether the strategy defines its weights."""
    return type(strategy).weights is not Strategy.weights


def constant_weights(strategy: Strategy) -> tuple[float, ...] | None:
    """The constant weights of the branches, declared or measured, or None if they vary."""
    if declares_weights(strategy):
        return strategy.weights
    if has_reference_scores(strategy):  # measuring imports torch, which a plan of greedy decoding does not need
        return (1.0, *[0.0] * (logits_count(strategy) - 1))
    return measure_weights(strategy)


def constant_strength(strategy: Strategy) -> float | None:
    """The sum of the weights, a hidden inverse temperature, or None if the weights vary."""
    weights = constant_weights(strategy)
    return None if weights is None else sum(weights)


@lru_cache
def min_strength(strategy: Strategy) -> float:
    """The sum of the weights; if they vary, the minimum on random logits at several steps."""
    strength = constant_strength(strategy)
    if strength is not None:
        return strength
    return min(float(varying_strength(strategy, z, step).min()) for z in _random_logits(strategy) for step in STEPS)


def varying_strength(strategy: Strategy, logits: Tensor, step: int) -> Tensor:
    """The sum of weights that vary [B, 1]. Raises ConfigError if the strategy does not define it."""
    try:
        return strategy.strength(logits, step)
    except NotImplementedError as error:
        by_step = "; ".join(f"step {other}: {_weights_at(strategy, other)}" for other in STEPS)
        raise ConfigError(
            f"{type(strategy).__name__}.combine() weighs the branches differently from step to step or from row to row "
            f"({by_step}). Controls need the sum of the weights: define strength(logits, step) -> [B, 1]."
        ) from error


def _weights_at(strategy: Strategy, step: int) -> str:
    slopes = [weights for _, weights in measure_slopes(strategy, step)]
    first = slopes[0]
    if first is None or any(other is None or not close_weights(first, other) for other in slopes):
        return "from row to row"
    return ", ".join(f"{weight:.3g}" for weight in first)


def close_weights(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether weights differ by less than a hundredth."""
    return all(abs(x - y) <= 1e-2 * (1 + abs(x)) for x, y in zip(a, b, strict=True))


@lru_cache
def has_negative_weight(strategy: Strategy) -> bool:
    """Whether a branch lowers the probability of a token: by its weight or, if weights vary, on random logits."""
    weights = constant_weights(strategy)
    if weights is not None:
        return any(weight < 0 for weight in weights)
    for z, step in product(_random_logits(strategy), STEPS):
        before = strategy.combine(z, step).softmax(-1)[..., 0]
        for b in range(1, len(z)):
            moved = z.clone()
            moved[b, :, 0] += 0.1
            if bool((strategy.combine(moved, step).softmax(-1)[..., 0] < before - 1e-6).any()):
                return True
    return False


@lru_cache
def edits_query_image(strategy: Strategy) -> bool:
    """Whether a branch contains an edited image of the query."""
    parts = [part for branch in probe_branches(strategy) for part in branch.parts() if part.within("query")]
    return any(part.image is not None and len(part.image.edits) > 0 for part in parts)


def _random_logits(strategy: Strategy) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for scale in (0.5, 3.0):
        yield scale * torch.randn(logits_count(strategy), 16, VOCABULARY, generator=generator)


@lru_cache
def measure_weights(strategy: Strategy) -> tuple[float, ...] | None:
    """The weights by measurement, [combine(z + d on branch b) - combine(z)] / d, or None if they are not constant."""
    measured: list[tuple[float, ...]] = []
    for step in STEPS:
        for _, slopes in measure_slopes(strategy, step):
            if slopes is None:
                return None
            measured.append(slopes)
    first = measured[0]
    is_constant = all(abs(a - b) < 1e-3 * (1 + abs(a)) for other in measured for a, b in zip(first, other, strict=True))
    return tuple(round(slope, 3) for slope in first) if is_constant else None


def measure_slopes(strategy: Strategy, step: int) -> Iterator[tuple[Tensor, tuple[float, ...] | None]]:
    """Yields random logits [n, 1, V] and the weight of each branch there, or None if the scores are not linear."""
    count = logits_count(strategy)
    generator = torch.Generator().manual_seed(0)
    for scale in (0.5, 3.0):
        base = scale * torch.randn(count, 1, VOCABULARY, generator=generator)
        slopes: list[float] = []
        for b in range(count):
            moved = base.clone()
            moved[b] += 0.5 * torch.randn(1, VOCABULARY, generator=generator)
            slope = _slope(strategy, base, moved, b, step)
            if slope is not None:
                slopes.append(slope)
        yield base, tuple(slopes) if len(slopes) == count else None


def _combined(strategy: Strategy, logits: Tensor, step: int) -> Tensor:
    scores = strategy.combine(logits, step)
    if not isinstance(scores, torch.Tensor) or scores.shape != logits.shape[1:] or not scores.is_floating_point():
        actual = f"{scores.dtype} {list(scores.shape)}" if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise ConfigError(
            f"{type(strategy).__name__}.combine() returned {actual} for logits of {list(logits.shape)}. It must return "
            f"float32 scores [batch, vocabulary], here {list(logits.shape[1:])} (icl check strategy …)."
        )
    return scores


def _slope(strategy: Strategy, base: Tensor, moved: Tensor, branch: int, step: int) -> float | None:
    """Change of the combined scores relative to the change of one branch, or None if it is not proportional."""
    before, after = _combined(strategy, base.clone(), step), _combined(strategy, moved.clone(), step)
    is_finite = (before.isfinite() & after.isfinite())[0]
    rise, move = (after - before)[0, is_finite], (moved - base)[branch, 0, is_finite]
    rise, move = rise - rise.mean(), move - move.mean()
    if int(is_finite.sum()) < 3:
        return None
    slope = float((rise * move).sum() / (move * move).sum())
    return slope if float((rise - slope * move).abs().max()) < 1e-3 * (1 + abs(slope)) else None


def _image(number: int) -> Image:
    def load() -> "PIL.Image.Image":
        return PIL.Image.new("RGB", (16, 16), (20 + 2 * number, 120, 200 - number))

    return Image.from_source(load, f"made-up image {number}")
