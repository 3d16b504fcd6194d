"""The default reading of a component where papers and their code leave several."""

from collections.abc import Mapping
from typing import Any

import pytest

from icl.parameter_docs import parameter_docs
from icl.registry import build, resolve

TAKEN: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("retriever", "invariant_select"): {
        "temperature": 0.1,
        "positives": "other_domains",
        "sum_over": "positives_and_others",
    },
    ("retriever", "knn"): {"weight": 0.5},
    ("retriever", "sqa"): {"answer": "model", "weight": 0.0},
    ("retriever", "diverse_subset"): {"candidates": 10},
    ("retriever", "dpp"): {"scale": 0.1},
    ("retriever", "set_coverage"): {"weight": 0.5, "idf": False},
    ("retriever", "vote_k"): {"rho": 10.0},
    ("retriever", "mdl"): {"candidates": 30, "subsets": 10},
    ("retriever", "local_entropy"): {"candidates": 30, "subsets": 10},
    ("retriever", "cone"): {"candidates": 30},
    ("retriever", "ra_cm3"): {"limit": 0.9},
    ("retriever", "query_dropout"): {"share": 0.0},
    ("retriever", "bm25"): {"k1": 1.2, "b": 0.75},
    ("embedder", "mix"): {"weight": 0.5},
    ("orderer", "alternating"): {"start": "first"},
    ("orderer", "entropy"): {"orders": 24, "by": "global"},
    ("orderer", "demo"): {"orders": 24},
    ("orderer", "permutation"): {"index": 0},
    ("transform", "frame_grid"): {"frames": 6},
    ("metric", "vqa"): {"normalize": "always"},
    ("strategy", "m3id"): {"first_step": 1, "beta": 0.1, "threshold": 1.0},
    ("strategy", "nbce"): {"eta": 0.1},
    ("strategy", "vdd_post_hoc"): {"smoothing": 1e-4},
    ("strategy", "xmore"): {"by": "entropy"},
    ("strategy", "dola"): {"divergence": "jensen_shannon"},
    ("strategy", "olm"): {"total": 0.2, "margin": 0.5},
    ("strategy", "pba"): {
        "suffix": " Answer the question using a single word or phrase. Answer yes whenever possible."
    },
}
SILENT = {("retriever", "mmices"): "candidates", ("retriever", "mmr"): "balance", ("reranker", "diversity"): "balance"}
"""Parameters without a default, because no default is defensible."""


@pytest.mark.parametrize(("component", "taken"), TAKEN.items(), ids=lambda value: str(value)[:40])
def test_a_component_uses_the_documented_reading(component: tuple[str, str], taken: Mapping[str, Any]) -> None:
    defaults = {one.key: one.default for one in parameter_docs(resolve(*component))}
    assert {key: defaults[key] for key in taken} == taken


@pytest.mark.parametrize(("component", "key"), SILENT.items(), ids=str)
def test_parameters_without_a_defensible_default_are_required(component: tuple[str, str], key: str) -> None:
    assert {one.key: one.required for one in parameter_docs(resolve(*component))}[key]


def test_methods_that_share_a_name_have_presets_of_their_own() -> None:
    assert build("retriever", {"name": "mmices", "preset": "mmices"}).candidates == 200
    assert build("retriever", {"name": "mmices", "preset": "si_q"}).candidates == 32
    assert build("retriever", {"name": "sqa", "preset": "oracle_sqa"}).needs >= {"gold"}
    assert "gold" not in build("retriever", {"name": "sqa", "preset": "iqpr"}).needs
