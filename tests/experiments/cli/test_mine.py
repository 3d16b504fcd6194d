"""`icl data mine` writes blind pairs as a task that the printed node loads."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from experiments.cli.main import main
from experiments.config.yaml_document import parse_yaml
from icl.registry import build
from icl.testing import check_task


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Images of two classes that have the same histogram in another arrangement, and one image apart."""
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for i in range(3):
        pixels = np.full((16, 16, 3), 40 * i, dtype=np.uint8)
        pixels[:, :8] = rng.integers(0, 256, (16, 8, 3))
        PILImage.fromarray(pixels).save(tmp_path / "data" / "left" / f"{i}.png")
        PILImage.fromarray(pixels[:, ::-1].copy()).save(tmp_path / "data" / "right" / f"{i}.png")
    task: dict[str, Any] = {"name": "hub", "path": "data", "split": "train", "question": "where is it?",
                            "columns": "{image: image, answer: label}"}  # fmt: skip
    text = ", ".join(f"{key}: {value}" for key, value in task.items())
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\ntask: {{{text}, answer_is: class, pool_fraction: 0}}\nmodel: fake-vote\n")
    return path


def test_the_pairs_are_images_that_only_the_other_encoder_distinguishes(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "mine", str(config), "--out", str(tmp_path / "pairs"), "--blind", "histogram",
             "--reference", "pixels", "--high", "0.99", "--low", "0.9"]  # fmt: skip
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "wrote        3 pairs of 6 images" in printed
    node = re.search(r"task: +(\{.*\})", printed)
    assert node is not None
    task = build("task", parse_yaml(node[1], "out")[0])
    check_task(task)
    pairs: dict[str, list[Any]] = {}
    for example in (*task.queries, *task.pool("").examples):
        pairs.setdefault(str(example.group), []).append(example)
    assert len(pairs) == 3
    for one, other in pairs.values():
        assert {one.answer, other.answer} == {"left", "right"}
        a, b = (np.asarray(example.images[0].open()) for example in (one, other))
        assert (a == b[:, ::-1]).all()


def test_bounds_that_no_pair_meets_and_a_wrong_encoder_are_sentences(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "data",
        "mine",
        str(config),
        "--out",
        str(tmp_path / "pairs"),
        "--blind",
        "pixels",
        "--reference",
        "pixels",
    ]
    assert main(words) != 0
    assert "no pair of the 6 images has two answers" in capsys.readouterr().err
    assert not (tmp_path / "pairs").exists()
    assert main([*words[:-1], "nothing"]) != 0
    assert "--reference: no embedder named 'nothing'" in capsys.readouterr().err
