"""The results card of a run: what was run, on what, with which scores, and digests of all samples.

A card is JSON. It has a digest of its own content, a digest for each cell, and a short digest for each sample, so that
a reader can see whether a run directory has the samples that the card was made from (`experiments.sharing.verify`).
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.config.yaml_document import to_flow_yaml
from experiments.report.sections.controls import controls_frame
from experiments.results import Run, RunView
from experiments.results.view_run import view_run
from experiments.stats import (
    format_count,
    format_estimate,
    format_share,
    is_wide,
    markdown_table,
    markdown_text,
    summarize_arms,
)
from experiments.stats.formatting import format_range
from experiments.store import IMPORTED, MERGED, Store, json_round_trip, read_invocations, read_mapping
from experiments.store.json_shapes import Shape, check_shape, excerpt
from experiments.store.labels import LABELS, Labels, read_labels
from icl import DataFrame, StoreError, __version__, canonical_bytes, canonical_digest

CARD_FORMAT = 1
DIGEST = "digest"
"""The key of a card with the digest of all other keys."""
PROCESS_FIELDS = ("invocation", "scores_invocation")
"""Fields of a sample that say which process wrote it. They are in no digest."""
SAMPLE_DIGITS = 8
"""Hexadecimal digits of a sample's short digest. It locates an edited sample. That of the cell is a whole SHA-256."""
PRIVATE_KEYS = ("observe", "launcher")
"""Keys of a config that name machines and servers, and decide no sample."""
PACKAGES = (
    *("python", "mm-icl", "torch", "torchvision", "transformers", "accelerate", "tokenizers", "vllm", "bitsandbytes"),
    *("peft", "numpy", "pillow", "scipy", "faiss-cpu", "sentence-transformers"),
)
"""A card lists the versions of these packages."""
CONTROL_COLUMNS = ("subject", "decoding", "role", "of", "verdict")
MAX_FINDINGS = 40
CELL_NAME = re.compile(r"[0-9a-f]{1,64}")
"""The digest of a cell, which is the name of its folder. Another name may be a path that leads out of the run."""
REMEDY = "Write it again with `icl report RUN --as card`."


class _CellShape(Shape):
    labels: dict[str, Any]
    seed: int | None
    model_digest: str | None
    data: dict[str, str]
    sha256: str
    short: str


class _EnvironmentShape(Shape):
    versions: dict[str, str]
    devices: list[str]


class CardShape(Shape):
    """The shape of card.json, as far as `icl check` reads it."""

    cells: dict[str, _CellShape]
    environments: list[_EnvironmentShape]
    samples: int
    failed: int = 0
    unfinished: str = ""
    digest: str


def make_card(run: Run) -> dict[str, Any]:
    """The card of a run.

    Raises:
        StoreError: The run has no samples.
    """
    info, view = run.info, view_run(run)
    cells = {digest: _cell(Store(run.path), digest) for digest in map(str, info.get("cells", []))}
    content = {
        "card": CARD_FORMAT,
        "mm_icl": __version__,
        "run": view.name,
        "origin": next((key for key in (IMPORTED, MERGED) if key in info), "computed"),
        "unfinished": view.unfinished,
        "config": {key: value for key, value in (info.get("config") or {}).items() if key not in PRIVATE_KEYS},
        "environments": environments(run, view.frame),
        **({"probes": list(view.probes)} if view.probes else {}),
        **({"labels": label_counts(read_labels(run.path))} if (run.path / LABELS).is_file() else {}),
        "metrics": info.get("metrics", {}),
        "metric": view.metric,
        "fixed": view.fixed,
        "scores": _scores(view),
        "controls": _records(controls_frame(view), CONTROL_COLUMNS) if view.effects else [],
        "findings": [f"{one.subject}: {one.sentence}" for one in view.findings[:MAX_FINDINGS]],
        "samples": sum(cell["samples"] for cell in cells.values()),
        "failed": sum(cell["failed"] for cell in cells.values()),
        "ignored_lines": sum(cell["ignored_lines"] for cell in cells.values()),
        "seeds": sorted({cell["seed"] for cell in cells.values() if cell["seed"] is not None}),
        "cells": cells,
    }
    content = without_nan(json_round_trip(content))
    return {**content, DIGEST: card_digest(content)}


def label_counts(labels: Labels) -> dict[str, Any]:
    """How many outputs have labels of people and of judge models, and a digest of what people say."""
    verdicts = {key: labels.verdict(key) for key in sorted(labels.people)}
    return {
        "outputs": len(verdicts),
        "people": len(labels.persons),
        "disputed": len(labels.disputed),
        "judged": len(labels.judged),
        "judges": list(labels.judges),
        "sha256": canonical_digest(verdicts),
    }


def card_digest(card: Mapping[str, Any]) -> str:
    """The digest of a card's content."""
    return canonical_digest({key: value for key, value in card.items() if key != DIGEST}, ascii_only=False)


