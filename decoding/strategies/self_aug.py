"""Self-Aug (SAVCD, Im et al., ICLR 2026, 2510.13315): the model reasons which change of the image to contrast with.

    scores = (1 + alpha) z(y | image) - alpha z(y | changed image),      if p(y) >= beta_t max p
    beta_t = sigmoid(-gamma H(p_t)),      H: entropy in bits

The model reads the question with the definitions of six changes and examples, reasons, and names one. beta_t is 1/2 if
the reference is certain, and falls to 0 with its entropy. An answer that names no change, or several, takes noise; the
run's counter `default_notes` says how many requests have such an answer. Controls: `choice: random` draws each change
with the same probability; the name of one change contrasts with it for all questions.

Formulas, alpha, gamma, the six changes, and the parts of the request (definitions, reasons before the choice, examples,
greedy decoding) are the paper's, as a public note and its reviews quote them; the paper itself was not read. Ours: the
words of the request, and the strength of noise, crop and mask. No released code was available.
"""

import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import ContrastStrategy, entropy, question_text, remove_demonstrations, replace_question
from decoding.base import DefaultNote, Generate, Note, Traits
from icl import NonNegative, PositiveInt, Prompt, StreamKey, Tensor, component, describe, edits

CHANGES: Mapping[str, str] = {
    "noise": "adds random noise; fine detail, texture and small text are lost",
    "crop": "keeps a random part; objects outside it, and their number, are lost",
    "mask": "covers a random part; an object there is lost, and what surrounds it stays",
    "inversion": "inverts all colors; what depends on a color becomes wrong",
    "mirror": "flips left and right; what depends on sides and on text becomes wrong",
    "upside down": "flips top and bottom; what depends on above and below becomes wrong",
}
"""Name -> what it does. The first one is taken if the answer names none."""
REQUEST = """A question about this image: {question}
The image is changed before the question is answered. Which change makes the right answer hardest to give?
{changes}
Question: What color is the bus? Reason: the answer is a color. Choice: inversion
Question: Is the cup to the left of the plate? Reason: the answer is a side. Choice: mirror
Question: How many birds are there? Reason: all parts of the image have to be counted. Choice: crop
Question: {question} Reason:"""

Choice = Literal["model", "random", "noise", "crop", "mask", "inversion", "mirror", "upside down"]


def sparsity_mask(reference: Tensor, gamma: float) -> Tensor:
    """p(v) >= sigmoid(-gamma H(p)) max p, H in bits: logits [B, V] -> [B, V] bool. The best token always stays."""
    share = (-gamma * entropy(reference) / math.log(2)).sigmoid()
    return reference >= reference.amax(-1, keepdim=True) + share.log()


class ChosenChange(ContrastStrategy):
    """Contrast with a change of the query's image that the model names before it answers. Fields: choice and a limit.

    A subclass has the request, the edits, and the rule that reads an answer.
    """

    choice: str
    max_new_tokens: int
    changes: ClassVar[Sequence[str]]

    @abstractmethod
    def request(self, prompt: Prompt) -> str:
        """The question of the choice."""

    @abstractmethod
    def chosen(self, answer: str) -> str:
        """The change that an answer names; as a `DefaultNote` the first one, if it names none or several."""

    @abstractmethod
    def edit(self, name: str, key: StreamKey) -> "edits.Edit":
        """The edit of a change."""

    @property
    def traits(self) -> Traits:
        return Traits(needs=frozenset({"generate", "logits"} if self.choice == "model" else {"logits"}))

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[str]:
        """The name of the change for each prompt. The model sees the query's image, and no demonstrations."""
        if self.choice == "model":
            requests = [replace_question(remove_demonstrations(prompt), self.request(prompt)) for prompt in prompts]
            return [self.chosen(answer) for answer in generate(requests, self.max_new_tokens)]
        if self.choice == "random":
            stream = f"{describe(self)['name']}/change"
            return [self.changes[prompt.key.order(stream, self.changes)[0]] for prompt in prompts]
        return [self.choice] * len(prompts)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        """The prompt, and the prompt with the changed image of the query. note: the name of the change."""
        return prompt, prompt.edit(self.edit(str(note or self.changes[0]), prompt.key), "query")


@component("strategy", "self_aug")
@dataclass(frozen=True)
class SelfAug(ChosenChange):
    """Contrast with a change of the image that the model chooses for the question, after reasoning."""

    alpha: NonNegative = 1.0  # strength of the contrast; 0 is the reference under the mask
    gamma: NonNegative = 0.5  # how fast the mask widens, per bit of entropy; the paper writes it as -0.5
    choice: Choice = "model"  # who chooses the change; or one change for all questions
    max_new_tokens: PositiveInt = 128  # length limit of reason and choice

    changes: ClassVar[Sequence[str]] = tuple(CHANGES)

    def request(self, prompt: Prompt) -> str:
        changes = "\n".join(f"{name}: {effect}" for name, effect in CHANGES.items())
        return REQUEST.format(question=question_text(prompt), changes=changes)

    def chosen(self, answer: str) -> str:
        return chosen_change(answer)

    def edit(self, name: str, key: StreamKey) -> "edits.Edit":
        """The edit of a change. A crop or mask of half the width and height has its place from the query's stream."""
        left, top = key.numpy("self_aug/place").uniform(0, 0.5, 2).round(3).tolist()
        box = (left, top, left + 0.5, top + 0.5)
        every: Mapping[str, edits.Edit] = {
            "noise": edits.DiffusionNoise(500),
            "crop": edits.Crop(*box),
            "mask": edits.RegionMask(*box),
            "inversion": edits.Inversion(),
            "mirror": edits.Flip(),
            "upside down": edits.Flip("vertical"),
        }
        return every[name]

    def mask(self, reference: Tensor) -> Tensor:
        return sparsity_mask(reference, self.gamma)


def chosen_change(answer: str) -> str:
    """The change that stands behind the last "Choice:"; as a default the first one, if there is none or several."""
    text = answer.rpartition("Choice:")[2].split("\n")[0]
    names = [name for name in CHANGES if re.search(rf"\b{name}\b", text, re.IGNORECASE)]
    return names[0] if len(names) == 1 else DefaultNote(next(iter(CHANGES)))
