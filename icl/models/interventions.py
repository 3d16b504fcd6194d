"""Interventions: edits of hidden states at named sites, and observers that read them there.

A prompt carries its interventions (`steer`). They are part of its digest, so engines, caches and shared prefixes keep
prompts with different interventions apart, and every strategy composes with them: all branches that are made from a
steered prompt are steered too. A branch with an intervention of its own is `steer(prompt, intervention)`.

    sites of layer l                      x that `edit` and `see` receive, float32
    embedding  input embeddings, layer 0  [n, d]
    input      what layer 0 reads         [n, d]; at tokens of images, the features that the projector gives
    residual   output of the layer        [n, d]
    attention  what attention adds        [n, d]
    middle     stream after attention     [n, d]
    mlp_input  what the MLP block reads   [n, d]
    mlp        what the MLP adds          [n, d]
    heads      input of the projection    [n, H, e]
    scores     attention logits           [n, H, keys]; key j is token j of the row, -inf where the mask hides it
    vision     output of layer l of the vision tower   [n, e], the tokens of an image in the order of the tower
    vision_mlp what its MLP adds                       [n, e]

All sites of an intervention are in the decoder, or all in the vision tower. There it acts on all tokens of the images
of its span, and a row is an image in a pass of the tower.

Positions belong to tokens of a prompt, never to columns of a batch: rows are padded, and begin on shared prefixes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from icl import ConfigError, Prompt, Tensor, canonical_digest

SiteKind = Literal[
    "embedding",
    "input",
    "residual",
    "attention",
    "middle",
    "mlp_input",
    "mlp",
    "heads",
    "scores",
    "vision",
    "vision_mlp",
]
"""What of a layer is addressed. See the table of the module."""

TOWER_KINDS: tuple[SiteKind, ...] = ("vision", "vision_mlp")
"""Kinds of sites in the vision tower."""


@dataclass(frozen=True, order=True)
class Site:
    """A place in the decoder or the vision tower where states can be read and edited.

    Attributes:
        kind: What of the layer.
        layer: Number of the layer, from 0. Negative: from the top, -1 is the last one.
        onward: Whether an intervention there also acts at all later sites of the kind, however many the model has.
    """

    kind: SiteKind
    layer: int
    onward: bool = False

    def __str__(self) -> str:
        return f"{self.kind} of layer {self.layer}{' and later' if self.onward else ''}"


@dataclass(frozen=True)
class Where:
    """The tokens of a row that an intervention addresses.

    Attributes:
        span: `end` (the last tokens of the prompt), `all` (the whole prompt), the name of a part of the prompt, or of a
            group of parts (`icl.spans.GROUPS`).
        part: Whether tokens of the prompt, generated tokens, or both are addressed.
        count: Number of tokens of the span `end`.
        before: Number of tokens between the span `end` and the end of the prompt.
    """

    span: str = "end"
    part: Literal["prompt", "answer", "both"] = "prompt"
    count: int = 1
    before: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.before < 0 or ((self.count, self.before) != (1, 0) and self.span != "end"):
            raise ConfigError(
                "count (1 or more) and before (0 or more) are numbers of tokens, for the span 'end' only."
            )


END: Where = Where()
"""The last token of a prompt."""


@dataclass(frozen=True)
class Keys:
    """The keys for which an intervention edits the scores of an attention module.

    Attributes:
        spans: Names of parts of the prompt, or of groups of them (`icl.spans.GROUPS`). Empty: all keys.
        own: Whether a token's own key is among them.
        draw: None: the keys of the spans. A number: as many random tokens of the prompt outside of the spans, without
            the last one, or all of these if they are fewer. Each number is another draw.
    """

    spans: tuple[str, ...] = ()
    own: bool = True
    draw: int | None = None


@runtime_checkable
class Intervention(Protocol):
    """An edit of hidden states.

    Attributes:
        digest: Name of the edit. Equal digests give equal results.
        neutral: Whether it changes nothing. Nothing is attached to the model then.
        sites: Where it acts. `edit` is called once per forward pass and site that has addressed tokens.
        where: The tokens that it addresses.
    """

    @property
    def digest(self) -> str: ...

    @property
    def neutral(self) -> bool: ...

    @property
    def sites(self) -> tuple[Site, ...]: ...

    @property
    def where(self) -> Where: ...

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        """The new states.

        Args:
            site: One of `sites`, as it stands there.
            x: States at addressed tokens, float32. Must not be changed in place.
            rows: For each state, the number of its prompt in the call of `open`.
        """
        ...


@runtime_checkable
class ScoreIntervention(Intervention, Protocol):
    """An intervention at sites `scores` that acts on some keys. What it returns for other keys is not used.

    Attributes:
        keys: The keys, which each prompt resolves by the names of its parts.
    """

    @property
    def keys(self) -> Keys: ...


@runtime_checkable
class KeyedIntervention(ScoreIntervention, Protocol):
    """An intervention at sites `scores` that needs to know which keys it acts on, such as to rank them."""

    def edit_keys(self, site: Site, x: Tensor, keys: Tensor) -> Tensor:
        """The new scores, in place of `edit`.

        Args:
            site: One of `sites`, as it stands there.
            x: Scores at addressed tokens [n, H, keys], float32. Must not be changed in place.
            keys: Whether a key is among `keys` and not hidden, for each head [n, H, keys].
        """
        ...


@runtime_checkable
class StepwiseIntervention(ScoreIntervention, Protocol):
    """An intervention at sites `scores` of generated tokens, with a strength that follows what was predicted before.

    A session reads the tokens of such rows one by one, because each strength depends on the token before.
    """

    def strengths(self, logits: Tensor, steps: Sequence[int]) -> Tensor:
        """The strength for each token: [n].

        Args:
            logits: What the row predicted at the token before [n, V], float32.
            steps: The number of each token in its answer, from 0.
        """
        ...

    def edit_by(self, site: Site, x: Tensor, strengths: Tensor) -> Tensor:
        """The new scores, in place of `edit`. x: [n, H, keys]. strengths: [n]."""
        ...


@runtime_checkable
class SideAttention(ScoreIntervention, Protocol):
    """An intervention at sites `scores` that leaves attention as it is and receives what other weights would give."""

    def side_weights(self, site: Site, x: Tensor, keys: Tensor) -> Tensor:
        """The other weights [n, H, keys], which need not sum to one. Arguments as in `KeyedIntervention.edit_keys`."""
        ...

    def receive(self, site: Site, heads: Tensor) -> None:
        """Receives the sums of values under these weights [n, H, v], in float32."""
        ...


@runtime_checkable
class StateObserver(Protocol):
    """A reader of hidden states. It changes nothing, and sees them after all interventions of a row.

    Attributes:
        sites: Where it reads.
        where: The tokens that it reads.
    """

    sites: tuple[Site, ...]
    where: Where

    def see(self, site: Site, x: Tensor, rows: Sequence[int]) -> None:
        """Receives states as `Intervention.edit`. Tokens of one row arrive in order, possibly in several calls."""
        ...


OutputPart = Literal["think", "answer"]
"""A part of an output with a reasoning block: the block, or what follows it."""


ActsIn = Literal["think", "answer", "both"]
"""The parts of an output in which an intervention acts. both: also in the prompt."""


class TokenPart(NamedTuple):
    """The part of the output that a token leads on to: the part of the token that its state predicts.

        prompt  a  <think>  \n     b      c      </think>  \n\n      d       e
        -       -  think!   think! think  think  answer!   answer!  answer  answer        !: begins

    Attributes:
        name: The part. Empty as long as the output may still open a block.
        begins: Whether the part has no text yet: the token ends its opening or closing marker, or is blank after it.
    """

    name: OutputPart | Literal[""] = ""
    begins: bool = False


@dataclass(frozen=True, eq=False)
class PartEdit:
    """An intervention that acts in one part of the output alone, and never at the prompt before it.

    It edits the tokens that lead on to the part. In place of the prompt's last token, those at which the part begins
    are edited. This is the prompt's own last token if the prompt opens a reasoning block and the part is `think`.

    Attributes:
        inner: Edits the last token of the prompt, generated tokens, or both.
        acts_in: The part.
    """

    inner: Intervention
    acts_in: OutputPart

    def __post_init__(self) -> None:
        where = self.inner.where
        if where.part == "prompt" and where != END:
            raise ConfigError(
                f"acts_in: {self.acts_in} chooses among generated tokens, and this edit is one of the prompt alone "
                f"({where}). Edit the last token, or remove acts_in."
            )

    @cached_property
    def digest(self) -> str:
        return canonical_digest(["part of the output", self.inner.digest, self.acts_in])[:32]

    @property
    def neutral(self) -> bool:
        return self.inner.neutral

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.inner.sites

    @property
    def where(self) -> Where:
        return self.inner.where

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        return self.inner.edit(site, x, rows)


@dataclass(frozen=True, eq=False)
class MovedStates:
    """An intervention that puts the states of one site in the place of those of a later one.

    If the later site is the output of the last layer, the model's own final norm and output layer, with its cap or
    scale, read the states of the earlier one.

    Attributes:
        source: The site whose states are moved.
        target: A later site with states of the same shape.
        where: The tokens.
    """

    source: Site
    target: Site
    where: Where
    _states: dict[str, Tensor] = field(default_factory=dict)

    neutral: ClassVar[bool] = False

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.source, self.target

    @cached_property
    def digest(self) -> str:
        return canonical_digest(["moved states", repr(self.sites), repr(self.where)])[:32]

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        if site == self.source:
            self._states["now"] = x
        return self._states["now"].to(x.device)


def acts_in_part(prompt: Prompt) -> bool:
    """Whether an intervention of the prompt acts in one part of the output alone."""
    return any(isinstance(one, PartEdit) for one in prompt.interventions)


def steer(prompt: Prompt, *interventions: Intervention) -> Prompt:
    """The prompt, read under further interventions. They act in this order. Neutral ones are left out."""
    active = tuple(one for one in interventions if not one.neutral)
    return replace(prompt, interventions=(*prompt.interventions, *active)) if active else prompt
