"""Decoding strategies as pure functions of branch logits, their controls, and the engines that run them.

The names below are the public interface. Each is imported at its first use, so that `import decoding` is quick.
"""

from typing import TYPE_CHECKING

from icl.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from decoding.arms.arm import Arm, default_controls, parse_arm
    from decoding.arms.wrapper import StrategyWrapper
    from decoding.base import Generate, StatefulStrategy, SteeringMethod, StepState, Strategy, Traits
    from decoding.conformance import StrategyFacts, check_strategy
    from decoding.engine.engine import run_requests
    from decoding.engine.requests import Counters, DecodingRequest, Failure
    from decoding.formulas.divergences import bounded_divergence, entropy, jensen_shannon, kl_divergence
    from decoding.formulas.masks import kth_plausibility_mask, plausibility_mask, typical_mask
    from decoding.formulas.sampling import Beam, Greedy, Sampler, Sampling
    from decoding.interventions.base import FittedMethod

__all__ = [
    "Arm",
    "Beam",
    "Counters",
    "DecodingRequest",
    "Failure",
    "FittedMethod",
    "Generate",
    "Greedy",
    "Sampler",
    "Sampling",
    "StatefulStrategy",
    "SteeringMethod",
    "StepState",
    "Strategy",
    "StrategyFacts",
    "StrategyWrapper",
    "Traits",
    "bounded_divergence",
    "check_strategy",
    "default_controls",
    "entropy",
    "jensen_shannon",
    "kl_divergence",
    "kth_plausibility_mask",
    "parse_arm",
    "plausibility_mask",
    "run_requests",
    "typical_mask",
]

_MODULES = {
    "decoding.arms.arm": ("Arm", "default_controls", "parse_arm"),
    "decoding.arms.wrapper": ("StrategyWrapper",),
    "decoding.base": ("Generate", "StatefulStrategy", "StepState", "Strategy", "Traits"),
    "decoding.conformance": ("StrategyFacts", "check_strategy"),
    "decoding.engine.engine": ("run_requests",),
    "decoding.engine.requests": ("Counters", "DecodingRequest", "Failure"),
    "decoding.formulas.divergences": ("bounded_divergence", "entropy", "jensen_shannon", "kl_divergence"),
    "decoding.formulas.masks": ("kth_plausibility_mask", "plausibility_mask", "typical_mask"),
    "decoding.formulas.sampling": ("Beam", "Greedy", "Sampler", "Sampling"),
    "decoding.interventions.base": ("FittedMethod", "SteeringMethod"),
}

__getattr__, __dir__ = lazy_exports("decoding", _MODULES)
