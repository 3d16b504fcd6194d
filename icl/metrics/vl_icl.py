"""VL-ICL's own scorers (Zong et al., ICLR 2025), for comparison with its published numbers.

The output is cut at its first line break, otherwise at its first full stop unless it begins with one. So "3.5" becomes
"3", and a line break wins over an earlier full stop. Then

    exact    equal to the answer, in lower case                          (open-ended binding, TextOCR, CLEVR)
    number   the first run of digits is the answer, without a sign       (operator induction, both forms)
    yes_no   for the answer yes, the output contains "yes"; for no, it does not                     (matching)

`strict` and `lenient` do not have these faults.

Differs from the released code in nothing known.
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from icl import Better, Example, Generation, component
from icl.metrics import asks_yes_no, is_number

Rule = Literal["exact", "number", "yes_no"]


def truncate_output(output: str) -> str:
    """The output cut as by the released scorers."""
    text = output.strip().strip("\n")
    end = text.find("\n")
    if end <= 0:
        end = text.find(".")
    return text[:end] if end > 0 else text


def is_vl_icl_match(output: str, answer: str, rule: Rule) -> bool:
    """Whether the released scorer of this rule counts the output as right."""
    text = truncate_output(output)
    if rule == "yes_no":
        return ("yes" in text.lower()) == (answer.lower() == "yes")
    if rule == "number":
        match = re.search(r"\d+", text)
        text = match.group() if match else ""
    return text.lower() == answer.lower()


@component("metric", "vl_icl")
@dataclass(frozen=True)
class VLICL:
    """Accuracy by VL-ICL's released scorers, including their faults."""

    better: ClassVar[Better] = "higher"

    rule: Literal["auto", "exact", "number", "yes_no"] = "auto"  # auto: by the kind of the answer; CLEVR's is exact

    def score(self, generation: Generation, example: Example) -> float | None:
        rule: Rule
        if self.rule != "auto":
            rule = self.rule
        else:
            rule = "yes_no" if asks_yes_no(example) else "number" if is_number(example.answer) else "exact"
        return float(is_vl_icl_match(generation.text, example.answer, rule))
