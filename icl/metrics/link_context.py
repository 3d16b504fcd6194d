"""Link-Context Learning's rule for two names (Tai et al., CVPR 2024): the output has the right name and no other.

As released, the right name is removed from the output first, so that "wildcat" does not also contain "cat". Names match
anywhere, also within a word. The released code lower-cases the names but not the output; here both are.

`lenient` matches whole words and is the recommended score. Use this metric for comparison with published numbers.

Differs from the released code in the case of the output (see above).
"""

from dataclasses import dataclass
from typing import ClassVar

from icl import Better, Example, Generation, component


def names_only_answer(output: str, answers: tuple[str, ...], options: tuple[str, ...]) -> bool:
    """Whether the output has an accepted name and, without these names, none of the other options."""
    text, accepted = output.lower(), [answer.lower() for answer in answers]
    has_answer = any(answer in text for answer in accepted)
    for answer in sorted(accepted, key=len, reverse=True):
        text = text.replace(answer, "")
    others = {option.lower() for option in options} - set(accepted)
    return has_answer and not any(other in text for other in others)


@component("metric", "link_context")
@dataclass(frozen=True)
class LinkContextMetric:
    """Accuracy by Link-Context Learning's rule: the output has the right name and no other option, anywhere in it."""

    better: ClassVar[Better] = "higher"

    def score(self, generation: Generation, example: Example) -> float | None:
        if len(example.options) < 2:
            return None
        return float(names_only_answer(generation.text, example.answers, example.options))
