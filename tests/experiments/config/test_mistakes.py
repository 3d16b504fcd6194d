"""A list of mistakes: each error says where it is (file, line, key), what is wrong, and what to write instead."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.config.config import load_config
from experiments.grid.feasibility import check_data, check_requirements, check_sizes
from experiments.grid.grid import expand
from icl.errors import ICLError

Write = Callable[..., Path]
FAKE = "name: x\ntask: {name: SHAPES, pool_count: 12}\nmodel: fake-copy\n"
ROWS = '{"q": "what?", "a": "x", "id": 1}\n' * 3
DID = "Did you mean '{}'?"


def plan(path: Path, *overrides: str) -> None:
    grid = expand(load_config(path, overrides))
    check_sizes(grid)
    check_requirements(grid)
    check_data(grid)


def error_of(path: Path, *overrides: str) -> str:
    """The message of the first error on the way to a plan, with places relative to the folder of the file."""
    with pytest.raises(ICLError) as error:
        plan(path, *overrides)
    return str(error.value).replace(f"{path.parent}/", "")


MISTAKES = [
    # unknown keys
    ("sedes: [1]", "4: sedes: ", "no key 'sedes'", DID.format("seeds")),
    ("frobnicate: 1", "4: frobnicate: ", "no key 'frobnicate'", "Keys: name, task, model, shots"),
    ("score: options", "4: score: ", "no key 'score'", "it is now 'answer_mode'"),
    ("stop: {levle: 0.1}", "4: stop.levle: ", "no key 'levle'", DID.format("level")),
    ("tune: {task: binding, step: 1}", "4: tune.step: ", "no key 'step'", DID.format("steps")),
    ("compare: {to: {shots: 0}, metrik: strict}", "4: compare.metrik: ", "no key 'metrik'", DID.format("metric")),
    ("compare: {to: {shots: 0}, correct: holm}", "4: compare.correct: ", "no key 'correct'", "'correction'"),
    (
        "claims:\n  - {claim: c, arm: {shots: 1}, against: {shots: 0}, expekt: better}",
        "5: claims[0].expekt: ",
        "no key 'expekt'",
        DID.format("expect"),
    ),
    ("published: [{at: {shots: 4}, value: 0.5, unit: '%'}]", "4: published[0].unit: ", "no key 'unit'"),
    # wrong types
    ("seeds: [0, x]", "4: seeds", "(integer|whole number)", "not .*'x'"),
    ("seeds: [true]", "4: seeds", "(integer|whole number)", "not .*True"),
    ("seeds: []", "4: seeds: ", "a list of", r"not \[\]"),
    ("shots: four", "4: shots: shots must be ", "(number|whole number)", "not 'four'"),
    ("shots: 1.5", "4: shots: shots must be ", "number", "not 1.5"),
    ("shots: true", "4: shots: shots must be ", "number", "not True"),
    ("max_thinking_tokens: lots", "4: max_thinking_tokens: ", "(number|integer)", "not 'lots'"),
    ("rerank_candidates: ten", "4: rerank_candidates: ", "number", "not 'ten'"),
    ("top_logprobs: five", "4: top_logprobs: ", "(number|integer)", "not 'five'"),
    ("stop_strings: x", "4: stop_strings: stop_strings must be a list", "not 'x'"),
    ("stop_strings: ['']", "4: stop_strings", "(empty|string)", r"not (\[''\]|'')"),
    ("stop_strings: [3]", "4: stop_strings", "(text|string)", r"not (\[3\]|3)"),
    ("by: {a: 1}", "4: by", "(column|text)", "not {'a': 1}"),
    ("tune: {task: binding, alpha: yes}", "4: tune.alpha: alpha must be a number", "not 'yes'"),
    ("tune: {task: binding, modules: []}", "4: tune.modules: modules must be", r"not \[\]"),
    ("tune: {task: binding, shots: [2, x]}", "4: tune.shots", "(whole number|integer)", "not .*'x'"),
    ("tune: 3", "4: tune: tune must be a mapping", "not 3"),
    ("published: [{at: {shots: 4}, value: high}]", "4: published[0].value: value must be a number, not 'high'"),
    ("published: {at: {shots: 4}}", "4: published: published must be a list", "not {'at'"),
    ("claims: [7]", "4: claims[0]: ", "mapping", "not 7"),
    ("exclude: {shots: 0}", "4: exclude: exclude must be a list", r"(\[{shots: 0}\]|not {'shots': 0})"),
    ("exclude: [{}]", "4: exclude[0]: ", "(mapping|empty)", "not {}"),
    ("compare: 3", "4: compare: ", "(mapping|needs 'to')"),
    ("stop: when_done", "4: stop: stop must be ", "a mapping", "when_decided", "not 'when_done'"),
    ("grid: [shots]", "4: grid: grid must be a mapping", "ax[ei]s", r"not \['shots'\]"),
    ("transforms: x", "4: transforms: transforms must be a list of ", "applied in order", "not 'x'"),
    (
        "rerankers: label_balance",
        "4: rerankers: rerankers must be a list of ",
        "applied in order",
        "not 'label_balance'",
    ),
    ("metrics: []", "4: metrics: metrics must be a list of ", "(at least one|empty)", "icl ls metric"),
    ("metrics: 3", "4: metrics", "must be a (list|name)"),
    ("observe: 3", "4: observe", "must be a (list|name)", "not 3"),
    # wrong ranges
    ("shots: -1", "4: shots: shots must be ", "(at least 0|0 or more|from 0 to)", "not -1"),
    ("shots: 10001", "4: shots: shots must be ", "(at most|to) 10,?000", "not 10,?001"),
    ("max_new_tokens: 0", "4: max_new_tokens: max_new_tokens must be ", "(at least|from) 1", "not 0"),
    ("max_thinking_tokens: -1", "4: max_thinking_tokens: ", "(at least 0|0 or more|from 0 to)", "not -1"),
    ("rerank_candidates: 0", "4: rerank_candidates: ", "(at least 1|1 or more|from 1 to)", "not 0"),
    ("top_logprobs: -1", "4: top_logprobs: ", "(at least 0|0 or more|from 0 to)", "not -1"),
    ("seeds: [1, 1]", "4: seeds: ", "(duplicate|twice)", "1"),
    ("by: [a, a]", "4: by: ", "twice", "a"),
    ("stop: {level: 0}", "4: stop.level: level must be ", "above 0", "not 0"),
    ("stop: {level: 0.6}", "4: stop.level: level must be ", "at most 0.5", "not 0.6"),
    ("stop: {looks: 0}", "4: stop.looks: looks must be ", "1", "not 0"),
    ("tune: {task: binding, lr: 0}", "4: tune.lr: lr must be ", "above 0, not 0"),
    ("tune: {task: binding, lr: .inf}", "4: tune.lr: lr must be a finite number, not inf"),
    ("tune: {task: binding, lr: .nan}", "4: tune.lr: lr must be ", "not nan"),
    ("tune: {task: binding, sft_weight: 1e39}", "4: tune.sft_weight: sft_weight must be a finite number, not 1e"),
    ("tune: {task: binding, steps: -1}", "4: tune.steps: steps must be ", "at least 0, not -1"),
    ("tune: {task: binding, warmup: 1}", "4: tune.warmup: warmup must be ", "below 1, not 1"),
    # words that are not among the allowed ones
    ("answer_mode: option", "4: answer_mode: answer_mode must be one of generate, options, not", DID.format("options")),
    ("controls: yes", "4: controls: controls must be ", "none", "default", "not 'yes'"),
    ("lazy_branches: nevr", "4: lazy_branches: ", "auto, always, never", "not 'nevr'", DID.format("never")),
    ("stop: {null: none}", "4: stop.null: null must be ", "exchange", "mean", "not 'none'"),
    ("compare: {to: {shots: 0}, correction: holmes}", "4: compare.correction: ", "one of holm, none", "'holm'"),
    ("tune: {task: binding, objective: dpp}", "4: tune.objective: ", "one of sft, dpo", DID.format("dpo")),
    (
        "claims: [{claim: x, arm: {shots: 4}, against: {shots: 0}, expect: good}]",
        "4: claims[0].expect: ",
        "one of better, worse",
        "not 'good'",
    ),
    # what is missing
    ("compare: {metric: strict}", "4: compare", "'to'"),
    ("tune: {steps: 3}", "4: tune", "task"),
    ("claims: [{claim: x, arm: {shots: 4}}]", "4: claims[0]", "against"),
    ("claims: [{claim: x, arm: {}, against: {shots: 0}}]", "4: claims[0].arm: arm must", "(axes|empty)", "not {}"),
    # axes
    ("grid:\n  shots: []", "5: grid.shots: ", "(the axis is empty|at least one value)"),
    ("grid:\n  shots: 4", "5: grid.shots: an axis must be a list", "not 4"),
    ("grid:\n  shots: [2, 2]", "5: grid.shots[1]: 2 is listed twice on this axis"),
    ("grid:\n  shots: [0, -2]", "5: grid.shots[1]: shots must be ", "(at least 0|0 or more|from 0 to)", "not -2"),
    ("grid:\n  shot: [2]", "5: grid.shot: ", "no .*axis 'shot'", DID.format("shots"), "Axes: task, model"),
    ("grid:\n  seeds: [1]", "5: grid.seeds: ", "every cell is run with every seed", "Set seeds at the top level"),
    ("shots: [0, 4]", "4: shots: shots must be ", r"not \[0, 4\]"),
    ("decoding: [greedy, vcd]", "4: decoding: ", "is an axis", "write it under grid"),
    ("launcher: [local]", "4: launcher: launcher must be one component, not a list", "icl ls launcher"),
    ("zip:\n  shots: [0, 2]\n  order: [random]", "4: zip: ", "different lengths", r"\(shots 2, order 1\)"),
    ("zip:\n  shots: [1, 1]\n  order: [random, random]", "4: zip: pair 2 is the same as pair 1"),
    ("grid: {shots: [0]}\nzip: {shots: [0]}", "5: zip.shots: shots is in grid and in zip. Keep one"),
    ("exclude: [{shot: 0}]", "4: exclude[0].shot: no axis 'shot'", DID.format("shots")),
    ("exclude: [{shots: 0}]", "4: exclude: no cell is left"),
    ("compare: {to: {decode: x}}", "4: compare.to.decode: no axis 'decode'", DID.format("decoding")),
    ("compare: {to: {retriever: knn}}", "4: compare.to.retriever: no cell has retriever 'knn'", "It has none"),
    ("compare: {to: {shots: 0}, metric: stict}", "4: compare.metric: no metric 'stict'", DID.format("strict")),
    (
        "claims: [{claim: x, arm: {shot: 4}, against: {shots: 0}}]",
        "4: claims[0].arm.shot: no axis 'shot'",
        DID.format("shots"),
    ),
    (
        "claims: [{claim: x, arm: {shots: 4}, against: {baseline: votes}}]",
        "4: claims[0].against",
        "no baseline 'votes'",
        DID.format("vote"),
        "Baselines: ",
    ),
    ("published: [{at: {shots: 4}, value: 1, best_of: shot}]", "4: published[0].best_of: no axis 'shot'", "'shots'"),
    (
        "published: [{at: {shots: 4}, value: 1, best_of: shots}]",
        "4: published[0]",
        "at sets shots",
        "Remove one",
    ),
    ("decoding: vcd\ngrid:\n  decoding.alhpa: [1]", "6: grid.decoding.alhpa: ", DID.format("alpha"), "decoding is vcd"),
    ("grid:\n  alpha: [1]", "5: grid.alpha: no component reads the axis 'alpha'"),
    ("grid:\n  retriever.by: [a]", "5: grid.retriever.by: ", "retriever is random", "no parameters"),
    ("grid:\n  rerankers.balance: [0.5]", "5: grid.rerankers.balance: rerankers is a list", "complete list"),
    # components
    ("grid:\n  decoding:\n    - greedy\n    - vdc", "7: grid.decoding[1]: no strategy named 'vdc'", DID.format("vcd")),
    ("retriever: {name: knn, bye: image}", "4: retriever: ", "no parameter 'bye'", DID.format("by"), "It takes "),
    ("retriever: {name: knn, weight: 2}", "4: retriever: retriever 'knn', weight: ", "less than or equal to 1, not 2"),
    ("retriever: {name: knn, weight: much}", "4: retriever: retriever 'knn', weight: ", "number", "not 'much'"),
    ("retriever: {by: image}", "4: retriever: a retriever must be a name or a mapping with the key 'name'", "not {'by"),
    ("retriever: mine.py:Mine", "4: retriever: there is no file mine.py", "looked in "),
    ("retriever: greedy", "4: retriever: no retriever named 'greedy'", "That is a strategy"),
    ("retriever: rices", "4: retriever: no retriever named 'rices'", "It is called "),
    ("rerankers: [label_balanc]", "4: rerankers[0]: no reranker named", DID.format("label_balance")),
    ("metrics: [strickt]", "4: metrics[0]: no metric named 'strickt'", DID.format("strict"), "icl ls metric"),
    ("metrics: [strict, strict]", "4: metrics[1]: the metric 'strict' is listed twice"),
    ("observe: [mlfow]", "4: observe[0]: no observer named 'mlfow'", DID.format("mlflow")),
    ("launcher: {worker: 2}", "4: launcher: launcher 'local' has no parameter 'worker'", DID.format("workers")),
    ("decoding: {name: vcd, alpha: true}", "4: decoding: strategy 'vcd', alpha: True is not a number"),
    ("decoding: {name: vcd, alpha: .nan}", "4: decoding: strategy 'vcd', alpha: nan is not a finite number"),
    ("decoding: {name: vcd, alpha: null}", "4: decoding: strategy 'vcd', alpha: no value", "remove the key"),
    ("decoding: {name: greedy, normalize: men}", "4: decoding.normalize: ", "one of sum, mean", DID.format("mean")),
    ("decoding: {name: greedy, label: 3}", "4: decoding.label: a label must be a string, not 3"),
    ("decoding: {name: vcd, sampling: 3}", "4: decoding.sampling: sampling must be a mapping", "not 3"),
    ("decoding: {name: vcd, fitted: none.json}", "4: decoding", "none.json"),
    ("decoding: {name: vcd, preset: papper}", "4: decoding: 'vcd' has no preset 'papper'", "Presets: "),
    ("tune: {task: bindin}", "4: tune.task: ", "no task named 'bindin'", DID.format("binding")),
    # parts that do not fit together
    ("shots: 13", "4: shots: 13 demonstrations from a pool of 12", "Use fewer shots"),
    ("decoding: vcd", "4: decoding: model 'fake-copy': decoding 'vcd' needs next-token logits", "runs with model hf"),
    ("order: entropy\nshots: 2", "4: order: orderer 'entropy' needs the model's logits", "'reversed'"),
    ("by: [categry]", "4: by: the data has no column 'categry'", "Columns: "),
    ("rerank_candidates: 6\nshots: 2", "4: rerank_candidates: ", "no rerankers", "remove this key"),
    (
        "rerank_candidates: 2\nshots: 4\nrerankers: [label_balance]",
        "4: rerank_candidates: rerankers choose 4 shots from 2 candidates",
        "Use at least 4",
    ),
    ("max_thinking_tokens: 4\nanswer_mode: options", "4: max_thinking_tokens: ", "Remove max_thinking_tokens"),
]


@pytest.mark.parametrize(("text", "facts"), [(text, facts) for text, *facts in MISTAKES], ids=str)
def test_a_mistake_is_reported_with_its_place_and_a_remedy(yaml_file: Write, text: str, facts: list[str]) -> None:
    message = error_of(yaml_file(f"{FAKE}{text}\n"))
    place, *others = facts
    assert message.startswith(f"grid.yaml:{place}"), message
    assert [fact for fact in others if not re.search(fact, message)] == [], message


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("name: ../up\ntask: easy-vqa\nmodel: fake-copy\n", ["grid.yaml:1: name: ", "'../up'", "letters, digits"]),
        (
            f"name: {'x' * 201}\ntask: easy-vqa\nmodel: fake-copy\n",
            ["grid.yaml:1: name: ", "at most 200 characters", "201"],
        ),
        ("name: x\ntask: easy-vqa\n", ["grid.yaml: the key model is missing", "icl ls models"]),
        ("name: x\nmodel: fake-copy\n", ["grid.yaml: the key task is missing", "icl ls tasks"]),
        ("task: easy-vqa\ntask: easy-vqa\n", ["grid.yaml:2: task is defined twice", "line 1", "Keep one"]),
        ("task: [easy-vqa\n", ["grid.yaml:", "not valid YAML"]),
        ("- 1\n", ["grid.yaml: an experiment must be a mapping with keys"]),
        ("", ["grid.yaml is empty", "task and model"]),
        (
            "model: fake-gold\ntask: {name: hub, path: rows.jsonl, columns: {question: quest, answer: a}}\n",
            ["grid.yaml:2: task: columns.question: ", "no column 'quest'", "Columns: q, a"],
        ),
        (
            "model: {name: hf, path: /nowhere/at/all}\ntask: SHAPES\n",
            ["grid.yaml:1: model.path: ", "there is no folder /nowhere/at/all"],
        ),
    ],
)
def test_a_wrong_file_is_reported_with_its_place_and_a_remedy(
    yaml_file: Write, tmp_path: Path, text: str, facts: list[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text(ROWS)
    message = error_of(yaml_file(text))
    assert message.startswith(facts[0]), message
    assert [fact for fact in facts if fact not in message] == [], message


@pytest.mark.parametrize(
    ("override", "facts"),
    [
        ("shots=2", ["command line: shots is an axis of the grid", "Write 'grid.shots=[2]'"]),
        ("shots=[0,8]", ["command line: shots is an axis of the grid", "Write 'grid.shots=[0, 8]'"]),
        ("shots", ["command line: 'shots' is not of the form key=value", "grid.shots=[0,4]"]),
        (
            "pool_count=3",
            ["command line: pool_count: no key 'pool_count'. It is a parameter of the task: write "],
        ),
        ("seed=1", ["command line: seed: no key 'seed'. Did you mean 'seeds'?"]),
        (
            "temperature=0.7",
            ["command line: temperature: ", "a parameter of the sampler: write decoding.sampling.temperature."],
        ),
        ("sots=2", ["command line: sots: no key 'sots'", "'shots'"]),
        ("grid.shots=4", ["command line: grid.shots: an axis must be a list", "not 4"]),
        ("grid.shots=[1,-1]", ["command line: grid.shots[1]: shots must be ", "not -1"]),
        ("grid.shots.7=1", ["command line: grid.shots.7: ", "a list of 2 values", "'7' is not a valid index"]),
        ("seeds.a=1", ["command line: seeds.a: seeds is 3, which has no keys"]),
        ("seeds=[1", ["command line: seeds:1: not valid YAML"]),
        ("grid.decoding=[vdc]", ["command line: grid.decoding[0]: no strategy named 'vdc'", "'vcd'"]),
        ("retriever.by=image", ["grid.yaml: retriever: retriever 'random' has no parameter 'by'"]),
        ("tune.task=3", ["command line: tune.task: ", "a task must be a name"]),
    ],
)
def test_a_wrong_override_is_reported_with_the_command_line(yaml_file: Write, override: str, facts: list[str]) -> None:
    message = error_of(yaml_file(f"{FAKE}seeds: 3\ngrid:\n  shots: [0, 4]\n"), override)
    assert message.startswith(facts[0]), message
    assert [fact for fact in facts if fact not in message] == [], message
