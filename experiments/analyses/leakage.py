"""Does any prompt show its query's answer, and which samples used labels or gold answers on purpose?

    itself   the query is one of its demonstrations
    image    an image of the query is an image of a demonstration (same pixels and edits)
    twice    an example occurs twice
    alike    two demonstrations have one image: no leak, but fewer distinct shots
    source   a demonstration is by the query's own author (tasks whose data names one): no leak of an answer, but a
             retriever can recognize the hand, which new data will not have
    labels   a transform read the demonstrations' labels; gold: an oracle chose, placed or changed them

A run with retrievers of the toolkit has zeros in the first three columns. The column source is there if the data names
authors. A transform that blanks all images makes images equal. Decodings and scorings that read one prompt are one
setting, and a prompt that several of them read counts once (a control that shows more demonstrations reads others).
`first` names a sample of the worst column.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from experiments import RunView, answered_samples, iter_settings, make_table
from experiments.stats import as_mapping, as_sequence, demos_of, text_items, to_records
from icl import DataFrame

LEAKS = ("itself", "image", "twice", "alike")
SOURCE, DEMO_SOURCES = "source", "demo_sources"
"""Keys of a sample's `meta`: who made the query's image, and who made the demonstrations' images."""


def analyze(view: RunView) -> DataFrame:
    """One row per setting with counts of samples."""
    table_rows: list[dict[str, Any]] = []
    for setting, samples in iter_settings(
        view, answered_samples(view), without=("decoding", "answer_mode", "max_new_tokens")
    ):
        rows = list({_prompt_key(row): row for row in to_records(samples)}.values())
        flags = [_leak_flags(row) for row in rows]
        named = (SOURCE,) if any(DEMO_SOURCES in as_mapping(row.get("meta")) for row in rows) else ()
        counts = {key: sum(one[key] for one in flags) for key in (*LEAKS, *named, "labels", "gold")}
        worst = next((key for key in LEAKS if counts[key]), None)
        first = next((str(row["query"]) for row, one in zip(rows, flags, strict=True) if worst and one[worst]), "")
        table_rows.append({**setting, "samples": len(rows), **counts, "first": first})
    return make_table(
        table_rows, "Leakage audit", note="counts of samples; first: a query of the first column that is not 0"
    )


def _prompt_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The identity of a sample's prompt."""
    ids = tuple(name for name, *_ in demos_of(row))
    return row["query"], row["seed"], ids, text_items(row, "images"), text_items(row, "marks"), row.get("prompt_digest")


def _leak_flags(row: Mapping[str, Any]) -> dict[str, bool]:
    ids = [name for name, *_ in demos_of(row)]
    whose = zip(text_items(row, "images"), as_sequence(row.get("image_of")), strict=False)
    images_by_owner: dict[int, set[str]] = {}
    for digest, owner in whose:
        images_by_owner.setdefault(int(owner), set()).add(digest)
    query = images_by_owner.pop(-1, set())
    counts = Counter(digest for digests in images_by_owner.values() for digest in digests)
    marks = " ".join(text_items(row, "marks"))
    meta = as_mapping(row.get("meta"))
    return {
        "itself": str(row["query"]) in ids,
        "image": bool(query & counts.keys()),
        "twice": len(set(ids)) < len(ids),
        "alike": any(count > 1 for count in counts.values()),
        SOURCE: meta.get(SOURCE) is not None and meta[SOURCE] in meta.get(DEMO_SOURCES, ()),
        "labels": "saw labels" in marks,
        "gold": "saw the gold" in marks,
    }
