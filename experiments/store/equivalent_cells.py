"""Digests of what decides a cell's answers. Cells with equal digests have equal answers with every model.

The digest covers the cell's canonical description without the parts that cannot matter: the sampler if options are
scored, the normalization if answers are generated, and the order of a single demonstration. A decoding that is
equivalent to greedy (`decoding.arms.equivalence`) counts as greedy; cell.json says so of a control of a class that only
the run itself has imported (EQUIVALENT). The digest depends on the cell's description only,
never on its answers: arms that happen to give equal answers are still tested.
"""

from collections.abc import Mapping
from typing import Any

from decoding.arms.equivalence import GREEDY, is_equivalent_to_greedy, registered_traits
from experiments.config.keys import AXES
from icl.text.json_text import canonical_digest

EQUIVALENT = "equivalent_to_greedy"
"""The key of cell.json that is true for a control of a strategy with code of its own, if it answers as greedy does."""
DECIDES = ("seed", "model_digest", *AXES)


def equivalence_digest(cell: Mapping[str, Any]) -> str:
    """The digest (16 hex) of what decides the answers of a cell, given its cell.json; '' if that is incomplete."""
    arm, score, shots = cell.get("decoding"), str(cell.get("answer_mode")), cell.get("shots")
    if not isinstance(arm, Mapping) or not isinstance(shots, int):
        return ""
    parts = {key: cell.get(key) for key in DECIDES}
    if "stop_strings" in cell:
        parts["stop_strings"] = cell["stop_strings"]
    parts["decoding"] = _arm(arm, score, shots, cell.get(EQUIVALENT) is True)
    if shots * _demonstrations(arm) <= 1 and ":" not in str((cell.get("order") or {}).get("name")):
        parts["order"] = None
    return canonical_digest(parts, ascii_only=False, compact=True, default=repr)[:16]


def _arm(arm: Mapping[str, Any], score: str, shots: int, is_recorded: bool) -> dict[str, Any]:
    unread = ("sampler", "logits_processors") if score == "options" else ("normalize",)
    node = {key: value for key, value in arm.items() if key not in unread}
    if not is_recorded and not is_equivalent_to_greedy(arm, score, shots):
        return node
    return {key: value for key, value in node.items() if key != "acts_in"} | {"strategy": GREEDY}


def _demonstrations(arm: Mapping[str, Any]) -> int:
    """The number of demonstrations in its prompts per shot; 2 if the strategy is not registered."""
    traits = registered_traits(arm.get("strategy"))
    return 2 if traits is None else traits.demonstration_factor
