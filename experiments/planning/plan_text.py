"""Format a plan for the terminal."""

import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress

from experiments.planning.plan import DecodingPlan, Plan
from experiments.stats.formatting import format_count as counted_noun
from icl import ConfigError, Model, ModelError, expand_user
from icl.metrics.machinery.judge import CONTROLS, Judge
from icl.models.hf.memory import MemoryPlan, RequestSize, gib, model_bytes
from retrievers import GIB, SHIPPED, PlacedEmbedder, gpu_memory, needed_bytes, placed_embedders

GAP = 3
"""Spaces between two columns of the table."""


def format_plan(plan: Plan, width: int | None = None) -> Iterator[str]:
    """The lines of `icl plan`, wrapped to a width if there is one."""
    for head, text in _lines(plan, width):
        yield from hanging_lines(head, text, width)


def format_count(count: float) -> str:
    """'3,140', '96 M': an estimate with few digits."""
    if count >= 10e9:
        return f"{count / 1e9:,.0f} G"
    if count >= 10e6:
        return f"{count / 1e6:,.0f} M"
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{round(count):,}"


def hanging_lines(head: str, text: str, width: int | None) -> list[str]:
    """The text after its head, wrapped with a hanging indent. It starts below a head that is wide."""
    if width is None or len(head) + len(text) <= width:
        return [f"{head}{text}"]
    if 2 * len(head) > width:
        return [*_wrap(head.rstrip(), width, "    "), *_wrap(f"    {text}", width, "    ")]
    return _wrap(f"{head}{text}", width, " " * len(head))


def _wrap(text: str, width: int, below: str) -> list[str]:
    return textwrap.wrap(text, max(width, 20), subsequent_indent=below, break_on_hyphens=False)


def _lines(plan: Plan, width: int | None) -> Iterator[tuple[str, str]]:
    config, work = plan.grid.config, plan.work
    seeds = f" x {len(config.seeds)} seeds" if len(config.seeds) > 1 else ""
    shared = f" ({plan.sharing} share their demonstrations)" if plan.sharing else ""
    arms, cells = counted_noun(plan.arms, "arm"), counted_noun(len(plan.grid.cells), "cell")
    yield "", f"{arms}{seeds}{shared}   {cells}   {counted_noun(plan.samples, 'sample')}"
    if plan.present:
        yield "reused       ", f"{plan.present:,} samples are finished, {plan.samples - plan.present:,} are missing"
    edited = f" and {format_count(work.edited)} edits of them" if work.edited else ""
    uses = format_count(work.num_images)
    yield "images     ", f"{format_count(work.images)} distinct{edited}, encoded once; shown {uses} times"
    if plan.image_tokens:
        yield "image tokens ", "; ".join(plan.image_tokens)
    all_prompts = format_count(work.prompts_alone)
    yield "prompts      ", f"{format_count(work.prompts)} prefilled, {all_prompts} without sharing"
    saved = f" ({1 - work.tokens / work.tokens_alone:.0%} saved)" if work.tokens_alone else ""
    all_tokens = format_count(work.tokens_alone)
    yield "tokens       ", f"{format_count(work.tokens)} computed, {all_tokens} without sharing{saved}"
    if plan.cached_fraction is not None:
        yield (
            "prefix cache ",
            f"{plan.cached_fraction:.0%} of the prompt tokens are in vLLM's prefix cache, if it holds all of them",
        )
    counted = "; ".join(f"{title} {n:,} of {of:,}" for title, (n, of) in plan.counted.items() if n < of)
    if counted:
        yield " " * 13, f"estimated from a random choice of queries: {counted}"
    for name, metric in plan.grid.metrics.items():
        if isinstance(metric, Judge):
            yield (
                "judge        ",
                f"{name}: asked once for each distinct question and answer, so at most {plan.samples:,} times, and for "
                f"its controls on up to {CONTROLS} queries",
            )
    depends = {"answers depend": plan.answer_files, "scores depend": plan.score_files}
    if own_files := "; ".join(f"{what} on {', '.join(files)}" for what, files in depends.items() if files):
        yield "own code     ", own_files
    if work.failed:
        yield " " * 13, f"{format_count(work.failed)} samples have no prompt; the reasons are at the end"
    yield "", ""
    own = [arm for arm in plan.decodings if not arm.control]
    engines, has_temperatures = _engines(own), _have_temperatures(own)
    yield from (("", line) for line in _table(own, width))
    if engines:
        yield (
            "engine: ",
            "what runs a decoding; loop: the token loop here; lockstep: inside vLLM; requests: the model itself",
        )
    if has_temperatures:
        yield (
            "hidden temperature: ",
            "1 / the sum of a strategy's weights, which alone sharpens or flattens the distribution",
        )
    controls = [arm for arm in plan.decodings if arm.control]
    if controls:
        yield "", ""
        branches = sum(arm.branches for arm in controls)
        yield "", f"controls added: {len(controls)} decodings, with {branches} branches in all"
        yield from _controls(controls, own)
    yield "", ""
    differences = "; ".join(
        f"{title} {f'{value:.3f}' if math.isfinite(value) else 'none, it has too few queries'}"
        for title, value in plan.smallest_differences.items()
    )
    yield from (("stop  ", line) for line in plan.stop)
    yield "", f"smallest paired difference that this can detect (80 % power, one pair in five differs): {differences}"
    yield from (("", note) for note in (*plan.unlisted, *plan.notes))


