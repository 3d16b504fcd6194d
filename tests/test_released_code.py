"""The page of every component that names a paper says how the component differs from the released code."""

import re
import sys

import pytest

from experiments.cli.ls import component_page
from icl.registry import entries, resolve

KINDS = ("strategy", "retriever", "reranker", "orderer", "transform", "composer", "metric", "intervention")
PAPER = re.compile(r"\b\d{4}\.\d{4,5}\b|\bet al\.|\b(19|20)\d\d\b")
LINE = re.compile(r"\b[Dd]iffers from the released code in \S|\bNo released code\b")


def text_of(kind: str, name: str) -> str:
    """What `icl ls KIND NAME` prints, in one line."""
    return " ".join(" ".join(component_page(kind, name, 100)).split())


def names_a_paper(kind: str, name: str) -> bool:
    component = resolve(kind, name)
    return PAPER.search(f"{sys.modules[component.__module__].__doc__} {component.__doc__}") is not None


FROM_PAPERS = [(kind, name) for kind in KINDS for name in sorted(entries(kind)) if names_a_paper(kind, name)]


def test_most_methods_name_their_paper() -> None:
    assert len(FROM_PAPERS) > 90
    assert {("strategy", "vcd"), ("retriever", "knn"), ("orderer", "demo"), ("metric", "vqa")} <= set(FROM_PAPERS)


@pytest.mark.parametrize(("kind", "name"), FROM_PAPERS)
def test_the_page_says_how_the_component_differs_from_the_released_code(kind: str, name: str) -> None:
    page = text_of(kind, name)
    assert LINE.search(page), f"{kind} {name}: add 'Differs from the released code in ...' or 'No released code.'"
