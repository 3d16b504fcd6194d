"""The functions of a notebook: load tasks and models, retrieve demonstrations, compose prompts, run and read grids."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decoding import DecodingRequest, Failure, parse_arm
from experiments.config import DEFAULTS, load_config
from experiments.config.yaml_document import parse_override
from experiments.results.loaded_run import Run, load_run
from icl import ConfigError, ICLWarning, Model, PlanError, Task, build, did_you_mean
from icl.models.base import MAX_NEW_TOKENS, Request
from icl.types import Context, Example, Generation, Prompt, Query
from retrievers.base import EXCLUDE_LEAKS, Resources, check_takes_policy

__all__ = ["Run", "answer", "compose", "load_model", "load_run", "load_task", "retrieve", "run"]


def load_task(name: Any, **parameters: Any) -> Task:
    """Loads a task by its name, path or class: `load_task("easy-vqa", queries=200)`. Raises ConfigError."""
    task: Task = build("task", {"name": name, **parameters} if isinstance(name, str | type) else name)
    return task


def load_model(name: Any, **parameters: Any) -> Model:
    """Loads a model by its name, path or class: `load_model("hf", path="tiny")`. Weights are read at first use."""
    model: Model = build("model", {"name": name, **parameters} if isinstance(name, str | type) else name)
    return model


def retrieve(
    retriever: Any,
    task: Task,
    query: Example | Query | str,
    shots: int = 4,
    seed: int = 0,
    *,
    order: Any = DEFAULTS["order"],
    model: Model | None = None,
) -> Context:
    """Retrieves the demonstrations of a query, in prompt order, as a run with this seed does.

    Args:
        retriever: A name, a node, a class or a component.
        task: The task, as `load_task` returns it.
        query: An example or a query of the task, or its id.
        shots: The number of demonstrations.
        seed: The seed.
        order: A name, a node, a class or a component.
        model: The model, for retrievers and orderers that use it.

    Raises:
        ConfigError: For an argument of another type.
        PlanError: For too many shots, or a retriever that returns other examples than requested.
    """
    from experiments.contexts.contexts import arrange, bind_resources, check_demos

    if type(shots) is not int or shots < 0:
        raise ConfigError(f"retrieve: shots must be a whole number of at least 0, not {shots!r}.")
    if isinstance(task, type) or not hasattr(task, "pool"):  # a task of your own need not be a dataclass here
        task = build("task", task)
    example = _example(task, query)
    finder = build("retriever", retriever)
    fitted = finder.fit(task.pool(example.id), Resources(seed, model))
    check_takes_policy(fitted)
    retriever_input: Any = example if "gold" in finder.needs else example.query
    pool = task.pool(example.id)
    ranking = fitted.retrieve([retriever_input], shots, EXCLUDE_LEAKS)[0] if shots else ()
    demos = check_demos(finder, ranking, shots, pool)
    if isinstance(demos, str):
        raise PlanError(demos)
    return arrange(example, demos, pool, seed, order=bind_resources(build("orderer", order), pool, model))


def compose(composer: Any, context: Context) -> Prompt:
    """Composes the prompt of a context: `compose("chat", context)`. Raises ConfigError."""
    _check_type("compose", "a context", "icl.retrieve(retriever, task, query)", context, Context)
    prompt: Prompt = build("composer", composer).compose(context)
    return prompt


def answer(
    model: Model,
    prompt: Prompt,
    decoding: Any = "greedy",
    max_new_tokens: int = MAX_NEW_TOKENS,
    *,
    max_thinking_tokens: int | None = None,
    intervene: Any = "none",
) -> dict[str, Generation]:
    """Answers one prompt.

    Args:
        model: The model, as `load_model` returns it.
        prompt: The prompt.
        decoding: A name, a node, a class or a component, or a list of these.
        max_new_tokens: The largest number of new tokens.
        max_thinking_tokens: The largest number of tokens of a reasoning block, which then do not count as answer.
        intervene: A node of the axis `intervene`, such as `{"name": "task_vector", "fitted": "v.safetensors"}`.

    Returns:
        The generation of each decoding, by its label.

    Raises:
        ConfigError: For an invalid node, or for different decodings with the same label.
        PlanError: If the model cannot run the decoding, needs more than a prompt (as most fakes do), or failed.
    """
    from decoding.arms.requirements import (
        arm_part_refusal,
        steering_refusal,
        thinking_budget_refusal,
        unsupported_reason,
    )
    from decoding.engine.result_collector import rewritten_prompts
    from experiments.running.generation import engine_for

    model = build("model", model)
    _check_type("answer", "a prompt", "icl.compose(composer, context)", prompt, Prompt)
    arms = [parse_arm(node) for node in (decoding if isinstance(decoding, list | tuple) else [decoding])]
    labels = [label for label, _ in {(arm.label, arm.digest) for arm in arms}]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ConfigError(f"several decodings have the label '{twice[0]}'. Write a `label` for each of them.")
    method = build("intervention", intervene)
    if problem := steering_refusal(method, model.abilities, max_thinking_tokens):
        raise PlanError(problem)
    for arm in arms:
        if problem := unsupported_reason(arm, model.abilities) or arm_part_refusal(arm, max_thinking_tokens):
            raise PlanError(problem)
        if max_thinking_tokens is not None and (problem := thinking_budget_refusal(arm, model)):
            raise PlanError(problem)
    if not model.abilities & {"logits", "strategies"}:
        if model.needs:
            raise PlanError(
                f"this model reads {' and '.join(sorted(model.needs))} in addition to a prompt. Run a grid with it."
            )
        prompts = rewritten_prompts(model, [(prompt, arm) for arm in arms])
        if failure := next((one for one in prompts if isinstance(one, str)), None):
            raise PlanError(failure)
        distinct = {one.digest: one for one in prompts if isinstance(one, Prompt)}
        plain = [
            Request(one, max_new_tokens=max_new_tokens, max_thinking_tokens=max_thinking_tokens)
            for one in distinct.values()
        ]
        answers = model.generate(plain)
        by_digest = dict(zip(distinct, answers, strict=True))
        return {
            arm.label: by_digest[one.digest] for arm, one in zip(arms, prompts, strict=True) if isinstance(one, Prompt)
        }
    jobs = [
        DecodingRequest(
            prompt, arm, max_new_tokens=max_new_tokens, max_thinking_tokens=max_thinking_tokens, intervene=method
        )
        for arm in arms
    ]
    generations: dict[str, Generation] = {}
    for arm, result in zip(arms, engine_for(model)(model, jobs), strict=True):
        if isinstance(result, Failure):
            raise PlanError(result.reason)
        generations[arm.label] = result
    return generations


def run(
    config: str | Path | Mapping[str, Any],
    overrides: Sequence[str] | Mapping[str, Any] = (),
    runs: str | Path = "runs",
    *,
    quiet: bool = False,
    fork: bool = False,
    **keys: Any,
) -> Run:
    """Runs a config and loads the run: `run("x.yaml", shots=4, **{"grid.shots": [0, 4]})`.

    Results of an earlier run are reused. A failed sample is in the frame with its reason.

    Args:
        config: A YAML file, the name of a shipped experiment such as "quickstart", or a mapping with the same keys. In
            a mapping, a component may stand where a file has its name: `{"retriever": KNN(by="image")}`, or its class.
        overrides: Dotted keys, as a mapping or as texts such as "shots=4".
        runs: The folder of run directories. The run is in the folder of its `name`.
        quiet: Whether to show no progress. In a notebook the progress is a bar below the cell.
        fork: Whether to start a new run in the next free folder.
        **keys: Further overrides.

    Returns:
        The run. At the end of a notebook's cell it is shown as a table of scores with a few samples.

    Raises:
        ICLError: If the run cannot start.
    """
    from experiments.observers.observation import Observation
    from experiments.running.run import run as start
    from experiments.terminal.progress import make_progress

    all_overrides = {**dict(_pairs(overrides)), **keys} if keys else overrides
    if not isinstance(config, str | Path | Mapping):
        raise ConfigError(
            f"run: the config must be a YAML file, the name of a shipped experiment or a mapping, not {config!r}."
        )
    progress = make_progress(quiet)
    with Observation(_warn if quiet else progress.note) as observation:
        outcome = start(load_config(config, all_overrides), Path(runs), progress, fork, observation)
        loaded = load_run(outcome.folder, trust=True)
        observation.is_complete = not outcome.missing
        if observation.active:
            observation.frame("scores", loaded.scores())
    return loaded


def _warn(text: str) -> None:
    """Reports a failed observer, which `quiet` does not hide."""
    warnings.warn(text, ICLWarning, stacklevel=2)


def _pairs(overrides: Sequence[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(overrides, Mapping):
        return overrides
    return dict(parse_override(text) for text in overrides)


def _check_type(function: str, what: str, source: str, value: Any, expected: type) -> None:
    if not isinstance(value, expected):
        raise ConfigError(f"{function}: a value of type {type(value).__name__} is not {what}. {source} returns one.")


def _example(task: Task, query: Example | Query | str) -> Example:
    if isinstance(query, Example):
        return query
    if not isinstance(query, Query | str):
        raise ConfigError(
            f"retrieve: the query must be an example or a query of the task, such as task.queries[0], or its id, "
            f"not {query!r}."
        )
    name = query if isinstance(query, str) else query.id
    examples = {example.id: example for example in task.queries}
    if name not in examples:
        raise PlanError(f"task '{task.title}' has no query '{name}'.{did_you_mean(name, examples)}")
    return examples[name]
