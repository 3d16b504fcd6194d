"""Printed-text binding, as in VL-ICL's TextOCR (Zong et al., ICLR 2025): which of the printed words is the answer?

VL-ICL draws a red box around a word and asks "What text is shown in the red box?", which needs no demonstration. By
default the question here is bare, and only the demonstrations show whether the answer is the word in the box or the one
outside. `name_box: true` is the published form. The words are made up, so a model cannot guess them from a part.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

from icl import Example, Pool, StreamKey, component
from icl.tasks.generated import NONCE, BankTask, WordImage, balanced_choice, query_id, query_number, shuffled

RULES = ("boxed", "other")
BARE_QUESTION = "which word is it?"
BOX_QUESTION = "what text is shown in the red box?"


@component("task", "printed_text")
@dataclass(frozen=True)
class PrintedTextTask(BankTask):
    """Printed words; only the demonstrations show whether the question is about the one in the red box or the other.

    Both rules are equally frequent, and the pool of a query follows its rule. The options are the image's words in a
    random order, so letters reveal nothing about the rule (chance 1/2). Free answers also test reading.
    """

    name_box: bool = False  # whether the question names the red box, which is then always right: VL-ICL's form

    @property
    def title(self) -> str:
        return "printed text · box named" if self.name_box else "printed text"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return tuple(
            self.example(query_id("printed_text", i), f"query/{i}", self.rule(i)) for i in range(self.query_limit)
        )

    def pool(self, query_id: str) -> Pool:
        return _pool(self, query_number("printed_text", query_id, self.query_limit))

    def rule(self, number: int) -> str:
        """Which word is the answer."""
        return "boxed" if self.name_box else balanced_choice(self.seed, "printed_text/rule", number, RULES)

    def example(self, name: str, stream: str, rule: str) -> Example:
        """The question of this rule about the image of this stream."""
        rng = StreamKey(self.seed, f"printed_text/{stream}").numpy("words")
        words = tuple(shuffled(rng, NONCE)[:2])
        boxed = int(rng.integers(2))
        answer = words[boxed if rule == "boxed" else 1 - boxed]
        return Example(
            id=name,
            images=(WordImage(self.seed, f"printed_text/{stream}", words, boxed).image,),
            question=BOX_QUESTION if self.name_box else BARE_QUESTION,
            answers=(answer,),
            options=words,
            label=answer,
            secret={"rule": rule, "boxed": words[boxed]},
        )


@lru_cache(maxsize=512)
def _pool(task: PrintedTextTask, number: int) -> Pool:
    rng = StreamKey(task.seed, query_id("printed_text", number)).numpy("pool")
    chosen = shuffled(rng, range(task.bank))[: task.support]
    name, rule = query_id("printed_text", number), task.rule(number)
    return Pool(tuple(task.example(f"{name}-s{i:03d}", f"bank/{k}", rule) for i, k in enumerate(chosen)))