def _table(arms: Sequence[DecodingPlan], width: int | None) -> Iterator[str]:
    """One row for each decoding. A label that is too wide is in a line of its own above the numbers."""
    columns = (True, _engines(arms), True, _have_temperatures(arms))
    all_rows = [("decoding", "engine", "branches", "hidden temperature"), *map(_row, arms)]
    rows = [tuple(compress(row, columns)) for row in all_rows]
    head = rows[0]
    widths = [max(len(row[i]) for row in rows) + GAP for i in range(1, len(head))]
    max_first = max(width - sum(widths), len(head[0]) + GAP) if width else max(len(row[0]) for row in rows) + GAP
    first = max((len(row[0]) + GAP for row in rows if len(row[0]) + GAP <= max_first), default=max_first)
    for label, *cells in rows:
        numbers = "".join(cell.ljust(column_width) for cell, column_width in zip(cells, widths, strict=True))
        is_wide = len(label) + GAP > first
        yield from _wrap(label, width or len(label), "  ") if is_wide else ()
        yield f"{'' if is_wide else label:<{first}}{numbers}".rstrip()


def _engines(arms: Sequence[DecodingPlan]) -> bool:
    """Whether there is another engine than the token loop."""
    return any(arm.engine != "loop" for arm in arms)


def _have_temperatures(arms: Sequence[DecodingPlan]) -> bool:
    """Whether the weights of a decoding do not sum to one."""
    return any(arm.temperature is None or f"{arm.temperature:.3g}" != "1" for arm in arms)


def _row(arm: DecodingPlan) -> tuple[str, ...]:
    more = " + generates first" if arm.generates_first else ""
    temperature = "varies" if arm.temperature is None else f"{arm.temperature:.3g}"
    return arm.label, arm.engine, f"{arm.branches}{more}", temperature


def _controls(controls: Sequence[DecodingPlan], own: Sequence[DecodingPlan]) -> Iterator[tuple[str, str]]:
    """(decodings, their controls) of decodings with the same controls."""
    owners = [arm.label for arm in own if any(arm.label in control.owners for control in controls)]
    shared = [control for control in controls if len(owners) > 1 and set(owners) <= set(control.owners)]
    sets: dict[tuple[str, ...], list[str]] = {}
    for label in owners:
        names = tuple(control.name for control in controls if label in control.owners and control not in shared)
        sets.setdefault(names, []).append(label)
    lines = [(", ".join(labels), ", ".join(names)) for names, labels in sets.items() if names]
    if shared:
        lines.append(("each of them", ", ".join(control.name for control in shared)))
    for labels, names_of in lines:
        yield f"  of {labels}: ", names_of


UNITS = {"MB": 2**20, "GB": 2**30, "TB": 2**40}
"""Sizes of devices are named in decimal units and built in binary ones: a card of 24 GB has 24 GiB."""


