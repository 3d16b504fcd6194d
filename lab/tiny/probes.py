"""The measurements of the card: sequences on unseen images and, for made-up names, on held-out concepts."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from icl.tasks.generated import wording as w
from icl.tasks.generated.world import CONCEPTS, HELD_OUT_CONCEPTS, Concept, companion, popularity
from lab.tiny.index import PoolIndex
from lab.tiny.layout import PromptLayout, TokenTurn
from lab.tiny.lessons import NAMES, Rng, ask, attribute, bare, bind, operator
from lab.tiny.questions import choose, turn
from lab.tiny.vocabulary import encode

SHOTS = (0, 1, 2, 4, 8, 16)
FEWER_SHOTS = (0, 4, 8, 16)
LAYOUTS = {
    "chat": PromptLayout(),
    "chat, text first": PromptLayout(text_first=True),
    "chat, short instruction": PromptLayout(instruction="short"),
    "chat, long instruction": PromptLayout(instruction="long"),
    "interleaved": PromptLayout(chat=False),
    "interleaved, text first": PromptLayout(chat=False, text_first=True),
    "interleaved, long instruction": PromptLayout(chat=False, instruction="long"),
}


@dataclass(frozen=True)
class ProbeCell:
    """One number of the card: sequences, and whether the answer competes with the options alone."""

    group: str
    name: str
    shots: int
    make: Callable[[Rng], list[TokenTurn]]
    among: bool = False
    layout: PromptLayout = field(default_factory=PromptLayout)

    @property
    def times(self) -> int:
        """The number of sequences, four times as many for a goal: two samples of 200 can differ by .07."""
        goal = {"binding": (8,), "binding by attribute": (8,), "rule in the demonstrations": (0, 4)}
        return 4 if self.shots in goal.get(self.group, ()) else 1

    def sequences(self, n: int) -> list[list[TokenTurn]]:
        # the stored figures of all seeds used the British spelling, and another name samples other sequences
        name = self.name.replace("color", "colour")
        rng = np.random.default_rng(zlib.crc32(f"{name} {self.shots}".encode()))
        return [self.make(rng) for _ in range(n)]


def cells(index: PoolIndex) -> Iterator[ProbeCell]:
    """Everything but captions, retrieval and easy-vqa."""

    def held_out(ways: int, shots: int, kind: str = "pair") -> Callable[[Rng], list[TokenTurn]]:
        return lambda rng: bind(rng, index, ways, shots + 1, kind, concepts=HELD_OUT_CONCEPTS, balanced=True)

    def by(kind: str, hint: bool, shots: int) -> Callable[[Rng], list[TokenTurn]]:
        return lambda rng: bind(rng, index, 2, shots + 1, kind, hint, balanced=True)

    for shots in SHOTS:
        for ways in (2, 4, 8):
            yield ProbeCell("binding", f"{ways}-way", shots, held_out(ways, shots), True)
        yield ProbeCell("binding", "4-way, like concepts", shots, held_out(4, shots, "near"), True)
        for name, lesson in (("operators", operator), ("attribute", attribute), ("number or presence", bare)):
            yield ProbeCell(
                "rule in the demonstrations",
                name,
                shots,
                lambda rng, f=lesson, k=shots: f(rng, index, k + 1),  # type: ignore[misc]
            )
    for shots in FEWER_SHOTS:
        for kind in ("texture", "size", "count", "shape", "color"):
            yield ProbeCell("binding by attribute", f"{kind}, named", shots, by(kind, True, shots), True)
            yield ProbeCell("binding by attribute", f"{kind}, not named", shots, by(kind, False, shots), True)
        for name in (
            "plain_color",
            "plain_shape",
            "plain_yes_no",
            "texture",
            "size",
            "count_all",
            "count_color",
            "count_shape",
            "count_both",
        ):
            yield ProbeCell("questions", name, shots, lambda rng, q=name, k=shots: ask(rng, index, k + 1, q))  # type: ignore[misc]
        for sampling in ("random", "popular", "adversarial"):
            yield ProbeCell(
                "existence",
                sampling,
                shots,
                lambda rng, s=sampling, k=shots: existence(rng, index, k + 1, s),  # type: ignore[misc]
            )
    for name, layout in LAYOUTS.items():
        yield ProbeCell("layouts, 8 shots", f"4-way binding, {name}", 8, held_out(4, 8), True, layout)
        yield ProbeCell("layouts, 8 shots", f"operators, {name}", 8, lambda rng: operator(rng, index, 9), False, layout)
        yield ProbeCell(
            "layouts, 8 shots", f"yes/no, {name}", 8, lambda rng: ask(rng, index, 9, "plain_yes_no"), False, layout
        )


def existence(rng: Rng, index: PoolIndex, turns: int, sampling: str) -> list[TokenTurn]:
    """Yes or no, half each. An absent concept is random, frequent, or a companion of a present one."""
    frequent = sorted(CONCEPTS, key=popularity, reverse=True)[:12]
    out = []
    for image in rng.choice(index.kind["scene"], turns).tolist():
        concepts = [group[:2] for group in index.groups[image]]
        there = rng.random() < 0.5
        likely: list[Concept] = list(CONCEPTS)
        if sampling == "popular":
            likely = frequent
        elif sampling == "adversarial":
            likely = (
                [companion(c) for c in concepts]
                + [(concepts[0][0], s) for _, s in concepts]
                + [(c, concepts[0][1]) for c, _ in concepts]
            )
        absent = [c for c in likely if c not in concepts] or [c for c in CONCEPTS if c not in concepts]
        color, shape = choose(rng, concepts) if there else choose(rng, absent)
        question = w.EXISTENCE_QUESTIONS[0].format(noun=w.with_article(f"{color} {shape}"))
        out.append(turn(image, question, "yes" if there else "no", ("yes", "no")))
    return out


def support(  # noqa: PLR0917
    index: PoolIndex, embeddings: Tensor, shots: int, nearest: bool, n: int, ways: int = 8, each: int = 6
) -> list[list[TokenTurn]]:
    """Named concepts with a pool of `ways` x `each` images; random or nearest demonstrations, the nearest last.

    embeddings: [N, d], a row an image.
    """
    rng, unit, out = np.random.default_rng(4), F.normalize(embeddings, dim=-1), []
    question = encode(w.BINDING_QUESTIONS[0])
    for _ in range(n):
        concepts = [HELD_OUT_CONCEPTS[i] for i in rng.permutation(len(HELD_OUT_CONCEPTS))[:ways]]
        names = tuple(NAMES[i] for i in rng.permutation(len(NAMES))[:ways])
        pool = [(int(p), way) for way, c in enumerate(concepts) for p in rng.permutation(index.pair[c])[:each]]
        way = int(rng.integers(ways))
        used = {p for p, _ in pool}
        query = int(choose(rng, [int(p) for p in index.pair[concepts[way]] if int(p) not in used]))
        chosen = rng.permutation(len(pool))[:shots].tolist()
        if nearest:
            likeness = unit[[p for p, _ in pool]] @ unit[query]
            chosen = likeness.argsort(descending=True)[:shots].flip(0).tolist()
        demos = [TokenTurn(pool[i][0], question, names[pool[i][1]], options=names) for i in chosen]
        out.append([*demos, TokenTurn(query, question, names[way], options=names)])
    return out
