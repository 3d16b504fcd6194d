from pathlib import Path

import pytest

from decoding.arms.arm import build_arm
from experiments.config.config import load_config
from experiments.config.keys import KEYS
from experiments.grid.grid import axis_points

FOLDER = Path(__file__).parents[2] / "experiments" / "configs"
CONFIGS = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("drawings/*.yaml")])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_reads_and_is_called_as_its_file(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.relative_to(FOLDER).with_suffix("").as_posix().replace("/", "-")
    assert set(config.document.data) <= set(KEYS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_component_of_a_shipped_config_is_there_with_its_parameters(path: Path) -> None:
    for point in axis_points(load_config(path)):
        for key in ("task", "model", "retriever", "order", "composer"):
            point[key].build()
        build_arm(point["decoding"])


def test_the_quickstart_is_shipped() -> None:
    assert "quickstart" in [path.stem for path in CONFIGS]
