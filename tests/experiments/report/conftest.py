"""A run directory as a finished run leaves it, written through the store, with scores drawn from known chances."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.store import Store, Writer
from icl.pictures import Picture
from icl.types import Sample

COLOURS = ("red", "green", "blue", "gold", "purple", "teal")
GREEDY = {"name": "greedy"}
VCD = {"name": "vcd", "alpha": 1.0}
MASK_ONLY = {"name": "mask_only", "of": VCD}
CHANCES = {"shapes": (0.86, 0.002), "binding, 2-way": (0.5, 0.12)}
"""task -> (accuracy at 0 shots, gain for each doubling of 1 + shots)."""


def write_run(
    folder: Path,
    tasks: Sequence[str] = tuple(CHANCES),
    queries: int = 20,
    seeds: Sequence[int] = (0, 1),
    shots: Sequence[int] = (0, 2, 4),
    retrievers: Sequence[str] = ("random", "knn"),
    decodings: Sequence[Any] = (GREEDY, VCD, MASK_ONLY),
    hostile: str = "",
    failing: Mapping[str, str] = {},
) -> Path:
    """hostile: text put into every field that a data set or a model may fill. failing: query id -> reason."""
    store = Store(folder)
    pictures = {name: _picture(folder, name) for name in COLOURS}
    compare = {"to": {"decoding": "greedy"}, "metric": "lenient", "correct": "holm"}
    digests = []
    with Writer(store) as writer:
        for cell in _cells(tasks, seeds, shots, retrievers, decodings):
            digest = f"{hash_of(json.dumps(cell, sort_keys=True)):016x}"
            digests.append(digest)
            store.write_cell(digest, {**cell, "labels": _labels(cell)})
            writer.append(digest, [_sample(cell, digest, i, pictures, hostile, failing) for i in range(queries)])
    store.write_run({"name": folder.name, "config": {"compare": compare}, "cells": digests, "sessions": _sessions()})
    return folder


def _cells(tasks: Any, seeds: Any, shots: Any, retrievers: Any, decodings: Any) -> list[dict[str, Any]]:
    return [
        {"task": t, "model": "tiny", "seed": s, "shots": k, "retriever": r if k else None, "decoding": d}
        for t in tasks
        for d in decodings
        for k in shots
        for r in (retrievers if k else retrievers[:1])
        for s in seeds
    ]


def _labels(cell: Mapping[str, Any]) -> dict[str, Any]:
    d = cell["decoding"]
    told = f"{d['name']}({d['of']['name']})" if "of" in d else d["name"]
    return {**cell, "retriever": cell["retriever"] or "none", "decoding": told}


def _sample(
    cell: Mapping[str, Any], digest: str, i: int, pictures: Mapping[str, str], hostile: str, failing: Mapping[str, str]
) -> Sample:
    query, seed, k = f"{cell['task']}-{i:04d}", cell["seed"], cell["shots"]
    key = json.dumps([query, seed, k, cell["retriever"]])
    draw = np.random.default_rng(hash_of(key))
    asked = COLOURS[hash_of(query) % len(COLOURS)]
    names = [str(name) for name in draw.choice(COLOURS, size=k)] + [asked]
    base, slope = CHANCES.get(cell["task"], (0.6, 0.05))
    chance = base + slope * np.log2(1 + k) + (0.04 if cell["retriever"] == "knn" else 0)
    luck = np.random.default_rng(hash_of(key + json.dumps(cell["decoding"])))
    right = luck.random() < 0.7 * chance + 0.3 * (draw.random() < chance)
    gold = f"{names[-1]}{hostile}"
    output = gold if right else str(luck.choice([n for n in COLOURS if n != names[-1]])) + hostile
    turns = [
        f"[user] <picture>What colour is the shape?{hostile}\n[assistant] {name}{hostile}" for name in names[:-1]
    ] + [f"[user] <picture>What colour is the shape?{hostile}"]
    votes = [sum(n == m for n in names[:-1]) for m in names[:-1]]
    voted = names[:-1][int(np.argmax(votes))] if votes else None
    scores = {"lenient": float(right), "strict": float(right and luck.random() < 0.95)}
    common: dict[str, Any] = dict(
        cell=digest,
        query=query,
        seed=seed,
        group=f"picture {i // 2}",
        gold=(gold,),
        options=tuple(f"{c}{hostile}" for c in COLOURS),
        demos=tuple((f"pool-{j}{hostile}", float(0.9 - 0.05 * j), f"{n}{hostile}") for j, n in enumerate(names[:-1])),
    )
    if query in failing:
        return Sample(**common, failed=failing[query])
    return Sample(
        **common,
        prompt="\n".join(turns),
        prompt_digest=f"{hash_of(key):x}",
        pictures=tuple(pictures[n] for n in names),
        output=output,
        finish="stop",
        scores=scores,
        baselines={"vote": float(voted == names[-1])} if votes else {},
        trace={"divergence": (0.1, 0.4, 0.2)},
        usage={"prompt_tokens": 40 + 60 * k, "new_tokens": 3, "forwards": 3},
        meta={"type": f"colour{hostile}"},
    )


def hash_of(text: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _picture(folder: Path, colour: str) -> str:
    image = Image.new("RGB", (48, 48), "white")
    image.paste(colour, (10, 10, 38, 38))
    digest = Picture.from_image(image).digest
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    image.save(folder / "pictures" / f"{digest}.png")
    return digest


def _sessions() -> list[dict[str, Any]]:
    counters = {"pictures_encoded": 3140, "pictures_shown": 28260, "prefill_tokens": 1_203_440, "forwards": 5210}
    return [{"start": "2026-01-02T03:04:05", "end": "2026-01-02T03:06:15", "counters": counters}]


class Loaded:
    """What the report needs of a run."""

    def __init__(self, folder: Path) -> None:
        self.path = folder

    def samples(self) -> Any:
        import pandas as pd

        store, rows = Store(self.path), []
        axes = ("task", "model", "shots", "retriever", "decoding")
        for digest in (store.run() or {})["cells"]:
            labels = (store.cell(digest) or {})["labels"]
            for line in store.samples(digest):
                rows.append({**line, **line.get("scores", {}), **line.get("baselines", {}), **{a: labels[a] for a in axes}})
        frame = pd.DataFrame(rows)
        if "failed" not in frame:
            frame["failed"] = None
        frame.attrs |= {"axes": axes, "metrics": ("lenient", "strict"), "baselines": ("vote",)}
        return frame
