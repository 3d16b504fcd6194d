"""Needs of a strategy and abilities of a model: whether the model can run it, decided before anything loads."""

from collections.abc import Iterable, Set

from decoding import Arm, Beam, SteeringMethod, constant_strength, probe_branches
from decoding.base import missing_layer
from icl import TOWER_KINDS, ConfigError, Keys, Model, Prompt, Strategy, build, entries, resolve

SUFFICIENT_ABILITIES = {
    "generate": frozenset({"generate", "logits", "strategies"}),
    "logits": frozenset({"logits", "strategies"}),
    "first token only": frozenset({"logits", "strategies"}),
    "whole options": frozenset({"logits"}),
    "beams": frozenset({"logits"}),
    "output parts": frozenset({"logits"}),
    "logits processors": frozenset({"logits"}),
    "hidden_states": frozenset({"hidden_states"}),
    "attention": frozenset({"attention"}),
    "interventions": frozenset({"interventions"}),
}
"""Need -> abilities. Any one of them satisfies the need."""

BEAMS_AND_BUDGET = "beams end at one length, and a thinking budget gives each its own. Remove max_thinking_tokens."
"""Why beam search has no thinking budget."""

NEED_NAMES = {
    "generate": "generated answers",
    "logits": "next-token logits",
    "first token only": "the logits of the first answer token",
    "whole options": "whole options scored by each branch",
    "logits processors": "logits processors between combination and sampler",
    "beams": "rows that beams can take over from one another",
    "output parts": "a strategy that can change within an output (acts_in)",
    "hidden_states": "hidden states",
    "attention": "attention maps",
    "interventions": "edits of attention or hidden states",
}


def unsupported_reason(strategy: Strategy | Arm, abilities: Set[str], score: str = "generate") -> str | None:
    """Why a model cannot run an arm, with what would run, or None if it can.

    Sampling and option scoring need logits in addition to what the strategy needs.

    Args:
        strategy: A strategy with its own sampler, or an arm.
        abilities: `Model.abilities`.
        score: The answer mode, 'generate' or 'options'.
    """
    arm = strategy if isinstance(strategy, Arm) else Arm(strategy, strategy.sampler)
    needs = set(arm.strategy.traits.needs)
    if arm.strategy.traits.requires_options and score != "options":
        return (
            f"decoding '{arm.label}' scores options and cannot generate text. Use answer_mode: options, or remove it."
        )
    if problem := search_refusal(arm, score):
        return f"decoding '{arm.label}': {problem}"
    if score == "options" and arm.strategy.traits.combines_options:
        needs.add("whole options")
    if score == "options" or not arm.sampler.deterministic:
        needs.add("logits")
    if score != "options" and isinstance(arm.sampler, Beam):
        needs.add("beams")
    if score != "options" and arm.logits_processors:
        needs.add("logits processors")
    if arm.acts_in != "both":
        needs.add("output parts")
    missing = _missing(needs, abilities)
    if not missing:
        return None
    what = _join_words(NEED_NAMES.get(need, need) for need in missing)
    abilities_text = f"it gives {_join_words(sorted(abilities))}" if abilities else "it gives nothing"
    alternative = _alternative(arm.strategy, abilities, score)
    instead = f"{alternative} runs on it; " if alternative else ""
    declared = {name: _abilities(name) for name in entries("model")}  # of a missing library nothing
    models = [name for name, own in declared.items() if own and not _missing(needs, own)]
    run = f"'{arm.label}' runs with model {_join_words(models, 'or')}." if models else "no backend here gives that."
    return (
        f"decoding '{arm.label}' {'with option scoring ' if score == 'options' else ''}needs {what}, which this model "
        f"cannot give ({abilities_text}). {instead}{run}"
    )


def search_refusal(arm: Arm, score: str) -> str | None:
    """Why a strategy that searches for whole answers cannot do so, or None. score: as in `unsupported_reason`."""
    if not arm.traits.rows_per_beam:
        return None
    if score == "options":
        return "it searches for a text and cannot score options. Use answer_mode: generate."
    is_beam_search = isinstance(arm.sampler, Beam)
    return None if is_beam_search else "it is a beam search. Use sampling: {beams: 5}, or remove the key sampling."


def steering_refusal(method: SteeringMethod, abilities: Set[str], max_thinking_tokens: int | None) -> str | None:
    """Why a model cannot run an intervention, or it cannot run at all; None if it can. Nothing is loaded.

    Args:
        method: The intervention.
        abilities: What the model gives.
        max_thinking_tokens: The thinking budget of generated answers. None without one, and for option scoring.
    """
    if method.neutral:
        return None
    if not method.needs <= abilities:
        models = [name for name in entries("model") if method.needs <= _abilities(name)]
        return (
            f"this model cannot edit hidden states, which `intervene` needs. It runs with model "
            f"{_join_words(models, 'or')}; or remove `intervene`."
        )
    return part_refusal(method, max_thinking_tokens) or method.problem()


