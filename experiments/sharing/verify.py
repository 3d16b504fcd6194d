"""Check a run directory against its card: digests, scores, and samples that are computed again."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.results.loaded_run import Run
from experiments.sharing.card import (
    DIGEST,
    SAMPLE_DIGITS,
    card_digest,
    cell_digest,
    describe_environment,
    make_card,
    sample_digests,
)
from experiments.sharing.rerun import describe_cell
from experiments.stats.formatting import format_count
from experiments.store.invocations import collect_environment
from experiments.store.store import Store, describe_damaged_lines

TOLERANCE = 1e-6
"""The largest difference of a score or an end of an interval between two versions of numpy."""
MAX_NAMED = 5
"""Samples of a cell that are named."""
DERIVED = {
    "scores": "a score",
    "controls": "a verdict about controls",
    "config": "the config",
    "metrics": "the metrics",
    "metric": "the metric",
    "fixed": "the settings of all cells",
    "findings": "a sentence",
    "environments": "an environment",
    "seeds": "the seeds",
    "samples": "the number of samples",
    "failed": "the number of failed samples",
    "origin": "the origin",
    "unfinished": "the state",
}
"""Parts of a card that follow from the run directory, in words."""
DAMAGED_REMEDY = "Remove the line, run the experiment again to compute its sample, and write the card again."

AGREEMENT = (
    "Expected: every prompt agrees. In float32, with the versions and the kind of device of the card, every answer "
    "agrees too, also sampled ones: an answer does not depend on its batch. In float16 or bfloat16, on another device, "
    "with other versions or with vLLM, sums are rounded in another order, and a few answers may differ. A served model "
    "promises nothing."
)


def problems_of_card(card: Mapping[str, Any], run: Run) -> Iterator[str]:
    """A sentence for each way in which the card does not describe the run directory. Needs no model and no data.

    A line that is not a sample is a problem too: all readers of a run ignore it.

    Args:
        card: The content of card.json.
        run: The run directory.
    """
    if card[DIGEST] != card_digest(card):
        yield f"the card was edited: its content has the digest {card_digest(card)[:12]}…, not {card[DIGEST][:12]}…"
    store = Store(run.path)
    cells = [str(digest) for digest in run.info.get("cells", [])]
    for digest in cells:
        if digest not in card["cells"]:
            yield f"the run has a cell that the card has not: {digest}"
    for digest, described in card["cells"].items():
        yield from _problems_of_cell(store, digest, described)
    fresh = make_card(run)
    for key, what in DERIVED.items():
        before, after = card.get(key), fresh.get(key)
        if key == "unfinished":  # a process that died on another machine may be called running here
            before, after = bool(before), bool(after)
        if (difference := _difference(before, after, key)) is not None:
            yield f"{what} of the card is not that of the samples: {difference}"


def environment_differences(card: Mapping[str, Any]) -> str:
    """What differs between this process and the environments of the card: 'torch 2.4 (the card 2.3)', or ''."""
    here = describe_environment(collect_environment())
    parts = []
    for name, version in here["versions"].items():
        others = {one["versions"].get(name) for one in card["environments"]} - {None, version}
        parts += [f"{name} {version} (the card {', '.join(sorted(others))})"] if others else []
    devices = {", ".join(one["devices"]) or "no GPU" for one in card["environments"]}
    device = ", ".join(here["devices"]) or "no GPU"
    return "; ".join(parts + ([f"{device} (the card {' and '.join(sorted(devices))})"] if devices != {device} else []))


def _problems_of_cell(store: Store, digest: str, described: Mapping[str, Any]) -> Iterator[str]:
    damaged: list[str] = []
    digests = sample_digests(store.samples(digest, damaged))
    if sentence := describe_damaged_lines(damaged, DAMAGED_REMEDY):
        yield sentence.rstrip(".")
    if cell_digest(digests) == described.get("sha256"):
        return
    where = f"{describe_cell(described.get('labels', {}))}, seed {described.get('seed')}"
    short = str(described.get("short", ""))
    before = [short[i : i + SAMPLE_DIGITS] for i in range(0, len(short), SAMPLE_DIGITS)]
    if len(before) != len(digests):
        yield f"{where}: the run has {format_count(len(digests), 'sample')}, and the card {len(before):,}"
        return
    edited = [query for (query, one), was in zip(digests.items(), before, strict=True) if one[:SAMPLE_DIGITS] != was]
    if not edited:
        yield f"{where}: the digest of its samples is not that of the card"
    names = ", ".join(edited[:MAX_NAMED]) + (f" and {len(edited) - MAX_NAMED:,} more" * (len(edited) > MAX_NAMED))
    if edited:
        yield f"{where}: {format_count(len(edited), 'sample')} changed since the card was written: {names}"


def _difference(card: Any, fresh: Any, where: str) -> str | None:
    """The first place where two values differ, numbers by more than `TOLERANCE`; None if there is none."""
    if isinstance(card, Mapping) and isinstance(fresh, Mapping):
        keys = list(dict.fromkeys([*card, *fresh]))
        return next((d for k in keys if (d := _difference(card.get(k), fresh.get(k), f"{where}.{k}"))), None)
    if _is_list(card) and _is_list(fresh) and len(card) == len(fresh):
        pairs = enumerate(zip(card, fresh, strict=True))
        return next((d for i, (a, b) in pairs if (d := _difference(a, b, f"{where}[{i}]{_arm(b)}"))), None)
    if isinstance(card, int | float) and isinstance(fresh, int | float) and abs(card - fresh) <= TOLERANCE:
        return None
    return None if card == fresh else f"{where} is {_short(card)} in the card, {_short(fresh)} in the run"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _arm(row: Any) -> str:
    """The arm that a row of scores or controls is about."""
    return f" ({describe_cell(row)})" if isinstance(row, Mapping) and describe_cell(row) else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
