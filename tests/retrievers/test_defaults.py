"""Defaults of retrievers, rerankers and embedders, and what retrievers declare."""

from dataclasses import fields
from typing import Any

import pytest

from icl.registry import entries, resolve
from retrievers.base import declared

DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("retriever", "bm25"): {"text": "question", "k1": 1.2, "b": 0.75},
    ("retriever", "cone"): {"search": "exact", "by": "image", "weight": 0.5, "candidates": 30},
    ("retriever", "contrastive_pair"): {"search": "exact", "by": "image", "weight": 0.5},
    ("retriever", "diverse_subset"): {"search": "exact", "by": "image", "weight": 0.5, "candidates": 10},
    ("retriever", "dpp"): {"search": "exact", "by": "image", "weight": 0.5, "candidates": 100, "scale": 0.1},
    ("retriever", "external"): {"code": ""},
    ("retriever", "filtered"): {"domain": "any", "labels": (), "max_similarity": None},
    ("retriever", "fixed"): {"path": "", "ids": (), "code": ""},
    ("retriever", "hard_negative"): {"search": "exact", "by": "image", "weight": 0.5},
    ("retriever", "i2t"): {"search": "exact", "text": "answer"},
    ("retriever", "invariant_select"): {
        "search": "exact",
        "by": "image",
        "weight": 0.5,
        "sources": (),
        "head": None,
        "trained_on": None,
        "steps": 100,
        "rate": 0.001,
        "temperature": 0.1,
        "pull": 0.0,
        "positives": "other_domains",
        "sum_over": "positives_and_others",
        "code": "",
    },
    ("retriever", "hybrid"): {"similar": 2, "part": "both"},
    ("retriever", "k_means"): {"by": "image"},
    ("retriever", "knn"): {"search": "exact", "by": "image", "weight": 0.5},
    ("retriever", "late_interaction"): {"by": "image", "weight": 0.5},
    ("retriever", "learned"): {
        "search": "exact",
        "fitted": "",
        "control": "none",
        "transfer": False,
        "by": "image",
        "text": "answer",
        "candidates": 8,
        "loss": "list",
        "dimensions": 8,
        "steps": 300,
        "rate": 0.005,
        "decay": 0.1,
        "temperature": 1.0,
        "feedback": "single",
        "code": "",
    },
    ("retriever", "likelihood_oracle"): {"sets": "single"},
    ("retriever", "local_entropy"): {"search": "exact", "by": "image", "weight": 0.5, "candidates": 30, "subsets": 10},
    ("retriever", "mdl"): {"search": "exact", "by": "image", "weight": 0.5, "candidates": 30, "subsets": 10},
    ("retriever", "mmices"): {"search": "exact", "first": "image"},
    ("retriever", "mmr"): {"search": "exact", "by": "image", "weight": 0.5, "candidates": 100},
    ("retriever", "neighbor_swap"): {"position": 0, "by": "image"},
    ("retriever", "oracle"): {"search": "exact"},
    ("retriever", "pcme"): {"query": "image", "member": "image"},
    ("retriever", "query_dropout"): {"share": 0.0},
    ("retriever", "ra_cm3"): {"search": "exact", "limit": 0.9},
    ("retriever", "reranked"): {"candidates": 50},
    ("retriever", "set_coverage"): {"by": "image", "weight": 0.5, "idf": False},
    ("retriever", "sqa"): {"search": "exact", "answer": "model", "weight": 0.0, "max_new_tokens": 16},
    ("retriever", "t2i"): {"search": "exact"},
    ("retriever", "topk_nearest"): {"search": "exact", "by": "image", "weight": 0.5, "sources": ()},
    ("retriever", "vote_k"): {
        "search": "exact",
        "by": "image",
        "weight": 0.5,
        "size": 100,
        "neighbors": 150,
        "rho": 10.0,
    },
    ("reranker", "caption"): {"ask": "Describe the image in one sentence.", "max_new_tokens": 32},
    ("reranker", "diversity"): {"by": "image"},
    ("reranker", "near_duplicate_cap"): {"by": "image", "threshold": 0.95},
    ("embedder", "centered"): {"text": None},
    ("embedder", "encoder"): {"path": "tiny"},
    ("embedder", "histogram"): {"bins": 8},
    ("embedder", "mix"): {"weight": 0.5},
    ("embedder", "pixels"): {"size": 16},
    ("embedder", "probabilistic"): {
        "pairs": "answer",
        "heads": None,
        "steps": 100,
        "rate": 0.01,
        "start": -4.0,
        "a": None,
        "b": None,
        "released": True,
        "prior": 1e-05,
        "code": "",
    },
    ("embedder", "sentence_transformers"): {"images_too": False},
    ("embedder", "vision"): {"pool": "pooled"},
}

UNRANKED = [
    "cone",
    "contrastive_pair",
    "dpp",
    "external",
    "fixed",
    "hard_negative",
    "hybrid",
    "k_means",
    "likelihood_oracle",
    "mmr",
    "reranked",
    "set_coverage",
]
NESTED = [
    "balanced",
    "bm25",
    "cone",
    "contrastive_pair",
    "dpp",
    "external",
    "fixed",
    "hard_negative",
    "i2t",
    "invariant_select",
    "knn",
    "late_interaction",
    "learned",
    "likelihood_oracle",
    "mmices",
    "mmr",
    "none",
    "oracle",
    "pcme",
    "ra_cm3",
    "random",
    "set_coverage",
    "sqa",
    "t2i",
    "topk_nearest",
    "vote_k",
]
FEWER = ["near_duplicate_cap", "none", "ra_cm3"]


@pytest.mark.parametrize(("kind", "name"), DEFAULTS)
def test_a_parameter_has_this_default(kind: str, name: str) -> None:
    """A changed default changes every experiment that leaves the parameter out."""
    values = {field.name: field.default for field in fields(resolve(kind, name))}
    assert {name: values[name] for name in DEFAULTS[kind, name]} == DEFAULTS[kind, name]


def test_retrievers_declare_what_their_sets_are() -> None:
    """Unranked: not in the order of their scores. Nested: k shots begin more shots. Fewer: may return fewer than k."""
    classes = {name: resolve(kind, name) for kind in ("retriever", "reranker") for name in entries(kind)}
    classes = {name: cls for name, cls in classes.items() if cls.__module__.startswith("retrievers.")}

    def having(attribute: str, value: bool) -> list[str]:
        return sorted(name for name, cls in classes.items() if declared(cls, attribute) is value)

    assert having("ranked", False) == UNRANKED
    assert having("nested", True) == NESTED
    assert having("returns_k", False) == FEWER