def part_refusal(method: SteeringMethod, max_thinking_tokens: int | None) -> str | None:
    """Why an intervention cannot act in one part of the output, or None if it can, or acts in both."""
    if method.acts_in == "both":
        return None
    if not method.acts_on_output:
        return (
            f"acts_in: {method.acts_in} chooses among generated tokens and the one before them, and this intervention "
            "edits other tokens of the prompt. Remove acts_in, or change the tokens that it edits."
        )
    return _unknown_parts(method.acts_in, max_thinking_tokens)


def arm_part_refusal(arm: Arm, max_thinking_tokens: int | None) -> str | None:
    """Why a strategy cannot choose the tokens of one part of the output, or None if it can, or chooses in both.

    Args:
        arm: The arm.
        max_thinking_tokens: The thinking budget of generated answers. None without one, and for option scoring.
    """
    return None if arm.acts_in == "both" else _unknown_parts(arm.acts_in, max_thinking_tokens)


def _unknown_parts(acts_in: str, max_thinking_tokens: int | None) -> str | None:
    """Why it is unknown which part of an output a token belongs to, or None if it is known."""
    if max_thinking_tokens is not None:
        return None
    return (
        f"acts_in: {acts_in} needs to know where the reasoning of an output ends, and only answers that are "
        "generated with a thinking budget have that. Set max_thinking_tokens (and answer_mode: generate), or "
        "remove acts_in."
    )


def branch_edit_refusal(arm: Arm, model: Model) -> str | None:
    """Why a model lacks a layer or tokens that a branch of an arm edits, before it is loaded; None if it has all."""
    if "interventions" not in arm.strategy.traits.needs:
        return None
    from decoding.interventions.attention_edits import names_images

    acts = [act for branch in probe_branches(arm.strategy) for act in branch.interventions]
    names = [name for act in acts for name in (act.where.span, *getattr(act, "keys", Keys()).spans)]
    layers = {s.layer: model.num_layers for act in acts for s in act.sites if s.kind not in TOWER_KINDS}
    missing = next(filter(None, (missing_layer(number, n) for number, n in layers.items() if n is not None)), None)
    return missing or (model.image_token_problem if names_images(names) else None)


def thinking_budget_refusal(arm: Arm, model: Model) -> str | None:
    """Why the reasoning of an arm cannot have a limit on a model, or None if it can."""
    return model.thinking_budget_refusal() or (BEAMS_AND_BUDGET if isinstance(arm.sampler, Beam) else None)


def _alternative(strategy: Strategy, abilities: Set[str], score: str) -> str:
    """What runs on the model: the fallback of the strategy, else greedy decoding, else ''."""
    if (
        strategy.traits.fallback
        and unsupported_reason(build("strategy", strategy.traits.fallback), abilities, score) is None
    ):
        return f"'{strategy.traits.fallback}', which is most similar,"
    return "'greedy' with answer_mode: generate" if "generate" in abilities else ""


def _abilities(name: str) -> Set[str]:
    """The abilities that the class of a model declares. Empty if its package is not installed."""
    try:
        abilities: Set[str] = resolve("model", name).abilities
    except ConfigError:
        return frozenset()
    return abilities


def _missing(needs: Set[str], abilities: Set[str]) -> list[str]:
    """The needs that no ability satisfies."""
    return [need for need in sorted(needs) if not SUFFICIENT_ABILITIES.get(need, frozenset({need})) & abilities]


def _join_words(words: Iterable[str], conjunction: str = "and") -> str:
    *others, last = words
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def degenerate_contrast(strategy: Strategy, prompt: Prompt | None = None) -> str | None:
    """A sentence if every branch of a prompt equals the reference, with the control that the strategy equals then.

    Args:
        strategy: The strategy.
        prompt: The prompt; by default a small one with images and demonstrations.
    """
    first, *others = probe_branches(strategy, prompt)
    if not others or any(branch.digest != first.digest for branch in others):
        return None
    name, strength = Arm(strategy).label, constant_strength(strategy)
    subject = f"every branch of decoding '{name}' is the prompt itself, so it "
    if strength is None or abs(strength - 1) < 1e-6:
        return f"{subject}contrasts nothing: it has become mask_only."
    if strength > 0:
        return f"{subject}is the reference at temperature {1 / strength:.3g}: it has become temperature_matched."
    return f"{subject}gives all tokens in its mask equal scores (its weights sum to {strength:g})."
