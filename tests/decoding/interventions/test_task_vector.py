"""The task vector: a known gain on the shipped model, no gain by its controls, and its file."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from decoding.arms.arm import parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest, Failure
from decoding.interventions.edits import VectorEdit, replaced, shifted
from decoding.interventions.fit_data import FitData, common_share
from decoding.interventions.task_vector import TaskVector
from decoding.interventions.vector_file import random_of_equal_norm, write_vector_file
from icl.errors import ConfigError, DataError
from icl.models.hf.model import HF
from icl.models.interventions import Site, steer
from icl.registry import build
from icl.types import Generation, Prompt
from tests.decoding.interventions.dev_split import dev, tiny, write


@pytest.fixture(scope="module")
def hf() -> HF:
    return tiny()


@pytest.fixture(scope="module")
def fitted(hf: HF, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors") / "minus.safetensors"
    write(path, TaskVector(), TaskVector().fit(FitData(hf, dev(12, 1), dev(20, 2))))
    return path


def answers(
    hf: HF, prompts: list[Prompt], method: TaskVector, decoding: object = "greedy", **more: object
) -> list[str]:
    arm = parse_arm(decoding)
    requests = [DecodingRequest(prompt, arm, intervene=method, **more) for prompt in prompts]  # type: ignore[arg-type]
    return [result.reason if isinstance(result, Failure) else result.text for result in run_requests(hf, requests)]


def test_edits_of_states_by_hand() -> None:
    x, v = torch.tensor([[1.0, 2.0]]), torch.tensor([3.0, 6.0])
    assert replaced(x, v, 0.5).tolist() == [[2.0, 4.0]]
    assert torch.equal(replaced(x, v, 1), v[None])
    assert shifted(x, v, 2.0).tolist() == [[7.0, 14.0]]
    random = random_of_equal_norm(torch.stack([v, 2 * v]), "a")
    assert torch.allclose(random.norm(dim=-1), torch.stack([v, 2 * v]).norm(dim=-1))
    assert torch.equal(random, random_of_equal_norm(torch.stack([v, 2 * v]), "a"))
    assert common_share(torch.tensor([[1.0, 0.0], [1.0, 0.0]])) == 1
    assert common_share(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == 0


def test_the_fit_chooses_the_layer_with_the_task_and_controls_do_worse(hf: HF, fitted: Path) -> None:
    """Known answer: layer 2 recovers most of what eight demonstrations give."""
    method = build("intervention", {"name": "task_vector", "fitted": str(fitted)})
    assert method.file.parameters == {"layer": 2, "how": "replace"}
    assert method.file.report["few_shot"] - method.file.report["zero_shot"] > 0.2
    test = dev(30, 3)
    bare = [one.without_demonstrations for one in test]

    def accuracy(method: TaskVector) -> float:
        texts = answers(hf, bare, method)
        return sum(text in one.answers for text, one in zip(texts, test, strict=True)) / len(test)

    off = accuracy(replace(method, strength=0.0))
    assert accuracy(method) > off + 0.4
    assert [control.control for control in method.controls()] == ["random", "shuffled", "zero_shot"]
    draws = [accuracy(replace(method, control="random", draw=draw)) for draw in range(3)]
    assert sum(draws) / len(draws) < off + 0.2  # one draw varies: it is seeded by the content of the file
    assert accuracy(replace(method, how="add")) > off + 0.4


def test_strength_zero_is_plain_decoding_and_rows_of_a_mixed_batch_are_those_alone(hf: HF, fitted: Path) -> None:
    method = TaskVector(fitted=str(fitted))
    bare = [one.without_demonstrations for one in dev(6, 4)]
    plain = [result.text for result in run_requests(hf, [DecodingRequest(p, parse_arm("greedy")) for p in bare])
             if isinstance(result, Generation)]  # fmt: skip
    assert answers(hf, bare, replace(method, strength=0.0)) == plain
    methods = [method, replace(method, layer=1), None, replace(method, control="random"), method, None]
    arm = parse_arm("greedy")
    requests = [DecodingRequest(p, arm, intervene=m) for p, m in zip(bare, methods, strict=True)]
    mixed = run_requests(hf, requests)
    alone = [run_requests(hf, [request])[0] for request in requests]
    assert [one.text for one in mixed if isinstance(one, Generation)] == [
        one.text for one in alone if isinstance(one, Generation)
    ]


@pytest.mark.parametrize(
    "decoding",
    [
        {"name": "vcd", "alpha": 0.0, "beta": 0.0},
        {"name": "vcd", "alpha": 1.0, "sampling": {"beams": 2}},
        "cad",
    ],
)
def test_strategies_read_all_branches_under_the_vector(hf: HF, fitted: Path, decoding: object) -> None:
    """Eager, deferred and beam rows decode the same as branches that were steered by hand."""
    prompts = [one.prompt for one in dev(4, 5)]
    method = TaskVector(fitted=str(fitted))
    steered = [steer(prompt, method.intervention()) for prompt in prompts]
    arm = parse_arm(decoding)
    for lazy in ("never", "always"):
        got = run_requests(hf, [DecodingRequest(p, arm, intervene=method) for p in prompts], lazy_branches=lazy)  # type: ignore[arg-type]
        want = [run_requests(hf, [DecodingRequest(p, arm)], lazy_branches="never")[0] for p in steered]
        assert [one.text for one in got] == [one.text for one in want]  # type: ignore[union-attr]
        assert all(arm.strategy.branches(p)[-1].interventions for p in steered)


def test_option_scores_are_those_of_the_edited_prompt(hf: HF, fitted: Path) -> None:
    method, (first, *_) = TaskVector(fitted=str(fitted)), dev(3, 6)
    options = ("3", "12", "15")
    steered = steer(first.without_demonstrations, method.intervention())
    logits = hf.open([steered]).logits[0].log_softmax(-1)
    request = DecodingRequest(first.without_demonstrations, parse_arm("greedy"), options, "options", intervene=method)
    result = run_requests(hf, [request])[0]
    ids = hf.option_ids(steered, options)
    single = [(option, own[0]) for option, own in zip(options, ids, strict=True) if len(own) == 1]
    assert isinstance(result, Generation)
    assert single
    for option, token in single:
        assert abs(result.option_scores[option] - float(logits[token])) < 1e-3


def test_a_file_must_be_complete_and_of_the_method(fitted: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file missing\.safetensors .* `icl fit` writes one"):
        build("intervention", {"name": "task_vector", "fitted": "missing.safetensors"})
    lonely = tmp_path / "v.safetensors"
    lonely.write_bytes(fitted.read_bytes())
    with pytest.raises(
        ConfigError, match=r"v.json is missing\. .* writes it next to v.safetensors: copy both files\.$"
    ):
        _ = TaskVector(fitted=str(lonely)).file
    lonely.with_suffix(".json").write_text("{")
    with pytest.raises(ConfigError, match=r"v.json is damaged, .* Copy it again with v.safetensors\.$"):
        _ = TaskVector(fitted=str(lonely)).file
    record = fitted.with_suffix(".json").read_text(encoding="utf-8")
    lonely.with_suffix(".json").write_text(record.replace('"tensors_digest": "', '"tensors_digest": "0'))
    with pytest.raises(ConfigError, match="are not of one fit"):
        _ = TaskVector(fitted=str(lonely)).file
    lonely.with_suffix(".json").write_text(record.replace("task_vector", "other"))
    with pytest.raises(ConfigError, match="has vectors of 'other', not of 'task_vector'"):
        _ = TaskVector(fitted=str(lonely)).file


def test_a_vector_of_another_width_or_layer_fails_its_requests_with_a_sentence(
    hf: HF, fitted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "wide.safetensors"
    tensors = {"states": torch.zeros(4, 8)}
    write_vector_file(path, "task_vector", tensors=tensors, parameters={"layer": 2, "how": "replace"},
                      record={"width": 8}, report={})  # fmt: skip
    bare = [dev(1, 7)[0].without_demonstrations]
    assert (
        "vectors of width 8, and the states of this model have width 160" in answers(hf, bare, TaskVector(str(path)))[0]
    )
    assert "has vectors of 4 layers, and layer is 9" in answers(hf, bare, TaskVector(str(fitted), layer=9))[0]


def test_sources_and_choice_must_be_disjoint(hf: HF) -> None:
    with pytest.raises(DataError, match="The parts must be disjoint"):
        FitData(hf, dev(4, 1), dev(4, 1))
    with pytest.raises(DataError, match="at least 1 source, and there are none"):
        FitData(hf, (), dev(1, 1))


def test_a_difference_has_no_control_without_demonstrations(fitted: Path) -> None:
    """The mean without demonstrations minus itself is exactly off."""
    controls = TaskVector(fitted=str(fitted), how="add").controls()
    assert [one.control for one in controls] == ["random", "shuffled"]  # type: ignore[attr-defined]


def test_one_shot_sources_have_no_control_with_shuffled_answers(hf: HF, tmp_path: Path) -> None:
    result = TaskVector(layer=2).fit(FitData(hf, dev(3, 1, 1), dev(2, 2, 1), max_new_tokens=4))
    assert "states.shuffled" not in result.tensors
    assert (result.report["sources_not_shuffled"], result.report["choice_not_shuffled"]) == (3, 2)
    method = write(tmp_path / "one.safetensors", TaskVector(), result)
    assert [one.control for one in method.controls()] == ["random", "zero_shot"]  # type: ignore[attr-defined]
    data = FitData(hf, dev(3, 1, 1), dev(2, 2, 1), max_new_tokens=4)
    assert set(data.mean_states([Site("residual", 0)])) == {"few_shot", "zero_shot"}
    assert FitData(hf, dev(3, 1), dev(2, 2)).shuffle_report() == {"sources_not_shuffled": 0, "choice_not_shuffled": 0}


def test_equal_vectors_have_equal_digests() -> None:
    one = VectorEdit({Site("residual", 1): torch.ones(4)})
    assert one.digest == VectorEdit({Site("residual", 1): torch.ones(4)}).digest
    others = [
        VectorEdit({Site("residual", 2): torch.ones(4)}),
        VectorEdit({Site("residual", 1): torch.zeros(4)}),
        VectorEdit({Site("residual", 1): torch.ones(4)}, "replace"),
        VectorEdit({Site("residual", 1): torch.ones(4)}, strength=0.5),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 5
