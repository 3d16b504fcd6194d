"""Compares two sides prompt by prompt and stage by stage.

Two answers are one if the distance of their first log-probabilities (`icl.probe.distances`) is at most

    tolerance = max(.002, 3 noise, 8 eps)      noise: of one prompt that is sent twice; eps: of 16-bit weights, if both
                                               sides have them or one does not say

Greedy tokens may part where the margin is of the size of the noise; above 10 tolerances, decoding differs.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from experiments.diff.recording import Entry, Script, Side
from icl import PlanError, np, rich, strip_control_characters
from icl.models.tracing import WEIGHTS, Stage, Trace
from icl.probe.distances import FLOOR, NOISE_FACTOR, Answer, distance

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
    return limits, [PromptComparison(x.name, x.cause, _outcomes(x, y, limits)) for x, y in pairs]


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


def _outcomes(a: Entry, b: Entry, limits: Limits) -> dict[Stage, Outcome]:
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
    return values.swapaxes(0, -3).reshape(3, -1)


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


# The first stage at which two sides part, in one sentence with the likely cause; its table and its JSON.
#
# The rungs of the ladder come first, then the study's own prompts. If the first step differs even without an image, by
# less than ARITHMETIC, rounding may explain it; rungs whose difference is ALONE times larger are named beside it.


ARITHMETIC = 0.3
"""Nats. Rounding changes the first step by less."""
ALONE = 10
"""Times the difference without an image, above which a rung has a cause of its own."""
GROUPS: dict[Stage, tuple[str, ...]] = {
    Stage.PROMPT: (),
    Stage.TEXT: ("template", "tokenizer", "versions"),
    Stage.IDS: ("tokenizer", "template", "versions"),
    Stage.IMAGES: ("images", "versions"),
    Stage.PIXELS: ("images", "versions"),
    Stage.FEATURES: ("weights", "arithmetic", "versions"),
    Stage.FIRST: ("weights", "arithmetic", "versions"),
    Stage.TOKENS: ("arithmetic", "versions"),
}
"""Stage -> groups of facts that can change it, the likeliest first."""
USUAL: dict[Stage, str] = {
    Stage.PROMPT: "the study",
    Stage.TEXT: "chat template",
    Stage.IDS: "special tokens, chat template or tokenizer",
    Stage.IMAGES: "resize: image size limit, target size or tiles",
    Stage.PIXELS: "settings of the image processor",
    Stage.FEATURES: "dtype or weights of the vision tower",
    Stage.FIRST: "dtype, kernels, quantization, an adapter, or a stage that a side hides",
    Stage.TOKENS: "the answer is not greedy, or it is edited",
}
"""Stage -> likely cause if nothing tells more."""
ORDER = list(Stage)


@dataclass(frozen=True)
class Parting:
    """Where two sides part.

    Attributes:
        prompt: Name of the first prompt that differs; '' if none does.
        stage: The first stage that differs there.
        text: The difference, quantified.
        causes: Likely causes, the likeliest first.
        others: Sentences on prompts that differ for another reason.
    """

    prompt: str = ""
    stage: Stage | None = None
    text: str = ""
    causes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        if self.stage is None:
            return "No difference beyond numerical noise."
        also = "".join(f" Beside it, {text}." for text in self.others)
        cause = "; ".join(self.causes)
        return f"They diverge at {self.prompt}, in the {self.stage}: {self.text}. Likely cause: {cause}.{also}"


def verdict(a: Side, b: Side, rows: Sequence[PromptComparison]) -> Parting:
    """The verdict on compared prompts. The first row is that of a text without images."""
    parted = [(row, stage) for row in rows if (stage := row.first) is not None]
    if not parted:
        return Parting()
    row, stage = parted[0]
    level = rows[0].outcomes[Stage.FIRST].size
    is_arithmetic = row is rows[0] and stage is Stage.FIRST and level < ARITHMETIC
    own = causes(a, b, row, stage)
    others: dict[tuple[str, ...], str] = {}
    for other, its in parted[1:]:
        size = other.outcomes[its].size
        is_earlier = ORDER.index(its) < min(ORDER.index(stage), ORDER.index(Stage.FEATURES))
        if is_earlier or (is_arithmetic and its is Stage.FIRST and size > ALONE * level):
            likely = causes(a, b, other, its)
            text = f"'{other.name}' diverges in the {its}: {other.outcomes[its].text} ({'; '.join(likely)})"
            others.setdefault(likely, text)
    return Parting(f"'{row.name}'", stage, row.outcomes[stage].text, own, tuple(others.values()))


def causes(a: Side, b: Side, row: PromptComparison, stage: Stage) -> tuple[str, ...]:
    """Likely causes of a difference: what its values say, facts that differ, what the rung adds, else the usual one."""
    own = row.outcomes[stage].cause
    groups = {group: [text for its, text in fact_differences(a, b) if its == group] for group in GROUPS[stage]}
    settings = next((texts for group, texts in groups.items() if texts and group != "versions"), [])
    is_hidden = row.outcomes[Stage.PIXELS].status is StageStatus.HIDDEN
    rung = row.cause if is_hidden and not settings and stage is not Stage.TOKENS else ""
    likely = [text for text in (own, *settings, rung) if text] or [USUAL[stage]]
    return (*likely, *groups.get("versions", ()))


def fact_differences(a: Side, b: Side) -> Iterator[tuple[str, str]]:
    """(group, sentence) of each setting that both sides state and that differs."""
    for group, facts in a.facts.items():
        others = b.facts.get(group, {})
        for name, value in facts.items():
            if name == WEIGHTS and others.get(name, value) != value:
                yield group, f"two different checkpoints of one size: {name} {value} and {others[name]}"
            elif name in others and others[name] != value:
                yield group, f"{name} is {_written(value)} in A and {_written(others[name])} in B"


def _written(value: Any) -> str:
    return "none" if value is None else str(value)


def stage_rows(a: Side, b: Side, rows: Sequence[PromptComparison]) -> Iterator[tuple[str, str, str, str]]:
    """Of each stage: name, whether it differs, the largest difference or why it is hidden, and the first prompt."""
    for stage in Stage:
        outcomes = [(row.name, row.outcomes[stage]) for row in rows]
        visible = [(name, one) for name, one in outcomes if one.status is not StageStatus.HIDDEN]
        differing = [(name, one) for name, one in visible if one.status is StageStatus.DIFFERS]
        reasons = [f"{label}: {side.hidden[stage]}" for label, side in (("A", a), ("B", b)) if stage in side.hidden]
        if not visible:
            yield stage, "hidden", "; ".join(reasons) or "neither side shows it", ""
            continue
        _, largest = max(differing or visible, key=lambda item: (item[1].size, item[1].text))
        if differing:
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            yield stage, "differs", largest.text, f"{differing[0][0]}{more}"
        else:
            yield stage, "equal", largest.text, f"{len(visible)} prompts"


def print_table(a: Side, b: Side, rows: Sequence[PromptComparison], limits: Limits, result: Parting) -> None:
    """Prints sides, stages, settings that differ, and the verdict."""

    def plain(text: str) -> rich.text.Text:
        return rich.text.Text(strip_control_characters(text))

    console = rich.console.Console(highlight=False)
    for label, side in (("A", a), ("B", b)):
        arithmetic = side.facts.get("arithmetic", {}).get("dtype")
        console.print(plain(f"{label}  {side.name}{f'   {arithmetic}' if arithmetic else ''}"))
    table = rich.table.Table(box=None, pad_edge=False)
    for name in ("stage", "", "largest difference", "prompts"):
        table.add_column(name, overflow="fold")
    for cells in stage_rows(a, b, rows):
        table.add_row(*map(plain, cells), style="bold" if cells[1] == "differs" else None)
    console.print(table)
    for _, text in fact_differences(a, b):
        console.print(plain(f"setting  {text}"))
    if missing := abs(len(a.entries) - len(rows)) + abs(len(b.entries) - len(rows)):
        console.print(plain(f"note     {missing} prompts are on one side only: the studies differ"))
    for row in rows:
        if (first := row.outcomes[Stage.FIRST]).status is StageStatus.HIDDEN and first.text:
            console.print(plain(f"note     {row.name}: {first.text}"))
    console.print(plain(f"{result.sentence} (log-probabilities: equal up to {limits.tolerance:.2g} nats)"))


def to_json(a: Side, b: Side, rows: Sequence[PromptComparison], limits: Limits, result: Parting) -> dict[str, Any]:
    """The comparison as JSON values."""
    return {
        "sides": [{"name": s.name, "facts": s.facts, "hidden": s.hidden, "noise": s.noise} for s in (a, b)],
        "tolerance": limits.tolerance,
        "verdict": {**vars(result), "differs": result.stage is not None, "sentence": result.sentence},
        "stages": [
            dict(zip(("stage", "status", "text", "prompts"), row, strict=True)) for row in stage_rows(a, b, rows)
        ],
        "prompts": [
            {"name": row.name, "first": row.first, "stages": {s: vars(one) for s, one in row.outcomes.items()}}
            for row in rows
        ],
    }
