"""The shipped model with a dev split of one operator, for tests of steering methods."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from decoding.interventions.base import FittedMethod
from decoding.interventions.fit_data import DevPrompt, FitData
from decoding.interventions.vector_file import FittedTensors, write_vector_file
from icl.models.hf.model import HF
from icl.tasks.generated.operators import OperatorsTask
from icl.types import Context, Demo
from prompts.composers.turns import Chat


@lru_cache
def tiny() -> HF:
    model = HF(path="tiny", device="cpu")
    model.load()
    return model


@lru_cache
def dev(count: int, seed: int, shots: int = 8) -> tuple[DevPrompt, ...]:
    """Prompts with demonstrations of minus."""
    task = OperatorsTask(operator="minus", query_limit=count, seed=seed)
    made = []
    for query in task.queries:
        demos = tuple(Demo(example) for example in task.pool(query.id).examples[:shots])
        made.append(DevPrompt(f"{seed}/{query.id}", Chat().compose(Context(query.query, demos)), query.answers))
    return tuple(made)


def write(path: Path, method: FittedMethod, result: FittedTensors, **record: Any) -> FittedMethod:
    """The method that reads the file of a fit."""
    _, name = type(method).component  # type: ignore[attr-defined]
    write_vector_file(
        path,
        name,
        tensors=result.tensors,
        parameters=result.parameters,
        record={"width": 160, **record},
        report=result.report,
    )
    return type(method)(fitted=str(path))


def accuracy(method: FittedMethod, prompts: tuple[DevPrompt, ...]) -> float:
    """Of the prompts without demonstrations, under the intervention of a method."""
    own = tuple(DevPrompt(f"test/{one.id}", one.prompt, one.answers) for one in prompts)
    return FitData(tiny(), dev(2, 99), own, max_new_tokens=4).accuracies([(method.intervention(),)])[0]
