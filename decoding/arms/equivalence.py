"""Decodings that are greedy by construction: what their nodes say, before any answer is seen.

    idle        a strategy that has not been fitted scores as the reference
    keeps_best  a control that leaves the order of tokens alone (`mask_only`, `temperature_matched`, `entropy_matched`)
    neutral     a method at the parameters at which it is its reference under its mask (alpha = 0)
    no others   a method whose branches are all the prompt itself, as where it changes demonstrations and there are none

The last three of greedily generated answers alone: drawing reads the whole distribution, and option scores do. A mask
that other branches have a say in (`masks_in_combine`) may rule the best token out, so such methods never count. Of
components of one's own nothing is known.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from decoding.base import Strategy
from icl.errors import ConfigError, ICLError
from icl.registry import build, is_builtin, resolve

GREEDY = {"name": "greedy"}


def is_equivalent_to_greedy(arm: Mapping[str, Any], score: str, shots: int) -> bool:
    """Whether the arm answers as greedy whatever the model says. arm: its canonical node (`Arm.describe`)."""
    node = arm.get("strategy")
    if not isinstance(node, Mapping):
        return False
    try:
        return node == GREEDY or (_known(node) and _greedy(node, arm, score, shots))
    except ConfigError:  # of another version, which had other parameters
        return False


def _greedy(node: Mapping[str, Any], arm: Mapping[str, Any], score: str, shots: int) -> bool:
    strategy = resolve("strategy", str(node["name"]))
    if vars(strategy).get("idle") is not None and build("strategy", node).idle:
        return True
    if score != "generate" or arm.get("sampler") != GREEDY:
        return False
    if strategy.keeps_best:
        return _masks_by_reference(resolve("strategy", str(node["of"]["name"])))
    if not _masks_by_reference(strategy) or strategy.samples != 1:
        return False
    neutral: Mapping[str, float] | None = strategy.neutral
    if neutral and all(node.get(name) == value for name, value in neutral.items()):
        return True
    return shots == 0 and _reads_the_prompt_alone(build("strategy", node))


@lru_cache
def _reads_the_prompt_alone(strategy: Strategy) -> bool:
    """Whether all branches of a prompt without demonstrations are the prompt, and their sum is for what they say."""
    from decoding.arms.inspection import constant_strength, probe_branches, probe_prompt

    prompt = probe_prompt(shots=0)
    try:
        branches = probe_branches(strategy, prompt)
    except ICLError:  # it cannot read such a prompt, and its samples say so
        return False
    if strategy.exits or any(branch.digest != prompt.digest for branch in branches):
        return False
    if len(branches) == 1:
        same = Strategy.combine, Strategy.combine_stateful, Strategy.mask
        return (type(strategy).combine, type(strategy).combine_stateful, type(strategy).mask) == same
    strength = constant_strength(strategy)
    return strength is None or strength > 0


def _masks_by_reference(strategy: Any) -> bool:
    """A property would have to be asked of the strategy itself: then it is not known."""
    return strategy.masks_in_combine is False


def _known(node: Mapping[str, Any]) -> bool:
    """Whether a strategy and what it wraps are of the packages here, and no class of somebody's own."""
    inner = [value for value in node.values() if isinstance(value, Mapping)]
    if any(":" in str(one.get("name", "")) for one in inner):
        return False
    return ":" not in str(node.get("name", "")) and is_builtin(resolve("strategy", str(node.get("name"))))
