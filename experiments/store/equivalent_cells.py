"""What decides a cell's answers: cells of one digest answer alike by construction, whatever the model says.

The digest is of the cell's canonical description without what cannot matter to it: how tokens are drawn where options
are scored, and how these are normalized where answers are written; the order of one demonstration; and a decoding that
is greedy anyway (`decoding.arms.equivalence`) counts as greedy. It is read from what a cell is, never from what it
answered: an arm that merely happens to answer alike was worth a test.
"""

from collections.abc import Mapping
from typing import Any

from decoding.arms.equivalence import GREEDY, is_equivalent_to_greedy, registered_traits
from experiments.config.keys import AXES
from icl.canonical_json import canonical_digest

DECIDES = ("seed", "model_digest", *AXES)


def equivalence_digest(cell: Mapping[str, Any]) -> str:
    """The digest (16 hex) of what decides the answers of a cell; '' where it does not say. cell: its cell.json."""
    arm, score, shots = cell.get("decoding"), str(cell.get("answer_mode")), cell.get("shots")
    if not isinstance(arm, Mapping) or not isinstance(shots, int):
        return ""
    parts = {key: cell.get(key) for key in DECIDES}
    if "stop_strings" in cell:
        parts["stop_strings"] = cell["stop_strings"]
    parts["decoding"] = _arm(arm, score, shots)
    if shots * _demonstrations(arm) <= 1 and ":" not in str((cell.get("order") or {}).get("name")):
        parts["order"] = None
    return canonical_digest(parts, ascii_only=False, compact=True, default=repr)[:16]


def _arm(arm: Mapping[str, Any], score: str, shots: int) -> dict[str, Any]:
    unread = ("sampler", "logits_processors") if score == "options" else ("normalize",)
    node = {key: value for key, value in arm.items() if key not in unread}
    return node | {"strategy": GREEDY} if is_equivalent_to_greedy(arm, score, shots) else node


def _demonstrations(arm: Mapping[str, Any]) -> int:
    """How many times the number of shots its prompts show; 2 if that is not known."""
    traits = registered_traits(arm.get("strategy"))
    return 2 if traits is None else traits.demonstration_factor
