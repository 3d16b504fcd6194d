"""Virtual tokens: input embeddings that a map makes of demonstrations, each read alone with its image and once.

    h_j    last-layer state at the j-th text token of a demonstration that is read alone

`aim` puts W h_j + b in place of those tokens, `context_vectors` pools them into a few. `embedding_prefix` makes tokens
of the query's image instead.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from decoding import Copies, demonstrations, keep_demonstrations, remove_demonstrations
from decoding.interventions import TrainableMethod, replaced
from icl import LRUByteCache, ModelError, Part, Prompt, Site, Tensor, Turn, Where, canonical_digest, spans, steer, torch
from icl.models.hf.model import HF

EMBEDDING = Site("embedding", 0)
TEXTS = Where("demo_texts")
START_PROMPTS = 64
"""Prompts of the ridge regression that training starts with. A map of few tokens fits them alone."""
BANK_BYTES = 256 * 2**20
SLOTS = spans.question(spans.demo(0))
"""Name of the part. The vectors replace its tokens."""
FILLERS = (" a", "\n.", ".\n", "0", "x ", "\n\n")
"""Texts of one token in some tokenizer. The first one that gives the right number of tokens is used."""


@dataclass(frozen=True)
class VirtualTokenMethod(TrainableMethod):
    """Base of methods that put virtual tokens in place of demonstrations, which the prompt therefore needs."""

    reads_demonstrations: ClassVar[bool] = True
    acts_on_output: ClassVar[bool] = False

    def check(self, model: HF) -> None:
        """Raises ModelError if the map does not lead to the input embeddings of the model."""
        width = self.vectors.shape[-1]
        if width != model.sites.width:
            raise ModelError(
                f"{self.file.path} has a map to width {width}, and the embeddings of this model have width "
                f"{model.sites.width}. Fit it on this model."
            )
        model.sites.resolve(EMBEDDING)

    @cached_property
    def bank(self) -> "DemonstrationBank":
        """The states of the demonstrations that were read so far."""
        return DemonstrationBank(self.strength)


class DemonstrationBank:
    """The last-layer states at the text tokens of demonstrations, each read alone and once.

    Attributes:
        strength: Share of the edit.
        states: (model, demonstration) -> states [n, d].
    """

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength
        self.states = LRUByteCache[tuple[str, str], Any](BANK_BYTES, lambda one: one.numel() * one.element_size())

    def virtual(self, prompts: Sequence[Prompt], model: HF, affine: Tensor, name: tuple[Any, ...]) -> "list[Prompt]":
        """The prompts with virtual tokens in place of their demonstrations.

        Args:
            prompts: Prompts with demonstrations. Others are returned as they are.
            model: Reads the demonstrations.
            affine: [1 + d, d], the map.
            name: Names the map in the digests of edits.
        """
        own = [[read_alone(prompt, place) for place in demonstrations(prompt)] for prompt in prompts]
        states = self.read({one.digest: one for alone in own for one in alone}, model)
        made = []
        for prompt, alone in zip(prompts, own, strict=True):
            if not alone:
                made.append(prompt)
                continue
            values = apply_map(affine, torch.cat([states[one.digest] for one in alone]))
            digest = canonical_digest(["aim", model.digest, *name, self.strength, [one.digest for one in alone]])
            made.append(steer(texts_only(prompt), EmbeddingEdit(values, digest, self.strength)))
        return made

    def read(self, alone: Mapping[str, Prompt], model: HF) -> dict[str, Tensor]:
        """Digest -> states [n, d] of demonstrations. Those of the bank are not read again."""
        states: dict[str, Any] = {digest: self.states.get((model.digest, digest)) for digest in alone}
        missing = [digest for digest, value in states.items() if value is None]
        last = Site("residual", len(model.sites.layers) - 1)
        for digest, own in zip(
            missing, model.observe([alone[one] for one in missing], [last], TEXTS) if missing else (), strict=True
        ):
            states[digest] = self.states.put((model.digest, digest), own[last])
        return states


@dataclass(frozen=True, eq=False)
class EmbeddingEdit:
    """An intervention that replaces the input embeddings of all text tokens of the demonstrations.

    Attributes:
        values: Embeddings [n, d], in the order of the tokens.
        digest: Name of the values.
        strength: Share of the edit.
    """

    values: Tensor
    digest: str
    strength: float = 1.0

    sites: ClassVar[tuple[Site, ...]] = (EMBEDDING,)
    where: ClassVar[Where] = TEXTS

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    @property
    def tokens(self) -> int:
        """Number of tokens in each row."""
        return len(self.values)

    @cached_property
    def _copies(self) -> Copies:
        return Copies({"values": self.values})

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        count = len(set(rows))
        if len(x) != count * self.tokens:
            raise ModelError(
                f"virtual tokens: the demonstrations have {len(x) // count} text tokens in the prompt, and "
                f"{self.tokens} if each is read alone. Use a composer or template that separates them, such as "
                "composer: chat."
            )
        return replaced(x, self._copies.on(x.device, "values").repeat(count, 1), self.strength)


def text_states(prompts: Iterable[Prompt], model: HF) -> tuple[Tensor, Tensor]:
    """Last-layer states and input embeddings [n, d] of the texts of all demonstrations, each read alone as text."""
    alone = {
        one.digest: one
        for prompt in prompts
        for place in demonstrations(prompt)
        for one in [read_alone(prompt, place).without_images()]
    }
    last = Site("residual", len(model.sites.layers) - 1)
    observed = model.observe(list(alone.values()), [last, EMBEDDING], TEXTS)
    return torch.cat([own[last] for own in observed]), torch.cat([own[EMBEDDING] for own in observed])


def texts_only(prompt: Prompt) -> Prompt:
    """The prompt without the images of its demonstrations. A line break stands between texts that would join."""
    turns = []
    for turn in prompt.turns:
        parts: list[Part] = []
        is_open = False  # whether an image stood after the last part
        for part in turn.parts:
            if part.image is not None and part.demo is not None:
                is_open = bool(parts)
                continue
            if is_open and part.text and parts[-1].text:
                parts.append(Part("\n"))
            parts.append(part)
            is_open = False
        turns.append(Turn(turn.role, tuple(parts)))
    return replace(prompt, turns=tuple(turn for turn in turns if turn.parts))


def read_alone(prompt: Prompt, place: int) -> Prompt:
    """A prompt with demonstration 0 alone; its query is a full stop.

    Its digest does not depend on the place of the demonstration, nor on the query.
    """
    turns: list[Turn] = []
    for turn in keep_demonstrations(prompt, (place,)).turns:
        parts: list[Part] = []
        for part in turn.parts:
            if part.within("query"):
                parts.append(Part("\n.", spans.QUESTION))
                return replace(prompt, turns=(*turns, Turn(turn.role, tuple(parts))), interventions=())
            own = part.name.replace(spans.demo(place), spans.demo(0), 1)
            parts.append(replace(part, name=own))
        turns.append(Turn(turn.role, tuple(parts)))
    return replace(prompt, turns=tuple(turns), interventions=())


def ridge_map(states: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """The affine map of a ridge regression, with the intercept, which is not penalized, in its first row.

    Args:
        states: [n, d].
        targets: [n, d].
        ridge: Penalty, relative to the mean squared entry of the centered states times n.

    Returns:
        [1 + d, d] float32.
    """
    x, y = states.double(), targets.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    centered = x - x_mean
    gram = centered.T @ centered
    penalty = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weights = torch.linalg.solve(gram + penalty, centered.T @ (y - y_mean))
    return torch.cat([(y_mean - x_mean @ weights)[None], weights]).float()


def apply_map(affine: Tensor, states: Tensor) -> Tensor:
    """Images of states [n, d] under an affine map [1 + d, d]."""
    return affine[0] + states.to(affine) @ affine[1:]


def with_slots(prompt: Prompt, count: int, model: HF) -> Prompt:
    """The prompt without demonstrations, and a text of some tokens before its query.

    Raises:
        ModelError: No text has this number of tokens there.
    """
    from icl.models.hf.token_ranges import tokens_by_span

    bare = remove_demonstrations(prompt)
    for filler in FILLERS:
        made = before_query(bare, Part(filler * count, SLOTS))
        [ranges] = tokens_by_span(model.engine.prompt_encoder, [made], [SLOTS])
        [(first, end)] = ranges[SLOTS]
        if end - first == count:
            return made
    raise ModelError(
        f"virtual tokens: the tokenizer of {model.path} cannot insert exactly {count} placeholder tokens before the "
        "query. Use another composer or template, such as composer: chat."
    )


def before_query(prompt: Prompt, part: Part) -> Prompt:
    """The prompt with a part before the first part of the query."""
    turns, is_added = [], False
    for turn in prompt.turns:
        place = next((i for i, one in enumerate(turn.parts) if one.within("query")), None)
        if place is None or is_added:
            turns.append(turn)
            continue
        turns.append(Turn(turn.role, (*turn.parts[:place], part, *turn.parts[place:])))
        is_added = True
    return replace(prompt, turns=tuple(turns))
