"""Needs against abilities: whether a model can run a strategy, known before anything loads."""

from collections.abc import Iterable, Set

from decoding.arms.arm import Arm
from decoding.arms.inspection import constant_strength, probe_branches
from decoding.base import Strategy
from decoding.formulas.sampling import Beam
from icl.errors import ConfigError
from icl.registry import build, entries, resolve
from icl.types import Prompt

SUFFICIENT_ABILITIES = {
    "generate": frozenset({"generate", "logits", "strategies"}),
    "logits": frozenset({"logits", "strategies"}),
    "first token only": frozenset({"logits", "strategies"}),
    "whole options": frozenset({"logits"}),
    "beams": frozenset({"logits"}),
    "logits processors": frozenset({"logits"}),
    "hidden_states": frozenset({"hidden_states"}),
    "attention": frozenset({"attention"}),
}
"""need -> the abilities of which one is enough."""

NEED_NAMES = {
    "generate": "generated answers",
    "logits": "next-token logits",
    "first token only": "the logits of the first answer token",
    "whole options": "whole options scored by each branch",
    "logits processors": "logits processors between combination and sampler",
    "beams": "rows that beams can take over from one another",
    "hidden_states": "hidden states",
    "attention": "attention maps",
}


def unsupported_reason(strategy: Strategy | Arm, abilities: Set[str], score: str = "generate") -> str | None:
    """A sentence that says what is missing and what would run; None where nothing is.

    abilities: `Model.abilities`. An arm that samples, and any option scoring, reads logits, whatever the strategy.
    """
    arm = strategy if isinstance(strategy, Arm) else Arm(strategy, strategy.sampler)
    needs = set(arm.strategy.traits.needs)
    if arm.strategy.traits.requires_options and score != "options":
        return f"decoding '{arm.label}' ranks options and writes no text. Use answer_mode: options, or leave it out."
    if score == "options" and arm.strategy.traits.combines_options:
        needs.add("whole options")
    if score == "options" or not arm.sampler.deterministic:
        needs.add("logits")
    if score != "options" and isinstance(arm.sampler, Beam):
        needs.add("beams")
    if score != "options" and arm.logits_processors:
        needs.add("logits processors")
    missing = [need for need in sorted(needs) if not SUFFICIENT_ABILITIES.get(need, frozenset({need})) & abilities]
    if not missing:
        return None
    what = _listed(NEED_NAMES.get(need, need) for need in missing)
    has = f"it gives {_listed(sorted(abilities))}" if abilities else "it gives nothing"
    near = _nearest(arm.strategy, abilities, score)
    instead = f"{near} runs on it; " if near else ""
    others = _running(needs)
    run = f"'{arm.label}' runs with model {_listed(others, 'or')}." if others else "no backend here gives that."
    return (
        f"decoding '{arm.label}' {'with option scoring ' if score == 'options' else ''}needs {what}, which this model "
        f"cannot give ({has}). {instead}{run}"
    )


def _nearest(strategy: Strategy, abilities: Set[str], score: str) -> str:
    """What runs on the model: the strategy that comes next to it where it names one, else greedy."""
    if (
        strategy.traits.fallback
        and unsupported_reason(build("strategy", strategy.traits.fallback), abilities, score) is None
    ):
        return f"'{strategy.traits.fallback}', which comes next to it,"
    return "'greedy' with answer_mode: generate" if "generate" in abilities else ""


def _running(needs: Set[str]) -> list[str]:
    """Names of the backends that give all of it, as their classes say (icl ls models)."""
    found = []
    for name in entries("model"):
        try:
            gives: Set[str] = resolve("model", name).abilities
        except ConfigError:  # its package is not installed
            continue
        if all(SUFFICIENT_ABILITIES.get(need, frozenset({need})) & gives for need in needs):
            found.append(name)
    return found


def _listed(words: Iterable[str], joint: str = "and") -> str:
    *most, last = words
    return f"{', '.join(most)} {joint} {last}" if most else last


def degenerate_contrast(strategy: Strategy, prompt: Prompt | None = None) -> str | None:
    """A sentence where every branch of a prompt equals the reference, which names the control it has become.

    prompt: a made-up one with images and demonstrations where there is none, and then it is so by construction.
    """
    first, *others = probe_branches(strategy, prompt)
    if not others or any(branch.digest != first.digest for branch in others):
        return None
    name, strength = Arm(strategy).label, constant_strength(strategy)
    said = f"every branch of decoding '{name}' is the prompt itself, so it "
    if strength is None or abs(strength - 1) < 1e-6:
        return f"{said}contrasts nothing: it has become mask_only."
    if strength > 0:
        return f"{said}is the reference at temperature {1 / strength:.3g}: it has become temperature_matched."
    return f"{said}says nothing about tokens that its mask keeps (its weights sum to {strength:g})."
