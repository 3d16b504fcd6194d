from pathlib import Path

import pytest

from experiments.config import load
from experiments.vocabulary import KEYS

CONFIGS = sorted((Path(__file__).parents[2] / "experiments" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_reads_and_is_called_as_its_file(path: Path) -> None:
    config = load(path)
    assert config.name == path.stem
    assert set(config.document.data) <= set(KEYS)


def test_the_quickstart_is_shipped() -> None:
    assert "quickstart" in [path.stem for path in CONFIGS]