def read_card(path: Path) -> dict[str, Any]:
    """The card in a file, or in the file card.json of a folder.

    Raises:
        StoreError: There is no card, or it has another format. Its digest is not checked.
    """
    file = path / "card.json" if path.is_dir() else path
    if file.suffix != ".json":
        raise StoreError(f"{file} is not a card. Name the file card.json, or the run directory that has it.")
    card = read_mapping(file, "Restore it, or write it again with `icl report RUN --as card`.")
    if card is None:
        raise StoreError(f"{file} does not exist. `icl report RUN --as card` writes it.")
    if "card" not in card:
        raise StoreError(f"{file} is not a results card. `icl report RUN --as card` writes one.")
    if card["card"] != CARD_FORMAT:
        raise StoreError(
            f"{file} has card format {excerpt(card['card'])}; this version reads {CARD_FORMAT}. Update mm-icl."
        )
    check_shape(CardShape, card, file, REMEDY)
    for name in card["cells"]:
        if not CELL_NAME.fullmatch(name):
            raise StoreError(f"{file} names a cell {excerpt(name)}; such a name has only digits and a to f. {REMEDY}")
    return card


def sample_digest(sample: Mapping[str, Any]) -> str:
    """The SHA-256 of a stored sample, without the fields that name the process."""
    content = {key: value for key, value in sample.items() if key not in PROCESS_FIELDS}
    return hashlib.sha256(canonical_bytes(content, ascii_only=False)).hexdigest()


def sample_digests(samples: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """query -> digest of its sample, sorted by query."""
    return dict(sorted((str(sample["query"]), sample_digest(sample)) for sample in samples))


def cell_digest(digests: Mapping[str, str]) -> str:
    """The digest of a cell's samples (`sample_digests`)."""
    return hashlib.sha256("".join(f"{query}\0{digest}\n" for query, digest in digests.items()).encode()).hexdigest()


def environments(run: Run, frame: DataFrame) -> list[dict[str, Any]]:
    """What computed the samples: versions, devices and commit, each with its number of samples."""
    counts = Counter[int](frame["invocation"].dropna().astype(int).tolist() if "invocation" in frame else ())
    records = read_invocations(Store(run.path))
    merged: dict[bytes, dict[str, Any]] = {}
    for number, count in sorted(counts.items()):
        content = describe_environment(records.get(number, {}))
        one = merged.setdefault(canonical_bytes(content), {**content, "samples": 0})
        one["samples"] += count
    return list(merged.values())


def describe_environment(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a process's environment that may change answers, without the name of its machine."""
    versions = record.get("versions", {})
    commits = {where: commit for where, commit in (record.get("git") or {}).items() if commit}
    return {
        "versions": {name: versions[name] for name in PACKAGES if name in versions},
        "devices": list(record.get("devices", ())),
        "driver": record.get("driver"),
        "commits": commits,
    }


def without_nan(value: Any) -> Any:
    """The value with None in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not -float("inf") < value < float("inf") else value


def _cell(store: Store, digest: str) -> dict[str, Any]:
    description = store.read_cell(digest) or {}
    damaged: list[str] = []
    samples = list(store.samples(digest, damaged))
    digests = sample_digests(samples)
    return {
        "labels": {axis: value for axis, value in description.get("labels", {}).items() if axis != "seed"},
        "seed": description.get("seed"),
        "control": description.get("control", False),
        "model_digest": description.get("model_digest"),
        **{key: description[key] for key in ("model_revision",) if key in description},
        "data": description.get("data", {}),
        "samples": len(samples),
        "failed": sum(bool(sample.get("failed")) for sample in samples),
        "ignored_lines": len(damaged),
        "sha256": cell_digest(digests),
        "short": "".join(one[:SAMPLE_DIGITS] for one in digests.values()),
    }


def _scores(view: RunView) -> list[dict[str, Any]]:
    """One row per arm and metric, with the axes that vary."""
    axes = [axis for axis in view.axes if axis not in view.fixed]
    columns = (
        *axes,
        *["mean", "low", "high", "mean_low", "mean_high", "unread", "samples", "clusters", "seeds", "missing"],
    )
    metrics = [view.metric, *(metric for metric in view.metrics if metric != view.metric)]
    return [
        {"metric": metric, **row}
        for metric in metrics
        if view.scores[metric].notna().any()
        for row in _records(summarize_arms(view.scores, metric, view.axes), columns)
    ]


def _records(frame: DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows as plain values; None for what is missing."""
    part = frame[[column for column in columns if column in frame]]
    return [
        {str(name): _plain(value) for name, value in row.items()}
        for row in part.astype(object).where(part.notna(), None).to_dict("records")
    ]


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


# The card of a run as Markdown, with the metadata of a data set's README on a hub.


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
    fixed = ", ".join(f"{axis} {_escape(value)}" for axis, value in card["fixed"].items())
    yield from ("", "## Scores", "", f"In all cells: {fixed}.", "")
    yield from _score_tables(card)
    if card["controls"]:
        yield from ("## Controls", "")
        yield from _table(CONTROL_COLUMNS, card["controls"])
    if card["findings"]:
        yield from ("## What it shows", "", *(f"- {_escape(sentence)}" for sentence in card["findings"]), "")
    config = [f"{key}: {to_flow_yaml(value)}" for key, value in card["config"].items()]
    yield from ("## What was run", "", "```yaml", *config, "```", "")
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


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    cells = [[_escape("" if row.get(c) is None else row[c]) for c in columns] for row in rows]
    yield from (markdown_table(columns, cells), "")


def _escape(value: Any) -> str:
    """The value as one line of Markdown without markup."""
    text = markdown_text(" ".join(str(value).split()))
    return "".join(f"\\{c}" if c in "[]" else c for c in text)
