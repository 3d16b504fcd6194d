"""The card of a run as Markdown, with the metadata of a data set's README on a hub."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.config.yaml_document import to_flow_yaml
from experiments.sharing.card import CONTROL_COLUMNS
from experiments.stats import format_count, format_estimate, format_share, is_wide, markdown_table, markdown_text
from experiments.stats.formatting import format_range

SCORE_COLUMNS = (
    *("metric", "mean", "low", "high", "mean_low", "mean_high", "unread"),
    *("samples", "clusters", "seeds", "missing"),
)
DATA_KEYS = ("queries", "pool", "revision")
TAGS = ("mm-icl", "in-context-learning", "multimodal", "evaluation")


def card_text(card: Mapping[str, Any], data_files: str = "") -> str:
    """The card as Markdown.

    Args:
        card: The content of card.json.
        data_files: The file of samples that a hub's viewer shows; '' adds no such metadata.
    """
    return "\n".join([*_metadata(card, data_files), *_body(card)]) + "\n"


def _metadata(card: Mapping[str, Any], data_files: str) -> Iterator[str]:
    """The YAML block of a data set card."""
    yield from ("---", f"pretty_name: {to_flow_yaml(str(card['run']))}", f"tags: [{', '.join(TAGS)}]")
    if data_files:
        yield f"configs: [{{config_name: samples, data_files: {to_flow_yaml(data_files)}}}]"
    yield from ("---", "")


def _body(card: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {_escape(card['run'])}"
    yield ""
    size = f"{format_count(card['samples'], 'sample')} in {format_count(len(card['cells']), 'cell')}"
    counts = f"{size}, {card['failed']:,} of them failed"
    yield f"{counts}; seeds {', '.join(map(str, card['seeds'])) or '–'}. Made with mm-icl {card['mm_icl']}."
    if card["unfinished"]:
        yield f"**{_escape(card['unfinished'])}**"
    if ignored := card["ignored_lines"]:
        yield f"**{format_count(ignored, 'line')} of the run {'is' if ignored == 1 else 'are'} damaged and ignored.**"
    if card["origin"] != "computed":
        yield f"The run was {card['origin']}, so no config computes its samples."
    yield from ("", "## Scores", "", _fixed(card), "")
    yield from _score_tables(card)
    if card["controls"]:
        yield from ("## Controls", "")
        yield from _table(CONTROL_COLUMNS, card["controls"])
    if card["findings"]:
        yield from ("## What it shows", "", *(f"- {_escape(sentence)}" for sentence in card["findings"]), "")
    yield from ("## What was run", "", "```yaml", *_config(card["config"]), "```", "")
    yield from ("## Environment", "")
    for one in card["environments"]:
        yield f"- {_escape(describe(one))}"
    yield from (f"- {_escape(sentence)}" for sentence in card.get("probes", ()))
    if labels := card.get("labels"):
        by = format_count(labels["people"], "person", "people")
        disputed = f", who disagree on {labels['disputed']:,}" if labels["disputed"] else ""
        yield f"- Labels of {format_count(labels['outputs'], 'output')} by {by}{disputed}."
    yield from ("", "## Digests", "")
    rows = [
        {"model": digest, "revision": revision, "cells": count}
        for (digest, revision), count in Counter(
            (cell["model_digest"], cell.get("model_revision", "")) for cell in card["cells"].values()
        ).items()
    ]
    yield from _table(("model", *(["revision"] if any(row["revision"] for row in rows) else []), "cells"), rows)
    data = [
        {**dict(zip(DATA_KEYS, values, strict=True)), "cells": count}
        for values, count in Counter(
            tuple(cell["data"].get(key) for key in DATA_KEYS) for cell in card["cells"].values()
        ).items()
    ]
    yield from _table((*(key for key in DATA_KEYS if any(row[key] for row in data)), "cells"), data)
    yield "card.json has a digest for the samples of each cell. Its own digest is"
    yield f"`{card['digest']}`. To check it in a copy of the run directory, and to compute 50 of its samples again:"
    yield from ("", "    icl check card.json")


def describe(environment: Mapping[str, Any]) -> str:
    """One line on the versions, devices and commit that computed samples."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    devices = ", ".join(environment["devices"]) or "no GPU"
    commits = [f"{where.replace('_', ' ')} {c['commit'][:10]}" for where, c in environment["commits"].items()]
    changed = [where for where, c in environment["commits"].items() if c.get("dirty")]
    parts = [versions or "unknown versions", devices, *(["commit of " + ", ".join(commits)] if commits else [])]
    text = "; ".join(parts) + (f" (with changes: {', '.join(changed)})" if changed else "")
    return f"{format_count(environment['samples'], 'sample')}: {text}"


def _score_tables(card: Mapping[str, Any]) -> Iterator[str]:
    for metric in dict.fromkeys(row["metric"] for row in card["scores"]):
        rows = [row for row in card["scores"] if row["metric"] == metric]
        axes = [axis for axis in rows[0] if axis not in SCORE_COLUMNS]
        yield from _table(
            (*axes, f"{metric} [95 % interval]", "n"),
            [{**row, f"{metric} [95 % interval]": _estimate(row), "n": _size(row)} for row in rows],
        )


def _estimate(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return "–"
    low, high = (row["mean"] if row[end] is None else row[end] for end in ("low", "high"))
    if is_wide(row.get("unread") or 0.0):
        return f"{format_range((row['mean_low'], row['mean_high']))} [{format_share(low)}, {format_share(high)}]"
    return format_estimate(row["mean"], low, high, 3)


def _size(row: Mapping[str, Any]) -> str:
    return f"{row['samples']:,}" + (f" ({row['missing']:,} missing)" if row["missing"] else "")


def _fixed(card: Mapping[str, Any]) -> str:
    return "In all cells: " + ", ".join(f"{axis} {_escape(value)}" for axis, value in card["fixed"].items()) + "."


def _config(config: Mapping[str, Any]) -> Iterator[str]:
    for key, value in config.items():
        yield f"{key}: {to_flow_yaml(value)}"


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    cells = [[_escape("" if row.get(c) is None else row[c]) for c in columns] for row in rows]
    yield from (markdown_table(columns, cells), "")


def _escape(value: Any) -> str:
    """The value as one line of Markdown without markup."""
    text = markdown_text(" ".join(str(value).split()))
    return "".join(f"\\{c}" if c in "[]" else c for c in text)
