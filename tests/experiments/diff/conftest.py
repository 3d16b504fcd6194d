"""Sides of `icl doctor backends`: the shipped model in this process, and servers."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from experiments.config.yaml_document import Document
from experiments.diff.recording import Side, live_side, one_point, record
from icl.testing.faulty_server import FaultyServer
from icl.testing.vision_server import VisionServer, listen

STUDY = {
    "task": {"name": "binding", "ways": 2, "queries": 3},
    "model": {"name": "hf", "path": "tiny"},
    "grid": {"shots": [0, 2], "decoding": ["greedy", "vcd"]},
}
EDGE = 64
"""The tiny model's own size."""


@cache
def side(word: str, edge: int = EDGE, queries: int = 2) -> Side:
    """What a side of the study shows; recorded once in a session."""
    live = live_side(word, one_point(Document("study", Path.cwd(), STUDY)))
    return record(word, live.cell.model, live.prompts(queries), edge)


@pytest.fixture(scope="session")
def server() -> Iterator[Callable[..., str]]:
    """The word for a correct server, or for one with a fault. settings: of the correct one behind it."""
    made = []

    def start(fault: str = "none", **settings: object) -> str:
        made.append(listen(FaultyServer(VisionServer(**settings).respond).respond))
        return f"http://127.0.0.1:{made[-1].server_port}/{fault}/v1#shapes"

    yield start
    for one in made:
        one.shutdown()
