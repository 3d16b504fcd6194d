"""What a model did since it was loaded, so that reuse is measured and not believed."""

from dataclasses import asdict, dataclass


@dataclass
class ModelCounters:
    """images_shown: slots of the prompts opened. images_encoded: through the vision tower.

    prompt_tokens: of the distinct prompts opened. prefill_tokens: of those, really forwarded (padding not counted);
    padded_tokens: the same with padding. lent_tokens: of prompts opened beside a session, taken over from its rows.
    decode_tokens: forwarded behind a prefill. suffix_tokens: forwarded to score options. forwards: calls of the
    language model, prefills among them.
    """

    images_shown: int = 0
    images_encoded: int = 0
    prompt_tokens: int = 0
    prefill_tokens: int = 0
    padded_tokens: int = 0
    lent_tokens: int = 0
    decode_tokens: int = 0
    suffix_tokens: int = 0
    forwards: int = 0
    prefills: int = 0

    def told(self) -> dict[str, int]:
        return asdict(self)
