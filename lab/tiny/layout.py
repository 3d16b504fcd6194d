"""From turns to tokens: the two prompt layouts, and the positions of each turn's image, question and answer.

    chat         <q> [image] question <a> answer <end>  ... <q> [image] question <a>
    interleaved  <q> [image] question: ... answer: ...      [image] question: ... answer: <a>

With `text_first` the question stands before its image. An instruction opens the first user turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from icl.tasks.generated.wording import ATTRIBUTE_WORDS, plural
from icl.tasks.generated.world import COLORS, SHAPES
from lab.tiny.vocabulary import ASSISTANT, END, FAKE, GLOBAL, ID, IMAGE, PAD, TOKENS, USER, encode
from prompts.pieces import INSTRUCTIONS

IMAGE_TOKENS = (FAKE, GLOBAL, IMAGE, FAKE)  # the tokens of Idefics3's processor for one small image
SINGULAR = {ID[w]: s for s in SHAPES for w in (s, plural(s))}
HUES = {ID[c]: c for c in COLORS}
KEYS = {
    *SINGULAR,
    *HUES,
    ID["many"],
    *(ID[w] for w in ATTRIBUTE_WORDS.values()),
}  # the words of a question that name what it is about


@dataclass(frozen=True)
class TokenTurn:
    """An image (an index into a pool, -1 for none), question and answer. `bound`: the answer is a made-up name."""

    image: int
    question: tuple[int, ...]
    answer: tuple[int, ...]
    graded: bool = True
    bound: bool = False
    options: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class PromptLayout:
    """The layout of a prompt; `images=False` leaves the images out."""

    chat: bool = True
    text_first: bool = False
    instruction: str = "none"
    images: bool = True


@dataclass
class Marks:
    """The positions of one turn in its row: image token, slot that predicts the answer, answer, key words."""

    turn: TokenTurn
    image: int
    slot: int
    answer: range
    keys: list[int]
    ends: bool  # an <end> follows the answer


@dataclass
class TokenRow:
    """One laid-out sequence."""

    tokens: list[int] = field(default_factory=list)
    marks: list[Marks] = field(default_factory=list)


def lay_out(turns: Sequence[TokenTurn], layout: PromptLayout) -> TokenRow:
    """One sequence as tokens, its last answer included."""
    row = TokenRow()
    t = row.tokens
    if not layout.chat:
        t.append(USER)
    for j, turn in enumerate(turns):
        if layout.chat:
            t.append(USER)
        if j == 0:
            t += encode(INSTRUCTIONS[layout.instruction])
        last = j == len(turns) - 1
        has_image = turn.image >= 0 and layout.images
        question = turn.question if layout.chat else (*encode("question:"), *turn.question)
        if layout.text_first or not has_image:
            start = len(t)
            t += question
        at = -1
        if has_image:
            at = len(t) + 2
            t += IMAGE_TOKENS
        if has_image and not layout.text_first:
            start = len(t)
            t += question
        keys = [p for p in range(start, start + len(question)) if t[p] in KEYS]
        if not layout.chat:
            t += encode("answer:")
        if layout.chat or last:
            t.append(ASSISTANT)
        answer = range(len(t), len(t) + len(turn.answer))
        row.marks.append(Marks(turn, at, len(t) - 1, answer, keys, layout.chat or last))
        t += turn.answer
        if layout.chat or last:
            t.append(END)
    return row


class Batch:
    """Rows of one layout as arrays.

    tokens int64 [B, T], padded on the right; image_at [P, 2] (row, position) and images [P]; grades [G, 3] (row,
    position, target): the positions whose next token counts in the loss.
    """

    def __init__(self, sequences: Sequence[Sequence[TokenTurn]], layout: PromptLayout) -> None:
        self.rows = [lay_out(turns, layout) for turns in sequences]
        self.tokens = np.full((len(self.rows), max(len(row.tokens) for row in self.rows)), PAD, np.int64)
        at, images, grades = [], [], []
        for b, row in enumerate(self.rows):
            self.tokens[b, : len(row.tokens)] = row.tokens
            for mark in row.marks:
                if mark.image >= 0:
                    at.append((b, mark.image))
                    images.append(mark.turn.image)
                if mark.turn.graded:
                    grades += [(b, mark.slot + i, token) for i, token in enumerate(mark.turn.answer)]
                    if mark.ends:
                        grades.append((b, mark.slot + len(mark.turn.answer), END))
        self.image_at = np.array(at, np.int64).reshape(-1, 2)
        self.images = np.array(images, np.int64)
        self.grades: NDArray[np.int64] = np.array(grades, np.int64).reshape(-1, 3)

    @property
    def slots(self) -> NDArray[np.int64]:
        """The position that predicts each row's last answer, [B]."""
        return np.array([row.marks[-1].slot for row in self.rows], np.int64)


def words(row: TokenRow) -> str:
    """A row as text, for reading."""
    return " ".join(TOKENS[token] for token in row.tokens)
