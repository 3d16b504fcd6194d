"""Tiny checkpoints that both transformers and vLLM load."""

import atexit
import importlib.util
import json
import re
import shutil
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

STOPS = range(256, 270)
"""The ids of special tokens; below are bytes, above ids without a token."""


def tiny_models() -> Any:
    """tests/tiny_models.py, imported by its path: pytest puts only this folder on the path."""
    name = "tiny_models"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "tiny_models.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@lru_cache
def shared(name: str) -> Path:
    """The checkpoint of this name for all tests of the session that do not change it."""
    folder = tempfile.mkdtemp(prefix="icl-checkpoint-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return saved(name, Path(folder))


def saved(name: str, folder: Path, **size: Any) -> Path:
    """Saves a checkpoint with attention heads of size 32, the smallest that vLLM's attention for CPUs supports.

    Random weights may choose image placeholders, which are invalid in an answer. They are stop tokens here.
    """
    tiny = tiny_models()
    path: Path = tiny.save(name, folder / name, tiny.Size(**{"width": 128, "layers": 2} | size))
    settings = json.loads((path / "generation_config.json").read_text())
    (path / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": list(STOPS)}))
    if name == "llava":
        _published_names(path / "model.safetensors")
    return path


def _published_names(file: Path) -> None:
    """transformers 5 drops `vision_model.` from the tower's names; published checkpoints and vLLM have it."""
    from safetensors.torch import load_file, save_file

    old = re.compile(r"^(model\.)?vision_tower\.(?!vision_model)")
    weights = {
        old.sub(lambda m: f"{m.group(1) or ''}vision_tower.vision_model.", key): value
        for key, value in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})
