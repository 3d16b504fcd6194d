"""Which of the options an output chooses, and how likely an option is: what scores over options read."""

import math
from collections.abc import Mapping

from icl.metrics.lenient import lenient
from icl.metrics.normalize import plain
from icl.metrics.option import best_option
from icl.metrics.yes_no import asks_yes_no, parse
from icl.types import Example, Generation


def chosen(output: str, options: tuple[str, ...]) -> str | None:
    """The one option that the output is or names, in its plain form; None where it names none or several."""
    whole = plain(output)
    if whole in map(plain, options):
        return whole
    named = {plain(option) for option in options if lenient(output, (option,), options)}
    return named.pop() if len(named) == 1 else None


def share(scores: Mapping[str, float], option: str) -> float | None:
    """The probability of an option among all that were scored; None where it is not among them."""
    logs = {plain(name): score for name, score in scores.items()}
    most = max(logs.values(), default=-math.inf)
    if plain(option) not in logs or most == -math.inf:
        return None
    weights = {name: math.exp(score - most) for name, score in logs.items()}
    return weights[plain(option)] / sum(weights.values())


def right(generation: Generation, example: Example) -> bool:
    """By the scores of the options where they were scored, else by the rules of `lenient`."""
    if generation.option_scores:
        return best_option(generation.option_scores, example.answers)
    if asks_yes_no(example):
        return parse(generation.text) in [plain(answer) for answer in example.answers]
    return lenient(generation.text, example.answers, example.options)
