"""Labels of outputs: labels.jsonl in a run directory, one line for each key that a person presses.

    {"key": "0f3c…", "right": true, "by": "ana", "at": "2026-01-31T09:30:00+0100", "look": 60}

`key` is the digest of question, accepted answers, options and output, so a label holds for every arm, seed and run that
gave the output, and for none that gave another one. `right` is null if the person cannot tell. `look` is the number of
queries that were to be labeled. Lines are only appended: the last line of a person about an output counts, and a line
with "withdrawn" takes the label back. A line of a judge model has its digest as `judge`; it is no label of a person.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from experiments.store.invocations import now
from experiments.store.store import report_write_errors, truncate_partial_line
from icl import StoreError, canonical_digest, parse_json, split_reasoning

LABELS = "labels.jsonl"
KEY_DIGITS = 32


@dataclass(frozen=True)
class Label:
    """What a person, or a judge model, says of an output."""

    key: str
    right: bool | None
    by: str
    at: str = ""
    look: int = 0
    judge: str = ""
    withdrawn: bool = False


def label_key(question: str, gold: Sequence[str], options: Sequence[str], output: str) -> str:
    """The key of an output. A reasoning block is no part of it."""
    answer = split_reasoning(output).answer.strip()
    return canonical_digest([question, list(gold), list(options), answer])[:KEY_DIGITS]


@dataclass(frozen=True)
class Labels:
    """The labels of a run.

    Attributes:
        people: Key of an output -> what each person says.
        judged: Key of an output -> what the last judge model says.
        looks: The numbers of queries that people planned to label, in increasing order.
        judges: The names of the judge models.
        damaged: The places of lines that are no labels.
    """

    people: Mapping[str, Mapping[str, bool | None]]
    judged: Mapping[str, bool | None]
    looks: tuple[int, ...] = ()
    judges: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    def verdict(self, key: str) -> bool | None:
        """What people say of an output; None if nobody can tell, or if two people disagree."""
        verdicts = {right for right in self.people.get(key, {}).values() if right is not None}
        return verdicts.pop() if len(verdicts) == 1 else None

    @property
    def disputed(self) -> list[str]:
        """The outputs on which people disagree."""
        return [key for key, verdicts in self.people.items() if {True, False} <= set(verdicts.values())]

    @property
    def persons(self) -> list[str]:
        return list(dict.fromkeys(by for verdicts in self.people.values() for by in verdicts))


def read_labels(run: Path) -> Labels:
    """The labels of a run directory; none without a file. The places of damaged lines are returned.

    A damaged line may have taken a label back. So it withdraws the labels of the output that it names, or else the last
    one before it: a person takes back what was just labeled. Labels that are gone are asked for again.

    Raises:
        StoreError: The file cannot be read.
    """
    people: dict[str, dict[str, bool | None]] = {}
    judged: dict[str, bool | None] = {}
    looks, judges, damaged = set[int](), dict[str, None](), list[str]()
    for number, raw, label in _lines(run / LABELS):
        if label is None:
            damaged.append(f"line {number} of {run / LABELS}")
            for key in [key for key in people if key.encode() in raw] or [key for key in people if people[key]][-1:]:
                del people[key]
        elif label.judge:
            judged[label.key] = label.right
            judges[label.by] = None
        elif label.withdrawn:
            people.get(label.key, {}).pop(label.by, None)
        else:
            people[label.key] = people.pop(label.key, {}) | {label.by: label.right}  # the last key is of the last label
            looks.add(label.look)
    people = {key: verdicts for key, verdicts in people.items() if verdicts}
    return Labels(people, judged, tuple(sorted(looks - {0})), tuple(judges), tuple(damaged))


def append_labels(run: Path, labels: Iterable[Label]) -> None:
    """Writes labels at once, so that none is lost that was given. `at` is now, where it is missing.

    Raises:
        StoreError: The file cannot be written.
    """
    path, moment = run / LABELS, now()
    if path.is_symlink():
        raise StoreError(f"{path} is a link, and only files of the run are written. Remove it.")
    lines = [json.dumps(_content(label, moment), ensure_ascii=False) + "\n" for label in labels]
    with report_write_errors(path):
        truncate_partial_line(path, lambda line: _parse(line) is not None)
        with path.open("ab") as file:
            file.write("".join(lines).encode(errors="replace"))  # at once: two people may label
            file.flush()
            os.fsync(file.fileno())


def unite_labels(out: Path, runs: Sequence[Path], *, anonymous: bool = False) -> int:
    """Writes the labels of several runs into one run directory, equal lines once. Returns the number of lines.

    anonymous: People are called "person a1b2", because their names may be those of users of this machine.
    """
    labels = list[Label]()
    for run in runs:  # within a run, an equal line is a key pressed again after an undo in the same second
        others = set(labels)
        labels += [label for _, _, label in _lines(run / LABELS) if label is not None and label not in others]
    if anonymous:
        salt = [run.resolve().name for run in runs]
        labels = [one if one.judge else replace(one, by=_anonymous(one.by, salt)) for one in labels]
    if labels:
        append_labels(out, sorted(labels, key=lambda label: label.at))
    return len(labels)


def _anonymous(by: str, runs: Sequence[str]) -> str:
    """A digest of the name and of the runs, so that two people stay two in a merged run. It is too short to prove a
    guessed name."""
    return f"person {canonical_digest([*runs, by])[:4]}"


def _content(label: Label, moment: str) -> dict[str, Any]:
    """The label without its empty fields; `right` always."""
    content = asdict(label) | {"at": label.at or moment}
    return {name: value for name, value in content.items() if value or name == "right"}


def _lines(path: Path) -> Iterator[tuple[int, bytes, Label | None]]:
    """(number, line, its label) of each line; no partial last one, which the next label cuts off."""
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if (label := _parse(raw)) or raw.endswith(b"\n"):
                    yield number, raw, label
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}.") from error


def _parse(raw: bytes) -> Label | None:
    """The label of a line, or None if it is damaged."""
    try:
        content = parse_json(raw.decode())
    except ValueError:
        return None
    if not isinstance(content, dict) or not {"key", "right", "by"} <= content.keys():
        return None
    values = {field.name: content[field.name] for field in fields(Label) if field.name in content}
    types = {field.name: type(field.default) for field in fields(Label)} | {"key": str, "by": str}
    if any(type(value) is not types[name] for name, value in values.items() if name != "right"):
        return None
    return Label(**values) if content["right"] is None or isinstance(content["right"], bool) else None
