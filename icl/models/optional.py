"""What a model may have beside its protocol, each read here alone: a function a member, with what holds without it.

A model that the toolkit runs need not know of any. `misspelled` finds a name that was meant to be one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icl.models.base import Request
    from icl.types import Generation, Prompt

AT_ONCE = 32
"""Requests that one call of `generate` is given where the model does not say."""

NAMES = (
    *(
        "adapters",
        "generate_each",
        "at_once",
        "batch_tokens",
        "blocks",
        "counters",
        "counts_exactly",
        "expect",
        "lacks",
    ),
    *("lends", "max_images", "notes", "plan_notes", "quantizations", "refuses", "rendered", "token_budget", "unload"),
    *("url", "when_served"),
)


def adapters(model: Any) -> bool:
    """Whether a class takes any."""
    return bool(getattr(model, "adapters", False))


def quantizations(model: Any) -> tuple[str, ...]:
    """The settings that a class can be run in."""
    return tuple(getattr(model, "quantizations", ()))


def when_served(model: Any) -> frozenset[str]:
    """What a class can do where its server is one of `icl serve`."""
    return frozenset(getattr(model, "when_served", ()))


def lacks(model: Any) -> str:
    """Where the server decides what an instance can do: why it can no more."""
    return str(getattr(model, "lacks", ""))


def refuses(model: Any) -> "Callable[[Mapping[str, Any]], str | None] | None":
    """Why the server does not take the node of a strategy; None where it does."""
    found: Callable[[Mapping[str, Any]], str | None] | None = getattr(model, "refuses", None)
    return found


def expect(model: Any) -> "Callable[[int, int], None] | None":
    """Of a model that is started for a plan: is told images and tokens of the largest prompt, before `load`."""
    found: Callable[[int, int], None] | None = getattr(model, "expect", None)
    return found


def max_images(model: Any) -> int | None:
    """That a prompt may have, where the user has said so."""
    found: int | None = getattr(model, "max_images", None)
    return found


def notes(model: Any) -> tuple[str, ...]:
    """What a run says of the model once it is loaded."""
    return tuple(getattr(model, "notes", ()))


def plan_notes(model: Any) -> tuple[str, ...]:
    """What a plan says of the model, before it is loaded."""
    return tuple(getattr(model, "plan_notes", ()))


def unload(model: Any) -> None:
    """Gives back what the model holds; after the last cell of a run."""
    if (free := getattr(model, "unload", None)) is not None:
        free()


def counters(model: Any) -> dict[str, int] | None:
    """Work done since loading. A model with logits always says it."""
    told = getattr(model, "counters", None)
    return None if told is None else dict(told())


def at_once(model: Any) -> int:
    """Requests that one call of `generate` is given, and a kill can lose."""
    return int(getattr(model, "at_once", AT_ONCE))


def generate_each(
    model: Any,
) -> "Callable[[Sequence[Request], Callable[[int, Generation | str], None]], None] | None":
    """Answers that arrive one by one: each is told, by its place, as soon as it is there; a text is a failure."""
    found: Callable[[Sequence[Request], Callable[[int, Generation | str], None]], None] | None
    found = getattr(model, "generate_each", None)
    return found


def counts_exactly(model: Any) -> bool:
    """Whether `count_tokens` is no estimate."""
    return bool(getattr(model, "counts_exactly", True))


def rendered(model: Any) -> "Callable[[Prompt], str] | None":
    """Writes a prompt as the model's processor does, one placeholder an image."""
    found: Callable[[Prompt], str] | None = getattr(model, "rendered", None)
    return found


def url(model: Any) -> str | None:
    """Of an endpoint, which is sent messages."""
    found = getattr(model, "url", None)
    return None if found is None else str(found)


def token_budget(model: Any) -> int | None:
    """Padded tokens that one prefill may hold."""
    found = getattr(model, "token_budget", None)
    return None if found is None else int(found)


def batch_tokens(model: Any) -> int | None:
    """Tokens that all rows of a batch may have, prompts and answers together."""
    found = getattr(model, "batch_tokens", None)
    return None if found is None else int(found)


def shares_prefix(model: Any) -> bool:
    """Whether `open(prompts, beside=session)` takes over what the session's rows have read; the session stays."""
    return bool(getattr(model, "lends", False))


def blocks(model: Any, prompt: "Prompt") -> tuple[int, list[int]] | None:
    """Of an engine with a prefix cache: tokens of a block, and a number for each block of the prompt that it may have.

    Equal numbers are equal beginnings.
    """
    found = getattr(model, "blocks", None)
    return None if found is None else (int(model.block_size), list(found(prompt)))


def misspelled(model: Any) -> tuple[str, str] | None:
    """A name of the model's class that nothing reads, and the one that was meant; a parameter is not taken for one."""
    from icl.models.base import LogitModel

    cls, known = type(model), {*NAMES, *dir(LogitModel)}
    own = {name for base in cls.__mro__[:-1] for name in vars(base) if not name.startswith("_")}
    own -= {one.name for one in fields(cls)} if is_dataclass(cls) else set()
    missing = [name for name in NAMES if name not in own]
    pairs = ((name, get_close_matches(name, missing, 1, 0.8)) for name in sorted(own - known))
    return next(((name, meant[0]) for name, meant in pairs if meant), None)
