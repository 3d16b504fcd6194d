"""Data with the columns of published data sets, small and made up, in the places that an experiment file names.

A path such as `lmms-lab-encoder/POPE` is read from the working directory if there is such a folder. So an experiment on
real data runs unchanged in a folder of stand-ins, with another model.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from experiments.config.config import load_config
from icl.tasks.presets import PRESETS
from tests.random_models.twins.twin import save_twin, twin_of

ROWS = 40
QUERIES, POOL_SIZE = 6, 18
TINY: Any = {"name": "hf", "path": "tiny"}
VALUES = {"category": ("random", "popular", "adversarial")}
"""The values of columns that divide the data."""
Node = Mapping[str, Any]


def write_stand_ins(folder: Path, node: Any, rows: int = ROWS) -> None:
    """Writes the data of every task in a config into a folder."""
    for task in _tasks(node):
        if task["name"] == "vl_icl":
            _write_vl_icl(folder / task["path"], task["task"], rows)
        elif task["name"] == "hub":
            whole = {**PRESETS.get(task.get("preset", ""), {}), **task}
            _write_rows(folder / whole["path"], whole, rows)
            if pool := whole.get("pool_path"):
                _write_rows(folder / pool, whole, rows, "pool")


def stand_in_config(name: str, model: Any = None, queries: int = QUERIES, **changes: Any) -> dict[str, Any]:
    """The keys of a shipped experiment with few queries, another model, and the embedded encoder."""
    keys = _smaller(load_config(name).document.data, queries)
    return {**keys, "model": model or TINY, **changes}


def twin_config(name: str, folders: Path) -> dict[str, Any]:
    """The keys of an experiment of a paper with one query, on the twin of the model that it names.

    Args:
        name: The shipped experiment.
        folders: Where twins are written.
    """
    twin = twin_of(load_config(name).document.data["model"]["path"])
    folder = folders / twin
    model = {"name": "hf", "path": str(folder if folder.is_dir() else save_twin(twin, folder)), "dtype": "float32"}
    return stand_in_config(name, model, queries=1, seeds=[0], max_new_tokens=2, controls="none")


def _smaller(node: Any, queries: int) -> Any:
    if isinstance(node, Mapping):
        limits = {"queries": queries, "pool_size": POOL_SIZE}
        return {
            key: min(limits.get(key, 0), value) if key in limits else _smaller(value, queries)
            for key, value in node.items()
            if key != "embedder"
        }
    return [_smaller(one, queries) for one in node] if isinstance(node, list) else node


def _tasks(node: Any) -> Iterator[Node]:
    if isinstance(node, Mapping):
        if node.get("name") in ("hub", "vl_icl"):
            yield node
        for value in node.values():
            yield from _tasks(value)
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for value in node:
            yield from _tasks(value)


def _write_rows(path: Path, task: Node, count: int, part: str = "data") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    splits = dict.fromkeys(filter(None, (task.get("split", "test"), task.get("pool_split"))))
    if path.suffix == "":
        import datasets

        made = {split: datasets.Dataset.from_list([_row(task, i, split) for i in range(count)]) for split in splits}
        datasets.DatasetDict(made).save_to_disk(str(path))
        return
    rows = [_on_disk(path.parent, _row(task, i, part), part) for i in range(count)]
    if template := task.get("image"):
        for row in rows:
            file = path.parent / template.format(**row)
            file.parent.mkdir(parents=True, exist_ok=True)
            _image(int(row["#"])).save(file)
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")


def _on_disk(folder: Path, row: dict[str, Any], part: str) -> dict[str, Any]:
    """The row with images as files."""
    for name, value in row.items():
        if isinstance(value, PILImage.Image):
            file = f"{part}_{row['#']}.png"
            value.save(folder / file)
            row[name] = file
    return row


def _row(task: Node, i: int, split: str) -> dict[str, Any]:
    row: dict[str, Any] = {"#": i}
    for role, names in task["columns"].items():
        for name in [names] if isinstance(names, str) else names:
            row[name] = _value(task, role, name, i, split)
    for template in (task.get("question"), task.get("image")):
        for name in _placeholders(template or ""):
            row.setdefault(name, f"{split} text {i}{'.png' if name == 'image' else ''}")
    return row


def _value(task: Node, role: str, name: str, i: int, split: str) -> Any:
    if role == "image":
        return _image(i + 100 * (split != "data"))
    if role == "options":
        return "(a) one (b) two" if name == "Options" else [f"one {i}", f"two {i}", "three", "four"]
    if role == "answer":
        return _answer(task, name, i, list(task.get("options", ())))
    if role == "domain" and name not in VALUES:
        return f"{split} {i % 2}"
    if role in ("box", "group"):
        return f"group {i // 2}" if role == "group" else 0 if name.endswith(("_x", "_y")) else 8
    return VALUES[name][i % len(VALUES[name])] if name in VALUES else f"{split} {name} {i}"


def _answer(task: Node, name: str, i: int, options: Sequence[Any]) -> Any:
    if task.get("answer_is") == "number":
        return 20.123456 + i
    if task.get("answer_is") == "letter":
        return "(a)" if name == "Correct Answer" else "ABCD"[i % 4]
    if task.get("answer_is") == "index":
        return i % max(2, len(options))
    if options:
        return options[i % len(options)]
    return [f"a red thing {i % 5}"] * 5 if name in ("answer", "caption") else ["red", "blue", "green"][i % 3 :][:1] * 10


def _placeholders(template: str) -> list[str]:
    from string import Formatter

    return [name for _, name, _, _ in Formatter().parse(template) if name]


def _image(i: int) -> PILImage.Image:
    return PILImage.new("RGB", (24, 24), ((37 * i) % 256, (91 * i) % 256, (i * 17) % 256))


def _write_vl_icl(folder: Path, task: str, rows: int) -> None:
    own = folder / task
    own.mkdir(parents=True, exist_ok=True)

    def image(name: str, i: int) -> str:
        file = folder / task / f"{name}{i}.png"
        _image(i + len(name)).save(file)
        return f"{task}/{file.name}"

    names = ["dax", "wug", "blick", "fep", "toma"]
    if task == "open_mi":
        queries = [
            {"image": [image("q", q)], "question": "This is a", "answer": names[q % 5], "classes": names,
             "support": {name: {"images": [image(f"{q}{name}", i) for i in range(5)]} for name in names}}
            for q in range(3)
        ]  # fmt: skip
        support: list[Any] = []
    elif task.startswith("operator"):
        queries = [
            {"image": [image(f"q{k}", i)], "question": "Result?", "answer": 7, "operator": k}
            for i, k in enumerate("+-x")
        ]
        support = [{"image": [image("s", i)], "question": "Result?", "answer": [i + 1, i - 1, i]} for i in range(rows)]
    elif task == "matching_mi":
        queries = [{"image": [image("q", 1), image("q", 2)], "question": "Induced?", "answer": "No"}]
        support = [
            {kind: {"image": [image(kind, 2 * i), image(kind, 2 * i + 1)], "question": "Induced?", "answer": answer}
             for kind, answer in (("same", "Yes"), ("diff", "No"))}
            for i in range(rows)
        ]  # fmt: skip
    else:
        made = [{"id": i, "image": [image("s", i)], "question": "color: red", "answer": str(i)} for i in range(rows)]
        queries, support = made[:3], made[3:]
    (own / "query.json").write_text(json.dumps(queries), encoding="utf-8")
    (own / "support.json").write_text(json.dumps(support), encoding="utf-8")
