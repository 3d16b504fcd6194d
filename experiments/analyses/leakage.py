"""The leakage audit: does any prompt show its query's answer, and which samples saw labels or the gold on purpose?

    itself      the query's id is among its demonstrations
    image     an image of the query is one of a demonstration's (same pixels and edits)
    twice       an example is shown twice
    alike       two demonstrations show one image: no leak, but fewer shots than it says
    labels      a transform read the demonstrations' labels; gold: an oracle chose, placed or changed them

A run with the toolkit's own retrievers has zeros in the first three; one with a transform that blanks all images
alike may not have them in `image`. Decodings and scorings that read one prompt are one setting, and a prompt that
several of them read counts once (a control that shows more demonstrations reads others). `first` names a sample of the
worst column.
"""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments.analyses.shared import answered_samples, iter_settings, make_table
from experiments.stats.sample_rows import demos_of, text_items, to_records

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView

LEAKS = ("itself", "image", "twice", "alike")


def analyze(view: "RunView") -> "DataFrame":
    """A row a setting, counts of samples."""
    table_rows: list[dict[str, Any]] = []
    for setting, samples in iter_settings(
        view, answered_samples(view), without=("decoding", "answer_mode", "max_new_tokens")
    ):
        rows = list({_prompt_key(row): row for row in to_records(samples)}.values())
        flags = [_leak_flags(row) for row in rows]
        counts = {key: sum(one[key] for one in flags) for key in (*LEAKS, "labels", "gold")}
        worst = next((key for key in LEAKS if counts[key]), None)
        first = next((str(row["query"]) for row, one in zip(rows, flags, strict=True) if worst and one[worst]), "")
        table_rows.append({**setting, "samples": len(rows), **counts, "first": first})
    return make_table(
        table_rows, "Leakage audit", note="counts of samples; first: a query of the first column that is not 0"
    )


def _prompt_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a sample's prompt is known by."""
    ids = tuple(name for name, *_ in demos_of(row))
    return row["query"], row["seed"], ids, text_items(row, "images"), text_items(row, "marks"), row.get("prompt_digest")


def _leak_flags(row: Mapping[str, Any]) -> dict[str, bool]:
    ids = [name for name, *_ in demos_of(row)]
    owners = row.get("image_of")
    whose = zip(text_items(row, "images"), owners if isinstance(owners, list | tuple) else (), strict=False)
    images_by_owner: dict[int, set[str]] = {}
    for digest, owner in whose:
        images_by_owner.setdefault(int(owner), set()).add(digest)
    query = images_by_owner.pop(-1, set())
    counts = Counter(digest for digests in images_by_owner.values() for digest in digests)
    marks = " ".join(text_items(row, "marks"))
    return {
        "itself": str(row["query"]) in ids,
        "image": bool(query & counts.keys()),
        "twice": len(set(ids)) < len(ids),
        "alike": any(count > 1 for count in counts.values()),
        "labels": "saw labels" in marks,
        "gold": "saw the gold" in marks,
    }
