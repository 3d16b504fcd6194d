"""Arms that are greedy decoding by construction, independently of the model's answers.

    is_unfitted          a strategy with unfitted parameters scores as the reference
    preserves_argmax     a control that keeps the order of tokens (`mask_only`, `temperature_matched`,
                         `entropy_matched`)
    neutral_parameters   a method at parameters at which it equals its reference under its mask (alpha = 0)
    equal branches       a method with branches that all equal the prompt, such as one without demonstrations at 0 shots

The last three hold for greedy generation only, since sampling and option scores depend on the whole distribution. A
mask that reads several branches (`masks_in_combine`) may rule out the best token, so such methods never count. Nothing
is known about classes from outside the packages, with one exception: a control of these packages keeps the order of
tokens around such a class too, if the class leaves `mask` to these packages. Only the process that runs the class can
tell (`is_control_of_greedy`), so the run records it.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from decoding import Arm, Traits, constant_strength, has_reference_scores, probe_branches, probe_prompt
from icl import ConfigError, ICLError, Strategy, build
from icl.registry import is_builtin
from icl.untrusted import untrusted

GREEDY = {"name": "greedy"}


def is_equivalent_to_greedy(arm: Mapping[str, Any], answer_mode: str, shots: int) -> bool:
    """Whether an arm answers as greedy decoding does, for any model.

    Args:
        arm: Canonical config of the arm (`Arm.config`).
        answer_mode: 'generate' or 'options'.
        shots: Number of demonstrations.
    """
    config = arm.get("strategy")
    if config == GREEDY:
        return True
    strategy = _registered_strategy(config)
    if strategy is None or strategy.is_unfitted:
        return strategy is not None
    if answer_mode != "generate" or arm.get("sampler") != GREEDY or arm.get("logits_processors"):
        return False
    return _has_greedy_scores(strategy, shots)


def is_control_of_greedy(arm: Arm, answer_mode: str, shots: int) -> bool:
    """Whether an arm with classes from outside the packages answers as greedy decoding does, for any model.

    Args:
        arm: The arm, with its strategy built.
        answer_mode: 'generate' or 'options'.
        shots: Number of demonstrations.
    """
    control, inner = arm.strategy, getattr(arm.strategy, "inner", None)
    if answer_mode != "generate" or arm.config["sampler"] != GREEDY or arm.logits_processors:
        return False
    if not (isinstance(inner, Strategy) and is_builtin(type(control)) and control.traits.preserves_argmax):
        return False
    if getattr(control, "needs_all_branches", True) or not _leaves_mask(type(inner)):
        return False
    return _has_greedy_scores(control, shots)


def _leaves_mask(cls: type[Strategy]) -> bool:
    """Whether a class takes both `mask` and `strength` from a class of these packages."""
    owners = (next(base for base in cls.__mro__ if name in vars(base)) for name in ("mask", "strength"))
    return all(is_builtin(owner) for owner in owners)


def _has_greedy_scores(strategy: Strategy, shots: int) -> bool:
    """Whether the strategy and the reference have the same best token, for any logits."""
    traits = strategy.traits
    if traits.masks_in_combine or traits.num_samples != 1 or (traits.demonstration_factor != 1 and shots > 0):
        return False
    if traits.preserves_argmax:
        return True
    neutral = strategy.neutral_parameters
    if neutral and all(getattr(strategy, name) == value for name, value in neutral.items()):
        return True
    return shots == 0 and _has_equal_branches(strategy)


def registered_traits(config: Any) -> Traits | None:
    """Traits of the strategy of a canonical config, or None for an unknown strategy and for a user's own class."""
    strategy = _registered_strategy(config)
    return None if strategy is None else strategy.traits


def _registered_strategy(config: Any) -> Strategy | None:
    return _build_registered(json.dumps(config, sort_keys=True)) if isinstance(config, Mapping) else None


@lru_cache
def _build_registered(config: str) -> Strategy | None:
    try:
        with untrusted(Path("cell.json")):  # a reader of any run comes here, also where the run is trusted
            strategy: Strategy = build("strategy", json.loads(config))
    except ConfigError:  # a user's own class, or written by another version, with other components or parameters
        return None
    return strategy if is_builtin(type(strategy)) else None


@lru_cache
def _has_equal_branches(strategy: Strategy) -> bool:
    """Whether all branches of a prompt without demonstrations equal the prompt, with weights of positive sum."""
    prompt = probe_prompt(shots=0)
    try:
        branches = probe_branches(strategy, prompt)
    except ICLError:  # the strategy cannot read such a prompt; its samples fail with this reason
        return False
    if strategy.traits.reads_early_exits or any(branch.digest != prompt.digest for branch in branches):
        return False
    if len(branches) == 1:
        return has_reference_scores(strategy)
    strength = constant_strength(strategy)
    return strength is None or strength > 0
