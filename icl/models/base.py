"""What a model backend is: two protocols, by what the backend can give.

Every model generates text. One that gives next-token logits also opens a `Session`, and then the engines of `decoding`
run any strategy on it; a backend without logits (a remote endpoint, most fakes) only answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from icl.types import Example, Generation, Prompt

if TYPE_CHECKING:
    from torch import Tensor

MAX_NEW_TOKENS = 16
"""Tokens of an answer where nobody says: an answer is a word or a few."""

ABILITIES = ("generate", "logits", "strategies", "score", "hidden", "embed", "reads")
"""generate: text for a prompt. logits: sessions. strategies: every decoding strategy, inside its own engine.
score: log-probabilities of whole options. hidden, embed: states. reads: log-probabilities of a text within a prompt
(`text_logprobs`)."""


@dataclass(frozen=True)
class Request:
    """A prompt for a backend that answers by itself. `demos` and `gold` are filled for fakes that declare the need.

    scored: whether the log-probabilities of the options are wanted, which an endpoint is asked for only then. strategy:
    for a server that runs strategies, the node of one with its `sampling`; normalize: how it scores options; top:
    tokens that it keeps of each branch and step.
    """

    prompt: Prompt
    options: tuple[str, ...] = ()
    max_new_tokens: int = MAX_NEW_TOKENS
    demos: tuple[tuple[Example, float], ...] = ()
    gold: tuple[str, ...] = ()
    scored: bool = False
    strategy: Mapping[str, Any] | None = None
    normalize: str = "sum"
    top: int = 0


@runtime_checkable
class Model(Protocol):
    """needs: 'gold' or 'demos' where the backend is an oracle or a fake that reads them.

    A model may have more than this (`icl.models.optional`): answers one by one, notes for the run, a way to unload.
    Where its server decides what it can do (`icl.models.remote`), an instance has other `abilities` than its class.
    """

    abilities: ClassVar[frozenset[str]]
    needs: ClassVar[frozenset[str]]

    @property
    def digest(self) -> str:
        """Names weights and settings: equal digests give equal outputs."""
        ...

    def load(self) -> None:
        """Read the weights. Idempotent; everything that needs them calls it. Raises ModelError."""
        ...

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of the rendered prompt, each image at the size this model gives it."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """The context length, prompt and answer together; None where there is no limit."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Greedy answers. Raises ModelError where the backend decodes through sessions alone."""
        ...


class Session(Protocol):
    """Prefilled rows, each `[padding | tokens]` with its own cache entries and positions.

    `logits`: [R, V] float32, after each row's last token. `take` and `join` leave their sources as they were; `advance`
    and `extend` work in place. Rows never alias.

    A model with the ability "hidden" opens sessions with exits: early layers that speak through its output layer, the
    lowest first, [layers, R, V]. Sessions opened without raise ModelError there.
    """

    logits: "Tensor"

    @property
    def early_exit_logits(self) -> "Tensor":
        """[early layers, R, V], after each row's last token."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: "Tensor") -> "Session":
        """Rows selected, dropped, repeated or reordered, as a new session. rows: [R'] long."""
        ...

    def join(self, other: "Session") -> "Session":
        """The rows of both, these first."""
        ...

    def advance(self, tokens: "Tensor") -> None:
        """One more token for every row. tokens: [R] long."""
        ...

    def extend(self, chunks: Sequence[Sequence[int]]) -> None:
        """A chunk of at least one token for every row, of unequal lengths if need be."""
        ...

    def trim(self) -> None:
        """Give back the slots that are padding in every row."""
        ...

    def suffix_logprobs(self, suffixes: Sequence[Sequence[Sequence[int]]]) -> "list[list[Tensor]]":
        """Per row, per suffix: the distribution [len(suffix), V] of log-probabilities before each of its tokens.

        The rows stay as they are. The first entry is this session's own `logits`.
        """
        ...

    def suffix_early_exit_logits(self, suffixes: Sequence[Sequence[Sequence[int]]]) -> "list[list[Tensor]]":
        """The same of the early layers: [early layers, len(suffix), V]."""
        ...


@runtime_checkable
class LogitModel(Model, Protocol):
    """A model that opens sessions. Token ids and text go through it, since they are its tokenizer's."""

    @property
    def stop_tokens(self) -> frozenset[int]:
        """Ids that end an answer."""
        ...

    def open(self, prompts: Sequence[Prompt], *, early_exits: bool = False) -> Session:
        """Prefill; row i is prompt i. early_exits: with early layers. Raises ModelError, ImageError."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """The answer's text, without special tokens."""
        ...

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        """The ids that follow the prompt's own where prompt and option are tokenized together."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Work done since loading: images_encoded, images_shown, prefill_tokens, prompt_tokens, forwards, ..."""
        ...
