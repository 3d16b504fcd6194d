"""Tiny checkpoints, saved and loaded once for each test session."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    import tiny_models

    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tiny_models.save(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.fixture(scope="session")
def model_of(folder_of):
    """The loaded backend of an architecture. Its caches live on: a test that counts makes its own."""
    from icl.models.hf.model import HF

    made: dict[str, HF] = {}

    def get(name: str) -> HF:
        if name not in made:
            made[name] = HF(path=str(folder_of(name)))
            made[name].load()
        return made[name]

    return get
