"""Fixtures of the tests of decoding on random models."""

from collections.abc import Callable

import pytest
import tiny_models

from icl.models.hf.model import HF


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HF]:
    """Name of a class of models -> a loaded model with random weights, in float32 on the CPU."""
    made: dict[str, HF] = {}

    def get(name: str) -> HF:
        if name not in made:
            folder = tiny_models.save(name, tmp_path_factory.mktemp(name))
            made[name] = HF(path=str(folder), dtype="float32", device="cpu")
            made[name].load()
        return made[name]

    return get
