"""The first stage at which two sides part, in one sentence with the likely cause; its table and its JSON.

The rungs of the ladder come first, then the study's own prompts. If the first step differs even without an image, by
less than ARITHMETIC, rounding may explain it; rungs whose difference is ALONE times larger are named beside it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.diff.comparison import Limits, PromptComparison, StageStatus
from experiments.diff.recording import Side
from icl import strip_control_characters
from icl.models.tracing import WEIGHTS, Stage

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
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def plain(text: str) -> Text:
        return Text(strip_control_characters(text))

    console = Console(highlight=False)
    for label, side in (("A", a), ("B", b)):
        arithmetic = side.facts.get("arithmetic", {}).get("dtype")
        console.print(plain(f"{label}  {side.name}{f'   {arithmetic}' if arithmetic else ''}"))
    table = Table(box=None, pad_edge=False)
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
