"""Does the server keep to its protocol: streams, log-probabilities, stop strings, samples, scores of options?"""

import math
from typing import Any

from .distances import distance
from .instrument import Instrument, Status, Verdict, check
from .prompts import QUESTIONS, shots, to_messages, turn, user
from .server import TEXT_TOKENS, RefusedError

HOT = 2.0
N = 4
SEEDS = (1, 2, 3)
EXCESS = 1.01
LAST_TOKENS = 6
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""Stands for bytes that are no character."""


@check()
def stream(p: Instrument) -> Verdict:
    """A stream gives the same answer."""
    prompts, number = (user("AB"), shots("ABC"), shots("BCA")), 0
    questions = p.server.questions if p.server.of_texts else QUESTIONS[:1]
    for prompt in prompts:
        for question in questions:
            whole, streamed = p.server.answer(prompt, question), p.server.streamed(prompt, question)
            if streamed is None:
                return Verdict(Status.ABSENT, "the server does not stream")
            number += 1
            if whole.top and streamed.top:
                size = distance(whole, streamed)
                if size > p.scale.tolerance:
                    text = f"the first token of a stream differs by {size:.2g}"
                    return p.red_if(p.scale.expects(size), text, prompt, prompt)
            elif not _are_equal(whole.texts[0], streamed.texts[0]):
                text = f"streamed {streamed.texts[0][:40]!r}, whole {whole.texts[0][:40]!r}"
                stable = p.server.answer(prompt, question).texts == whole.texts
                return p.red_if(stable, text, prompt, prompt)
    return Verdict(Status.OK, f"{number} answers")


def _are_equal(whole: str, streamed: str) -> bool:
    """Whether two texts are equal up to a character that the last token cut.

    Streams hold back the bytes of a character until it is complete, and some drop them at the end.
    """
    return whole.rstrip(REPLACEMENT) == streamed.rstrip(REPLACEMENT)


@check()
def logprobs(p: Instrument) -> Verdict:
    """Log-probabilities are log-probabilities."""
    if p.server.of_texts:
        return Verdict(Status.ABSENT, "the server gives none: texts of several questions are compared")
    wrong = []
    for prompt in (user("A"), shots("ABC")):
        item = p.ask(prompt).data["choices"][0]["logprobs"]["content"][0]
        total = sum(math.exp(one["logprob"]) for one in item["top_logprobs"])
        best = max(item["top_logprobs"], key=lambda one: one["logprob"])
        if total > EXCESS * math.exp(3 * p.scale.noise):
            wrong.append(f"probabilities sum to {total:.3f}")
        if item["logprob"] < best["logprob"] - max(p.scale.tolerance, 0.01):
            wrong.append(f"the greedy token {item['token']!r} is not the likeliest one, {best['token']!r}")
        if len(item["top_logprobs"]) < p.server.listed:
            wrong.append(f"{len(item['top_logprobs'])} of {p.server.listed} that were asked for")
    plain = p.server.text({"messages": to_messages(user("A"), QUESTIONS[0]), "temperature": 0, "max_tokens": 1})
    if plain != (with_them := p.ask(user("A")).texts[0]):
        wrong.append(f"the answer is {with_them!r} with them and {plain!r} without them")
    if wrong:
        return Verdict(Status.RED, "; ".join(dict.fromkeys(wrong)), (user("A"),))
    return Verdict(Status.OK, f"{p.server.listed} tokens, the greedy one is the likeliest")


@check()
def sampling(p: Instrument) -> Verdict:
    """Stop strings, n and seeds have their effect."""
    wrong, notes = list[str](), list[str]()
    body = {"messages": to_messages(shots("ABC"), QUESTIONS[2]), "temperature": 0, "max_tokens": TEXT_TOKENS}
    text = p.server.text(body)
    marks = (text[i : i + 2] for i in range(1, len(text) - 2))
    mark = next((one for one in marks if one.strip() and one.isascii()), None)
    if mark is None:
        notes.append("stop was not tried: the answer is too short")
    elif mark in (cut := p.server.text(body | {"stop": [mark]})):
        wrong.append(f"stop {mark!r} is ignored")
    elif cut.rstrip() != text[: text.index(mark)].rstrip():
        notes.append(f"stop {mark!r} cuts elsewhere")
    hot, different = body | {"temperature": HOT, "top_p": 1.0}, set[str]()
    try:
        choices = _texts(p.server.post(hot | {"n": N, "seed": 1}))
        different |= set(choices)
        if len(choices) != N:
            wrong.append(f"n = {N} gives {len(choices)} answer")
    except RefusedError as error:
        notes.append(f"n = {N} is refused ({str(error)[:60]})")
    try:
        samples = {seed: [p.server.text(hot | {"seed": seed}) for _ in range(2)] for seed in SEEDS}
        different |= {first for first, _ in samples.values()}
        if any(first != second for first, second in samples.values()):
            (notes if p.scale.noise > 1e-4 else wrong).append("the same seed gives another text")
        if len(different) == 1:
            wrong.append("temperature and seed have no effect")
    except RefusedError as error:
        notes.append(f"seed is refused ({str(error)[:60]})")
    status = Status.RED if wrong else Status.OK
    return Verdict(status, "; ".join(wrong + notes) or "as asked", (shots("ABC"),) if wrong else ())


@check()
def options(p: Instrument) -> Verdict:
    """Whole options can be scored, and images change their scores."""
    scores = []
    for name in "AB":
        messages = to_messages((*user(name), turn("assistant", "a red square")), QUESTIONS[0])
        values = prompt_scores(p, {"messages": messages})
        if values is None:
            return Verdict(Status.ABSENT, "the server gives no prompt_logprobs")
        scores.append([value for value in values if value is not None][-LAST_TOKENS:])
    moved = max((abs(a - b) for a, b in zip(*scores, strict=False)), default=0.0)
    status = Status.OK if moved > p.scale.tolerance / 2 else Status.OPEN
    return Verdict(status, f"prompt_logprobs; another image moves the last tokens by up to {moved:.2g}")


def prompt_scores(p: Instrument, body: dict[str, Any]) -> list[float | None] | None:
    """The log-probability of each token of a prompt (vLLM's `prompt_logprobs`); None if the server gives none."""
    try:
        data = p.server.post(body | {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0})
    except RefusedError:
        return None
    listed = data.get("prompt_logprobs") or data["choices"][0].get("prompt_logprobs")
    if not listed:
        return None
    return [max(entry["logprob"] for entry in token.values()) if token else None for token in listed]


def _texts(data: dict[str, Any]) -> list[str]:
    return [choice["message"].get("content") or "" for choice in data["choices"]]
