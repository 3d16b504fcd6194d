"""MMIR's open answers (Yan et al., 2502.16033): a judge model matches a sentence with the elements of the document.

    prompt    the sentence between <ans> and </ans>, and the numbered elements (column `descs`), without the question
    reply     one or two element numbers between <id> and </id>
    score     that of `mmir`: half of the credit if only one of two numbers is right

`meta` of the task must have `descs`, as the released `questions_open.json` names the elements. The released judge is
o1-mini; here it is any model. In the controls of a judge, an answer with any credit counts as right; the sentences of
accepted answers are their numbers.

Differs from the released code in the words of the prompt; in outputs without <ans>, which are matched whole (there the
sentence is empty); in replies without <id>, in which all numbers count (there they score 0); and in replies without
<id> and without a number, which have no score and are reported.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from icl import Example, PositiveInt, canonical_digest, component
from icl.metrics.machinery.judge import Judge, JudgeRequest, JudgeVerdict
from icl.metrics.published_rules import marked_text, numbers_in, score_elements


@component("metric", "mmir_open")
@dataclass(frozen=True)
class MMIROpen(Judge):
    """MMIR's score of an open answer, whose elements a judge model names. No score without its reply."""

    accuracy: ClassVar[bool] = False
    fields: ClassVar[tuple[str, ...]] = ("answer", "descs")
    exchangeable: ClassVar[bool] = False  # a sentence is no gold answer

    prompt: str = "mmir_open.txt"  # a file with {answer} and {descs}, and perhaps {question}
    max_new_tokens: PositiveInt = 64  # length limit of a reply

    @property
    def rule(self) -> tuple[str | int, ...]:
        return "elements", self.max_new_tokens

    def request(self, output: str, example: Example) -> JudgeRequest:
        request = super().request(marked_text(output, "ans"), example)
        return replace(request, key=canonical_digest([request.key, request.texts["gold"]]))

    def value(self, verdict: JudgeVerdict | None, request: JudgeRequest) -> float | None:
        gold = numbers_in(request.texts["gold"])
        if verdict is None or not 1 <= len(gold) <= 2:
            return None
        text = marked_text(verdict["reply"], "id")
        elements = numbers_in(text)
        return score_elements(elements, gold) if elements or text != verdict["reply"] else None

    def parse(self, reply: str, request: JudgeRequest) -> bool | None:
        """Whether a reply names a right element, None if it names none."""
        score = self.value({"right": None, "reply": reply}, request)
        return None if score is None else score > 0
