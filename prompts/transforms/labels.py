"""Transforms of the answers of demonstrations in a task with labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from icl import ConfigError, Context, Demo, Fraction, PlanError, StreamKey, component, normalize_text
from prompts import answers_of, check_gold_unchanged, compose_names, new_name, rivals, rivals_of, with_answer
from prompts.example_changes import random_answer, random_places, rename_answers, replace_demos, sort_by_rank


@component("transform", "flip_labels")
@dataclass(frozen=True)
class FlipLabels:
    """A transform after which every demonstration answers with the next label. The gold stays.

    Flipped labels: does the model follow its demonstrations against its knowledge? (Wei et al. 2023; Xu et al. 2025)

    Each context has one bijection: each answer becomes the next of its competing answers, cyclically. These are its
    options, or the answers of the demonstrations. With two labels this is the flip. Questions of several kinds have a
    cycle each. Only the demonstrations change. The gold stays, so accuracy falls if the model follows them. The sample
    stores both answers, and `icl analyze RUN label_following` counts following, prior and other answers. (The papers
    use different criteria: accuracy on the flipped label, or accuracy far below one half.)

    Differs from the released code in the criterion: the gold stays, and following is counted by itself (there accuracy
    on the flipped label, and an output without the word yes counts as no).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    analysis: ClassVar[str] = "label_following"

    def transform(self, context: Context) -> Context:
        check_gold_unchanged(context, "flip_labels")
        groups = [group for group in rivals_of(context) if len(group) > 1]
        if not groups:
            mark = "flip_labels: fewer than two labels, nothing is flipped, saw labels"
            return replace(context, provenance=(*context.provenance, mark)) if context.demos else context
        names = {old: new for group in groups for old, new in zip(group, group[1:] + group[:1], strict=True)}
        new = [with_answer(demo, new_name(demo.example.answer, names)) for demo in sort_by_rank(context)]
        flipped = replace_demos(context, new, f"flip_labels: {len(names)} labels, saw labels")
        return replace(flipped, label_map=compose_names(context.label_map, names)) if context.demos else context


@component("transform", "noisy_labels")
@dataclass(frozen=True)
class NoisyLabels:
    """A transform that gives a fixed share of the demonstrations a wrong answer. Shares are nested.

    A share of wrong demonstrations: how much label noise does in-context learning tolerate? (Min et al. 2022)

    Exactly round(share x n) demonstrations (halves up) get a wrong answer. It is drawn uniformly from the other
    competing answers: the example's options, or the answers of the demonstrations. The choice depends on the query, so
    a larger share contains the errors of a smaller one.

    No released code was compared.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    analysis: ClassVar[str] = "noisy_labels"

    share: Fraction = 0.5  # share of demonstrations with a wrong answer

    def transform(self, context: Context) -> Context:
        demos = sort_by_rank(context)
        target = int(self.share * len(demos) + 0.5)
        chosen = set(random_places(context, "transform/noisy_labels")[:target])
        new = [_with_wrong_answer(context, demo) if i in chosen else demo for i, demo in enumerate(demos)]
        wrong = sum(a is not b for a, b in zip(new, demos, strict=True))
        done = replace_demos(context, new, f"noisy_labels: {wrong} of {len(demos)} wrong, saw labels")
        if wrong < target:
            mark = f"noisy_labels: {target - wrong} of {target} have no other answer to give, saw labels"
            done = replace(done, provenance=(*done.provenance, mark))
        return done


def _with_wrong_answer(context: Context, demo: Demo) -> Demo:
    among = rivals(demo.example.answer, rivals_of(context))
    others = [answer for answer in among if normalize_text(answer) != normalize_text(demo.example.answer)]
    if not others:
        return demo
    return with_answer(demo, random_answer(context, f"transform/noisy_labels/{demo.example.id}", others))


@component("transform", "synonyms")
@dataclass(frozen=True)
class Synonyms:
    """A transform that replaces answers by a user's map, in demonstrations, options and gold.

    Answers replaced by other words: `words: {red: crimson}`, in demonstrations, options and gold.

    This is between the task's labels and symbols: the meaning stays, the wording is new. The map must keep different
    answers different. Answers that it does not contain keep their names.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    words: Mapping[str, str] = field(default_factory=dict)  # answer of the task -> new name

    def __post_init__(self) -> None:
        for keys, what in ((list(self.words), "is renamed twice"), (list(self.words.values()), "is the name of two")):
            plain = [normalize_text(key) for key in keys]
            if twice := next((key for key in keys if plain.count(normalize_text(key)) > 1), None):
                raise ConfigError(f"words: '{twice}' {what}. Every answer needs a name of its own.")

    def transform(self, context: Context) -> Context:
        if not self.words:
            return context
        old = answers_of(context)
        new_names = [normalize_text(new_name(answer, self.words)) for answer in old]
        if twice := next((name for name in new_names if new_names.count(name) > 1), None):
            raise PlanError(
                f"synonyms: query '{context.query.id}' would have two answers called '{twice}': one is renamed to what "
                "another is already called. Rename that one too."
            )
        return rename_answers(context, self.words, "synonyms: answers renamed, saw labels")


CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


@component("transform", "symbols")
@dataclass(frozen=True)
class Symbols:
    """A transform that replaces every answer by an invented word, in demonstrations, options and gold.

    Symbols for answers: only the demonstrations help, not the model's knowledge (SymDPO, Jia et al., CVPR 2025).

    Each context has one injective map, drawn for the query. Equal answers get equal symbols. The symbol of an answer
    depends on the query and on the answer, and on other answers only if two draw the same symbol. Options and gold use
    the same map, so the right answer is a symbol. A symbol is an invented word, or one of `words`, that does not occur
    in the context. A model with a small vocabulary can only say its own words. Questions stay unchanged, also if they
    list the answers. The gold keeps its name if neither a demonstration nor an option has it. The paper trains on such
    prompts; this transform tests with them.

    Differs from the released code in its use: there pairs of answers for training are built from the same map.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    analysis: ClassVar[str] = "label_following"

    words: tuple[str, ...] = ()  # words to draw symbols from; none: invented from consonants and vowels

    def transform(self, context: Context) -> Context:
        answers = answers_of(context)
        if not answers:
            return context
        used = _context_words(context)
        free = sorted({word for word in self.words if normalize_text(word) not in used})
        if self.words and len(free) < len(answers):
            raise PlanError(
                f"symbols: query '{context.query.id}' needs {len(answers)} words for its answers, and {len(free)} "
                f"of the {len(self.words)} given are not in its prompt already. Give more words."
            )
        names = {}
        for answer in (answers[i] for i in context.key.order("transform/symbols", answers)):
            factor = f"transform/symbols/{normalize_text(answer)}"
            words = (free[i] for i in context.key.order(factor, free)) if free else _invent_words(context.key, factor)
            names[answer] = next(word for word in words if word not in used)
            used.add(names[answer])
        return rename_answers(context, names, f"symbols: {len(answers)} answers, saw labels")


def _context_words(context: Context) -> set[str]:
    """Every word and every complete text of the context, normalized."""
    texts = [context.query.question, *context.query.options]
    texts += [text for demo in context.demos for text in (demo.example.question, *demo.example.answers)]
    return {normalize_text(word) for text in texts for word in text.split()} | {normalize_text(text) for text in texts}


def _invent_words(key: StreamKey, factor: str) -> Iterator[str]:
    """Random words of the form consonant-vowel-consonant-vowel-consonant. Words may repeat."""
    rng = key.numpy(factor)
    while True:
        yield "".join(letters[int(rng.integers(len(letters)))] for letters in (CONSONANTS, VOWELS) * 2 + (CONSONANTS,))
