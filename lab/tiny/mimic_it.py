"""Files of MIMIC-IT's release form with generated instructions, and with relations that help or that do not.

    python -m lab.tiny.mimic_it --out DIR

writes `train`, `permuted` and `test`, each as `NAME_instructions.json` and `NAME.json`. An instruction asks for the
made-up name of a texture. Its related instructions (`rel_ins_ids`) use the same names, so they tell the answer. In
`permuted`, each instruction has the related ones of another, whose names are others.
"""

import argparse
import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icl import Example, Task, build

SPLITS = {"train": ("seen", 400, 2), "test": ("held_out", 100, 1)}
"""Split -> pairs of color and shape, instructions with related ones, seed."""


def write(task: Task, folder: Path, name: str, turn: int = 0) -> None:
    """Writes the two files. turn: each instruction has the related ones of the instruction so many places later."""
    rows: dict[str, dict[str, Any]] = {}
    images: dict[str, str] = {}

    def add(example: Example, related: Sequence[str]) -> str:
        [image] = example.images
        out = io.BytesIO()
        image.open().save(out, "PNG")
        images[f"{example.id}_image"] = base64.b64encode(out.getvalue()).decode()
        rows[example.id] = {
            "instruction": example.question,
            "answer": example.answer,
            "image_ids": [f"{example.id}_image"],
            "rel_ins_ids": list(related),
        }
        return example.id

    pools = [[add(one, ()) for one in task.pool(query.id).examples] for query in task.queries]
    for number, query in enumerate(task.queries):
        add(query, pools[(number + turn) % len(pools)])
    (folder / f"{name}_instructions.json").write_text(json.dumps({"meta": {}, "data": rows}), encoding="utf-8")
    (folder / f"{name}.json").write_text(json.dumps(images), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the files of all splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    folder: Path = parser.parse_args(arguments).out
    folder.mkdir(parents=True, exist_ok=True)
    for name, (concepts, queries, seed) in SPLITS.items():
        node = {
            "name": "binding",
            "ways": 4,
            "by": "texture",
            "concept_set": concepts,
            "queries": queries,
            "seed": seed,
        }
        task = build("task", {**node, "support": 2})
        write(task, folder, name)
        if name == "train":
            write(task, folder, "permuted", turn=1)


if __name__ == "__main__":
    main()
