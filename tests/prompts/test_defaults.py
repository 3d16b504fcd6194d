"""Defaults of orderers, transforms and composers."""

from dataclasses import fields
from typing import Any

import pytest

from icl.registry import resolve

DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("orderer", "alternating"): {"start": "first"},
    ("orderer", "demo"): {"orders": 24},
    ("orderer", "entropy"): {"orders": 24, "by": "global", "probes": 8},
    ("orderer", "label_position"): {"position": "head"},
    ("orderer", "permutation"): {"index": 0, "own": False},
    ("transform", "answers"): {"how": "permuted"},
    ("transform", "captions"): {
        "key": "caption",
        "file": None,
        "where": "demos",
        "text": "{caption}\n",
        "saw_labels": False,
        "code": "",
    },
    ("transform", "descriptions"): {
        "ask": "caption",
        "where": "demos",
        "keep": False,
        "context": False,
        "text": "{caption}\n",
        "max_new_tokens": 48,
    },
    ("transform", "frame_grid"): {"frames": 6, "columns": 3, "gap": 4, "shuffled": False, "where": "all"},
    ("transform", "images"): {"how": "removed", "where": "demos", "shade": 128, "step": 999},
    ("transform", "noisy_labels"): {"share": 0.5},
    ("transform", "option_list"): {"shift": 0, "where": "all", "text": "\nOptions: {options}.", "between": ", "},
    ("transform", "questions"): {"how": "removed", "where": "demos"},
    ("transform", "symbols"): {"words": ()},
    ("transform", "unlearn"): {"classes": ()},
    ("composer", "blocks"): {
        "order": "pqa",
        "instruction": "none",
        "instruction_text": None,
        "instruction_at": "head",
        "request": "[REQUEST] ",
        "response": "[RESPONSE] ",
        "delimiter": "\n",
    },
    ("composer", "chat"): {"first": "image", "instruction": "none", "instruction_text": None, "delimiter": ""},
    ("composer", "interleaved"): {
        "first": "image",
        "instruction": "none",
        "instruction_text": None,
        "delimiter": "\n\n",
    },
    ("composer", "template"): {"path": "vl_icl", "instruction": "none", "instruction_text": None, "code": ""},
}


@pytest.mark.parametrize(("kind", "name"), DEFAULTS)
def test_a_parameter_has_this_default(kind: str, name: str) -> None:
    """A changed default changes every experiment that leaves the parameter out."""
    values = {field.name: field.default for field in fields(resolve(kind, name))}
    assert {name: values[name] for name in DEFAULTS[kind, name]} == DEFAULTS[kind, name]
