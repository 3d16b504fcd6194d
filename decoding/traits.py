"""Facts about a strategy that engines, planners and reports read before they run it."""

from dataclasses import dataclass, fields
from difflib import get_close_matches
from inspect import get_annotations

from icl.member_names import SIMILARITY


@dataclass(frozen=True)
class Traits:
    """Declared facts about a strategy.

    A strategy sets them once: `traits = Traits(masks_in_combine=True)`. If they depend on its parameters, `traits` is a
    property. A wrapper forwards the traits of the strategy it wraps: `replace(self.inner.traits, is_control=True)`.

    Attributes:
        needs: What the model must provide: 'generate', 'logits', 'hidden_states', 'attention' or 'first token only'.
        masks_in_combine: `combine` returns -inf for some tokens, because its mask depends on several branches.
        draws_random_numbers: The scores depend on the random stream of the query.
        keeps_state: The scores depend on values that earlier steps stored in `StepState.memory`.
        combines_notes: The scores depend on `StepState.note`. It must be JSON, because other processes receive it.
        combines_options: Option scoring passes the log-probabilities of whole options, [n, B, options], to `mask` and
            `combine` instead of token logits.
        requires_options: The strategy scores options only and cannot generate text.
        sums_first_tokens: With `combines_options`: the score of an option is the summed probability of the first
            tokens of all its spellings.
        is_control: The strategy isolates one ingredient of another one. It has no controls of its own.
        is_gated: The contrast is skipped at steps where `reference_decides`, so engines may leave its branches unread.
        reads_paired_prompt: The branches also depend on the prompt of another sample (`Prompt.paired_prompt`).
        reads_early_exits: The logits of the reference's early layers follow those of the branches, lowest layer first.
        preserves_argmax: A wrapper whose scores order the unmasked tokens as the reference does. Greedy decoding of
            it is therefore greedy decoding of the reference (`decoding.arms.equivalence`).
        rewrites_prompt: The answer is that of the last branch alone. A model without logits generates it from this
            prompt.
        fallback: Name of the strategy to suggest for models that cannot run this one.
        num_samples: Number of answers to generate; the most frequent one is returned (`decoding.engine.voting`).
        demonstration_factor: The prompt shows this many times the number of shots of the run.
    """

    needs: frozenset[str] = frozenset({"logits"})
    masks_in_combine: bool = False
    draws_random_numbers: bool = False
    keeps_state: bool = False
    combines_notes: bool = False
    combines_options: bool = False
    requires_options: bool = False
    sums_first_tokens: bool = False
    is_control: bool = False
    is_gated: bool = False
    reads_paired_prompt: bool = False
    reads_early_exits: bool = False
    preserves_argmax: bool = False
    rewrites_prompt: bool = False
    fallback: str = ""
    num_samples: int = 1
    demonstration_factor: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", frozenset(self.needs))


TRAITS = tuple(f.name for f in fields(Traits))


def check_trait_names(cls: type, base: type) -> None:
    """Refuses class attributes that are traits or resemble one, and parameters that hide a method of `base`.

    Such an attribute would otherwise be ignored. Complements `icl.member_names.check_member_names`.

    Raises:
        TypeError: The first such name, with the correction.
    """
    parameters = {name for name, hint in get_annotations(cls).items() if "ClassVar" not in str(hint)}
    for name in parameters:
        if not name.startswith("_") and callable(getattr(base, name, None)):
            raise TypeError(
                f"{cls.__name__}: the parameter '{name}' hides the method {base.__name__}.{name}. Rename the field; "
                f"icl.registry.parameter('{name}', default) keeps the key of the config."
            )
    for name in vars(cls):
        if name.startswith("_") or name in parameters or hasattr(base, name):
            continue
        if matches := get_close_matches(name, TRAITS, n=1, cutoff=SIMILARITY):
            raise TypeError(
                f"{cls.__name__}.{name} is not a member of {base.__name__}. Did you mean the trait "
                f"'{matches[0]}', as in "
                f"traits = Traits({matches[0]}=...)?"
            )
