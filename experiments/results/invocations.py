"""Whether the samples of a run come from different versions of libraries, devices or commits."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from experiments.stats import format_count, join_words
from experiments.store import Store, read_invocations
from icl import DataFrame

COLUMNS: tuple[str, str] = ("invocation", "scores_invocation")
"""The columns of samples that name the processes that computed and scored them."""
MAX_DIFFERENCES = 6
FIRST = ("device", "driver", "python", "torch", "transformers", "vllm", "numpy", "pillow")
"""What is listed first, because it changes answers most often."""


def version_differences(frame: DataFrame, store: Store) -> str:
    """A sentence on what differs among the processes that computed or scored the samples, or '' if nothing does."""
    counts = Counter[int]()
    for column in COLUMNS:
        if column in frame:
            numbers, sizes = np.unique(frame[column].dropna().astype(int), return_counts=True)
            counts.update(dict(zip(numbers.tolist(), sizes.tolist(), strict=True)))
    if not counts:
        return ""
    records = read_invocations(store)
    facts = {number: dict(_facts(records[number])) for number in sorted(counts) if number in records}
    values: dict[str, Counter[str]] = {name: Counter() for own in facts.values() for name in own}
    for number, own in facts.items():
        for name, by_value in values.items():
            by_value[own.get(name, "none")] += counts[number]
    differing = sorted((name for name in values if len(values[name]) > 1), key=_place)
    listed = [f"{name} {_values(values[name])}" for name in differing[:MAX_DIFFERENCES]]
    if len(differing) > MAX_DIFFERENCES:
        listed.append(f"{len(differing) - MAX_DIFFERENCES:,} more")
    if unknown := sum(count for number, count in counts.items() if number not in facts):
        listed.append(
            f"unknown versions ({format_count(unknown, 'sample')}, whose lines in invocations.jsonl are missing)"
        )
    if not listed:
        return ""
    return f"Samples of this run come from different versions: {'; '.join(listed)}. Arms may differ because of them."


def differing_environments(first: Store, second: Store) -> str:
    """The versions, devices and commits in which the processes of two runs differ: 'torch 2.3 → 2.4', or ''."""
    sides: list[dict[str, dict[str, None]]] = []
    for store in (first, second):
        values: dict[str, dict[str, None]] = {}
        for record in read_invocations(store).values():
            for name, value in _facts(record):
                values.setdefault(name, {})[value] = None
        sides.append(values)
    names = sorted((name for name in {*sides[0], *sides[1]} if sides[0].get(name) != sides[1].get(name)), key=_place)
    listed = [" → ".join(" and ".join(side.get(name, ("none",))) for side in sides) for name in names[:MAX_DIFFERENCES]]
    texts = [f"{name} {values}" for name, values in zip(names, listed, strict=False)]
    if len(names) > MAX_DIFFERENCES:
        texts.append(f"{len(names) - MAX_DIFFERENCES:,} more")
    return "; ".join(texts)


def describe_invocation(record: Mapping[str, Any]) -> str:
    """The start, the main versions, the devices and the commit of a process, in one line."""
    facts = dict(_facts(record))
    names = [name for name in FIRST if name in facts]
    parts = [str(record.get("start") or ""), *(f"{name} {facts[name]}" for name in names)]
    parts += [f"{name} {value}" for name, value in facts.items() if name.startswith("commit")]
    return ", ".join(filter(None, parts))


def _facts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, value) of what may change answers."""
    yield from record.get("versions", {}).items()
    if devices := Counter(record.get("devices", ())):
        yield "device", " and ".join(f"{count} x {name}" if count > 1 else name for name, count in devices.items())
    if driver := record.get("driver"):
        yield "driver", str(driver)
    for where, commit in record.get("git", {}).items():
        if commit:
            dirty = f" with changes {commit['dirty']}" if commit.get("dirty") else ""
            yield f"commit of the {where.replace('_', ' ')}", f"{commit['commit'][:10]}{dirty}"


def _place(name: str) -> tuple[int, str]:
    return FIRST.index(name) if name in FIRST else len(FIRST), name


def _values(counts: Counter[str]) -> str:
    return join_words([f"{value} ({format_count(count, 'sample')})" for value, count in counts.items()])
