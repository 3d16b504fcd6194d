"""The influence of single demonstrations, on a model that adds 1 for each demonstration with the same answer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.analyses import influence
from experiments.analyses.run_prompts import run_prompts, with_answer
from icl.registry import build
from icl.types import Context, Demo

PARTS = Path(__file__).parent / "parts.py"
READER = {"name": f"{PARTS}:Reader"}


def _careless(*ids: str) -> dict[str, Any]:
    return {"name": f"{PARTS}:Careless", "ids": list(ids)}


def test_only_demonstrations_with_the_answer_have_influence(ran: Any) -> None:
    """Demonstrations red, green, blue for six queries, two of each color. The nearest comes last."""
    view = ran(model=READER, shots=3, seeds=[0], retriever=_careless("p-0000", "p-0001", "p-0002"))
    table = influence.analyze(view).set_index("demonstrations")
    assert (table.loc["gold answer", "gold"], table.loc["gold answer", "n"]) == (1.0, 6)
    assert (table.loc["another answer", "gold"], table.loc["another answer", "n"]) == (0.0, 12)
    assert table.loc["any", "gold"] == pytest.approx(1 / 3)
    assert [table.loc[f"place {place}", "answer"] for place in (1, 2, 3)] == [0.0, 0.0, 1.0]
    assert (table.loc["nearer half", "answer"], table.loc["farther half", "answer"]) == (1.0, 0.0)
    assert (table.loc["nearer half", "n"], table.loc["farther half", "n"]) == (6, 6)  # the one in the middle is in none


def test_a_demonstration_gives_nothing_beyond_one_with_the_same_answer(ran: Any) -> None:
    """All of the pool but one are red and are demonstrations: the last one, green, takes the place of each."""
    view = ran(model=READER, shots=3, seeds=[0], retriever=_careless("p-0000", "p-0003", "p-0006"))
    one = next(one for _, prompts in run_prompts(view, "text_logprobs", 1) for one in prompts)
    assert [each.gold for each in influence.influences(one)] == [1.0, 1.0, 1.0]
    assert {each.replaced for each in influence.influences(one)} == {1.0}  # the others are green and blue
    table = influence.analyze(view).set_index("demonstrations")
    assert table.loc["any", "replaced"] == pytest.approx(1 / 3 - np.mean(_gains(view)), abs=1e-9)


def _gains(view: Any) -> list[float]:
    """What the random examples give, counted by hand: 1 if one has the gold answer."""
    gains = []
    for _, prompts in run_prompts(view, "text_logprobs", 50):
        for one in prompts:
            for place in range(3):
                prompt = influence._replaced(one, place, influence._candidates(one))
                assert prompt is not None
                answers = [part.text for part in prompt.parts() if part.name == f"demo[{place}].answer"]
                gains.append(float(answers == [one.item.example.answer]))
    return gains


def test_an_interval_of_changes_below_one_nat_is_that_of_changes_above() -> None:
    """Nats have no bounds at 0 and 1."""
    changes = np.array([0.05, 0.1, 0.2, 0.9])

    def interval(shift: float) -> list[float]:
        chosen = [influence.Influence(0, 0.0, True, i, gold=0.0, answer=0.0, replaced=x + shift) for i, x in
            enumerate(changes)]  # fmt: skip
        return list(influence._measured(chosen, "replaced").values())

    assert interval(0.0) == pytest.approx(np.array(interval(5.0)) - 5)
    assert interval(0.0)[1] < 0


def test_a_replacement_changes_one_demonstration_to_an_unused_one(ran: Any) -> None:
    view = ran(model=READER, shots=2, seeds=[0], retriever=_careless("p-0000", "p-0001"))
    one = next(one for _, prompts in run_prompts(view, "text_logprobs", 1) for one in prompts)
    candidates = influence._candidates(one)
    used = [demo.example.id for demo in one.item.context.demos]
    members = one.cell.task.pool(one.item.example.id).examples
    assert [member.id for member in candidates] == [member.id for member in members if member.id not in used]
    plain = {part.name: part.content for part in one.prompt.parts()}
    for place in range(2):
        prompt = influence._replaced(one, place, candidates)
        assert prompt is not None
        changed = {part.name for part in prompt.parts() if part.content != plain[part.name]}
        assert f"demo[{place}].image[0]" in changed <= {f"demo[{place}].{end}" for end in ("image[0]", "answer")}
        assert prompt.images[place].digest in {member.images[0].digest for member in candidates}
    assert influence._replaced(one, 0, []) is None
    [(_, prompts)] = run_prompts(view, "text_logprobs", 6)
    pairs = [[influence._replaced(one, place, candidates) for place in range(2)] for one in prompts]
    images = [[pair[i].images[i].digest for i in range(2)] for pair in pairs if pair[0] and pair[1]]
    assert any(first != second for first, second in images), "places have draws of their own"
    assert len({first for first, _ in images}) > 1, "queries have draws of their own"


def test_replacements_never_leak_the_query() -> None:
    """The pool of this task is the queries, and a twin with the last query's image."""
    task = build("task", f"{PARTS}:Leaking")
    first, *_, last = task.queries
    context = Context(last.query, (Demo(first),))
    one: Any = SimpleNamespace(
        cell=SimpleNamespace(transforms=(), task=task), item=SimpleNamespace(example=last, context=context)
    )
    assert [member.id for member in influence._candidates(one)] == ["q1", "q2"]


def test_transforms_leave_out_the_random_control(ran: Any) -> None:
    view = ran(model=READER, shots=2, seeds=[0], transforms=[{"name": "images", "how": "noise"}])
    table = influence.analyze(view)
    assert pd.isna(table["replaced"]).all()
    assert table["gold"].notna().all()


def test_the_shipped_model_loses_what_one_demonstration_gives(ran: Any) -> None:
    task = {"name": "operators", "queries": 1}
    view = ran(model={"name": "hf", "path": "tiny"}, task=task, shots=2, seeds=[0], max_new_tokens=2)
    table = influence.analyze(view).set_index("demonstrations")
    [(_, [one])] = run_prompts(view, "text_logprobs", 1)
    context, answer = one.item.context, one.item.example.answer
    alone = one.cell.composer.compose(type(context)(context.query, context.demos[1:], context.key))
    both = [with_answer(prompt, answer) for prompt in (one.prompt, alone)]
    real, without = (sum(row) for row in one.cell.model.text_logprobs(both, "query.answer"))  # type: ignore[attr-defined]
    assert table.loc["place 1", "gold"] == pytest.approx(real - without, abs=1e-4)
