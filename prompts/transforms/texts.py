"""Transforms of questions, options and answers."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from icl import ConfigError, Context, Count, Demo, OptionListing, component, later_parameter, normalize_text
from icl.option_listing import LETTERED, with_listed_options
from icl.types import Where
from prompts import change_examples, derange, gold_of, random_answer, random_places, replace_demos, sort_by_rank
from prompts.example_changes import check_gold_unchanged, new_name, rivals, rivals_of, with_answer


@component("transform", "questions")
@dataclass(frozen=True)
class Questions:
    """A transform that removes the demonstrations' questions, or permutes them.

    Questions removed or permuted: does the text of a demonstration matter? (Baldassini et al. 2024; Xu et al. 2025)

    Images and answers stay. A permutation is drawn from those that move the most questions to a place with another
    question. If all questions are equal, nothing changes. The mark records the share that moved.

    No released code was compared.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    how: Literal["removed", "permuted"] = "removed"  # kind of change
    where: Where = "demos"  # owners of the questions; permuted: demonstrations only

    def __post_init__(self) -> None:
        if self.how == "permuted" and self.where != "demos":
            raise ConfigError(f"questions are permuted among demonstrations; where is '{self.where}'. Remove 'where'.")

    def transform(self, context: Context) -> Context:
        if self.how == "removed":
            return change_examples(context, self.where, lambda item: replace(item, question=""), "questions: removed")
        demos = sort_by_rank(context)
        questions = [demo.example.question for demo in demos]
        moved, share = derange(questions, random_places(context, "transform/questions"), str)
        new = [replace(d, example=replace(d.example, question=q)) for d, q in zip(demos, moved, strict=True)]
        return replace_demos(context, new, f"questions: permuted, {share:.0%} moved")


@component("transform", "option_list")
@dataclass(frozen=True)
class OptionList:
    r"""A transform that lists the options after the question, rotated by a number of places.

    Options listed after the question in a cyclic shift: does the answer depend on the position? (CMMU's ShiftCheck,
    2024)

        shift s    options o_s, o_s+1, ..., o_n-1, o_0, ..., o_s-1        "\nOptions: red, green, blue."

    A model that understands gives the same answer under every shift. Shifts are an axis with one arm each. A model that
    prefers the first option gives a different answer for each shift. `icl analyze RUN option_shift` counts this.
    Answers remain the texts of the options, or are letters in the order of the list (`letters: true`). An example
    without options stays unchanged. The shift is taken modulo the number of options. The transform takes the place of
    the list that a task asks for (`list_options` of `hub`).

    No released code was compared.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    shift: Count = 0  # places by which the options are rotated to the left
    where: Where = "all"  # owners of the options to list
    text: str = "\nOptions: {options}."  # format of the options after the question
    between: str = ", "  # text between two options
    letters: bool = later_parameter(False)  # list them by letters, which become the options and the answers

    def __post_init__(self) -> None:
        if self.text.count("{options}") != 1:
            raise ConfigError(f"text must have {{options}} once, where they go; it is {self.text!r}.")

    def transform(self, context: Context) -> Context:
        return change_examples(context, self.where, self._with_options, f"option_list: shift {self.shift}")

    def _with_options(self, item: Any) -> Any:
        own = OptionListing(self.text, self.between, self.letters)
        listing = LETTERED if own == OptionListing(letters=True) else own
        return with_listed_options(item, listing, self.shift)


@component("transform", "answers")
@dataclass(frozen=True)
class AnswerPerturbation:
    """A transform that removes the demonstrations' answers, permutes them, or draws them at random.

    Answers removed, permuted or drawn at random: does the mapping of inputs to labels matter? (Min et al. 2022)

        removed     the answer is empty
        permuted    demonstrations exchange their answers: the label distribution stays, the mapping is lost
        random      each is drawn uniformly from its options, or from the answers in the prompt: may be right by chance

    A permutation is drawn from those that change the most answers. With few labels that is not all of them, and with
    one label none. The mark records the share that changed.

    No released code was compared.
    """

    how: Literal["removed", "permuted", "random"] = "permuted"  # kind of change

    @property
    def needs(self) -> frozenset[str]:
        """Removing reads no label."""
        return frozenset() if self.how == "removed" else frozenset({"labels"})

    def transform(self, context: Context) -> Context:
        demos = sort_by_rank(context)
        answers = [demo.example.answer for demo in demos]
        if self.how == "removed":
            return replace_demos(context, [with_answer(demo, "") for demo in demos], "answers: removed")
        if self.how == "permuted":
            changed, _ = derange(answers, random_places(context, "transform/answers"), normalize_text)
        else:
            changed = [_random_answer(context, demo) for demo in demos]
        share = sum(normalize_text(a) != normalize_text(b) for a, b in zip(changed, answers, strict=True)) / max(
            len(answers), 1
        )
        new = [with_answer(demo, answer) for demo, answer in zip(demos, changed, strict=True)]
        return replace_demos(context, new, f"answers: {self.how}, {share:.0%} changed, saw labels")


def _random_answer(context: Context, demo: Demo) -> str:
    among = rivals(demo.example.answer, rivals_of(context))
    return random_answer(context, f"transform/answers/{demo.example.id}", among)


@component("transform", "unlearn")
@dataclass(frozen=True)
class Unlearn:
    """An oracle transform after which demonstrations of the query's class answer with the next class.

    In-context unlearning: demonstrations of the query's own class answer with another class (VICL, Zhou et al. 2024).

    An oracle, because it needs the gold to find the class. All demonstrations of the class get the next label,
    cyclically. The others stay right. The paper has one such demonstration and unlearns 5 random classes; `classes`
    names them. The gold stays, and the sample also stores the new label: `icl analyze RUN label_following` counts
    agreement with it. If no demonstration has the query's class, nothing changes, and the sample is not counted.

    No released code.
    """

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
