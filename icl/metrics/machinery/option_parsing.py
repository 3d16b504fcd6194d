"""The option that an output chooses, and the probabilities of options."""

import math
from collections.abc import Mapping, Sequence

from icl import Example, Generation, in_texts, normalize_text
from icl.metrics import asks_yes_no, contains_answer, is_accepted, read_yes_no


def named_option(output: str, options: tuple[str, ...]) -> str | None:
    """The normalized option that the output is or names. None if it names none or several."""
    whole = normalize_text(output)
    if whole in map(normalize_text, options):
        return whole
    named = {normalize_text(option) for option in options if contains_answer(output, (option,), options)}
    return named.pop() if len(named) == 1 else None


def option_probabilities(scores: Mapping[str, float]) -> dict[str, float]:
    """The probability of each normalized option: exp(score), normalized over the options. Empty without a score."""
    logs = {normalize_text(name): float(score) for name, score in scores.items()}
    top = max(logs.values(), default=-math.inf)
    if top == -math.inf:
        return {}
    weights = {name: math.exp(score - top) for name, score in logs.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def option_probability(scores: Mapping[str, float], option: str) -> float | None:
    """The probability of an option among all scored ones. None if it was not scored."""
    return option_probabilities(scores).get(normalize_text(option))


def accepted_probability(scores: Mapping[str, float], answers: Sequence[str]) -> float:
    """The probability of the accepted answers among all scored options. 0 if none of them was scored."""
    return sum(share for option, share in option_probabilities(scores).items() if is_accepted(option, answers))


def yes_probability(generation: Generation) -> float:
    """P(yes) among the scored options; without a score of yes, 1 if the output says yes, otherwise 0."""
    scored = option_probability(generation.option_scores, "yes")
    return float(read_yes_no(generation.text) == "yes") if scored is None else scored


def is_correct(generation: Generation, example: Example) -> bool:
    """Whether the answer is right: by option scores if there are any, otherwise by the rules of `lenient`."""
    if generation.option_scores:
        return is_best_option(generation.option_scores, example.answers)
    example = in_texts(example)
    if asks_yes_no(example):
        answer = read_yes_no(generation.text, options=example.options, question=example.question)
        return answer is not None and is_accepted(answer, example.answers)
    return contains_answer(generation.text, example.answers, example.options)


def is_best_option(scores: Mapping[str, float], answers: Sequence[str]) -> bool:
    """Whether an accepted answer has the highest score. A tie with a wrong option is wrong, and NaN never wins."""
    right = [score for option, score in scores.items() if is_accepted(option, answers)]
    wrong = [score for option, score in scores.items() if not is_accepted(option, answers)]
    return any(all(score > other for other in wrong) for score in right)
