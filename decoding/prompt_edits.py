"""Edits of prompts for branches: parts removed, texts replaced, answers exchanged.

The functions work on the named parts of a prompt, so they fit every composer. Text between the parts belongs to the
part before it. Removing a prompt's demonstrations therefore gives the prompt that the composer writes at 0 shots.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from icl import Part, PlanError, Prompt, Turn, spans

AblatedPart = Literal["image", "demonstrations", "both"]
"""What is removed from a prompt: the images of the query, all demonstrations, or both."""


def remove_part(prompt: Prompt, what: AblatedPart) -> Prompt:
    """The prompt without the images of the query, without demonstrations, or both. Demonstrations keep their images."""
    if what in ("demonstrations", "both"):
        prompt = remove_demonstrations(prompt)
    return remove_query_image(prompt) if what in ("image", "both") else prompt


def remove_query_image(prompt: Prompt) -> Prompt:
    """The prompt without the images of the query.

    Raises:
        PlanError: Nothing is left.
    """
    text_only = prompt.without_images("query")
    if not text_only.turns:
        raise PlanError("the prompt contains only its image, so nothing is left without it. Add a text to the query.")
    return text_only


def demonstrations(prompt: Prompt) -> tuple[int, ...]:
    """The numbers of the prompt's demonstrations, in their order."""
    return tuple(dict.fromkeys(part.demo for part in prompt.parts() if part.demo is not None))


def remove_demonstrations(prompt: Prompt) -> Prompt:
    """The prompt with its instruction and query only."""
    return keep_demonstrations(prompt, ())


def keep_demonstrations(prompt: Prompt, keep: Collection[int]) -> Prompt:
    """The prompt with some of its demonstrations, in their order.

    Raises:
        PlanError: No part belongs to the query.
    """
    pieces = [(t, part) for t, turn in enumerate(prompt.turns) for part in turn.parts]
    first = next((i for i, (_, part) in enumerate(pieces) if part.demo is not None), None)
    if first is None:
        return prompt
    query = next((i for i, (_, part) in enumerate(pieces) if part.within("query")), None)
    if query is None:
        raise PlanError(
            "no part of this prompt is named 'query....': demonstrations and query cannot be distinguished."
        )
    remaining, number = [], -1
    for i, (t, part) in enumerate(pieces[first:], start=first):
        number = number if part.demo is None else part.demo
        if i >= query or number in keep:
            remaining.append((t, part))
    # text before the demonstrations moves to the turn of the first part that remains
    old_turn, new_turn = pieces[first][0], remaining[0][0]
    remaining = [(new_turn if t == old_turn else t, part) for t, part in pieces[:first]] + remaining
    parts: dict[int, list[Part]] = {}
    for t, part in remaining:
        parts.setdefault(t, []).append(part)
    turns = (Turn(turn.role, tuple(parts[i])) for i, turn in enumerate(prompt.turns) if i in parts)
    return replace(prompt, turns=tuple(turns))


