"""The tokens of a part of a prompt, such as `demo[0].answer`, and those that an intervention addresses, or its images.

An image's tokens are the tokens that its features replace, without markers such as the end of a row of patches. The
tokens of a text are the tokens that change if the text is replaced.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from icl import (
    TOWER_KINDS,
    Intervention,
    Keys,
    ModelError,
    Part,
    Prompt,
    Site,
    StateObserver,
    Where,
    canonical_digest,
    spans,
)
from icl.models import hf
from icl.models.hf import ALL_KEYS, EncodedPrompt, KeyRanges, RowEdit, common_prefix_length
from icl.models.hf.image_encoder import Acts, TowerEdit
from icl.models.interventions import PartEdit, ScoreIntervention

OTHERS = (".", "Z")
"""Texts that replace a part, to find its tokens. No word begins with the tokens of both."""

EDIT_BITS = 40
"""Entries of a prompt's key below this bit name tokens and images. Those above name interventions."""


def part_tokens(
    encoder: "hf.PromptEncoder", prompt: Prompt, encoded: EncodedPrompt, name: str
) -> list[tuple[int, int]]:
    """The token ranges (first, after the last) of a part: one for a text or a patch, one for each row of an image.

    Args:
        encoder: Encodes the prompt with another text in place of the part.
        prompt: The prompt.
        encoded: The prompt as model inputs.
        name: Name of the part.

    Raises:
        ModelError: There is no such part, or the tokens of images are not known (`PromptEncoder.image_tokens`).
    """
    image, number = spans.patch_index(name) or (name, None)
    part = next((one for one in prompt.parts() if one.name == image), None)
    if part is None or (number is not None and part.image is None):
        raise ModelError(f"{encoder.renderer.name}: the prompt has no part '{name}'. It has {', '.join(prompt.spans)}.")
    if part.image is not None:
        place = [one.name for one in prompt.parts() if one.image is not None].index(image)
        tokens = encoder.image_tokens(prompt, encoded)[place]
        if number is not None and number >= len(tokens):
            raise ModelError(f"{encoder.renderer.name}: {image} has {len(tokens)} patches, so there is no '{name}'.")
        return _runs(tokens if number is None else [tokens[number]])
    return [text_tokens(encoder, prompt, encoded, name)]


def text_tokens(encoder: "hf.PromptEncoder", prompt: Prompt, encoded: EncodedPrompt, name: str) -> tuple[int, int]:
    """(first, after the last) token of a text. For the arguments see `part_tokens`."""

    def other(text: str) -> Prompt:
        changed = prompt.map(lambda part: Part(text, name) if part.name == name else part)
        return replace(changed, interventions=())

    base = encoder.read([replace(prompt, interventions=())])[0] if prompt.interventions else encoded
    others = encoder.read([other(text) for text in OTHERS])
    begin = min(common_prefix_length(base.key, one.key) for one in others)
    end = len(base) - min(common_prefix_length(base.key[::-1], one.key[::-1]) for one in others)
    return begin, end


