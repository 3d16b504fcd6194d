"""The adapters `tiny_cobsat`, `tiny_link_context` and `tiny_raven`, for tasks that the tiny model was not trained on.

Each stage is a training of `icl fit` with LoRA matrices in the decoder. The tiny model itself does not change. Tests
have other seeds, and in `link_context` pairs of color and shape that no training image shows. The card is
`icl/models/tiny/adapters/CARD.md`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from experiments.config.config import Config, load_config
from experiments.tuning.tune import tune
from icl import parse_json
from icl.models.hf.adapter import ADAPTERS, CONFIG, WEIGHTS

STAGES: Mapping[str, Mapping[str, Any]] = {
    "cobsat": {
        "keys": {"max_new_tokens": 6, "metrics": ["cobsat", "lenient"]},
        "tune": {"task": {"name": "cobsat", "queries": 1600}, "shots": 4, "steps": 200},
    },
    "link_context": {
        "keys": {"max_new_tokens": 6},
        "tune": {"task": {"name": "link_context", "queries": 1600, "concept_set": "seen"}, "shots": 8, "steps": 200},
    },
    "raven": {
        "keys": {"max_new_tokens": 4, "answer_mode": "options", "metrics": ["option", "raven"]},
        "tune": {
            "task": {"name": "raven", "queries": 3200, "candidates": 2, "panels": "separate"}, "shots": 0, "steps": 300
        },
    },
}  # fmt: skip
"""Name -> keys of the study, and its training without seed and modules."""
SEEDS = {"task": 1, "tune": 2}
"""The seed of the tests, and that of the training."""
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def study(name: str) -> Config:
    """The training of a stage, as an experiment file."""
    keys, tuning = STAGES[name]["keys"], STAGES[name]["tune"]
    test = {key: value for key, value in tuning["task"].items() if key != "concept_set"}
    return load_config({
        "name": name, "model": {"name": "hf", "path": "tiny"}, **keys,
        "task": {**test, "queries": 120, "seed": SEEDS["task"]},
        "tune": {**tuning, "task": {**tuning["task"], "seed": SEEDS["tune"]}, "lr": 0.002, "modules": MODULES},
    })  # fmt: skip


def train(name: str, out: Path) -> Path:
    """Trains a stage in a folder, and returns the adapter's folder. A stopped training continues."""
    [outcome] = tune(study(name), out / name, report_progress=lambda what, done, of: print(f"{done}/{of} {what}"))
    return outcome.folder


def ship(trained: Path, out: Path) -> None:
    """Writes a trained adapter to a folder, in half precision."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = load_file(trained / WEIGHTS[0])
    save_file({name: one.half() for name, one in tensors.items()}, out / WEIGHTS[0])
    config = parse_json((trained / CONFIG).read_bytes())
    config["target_modules"] = sorted(config["target_modules"])
    (out / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def ship_all(out: Path) -> None:
    """Trains all stages in a folder, and replaces the shipped adapters."""
    for name in STAGES:
        ship(train(name, out), ADAPTERS / name)