def consecutive_groups(numbers: Sequence[int], count: int) -> list[Sequence[int]]:
    """Divides the numbers of demonstrations into `count` groups of similar size, at most one per number; 0: all alone.

    Without numbers, one empty group.
    """
    groups = min(count or len(numbers), len(numbers)) or 1
    bounds = [i * len(numbers) // groups for i in range(groups + 1)]
    return [numbers[start:end] for start, end in pairwise(bounds)]


def demonstration_windows(prompt: Prompt, count: int) -> tuple[Prompt, ...]:
    """Prompts with consecutive groups of the demonstrations, each with the query.

    Args:
        prompt: The prompt.
        count: Number of groups of similar size; 0 makes one group per demonstration.

    Returns:
        At most one prompt per demonstration; the prompt itself if it has no demonstrations.
    """
    return tuple(keep_demonstrations(prompt, group) for group in consecutive_groups(demonstrations(prompt), count))


def replace_instruction(prompt: Prompt, text: str) -> Prompt:
    """The prompt with another instruction; one without an instruction gets it at the start of its first user turn.

    Raises:
        PlanError: The prompt has no user turn.
    """
    if spans.INSTRUCTION in prompt.spans:
        return prompt.map(lambda part: replace(part, content=text) if part.name == spans.INSTRUCTION else part)
    turns = list(prompt.turns)
    place = next((t for t, turn in enumerate(turns) if turn.role == "user"), None)
    if place is None:
        raise PlanError("the prompt has no user turn that could contain an instruction.")
    turns[place] = replace(turns[place], parts=(Part(text, spans.INSTRUCTION), Part("\n"), *turns[place].parts))
    return replace(prompt, turns=tuple(turns))


def question_text(prompt: Prompt) -> str:
    """The query's question; '' without one."""
    return "".join(part.text or "" for part in prompt.parts() if part.name == spans.QUESTION)


def wrap_question(prompt: Prompt, before: str = "", after: str = "") -> Prompt:
    """The prompt with texts before and after the query's question.

    Raises:
        PlanError: The query has no question.
    """
    return _map_question(prompt, lambda question: f"{before}{question}{after}")


def replace_question(prompt: Prompt, text: str) -> Prompt:
    """The prompt with a text in the place of the query's question.

    Raises:
        PlanError: The query has no question.
    """
    return _map_question(prompt, lambda question: text)


def judge_prompts(prompt: Prompt, judge: str, answers: Iterable[str]) -> list[Prompt]:
    """For each answer the prompt with the judge's text, with {question} and {answer}, in the place of the question.

    Raises:
        PlanError: The query has no question.
    """
    question = question_text(prompt)
    return [replace_question(prompt, judge.format(question=question, answer=answer)) for answer in answers]


def _map_question(prompt: Prompt, edit: Callable[[object], str]) -> Prompt:
    if spans.QUESTION not in prompt.spans:
        raise PlanError("the query has no question (no part is named 'query.question') that could be edited.")
    return prompt.map(lambda part: replace(part, content=edit(part.content)) if part.name == spans.QUESTION else part)


def replace_images(prompt: Prompt, descriptions: Mapping[str, str], in_image_slot: bool = False) -> Prompt:
    """The prompt with texts in the place of images.

    Args:
        prompt: The prompt.
        descriptions: Name of an image part -> text.
        in_image_slot: Whether the marks of the chat template around the images remain (`Part.fills_image_slot`).
    """
    return prompt.map(
        lambda part: (
            replace(part, content=descriptions[part.name], fills_image_slot=in_image_slot)
            if part.image is not None and part.name in descriptions
            else part
        )
    )


def replace_answers(prompt: Prompt, how: Literal["shuffled", "wrong"]) -> Prompt:
    """The prompt with other answers of its demonstrations, drawn from the prompt's random stream.

    Args:
        prompt: The prompt.
        how: 'shuffled' exchanges the answers, so that none keeps its place. 'wrong' gives each demonstration one of the
            other answers in the prompt.

    Raises:
        PlanError: The demonstrations do not have two different answers.
    """
    names = [part.name for part in prompt.parts() if spans.is_answer(part.name)]
    answers = [part.text or "" for part in prompt.parts() if part.name in names]
    generator = prompt.key.numpy(f"answers/{how}")
    if len(set(answers)) < 2:
        problem = f"all {len(answers)} are {answers[0]!r}" if answers else "there are none"
        raise PlanError(f"demonstrations with other answers need two different answers, but {problem}.")
    if how == "shuffled":
        order = generator.permutation(len(answers)).tolist()
        new_answers = {names[a]: answers[b] for a, b in zip(order, order[1:] + order[:1], strict=True)}
    else:
        new_answers = {}
        for name, answer in zip(names, answers, strict=True):
            others = [other for other in answers if other != answer]
            new_answers[name] = others[int(generator.integers(len(others)))]
    return prompt.map(lambda part: replace(part, content=new_answers[part.name]) if part.name in new_answers else part)
