"""In-context unlearning: demonstrations of the query's own class answer with another class (VICL, Zhou et al. 2024).

An oracle, because it needs the gold to find the class. All demonstrations of the class get the next label, cyclically.
The others stay right. The paper has one such demonstration and unlearns 5 random classes; `classes` names them. The
gold stays, and the sample also stores the new label: `icl analyze RUN label_following` counts agreement with it. If no
demonstration has the query's class, nothing changes, and the sample is not counted.

No released code.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from icl import Context, component, normalize_text
from prompts import check_gold_unchanged, gold_of, new_name, replace_demos, rivals_of, sort_by_rank, with_answer


@component("transform", "unlearn")
@dataclass(frozen=True)
class Unlearn:
    """An oracle transform after which demonstrations of the query's class answer with the next class."""

    needs: ClassVar[frozenset[str]] = frozenset({"gold", "labels"})
    analysis: ClassVar[str] = "label_following"

    classes: tuple[str, ...] = ()  # answers to unlearn; none: the answer of each query

    def transform(self, context: Context) -> Context:
        check_gold_unchanged(context, "unlearn")
        gold = gold_of(context, "transform 'unlearn'").answer
        labels = next((g for g in rivals_of(context) if normalize_text(gold) in map(normalize_text, g)), ())
        plain = [normalize_text(label) for label in labels]
        if (
            (self.classes and normalize_text(gold) not in map(normalize_text, self.classes))
            or normalize_text(gold) not in plain
            or len(plain) < 2
        ):
            return context
        names = {gold: labels[(plain.index(normalize_text(gold)) + 1) % len(labels)]}
        demos = [with_answer(d, new_name(d.example.answer, names)) for d in sort_by_rank(context)]
        count = sum(normalize_text(demo.example.answer) == normalize_text(gold) for demo in context.demos)
        if count == 0:
            return context
        done = replace_demos(context, demos, f"unlearn: {count} relabeled, saw labels, saw the gold")
        return replace(done, label_map={**context.label_map, **names})