def device_bytes(text: str) -> float:
    """'24GB', '80 GiB', '1.5TB' -> bytes. Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT])i?B", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"--device: '{text}' is not the memory of a device. Write 24GB, 40960MB or 1.5TB.")
    return float(match[1]) * UNITS[f"{match[2].upper()}B"]


def local_gpu_bytes(models: Sequence[Model]) -> float | None:
    """Size of the first GPU here, or of its slice if it is divided (MIG). None if no model computes on it."""
    is_used = any(model.device_type == "cuda" and not model.owns_gpu for model in models)
    return gpu_memory()[1] if is_used else None


def memory_plans(plan: Plan, device: float) -> Iterator[tuple[str, MemoryPlan | None, str]]:
    """(label of the model, its memory on a device, embedders next to it). None: the memory cannot be estimated.

    A model has the room that the weights of the judge models in its cells leave.

    Args:
        plan: The plan; its largest requests are counted.
        device: Size of the device in bytes.
    """
    images = plan.work.images + plan.work.edited
    for cell, sizes in plan.largest.by_model():
        requests = [replace(size, images=images) for size in sizes]
        judges, label, room = _judges(plan, cell.model), str(cell.labels["model"]), device
        if judges:
            weights = [memory.weights for judge in judges if (memory := _largest_memory(judge, requests, device))]
            room = max(0.0, device - sum(weights))
            unknown = "" if len(weights) == len(judges) else ", without the judges that have no estimate"
            label += f", next to judge models of {gib(sum(weights))}{unknown}"
        memory = _largest_memory(cell.model, requests, room)
        yield label, memory, _embedders(plan, cell.model, memory, room)


def _largest_memory(model: Model, requests: Sequence[RequestSize], device: float) -> MemoryPlan | None:
    estimates = [model.memory_plan(request, device) for request in requests]
    return max(filter(None, estimates), key=lambda estimate: estimate.need, default=None)


def _judges(plan: Plan, model: Model) -> list[Model]:
    """The models that judge answers of `model`, without `model` itself, which is not loaded twice."""
    judges = (cell.decoding.traits.judge_model for cell in plan.grid.cells if cell.model is model)
    return list({judge.digest: judge for judge in judges if judge and judge.digest != model.digest}.values())


def memory_lines(plans: Sequence[tuple[str, MemoryPlan | None, str]]) -> Iterator[str]:
    """One line for each model."""
    for label, memory, embedders in plans:
        text = memory.describe() if memory else "no estimate; only models of `hf` that are not stored packed have one"
        yield f"{label}: {text}{embedders}"


def check_memory(plans: Sequence[tuple[str, MemoryPlan | None, str]]) -> None:
    """Raise ModelError if one request of a model does not fit on the device."""
    problems = [f"{label}: {memory.problem}" for label, memory, _ in plans if memory and memory.problem]
    if problems:
        raise ModelError(" ".join(problems))


def _embedders(plan: Plan, model: Model, memory: MemoryPlan | None, device: float) -> str:
    """'; embedder on cpu': the device of each embedder with a checkpoint that the model's cells use."""
    parts = [
        part for cell in plan.grid.cells if cell.model is model for part in (cell.retriever, *(cell.rerankers or ()))
    ]
    embedders = dict.fromkeys(embedder for part in parts for embedder in placed_embedders(part))
    room = device - model_bytes(memory.weights, device) if memory and not model.owns_gpu else 0.0
    places = list[str]()
    for embedder in embedders:
        needed = needed_bytes(_checkpoint_bytes(embedder))
        place = embedder.device
        if place == "auto":
            place = "cuda" if needed <= room else "cpu"
            room -= needed if needed <= room else 0.0
        places.append(place)
    return f"; embedder{'s' if len(places) > 1 else ''} on {', '.join(places)}" if places else ""


def _checkpoint_bytes(embedder: PlacedEmbedder) -> int:
    """Bytes of the weights, without a download: 1 GiB for a checkpoint on the hub."""
    path = str(getattr(embedder, "path", "tiny"))
    return embedder.checkpoint_bytes() if path in SHIPPED or expand_user(path).is_dir() else GIB
