"""Prompts changed beyond their images: what a branch leaves out, says instead, or shows wrongly.

All work on the named parts of a prompt, whatever composer wrote it. Glue between the parts goes with what it follows:
without its demonstrations a prompt is the one that the composer writes for none.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from icl import spans
from icl.errors import PlanError
from icl.types import Part, Prompt, Turn

AblatedPart = Literal["image", "demonstrations", "both"]
"""What a branch leaves out: the query's image, all demonstrations, or both."""


def remove_part(prompt: Prompt, what: AblatedPart) -> Prompt:
    """The prompt without it. 'image': the query's alone; demonstrations keep theirs."""
    if what in ("demonstrations", "both"):
        prompt = remove_demonstrations(prompt)
    return remove_query_image(prompt) if what in ("image", "both") else prompt


def remove_query_image(prompt: Prompt) -> Prompt:
    """Without the query's images. Raises PlanError where nothing is left."""
    bare = prompt.without_images("query")
    if not bare.turns:
        raise PlanError("the prompt is its image alone: without it nothing is left to read. Give the query a text.")
    return bare


def demonstrations(prompt: Prompt) -> tuple[int, ...]:
    """The numbers of the prompt's demonstrations, in their order."""
    found = (part.demo for part in prompt.parts())
    return tuple(dict.fromkeys(number for number in found if number is not None))


def remove_demonstrations(prompt: Prompt) -> Prompt:
    """The query alone, with the instruction."""
    return keep_demonstrations(prompt, ())


def keep_demonstrations(prompt: Prompt, keep: Collection[int]) -> Prompt:
    """The prompt with some of its demonstrations, in their order. Raises PlanError where nothing is the query's."""
    pieces = [(t, part) for t, turn in enumerate(prompt.turns) for part in turn.parts]
    first = next((i for i, (_, part) in enumerate(pieces) if part.demo is not None), None)
    if first is None:
        return prompt
    query = next((i for i, (_, part) in enumerate(pieces) if part.within("query")), None)
    if query is None:
        raise PlanError("no part of this prompt is named 'query....': demonstrations and query cannot be told apart.")
    kept, number = [], -1
    for i, (t, part) in enumerate(pieces[first:], start=first):
        own = part.demo
        number = number if own is None else own
        if i >= query or number in keep:
            kept.append((t, part))
    before = pieces[first][0], kept[0][0]  # what stands before the demonstrations moves to the turn that follows it
    kept = [(before[1] if t == before[0] else t, part) for t, part in pieces[:first]] + kept
    turns = (Turn(turn.role, tuple(p for t, p in kept if t == i)) for i, turn in enumerate(prompt.turns))
    return replace(prompt, turns=tuple(turn for turn in turns if turn.parts))


def demonstration_windows(prompt: Prompt, count: int) -> tuple[Prompt, ...]:
    """The demonstrations in `count` neighboring groups of like size, each with the query; 0: one group each.

    A prompt without demonstrations is its only window, and there are never more windows than demonstrations.
    """
    numbers = demonstrations(prompt)
    if not numbers:
        return (prompt,)
    groups = min(count or len(numbers), len(numbers))
    bounds = [i * len(numbers) // groups for i in range(groups + 1)]
    return tuple(keep_demonstrations(prompt, numbers[start:end]) for start, end in pairwise(bounds))


def replace_instruction(prompt: Prompt, text: str) -> Prompt:
    """Another instruction: in the place of the prompt's own, or at the head of the first user turn."""
    if spans.INSTRUCTION in prompt.spans:
        return prompt.map(lambda part: replace(part, content=text) if part.name == spans.INSTRUCTION else part)
    turns = list(prompt.turns)
    place = next((t for t, turn in enumerate(turns) if turn.role == "user"), None)
    if place is None:
        raise PlanError("the prompt has no user turn that an instruction could stand in.")
    turns[place] = replace(turns[place], parts=(Part(text, spans.INSTRUCTION), Part("\n"), *turns[place].parts))
    return replace(prompt, turns=tuple(turns))


def wrap_question(prompt: Prompt, before: str = "", after: str = "") -> Prompt:
    """Words before and after the query's question. Raises PlanError where the query has none."""
    if spans.QUESTION not in prompt.spans:
        raise PlanError("the query has no question (no part is named 'query.question') that words could be put to.")
    return prompt.map(
        lambda part: replace(part, content=f"{before}{part.content}{after}") if part.name == spans.QUESTION else part
    )


def replace_question(prompt: Prompt, text: str) -> Prompt:
    """Another text in the place of the query's question. Raises PlanError where the query has none."""
    if spans.QUESTION not in prompt.spans:
        raise PlanError("the query has no question (no part is named 'query.question') that a text could replace.")
    return prompt.map(lambda part: replace(part, content=text) if part.name == spans.QUESTION else part)


def replace_images(prompt: Prompt, descriptions: Mapping[str, str]) -> Prompt:
    """Images replaced, where they stand, by texts. descriptions: name of the image's part -> text."""
    return prompt.map(
        lambda part: (
            replace(part, content=descriptions[part.name])
            if part.image is not None and part.name in descriptions
            else part
        )
    )


def replace_answers(prompt: Prompt, how: Literal["shuffled", "wrong"]) -> Prompt:
    """Demonstrations with other answers, from the prompt's own stream.

    shuffled: they exchange their answers, none keeps its place. wrong: each gets one of the other answers shown.
    Raises PlanError where there is no other answer.
    """
    names = [part.name for part in prompt.parts() if spans.is_answer(part.name)]
    answers = [part.text or "" for part in prompt.parts() if part.name in names]
    draw = prompt.key.numpy(f"answers/{how}")
    if len(set(answers)) < 2:
        shown = f"all {len(answers)} are {answers[0]!r}" if answers else "there are none"
        raise PlanError(f"demonstrations with other answers need two different ones, and {shown}.")
    if how == "shuffled":
        order = draw.permutation(len(answers)).tolist()
        told = {names[a]: answers[b] for a, b in zip(order, order[1:] + order[:1], strict=True)}
    else:
        told = {}
        for name, answer in zip(names, answers, strict=True):
            others = [other for other in answers if other != answer]
            told[name] = others[int(draw.integers(len(others)))]
    return prompt.map(lambda part: replace(part, content=told[part.name]) if part.name in told else part)
