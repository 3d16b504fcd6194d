"""What is asked of an engine, and what it says: prompts in groups, each group decoding one output."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from icl.types import Prompt


@dataclass(frozen=True)
class Ask:
    """A prompt and what travels with it. extra: a branch's own arguments; none for a prompt that is read by itself.

    stops: whether the model's end-of-text tokens end the answer.
    """

    prompt: Prompt
    max_new_tokens: int
    extra: Mapping[str, str] = field(default_factory=dict)
    stops: bool = True


@dataclass(frozen=True)
class Said:
    """tokens: with the one that stopped it. finish: stop, length, abort or error. reason: of an error.

    prompt_tokens, cached_tokens: read, and of these found in the prefix cache.
    """

    tokens: tuple[int, ...] = ()
    finish: str = "error"
    reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
