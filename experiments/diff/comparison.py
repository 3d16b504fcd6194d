"""Compares two sides prompt by prompt and stage by stage.

Two answers are one if the distance of their first log-probabilities (`icl.probe.distances`) is at most

    tolerance = max(.002, 3 noise, 8 eps)      noise: of one prompt that is sent twice; eps: of 16-bit weights, if both
                                               sides have them or one does not say

Greedy tokens may part where the margin is of the size of the noise; above 10 tolerances, decoding differs.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from experiments.diff.recording import Entry, Script, Side
from icl import PlanError
from icl.models.tracing import Stage, Trace
from icl.probe.distances import FLOOR, NOISE_FACTOR, Answer, distance

if TYPE_CHECKING:
    import numpy as np

EPSILON = {"bfloat16": 2**-8, "float16": 2**-11}
KERNELS = 8
"""Units in the last place of 16-bit weights by which log-probabilities of two kernels differ."""
CLEAR_MARGIN = 10
"""Tolerances above which a margin is no tie."""
PIXEL_TOLERANCE = 1e-4
FEATURE_TOLERANCE = 1e-3
"""Relative to the root mean square."""
LINEAR = 0.9999
"""Correlation of pixel values that are equal up to scale and offset."""
EXCERPT = 24


class StageStatus(StrEnum):
    """What is known of a stage of one prompt."""

    EQUAL = "equal"
    DIFFERS = "differs"
    HIDDEN = "hidden"


@dataclass(frozen=True)
class Outcome:
    """One stage of one prompt. size: of the difference, in the unit of the stage. cause: if the values tell it."""

    status: StageStatus
    text: str = ""
    size: float = 0.0
    cause: str = ""


EQUAL, HIDDEN = Outcome(StageStatus.EQUAL), Outcome(StageStatus.HIDDEN)


@dataclass(frozen=True)
class Limits:
    """What counts as equal. tolerance: nats. eps: of the coarser dtype that a side states."""

    tolerance: float
    eps: float
    image_tokens: frozenset[int]


@dataclass(frozen=True)
class PromptComparison:
    """One prompt."""

    name: str
    cause: str
    outcomes: Mapping[Stage, Outcome]

    @property
    def first(self) -> Stage | None:
        """The first stage that differs."""
        return next((stage for stage, one in self.outcomes.items() if one.status is StageStatus.DIFFERS), None)


def compare(a: Side, b: Side, tolerance: float | None = None) -> tuple[Limits, list[PromptComparison]]:
    """The limits, and the rows of the prompts that both sides have.

    Args:
        a: A side.
        b: The other.
        tolerance: Of log-probabilities in nats; by default from noise and dtypes.

    Raises:
        PlanError: The sides have models of different sizes, or other ladders.
    """
    check_comparable(a, b)
    dtypes = {str(side.facts.get("arithmetic", {}).get("dtype")) for side in (a, b)} - {"None"}
    eps = max((EPSILON.get(dtype, 0.0) for dtype in dtypes), default=0.0)
    usual = max(FLOOR, NOISE_FACTOR * max(a.noise, b.noise), KERNELS * eps if len(dtypes) == 1 else 0.0)
    tokens = (token for side in (a, b) for token in side.facts.get("tokenizer", {}).get("image tokens", ()))
    limits = Limits(usual if tolerance is None else tolerance, eps, frozenset(tokens))
    of_b = {entry.name: entry for entry in b.entries}
    pairs = [(entry, of_b[entry.name]) for entry in a.entries if entry.name in of_b]
    return limits, [PromptComparison(x.name, x.cause, compare_entries(x, y, limits)) for x, y in pairs]


def check_comparable(a: Side, b: Side) -> None:
    """Raises PlanError if the sides cannot be one model, or were recorded with different prompts."""
    one, two = (side.facts.get("checkpoint", {}) for side in (a, b))
    if other := [key for key in one if key in two and one[key] != two[key]]:
        texts = ", ".join(f"{key} {one[key]} and {two[key]}" for key in other)
        raise PlanError(
            f"{a.name} and {b.name} are two different checkpoints ({texts}), whose answers differ at every stage. "
            "Name one checkpoint on both sides."
        )
    if a.edge != b.edge:
        raise PlanError(
            f"{a.name} was recorded with images of {a.edge} pixels and {b.name} with {b.edge}, so their prompts "
            "differ. Record one of them next to the file of the other: icl doctor backends FILE MODEL STUDY --save "
            "FILE."
        )


def compare_entries(a: Entry, b: Entry, limits: Limits) -> dict[Stage, Outcome]:
    """Stage -> outcome, in order."""
    outcomes = {Stage.PROMPT: _scripts(a.script, b.script)}
    return outcomes | {stage: function(a.trace, b.trace, limits) for stage, function in STAGES.items()}


def _scripts(a: Script, b: Script) -> Outcome:
    if a == b:
        return EQUAL
    roles = [[role for role, _ in one] for one in (a, b)]
    images = [[part for _, parts in one for part in parts if part.startswith("<image ")] for one in (a, b)]
    if roles[0] != roles[1]:
        cause = "the system turn" if ("system" in roles[0]) != ("system" in roles[1]) else "the composer or the shots"
        return _differs(f"the turns are {' '.join(roles[0])} and {' '.join(roles[1])}", cause=cause)
    if images[0] != images[1]:
        is_order = sorted(images[0]) == sorted(images[1])
        what = "the same images in another order" if is_order else f"{len(images[0])} and {len(images[1])} images"
        return _differs(what, cause="order of images" if is_order else "other images or other demonstrations")
    texts = [" | ".join(part for _, parts in one for part in parts) for one in (a, b)]
    return _differs(_texts_part(*texts), cause="the texts that the study composes")


def _texts(a: Trace, b: Trace, _limits: Limits) -> Outcome:
    if a.text is None or b.text is None:
        return HIDDEN
    return EQUAL if a.text == b.text else _differs(_texts_part(a.text, b.text))


def _texts_part(a: str, b: str) -> str:
    i = first_difference(a, b)
    return f"from character {i} on: {a[i : i + EXCERPT]!r} and {b[i : i + EXCERPT]!r}"


def _ids(a: Trace, b: Trace, limits: Limits) -> Outcome:
    if a.ids is None or b.ids is None:
        if a.prompt_tokens is None or b.prompt_tokens is None:
            return HIDDEN
        change = b.prompt_tokens - a.prompt_tokens
        text = f"{a.prompt_tokens} and {b.prompt_tokens} prompt tokens"
        return (
            _differs(text, abs(change)) if change else Outcome(StageStatus.EQUAL, "equal numbers; the ids are hidden")
        )
    one, two = ([i for i in ids if i not in limits.image_tokens] for ids in (a.ids, b.ids))
    if one == two:
        return EQUAL
    i = first_difference(one, two)
    return _differs(f"{len(one)} and {len(two)} tokens of text, from {i} on: {one[i : i + 4]} and {two[i : i + 4]}", i)


def _images(a: Trace, b: Trace, limits: Limits) -> Outcome:
    if a.ids is not None and b.ids is not None and limits.image_tokens:
        runs = [_runs(ids, limits.image_tokens) for ids in (a.ids, b.ids)]
        if runs[0] != runs[1]:
            return _differs(f"{_listed(runs[0])} and {_listed(runs[1])} image tokens", abs(sum(runs[0]) - sum(runs[1])))
    if a.pixels is None or b.pixels is None:
        return HIDDEN
    sizes = [[tuple(values.shape) for values in trace.pixels or ()] for trace in (a, b)]
    if len(sizes[0]) != len(sizes[1]):
        return _differs(f"{len(sizes[0])} and {len(sizes[1])} images", cause="an image is dropped")
    if sizes[0] != sizes[1]:
        i = first_difference(*sizes)
        cause = "order of images" if sorted(sizes[0]) == sorted(sizes[1]) else "resize: another target size or limit"
        return _differs(f"image {i + 1} has pixel values {sizes[0][i]} and {sizes[1][i]}", cause=cause)
    return EQUAL


def _runs(ids: Sequence[int], tokens: frozenset[int]) -> list[int]:
    """Lengths of the runs of image tokens."""
    return [len(list(group)) for is_image, group in itertools.groupby(ids, tokens.__contains__) if is_image]


def _listed(runs: Sequence[int]) -> str:
    return "+".join(map(str, runs)) or "0"


def _pixels(a: Trace, b: Trace, limits: Limits) -> Outcome:
    if a.pixels is None or b.pixels is None:
        return HIDDEN
    if [x.shape for x in a.pixels] != [y.shape for y in b.pixels]:
        return _differs("other sizes")
    differences = [(float(abs(x - y).max()), i) for i, (x, y) in enumerate(zip(a.pixels, b.pixels, strict=True))]
    size, i = max(differences, default=(0.0, 0))
    largest = max((float(abs(x).max()) for x in a.pixels), default=1.0)
    if size <= max(PIXEL_TOLERANCE, limits.eps * largest):
        return EQUAL
    text = f"values differ by up to {size:.2g} in image {i + 1} of {len(a.pixels)}"
    return _differs(text, size, pixel_cause(a.pixels, b.pixels, i))


def pixel_cause(a: "Sequence[np.ndarray]", b: "Sequence[np.ndarray]", i: int) -> str:
    """What makes pixel values of equal shapes differ.

    Args:
        a: For each image, [..., 3, H, W], or [patches, values] with the channels one after another.
        b: As a.
        i: The image that differs most.
    """
    import numpy as np

    def matches(x: "np.ndarray", y: "np.ndarray") -> bool:
        return x.shape == y.shape and bool(np.allclose(x, y, atol=PIXEL_TOLERANCE))

    if len(a) > 1 and all(any(matches(x, y) for y in b) for x in a):
        places = [next(j + 1 for j, y in enumerate(b) if matches(x, y)) for x in a]
        return f"order of images: those of A are {' '.join(map(str, places))} in B"
    x, y = (_by_channel(one[i]) for one in (a, b))
    if x is None or y is None:
        return "settings of the image processor"
    if matches(x, y[::-1]):
        return "order of the color channels (RGB, BGR)"
    pairs = [(one - one.mean(), two - two.mean()) for one, two in zip(x, y, strict=True)]
    scales = [(float(one.std()), float(two.std()), float((one * two).mean())) for one, two in pairs]
    if all(u * v == 0 or product >= LINEAR * u * v for u, v, product in scales):
        return "scale, mean or standard deviation of the normalization"
    return "resize: filter (resample), cropping or antialiasing"


def _by_channel(values: "np.ndarray") -> "np.ndarray | None":
    """[3, values], or None if the channels cannot be found."""
    if values.ndim == 2 and values.shape[1] % 3 == 0:
        values = values.reshape(len(values), 3, 1, -1)
    if values.ndim < 3 or values.shape[-3] != 3:
        return None
    channels: np.ndarray = values.swapaxes(0, -3).reshape(3, -1)
    return channels


def _features(a: Trace, b: Trace, limits: Limits) -> Outcome:
    if a.features is None or b.features is None:
        return HIDDEN
    if [x.shape for x in a.features] != [y.shape for y in b.features]:
        return _differs("other numbers of features")
    size = max((_relative(x, y) for x, y in zip(a.features, b.features, strict=True)), default=0.0)
    is_equal = size <= max(FEATURE_TOLERANCE, KERNELS * limits.eps)
    return EQUAL if is_equal else _differs(f"they differ by {size:.2g} of their root mean square", size)


def _relative(x: "np.ndarray", y: "np.ndarray") -> float:
    return float(((x - y) ** 2).mean() ** 0.5 / max((x**2).mean() ** 0.5, 1e-12))


def _first(a: Trace, b: Trace, limits: Limits) -> Outcome:
    if a.error or b.error:
        side, error = ("A", a.error) if a.error else ("B", b.error)
        if a.error and b.error:
            return Outcome(StageStatus.HIDDEN, f"both sides refuse the prompt: {error}")
        return _differs(f"{side} refuses the prompt: {error}")
    if not (a.top and b.top):
        return HIDDEN
    size = distance(Answer(a.top), Answer(b.top))
    text = f"log-probabilities differ by {size:.2g} nats"
    return Outcome(StageStatus.EQUAL, text, size) if size <= limits.tolerance else _differs(text, size)


def _tokens(a: Trace, b: Trace, limits: Limits) -> Outcome:
    if a.error or b.error:
        return HIDDEN
    if not (a.margins and b.margins):
        if a.answer == b.answer:
            return EQUAL
        return _differs(f"the answers are {a.answer[:EXCERPT]!r} and {b.answer[:EXCERPT]!r}")
    one, two = ([*trace.tokens, *[None] * trace.stopped] for trace in (a, b))
    step = first_difference(one, two)
    if step >= min(len(one), len(two)):
        return Outcome(StageStatus.EQUAL, f"{min(len(a.tokens), len(b.tokens))} equal tokens")
    margins = [one.margins[step] for one in (a, b) if step < len(one.margins)]
    size = min(margins, default=0.0)
    text = f"they diverge at token {step + 1}, with margins of {' and '.join(f'{one:.2g}' for one in margins)} nats"
    if size <= CLEAR_MARGIN * limits.tolerance:
        return Outcome(StageStatus.EQUAL, f"{text}: a tie", size)
    return _differs(text, size)


STAGES: Mapping[Stage, Callable[[Trace, Trace, Limits], Outcome]] = {
    Stage.TEXT: _texts,
    Stage.IDS: _ids,
    Stage.IMAGES: _images,
    Stage.PIXELS: _pixels,
    Stage.FEATURES: _features,
    Stage.FIRST: _first,
    Stage.TOKENS: _tokens,
}


def first_difference(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The first place where two sequences differ; the length of the shorter one if it begins the other."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _differs(text: str, size: float = 0.0, cause: str = "") -> Outcome:
    return Outcome(StageStatus.DIFFERS, text, float(size), cause)