def _runs(tokens: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers: (first, after the last)."""
    starts = [token for i, token in enumerate(tokens) if i == 0 or tokens[i - 1] != token - 1]
    ends = [token + 1 for i, token in enumerate(tokens) if i + 1 == len(tokens) or tokens[i + 1] != token + 1]
    return list(zip(starts, ends, strict=True))


def addressed(
    encoder: "hf.PromptEncoder", prompt: Prompt, encoded: EncodedPrompt, where: Where
) -> list[tuple[int, int]]:
    """The tokens of the prompt that an intervention addresses. Raises ModelError as `part_tokens`."""
    size = len(encoded)
    if where.part == "answer":
        return []
    if where.span == "end":
        return [(max(0, size - where.before - where.count), max(0, size - where.before))]
    return [(0, size)] if where.span == "all" else span_tokens(encoder, prompt, encoded, where.span)


def span_tokens(
    encoder: "hf.PromptEncoder", prompt: Prompt, encoded: EncodedPrompt, span: str
) -> list[tuple[int, int]]:
    """The runs of tokens of a part, or of each part of a group, in their order. Raises ModelError as `part_tokens`."""
    if span not in spans.GROUPS:
        return part_tokens(encoder, prompt, encoded, span)
    names = [one.name for one in prompt.parts() if spans.in_group(one.name, span)]
    ranges: list[tuple[int, int]] = []
    for begin, end in (run for name in names for run in part_tokens(encoder, prompt, encoded, name)):
        ranges.append((max(begin, ranges[-1][1] if ranges else 0), end))  # neighbors may share a token
    return ranges


def tokens_by_span(
    encoder: "hf.PromptEncoder", prompts: Sequence[Prompt], spans: Sequence[str]
) -> list[dict[str, list[tuple[int, int]]]]:
    """The tokens of some spans of each prompt. Raises ModelError as `part_tokens`."""
    bare = [replace(prompt, interventions=()) for prompt in prompts]
    return [
        {span: span_tokens(encoder, prompt, encoded, span) for span in spans}
        for prompt, encoded in zip(bare, encoder.read(bare), strict=True)
    ]


def key_ranges(encoder: "hf.PromptEncoder", prompt: Prompt, encoded: EncodedPrompt, keys: Keys) -> KeyRanges:
    """The tokens of the keys that an intervention edits. Raises ModelError as `part_tokens`."""
    if not keys.spans:
        return KeyRanges(None, keys.own)
    bare = replace(prompt, interventions=())
    ranges = sorted(one for span in keys.spans for one in span_tokens(encoder, bare, encoded, span))
    if keys.draw is not None:
        chosen = {token for begin, end in ranges for token in range(begin, end)}
        others = [token for token in range(len(encoded) - 1) if token not in chosen]
        seed = int(canonical_digest(["random keys", keys.draw, ranges])[:15], 16)
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed)).tolist()
        ranges = [(others[i], others[i] + 1) for i in sorted(order[: len(chosen)])]
    return KeyRanges(tuple(ranges), keys.own)


def row_edit(
    encoder: "hf.PromptEncoder", acts: Intervention | StateObserver, prompt: Prompt, encoded: EncodedPrompt, row: int
) -> RowEdit:
    """An intervention or an observer on a prompt. For the arguments and errors see `with_edits`."""
    if isinstance(acts, PartEdit):
        inner = row_edit(encoder, acts.inner, prompt, encoded, row)
        begins = acts.acts_in == "think" and encoder.renderer.opened_block(prompt) is not None
        ranges = addressed(encoder, prompt, encoded, Where(part=acts.where.part)) if begins else []
        return replace(inner, ranges=tuple(ranges), acts_in=acts.acts_in)
    return RowEdit(
        acts,
        resolved_sites(encoder.runner.sites, acts),
        tuple(addressed(encoder, prompt, encoded, acts.where)),
        acts.where.part != "prompt",
        len(encoded),
        row,
        key_ranges(encoder, prompt, encoded, acts.keys) if isinstance(acts, ScoreIntervention) else ALL_KEYS,
    )


def with_edits(
    encoder: "hf.PromptEncoder", prompt: Prompt, encoded: EncodedPrompt, row: int, observe: StateObserver | None = None
) -> EncodedPrompt:
    """The encoded prompt with its interventions, and an observer after them.

    From the first addressed token on, its key differs from the key of the prompt without interventions; the key of the
    last token always differs. So rows share exactly what no intervention can change. An observer sees each row by
    itself.

    Args:
        encoder: Encodes prompts with other texts, and numbers the observed rows.
        prompt: The prompt.
        encoded: The prompt as model inputs.
        row: Number of the prompt in the call of `open`.
        observe: Sees the states of the row.

    Raises:
        ModelError: The model lacks a site, or the prompt a part, or two sites of an intervention are one place.
    """
    acting: Sequence[Intervention | StateObserver] = [*prompt.interventions, *([] if observe is None else [observe])]
    if not acting:
        return encoded
    edits = tuple(row_edit(encoder, acts, prompt, encoded, row) for acts in acting)
    identity = [one.digest for one in prompt.interventions]
    identity += [str(edit.keys.ranges) for edit in edits if edit.keys.ranges is not None]
    if observe is not None:
        identity.append(str(next(encoder.observed_rows)))
    number = int(canonical_digest(identity)[:16], 16) | 1
    first = min(len(encoded) - 1, *(edit.first for edit in edits))
    tail = tuple(entry + (number << EDIT_BITS) for entry in encoded.key[first:])
    return replace(encoded, key=(*encoded.key[:first], *tail), edits=edits)


def resolved_sites(sites: "hf.DecoderSites", acts: Intervention | StateObserver) -> tuple[tuple[Site, Site], ...]:
    """Each site with a layer number from 0, and as it stands. Edits at one place at once would replace each other.

    Raises:
        ModelError: The model lacks a site, or two sites of an intervention are one place.
    """
    pairs = tuple((resolved, site) for site in acts.sites for resolved in sites.resolve_all(site))
    first: dict[Site, Site] = {}
    for resolved, site in pairs if isinstance(acts, Intervention) else ():
        if resolved in first:
            raise ModelError(
                f"{sites.name}: layers {first[resolved].layer} and {site.layer} of an intervention's sites are one "
                f"place ({resolved}), and an intervention edits a place once. Name it once."
            )
        first[resolved] = site
    return pairs


def acts_in_tower(acts: Acts) -> bool:
    """Whether the sites are in the vision tower. Raises ModelError if only some are."""
    kinds = {site.kind in TOWER_KINDS for site in acts.sites}
    if len(kinds) > 1:
        raise ModelError(
            f"one intervention or observer has sites of the vision tower and of the decoder "
            f"({', '.join(map(str, acts.sites))}). Use one for each."
        )
    return kinds == {True}


def with_tower_edits(reader: "hf.PromptEncoder", prompt: Prompt) -> Prompt:
    """The prompt with its interventions in the tower as edits of its images. Raises ModelError as `with_tower_edit`.

    An intervention in one part of the output does not act there.
    """
    inside = [one for one in prompt.interventions if acts_in_tower(one)]
    for one in inside:
        if not isinstance(one, PartEdit):
            prompt = with_tower_edit(reader, prompt, addressed_images(reader, prompt, one.where), one, one.digest)
    return replace(prompt, interventions=tuple(one for one in prompt.interventions if one not in inside))


def with_tower_edit(reader: "hf.PromptEncoder", prompt: Prompt, images: Sequence[str], acts: Acts, name: str) -> Prompt:
    """The prompt with an edit of some images. Raises ModelError if the tower lacks a site, or its passes are unknown.

    Args:
        reader: Encodes the prompt.
        prompt: The prompt.
        images: Names of the images.
        acts: The intervention or observer.
        name: Its name, for the digests of the images.
    """
    sites = reader.runner.sites
    places = tuple((sites.hookable(resolved).module, site) for resolved, site in resolved_sites(sites, acts))

    def change(part: Part) -> Part:
        if part.image is None or part.name not in images:
            return part
        return replace(part, content=part.image.edit(TowerEdit(acts, places, f"tower {name}")))

    return prompt.map(change)


def addressed_images(reader: "hf.PromptEncoder", prompt: Prompt, where: Where) -> list[str]:
    """Names of the images of a span, or of all images for the span `all`. Raises ModelError for spans of texts."""
    names = [part.name for part in prompt.parts() if part.image is not None]
    chosen = [one for one in names if where.span in ("all", one) or spans.in_group(one, where.span)]
    if not chosen and (where.span not in spans.GROUPS or "images" not in where.span):
        raise ModelError(
            f"{reader.renderer.name}: sites of the vision tower belong to images, and '{where.span}' names none of "
            f"the prompt. Use {', '.join(['images', 'query_images', 'demo_images', *names])}."
        )
    return chosen
