"""Sequences of training: one image, binding of names, naming beside other nouns. All have the toolkit's questions.

A sequence is a list of turns (image, question, answer). The loss stands on the answers that the sequence determines:
the last one, and each earlier answer whose noun a turn before it has named.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from icl.tasks.drawings.questions import QUESTIONS
from icl.tasks.generated.wording import BINDING_QUESTIONS, NONCE

CONSONANTS, VOWELS, LAST = "bdfgklmnprstvwz", "aeiou", "bdgkmnptxz"
SHARE_MADE_UP, SHARE_SWAPPED = 0.6, 0.25
"""Of binding sequences; the others have real names, so that a model does not learn to ignore what it sees."""


@dataclass(frozen=True)
class TrainingTurn:
    """An image with its question and answer.

    Attributes:
        image: Index of the drawing.
        counts: Whether the loss stands on the answer.
    """

    image: int
    question: str
    answer: str
    counts: bool


@dataclass(frozen=True)
class EpisodeMaker:
    """Makes training sequences from drawings by noun.

    Attributes:
        by_noun: Noun -> indices of its drawings.
        similar: Drawing -> the drawings that are most similar to it.
        titles: The title of each drawing.
    """

    by_noun: dict[str, list[int]]
    similar: dict[int, list[int]]
    titles: Sequence[str]

    @property
    def several(self) -> list[str]:
        """Nouns with three drawings or more, which binding needs."""
        return [noun for noun, indices in self.by_noun.items() if len(indices) >= 3]

    def single(self, rng: Random, noun: str) -> list[TrainingTurn]:
        """One image and its noun; one in five times its title."""
        image = rng.choice(self.by_noun[noun])
        if rng.random() < 0.2 and self.titles[image]:
            return [TrainingTurn(image, QUESTIONS["title"], self.titles[image], True)]
        return [TrainingTurn(image, QUESTIONS["noun"], noun, True)]

    def binding(self, rng: Random, ways: int, shots: int) -> list[TrainingTurn]:
        """`ways` nouns with made-up, swapped or real names, up to `shots` drawings each, then the query."""
        nouns = rng.sample(self.several, ways)
        kind = rng.random()
        if kind < SHARE_MADE_UP:
            names = made_up_names(rng, ways)
        elif kind < SHARE_MADE_UP + SHARE_SWAPPED:
            names = [*nouns[1:], nouns[0]]
        else:
            names = list(nouns)
        images = {noun: rng.sample(self.by_noun[noun], min(shots + 1, len(self.by_noun[noun]))) for noun in nouns}
        return self._binding(rng, {name: images[noun] for name, noun in zip(names, nouns, strict=True)})

    def binding_of_similar(self, rng: Random, ways: int, shots: int) -> list[TrainingTurn]:
        """The same with groups of similar drawings in place of nouns, so that the comparison does not need words."""
        groups: list[list[int]] = []
        while len(groups) < ways:
            first = rng.choice(list(self.similar))
            group = [first, *rng.sample(self.similar[first], min(shots, len(self.similar[first])))]
            taken = {i for other in groups for i in (*other, *self.similar[other[0]])}
            if not taken & set(group):
                groups.append(group)
        return self._binding(rng, dict(zip(made_up_names(rng, ways), groups, strict=True)))

    def _binding(self, rng: Random, images: dict[str, list[int]]) -> list[TrainingTurn]:
        """The first image of the first name is the query; all others are demonstrations."""
        demos = [(name, name, i) for name, group in images.items() for i in group[1:]]
        rng.shuffle(demos)
        name, group = next(iter(images.items()))
        return self._turns([*demos, (name, name, group[0])], lambda _: BINDING_QUESTIONS[0])

    def beside_others(self, rng: Random, noun: str, shots: int) -> list[TrainingTurn]:
        """Naming after `shots` demonstrations of other nouns; one in three times the own noun is among them.

        Without these sequences a model that was trained on binding copies a name of the demonstrations.
        """
        others = rng.sample([one for one in self.by_noun if one != noun], shots)
        own = self.by_noun[noun]
        query, *more = rng.sample(own, min(2, len(own)))
        demos = [(other, other, rng.choice(self.by_noun[other])) for other in others]
        if more and rng.random() < 1 / 3:
            demos[0] = (noun, noun, more[0])
        rng.shuffle(demos)
        turns = self._turns([*demos, (noun, noun, query)], lambda _: QUESTIONS["noun"])
        return [TrainingTurn(turn.image, turn.question, turn.answer, True) for turn in turns]

    def naming_of_similar(self, rng: Random, shots: int) -> list[TrainingTurn]:
        """Naming where one of `shots` demonstrations is like the query: its noun, a random one, is the answer.

        It is of the query's noun or one of its most similar drawings. Training cannot teach a random noun, so it has to
        be read in the prompt, as a held-out noun has to.
        """
        if rng.random() < 0.5:
            noun = rng.choice(self.several)
            query, near = rng.sample(self.by_noun[noun], 2)
        else:
            query = rng.choice(list(self.similar))
            near = rng.choice(self.similar[query])
        answer, *others = rng.sample(list(self.by_noun), shots)
        like = {query, near, *self.similar[query]}
        rows = [(answer, near)]
        for other in others:
            own = [i for i in self.by_noun[other] if i not in like]
            from_all = not own or rng.random() < 0.5
            rows.append((other, rng.choice([i for i in self.similar if i not in like] if from_all else own)))
        rng.shuffle(rows)
        turns = [TrainingTurn(image, QUESTIONS["noun"], name, False) for name, image in rows]
        return [*turns, TrainingTurn(query, QUESTIONS["noun"], answer, True)]

    def _turns(self, rows: Sequence[tuple[str, str, int]], question: Callable[[str], str]) -> list[TrainingTurn]:
        turns, before = [], set[str]()
        for place, (noun, name, image) in enumerate(rows):
            turns.append(TrainingTurn(image, question(noun), name, noun in before or place == len(rows) - 1))
            before.add(noun)
        return turns


def made_up_names(rng: Random, count: int) -> list[str]:
    """Different names of one or two syllables; none is a name of the tasks."""
    names = set[str]()
    while len(names) < count:
        names.add(made_up_name(rng))
    return sorted(names, key=lambda _: rng.random())


def made_up_name(rng: Random) -> str:
    """A name of one or two syllables that is none of the names in the tasks."""
    while True:
        syllables = (rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.choice((1, 2))))
        if (name := "".join(syllables) + rng.choice(LAST)) not in NONCE:
            return name
