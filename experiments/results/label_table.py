"""Outputs to label as a CSV file, for spreadsheets and for crowd workers, and the labels that come back in it."""

import csv
from collections.abc import Sequence
from pathlib import Path

from experiments.results.labeling import Output, Queue
from experiments.store import Label, append_labels, write_csv
from icl import DataError, did_you_mean, pd

KEY, VERDICT = "key", "right"
VERDICTS = {"right": True, "yes": True, "1": True, "wrong": False, "no": False, "0": False, "?": None}
"""What the column VERDICT may have. An empty cell is no label, and '?' is one of somebody who cannot tell."""


def export_outputs(path: Path, outputs: Sequence[Output]) -> int:
    """Writes a row per output, with an empty column VERDICT. Returns the number of rows."""
    rows = [
        {
            KEY: one.key,
            VERDICT: "",
            "question": one.question,
            "options": " / ".join(one.options),
            "accepted": " / ".join(one.gold),
            "output": one.text,
            "images": " ".join(f"images/{name}.png" for name in one.images),
        }
        for one in outputs
    ]
    write_csv(path, pd.DataFrame(rows, columns=[KEY, VERDICT, "question", "options", "accepted", "output", "images"]))
    return len(rows)


def import_labels(path: Path, run: Path, queue: Queue, by: str, look: int) -> int:
    """Adds the labels of a file to a run. Either all are added or none. Returns their number.

    Raises:
        DataError: The file cannot be read, lacks a column, or has an output of another run or another verdict.
    """
    keys, labels = {one.key for one in queue.first(None)}, []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}.") from error
    for number, row in enumerate(rows, 2):
        if missing := [name for name in (KEY, VERDICT) if row.get(name) is None]:
            raise DataError(
                f"{path}, row {number}: it has no column '{missing[0]}', which `icl label --export` writes."
            )
        key, word = row[KEY].strip(), row[VERDICT].strip().lower()
        if not word:
            continue
        if word not in VERDICTS:
            near = did_you_mean(word, VERDICTS)
            raise DataError(f"{path}, row {number}: '{word}' is no verdict.{near} Write right, wrong or ?.")
        if key not in keys:
            raise DataError(f"{path}, row {number}: the run has no such output to label. Export the file again.")
        labels.append(Label(key, VERDICTS[word], by, look=look))
    if labels:
        append_labels(run, labels)
    return len(labels)
