"""Exported strategies: their formulas are those of the toolkit, and `generate` alone gives the toolkit's tokens."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import tiny_models
import torch

from decoding.arms.arm import Arm, parse_arm
from decoding.arms.inspection import branch_count
from decoding.base import Strategy
from decoding.engine.decoding_step import combine_branches
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from decoding.export.custom_generate import GENERATED, LIBRARIES, README, custom_generate_files, sampler_arguments
from decoding.export.custom_generate_runtime import OtherBranch
from icl.errors import ConfigError
from icl.models.hf.model import HF
from icl.types import Generation, Prompt
from tests.decoding.prompts import prompt
from tests.decoding.test_strategies import ALL, made

ALONE = Path(__file__).with_name("generate_alone.py")
SHIPPED = Path(__file__).parents[3] / "icl/models/tiny/checkpoints/vlm"
NEW = 4
Load = Callable[[str], Any]
STAY = {
    "adaptive_shots": "the steps before",
    "ascd": "it needs interventions",
    "avisc": "it needs interventions",
    "batch_calibration": "it scores options",
    "beam": "it searches with beams",
    "confident_layer": "it needs interventions",
    "constant_bias": "it scores options",
    "contextual_calibration": "it scores options",
    "dola": "it contrasts early layers",
    "gaussian_proxy": "the random stream of the query",
    "mask_only": "reads the traits",
    "nbce": "the steps before",
    "olm": "it scores options",
    "only": "it needs interventions",
    "moicl_hypernetwork": "depend on the prompt",
    "opera": "it needs interventions",
    "parallel_icl": "depend on the prompt",
    "plain_average": "reads the traits",
    "plus": "inspects strategies",
    "pmi": "it scores options",
    "random_gate": "the random stream of the query",
    "resdec": "the steps before",
    "residual": "the steps before",
    "best_of_n": "it chooses among 4 answers",
    "self_consistency": "it chooses among 2 answers",
    "sid": "it needs interventions",
    "sign_flip": "imports decoding.arms.inspection",
    "temperature_matched": "inspects strategies",
}
"""Strategy -> a part of the sentence that says why it is not exported."""


def arm_of(name: str) -> Arm:
    strategy = made(name)
    return Arm(strategy, strategy.sampler)


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports an exported file."""

    def load(text: str) -> Any:
        (tmp_path / "exported.py").write_text(text)
        spec = importlib.util.spec_from_file_location("exported", tmp_path / "exported.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "exported", module)
        spec.loader.exec_module(module)
        return module

    return load


def imported_roots(text: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(text)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}}


@pytest.mark.parametrize("name", ALL)
def test_a_strategy_is_exported_with_its_formula_or_refused_with_a_reason(name: str, loaded: Load) -> None:
    if name in STAY:
        with pytest.raises(ConfigError, match=f"^{name} cannot be exported for transformers: .*{STAY[name]}"):
            custom_generate_files(arm_of(name))
        return
    arm = arm_of(name)
    text = custom_generate_files(arm)[GENERATED]
    assert imported_roots(text) <= LIBRARIES
    module = loaded(text)
    generator = torch.Generator().manual_seed(1)
    for step, scale in ((0, 3.0), (7, 0.5)):
        logits = scale * torch.randn(branch_count(arm.strategy), 8, 50, generator=generator)
        logits[:, :, 3] = -float("inf")
        processor = module.Branches(None, module.STRATEGY, [], 2)
        processor.branches = [SimpleNamespace(next_logits=lambda token, one=one: one) for one in logits[1:]]
        scores = processor(torch.ones(8, 2 + step, dtype=torch.long), logits[0])
        expected, faults = combine_branches(arm.strategy, logits, step)
        assert not faults
        assert torch.equal(scores, expected)


def test_parameters_and_a_wrapped_strategy_are_those_of_the_node(loaded: Load) -> None:
    arm = parse_arm({"name": "chasd", "threshold": 0.5, "method": {"name": "icd", "alpha": 2.0}})
    exported = loaded(custom_generate_files(arm)[GENERATED]).STRATEGY
    assert (exported.threshold, exported.method.alpha, type(exported.method).__name__) == (0.5, 2.0, "ICD")


def test_the_file_begins_with_license_node_and_paper_and_the_card_has_the_tag() -> None:
    files = custom_generate_files(parse_arm({"name": "vcd", "alpha": 0.25}))
    head = files[GENERATED].partition("from __future__")[0]
    assert head.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert '"name": "vcd", "alpha": 0.25' in head
    assert "CVPR 2024, 2311.16922" in head
    assert "tags:\n  - custom_generate\n" in files[Path(README)]
    assert "0.863017 * pixels + 0.505175 * torch.randn_like(pixels)" in files[Path(README)]


@dataclass(frozen=True)
class UsesNumpy(Strategy):
    """A strategy with another library."""

    def combine(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        return logits[0] * float(numpy.float32(1))


@dataclass(frozen=True)
class MakesAttribute(Strategy):
    """A strategy with an attribute that is no parameter."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "twice", 2 * self.alpha)

    def combine(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        return logits[0] * self.twice  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize(
    ("strategy", "reason"), [(UsesNumpy(), "imports numpy"), (MakesAttribute(), "reads self.twice, which is neither")]
)
def test_code_that_cannot_be_copied_is_a_sentence(strategy: Strategy, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        custom_generate_files(Arm(strategy))


IDS = torch.ones(2, 3, dtype=torch.long)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"input_ids": IDS}, "VCD reads 1 prompts beside the model's own, and negative= has 0"),
        ({"input_ids": IDS, "negative": [{"input_ids": IDS[:1]}]}, r"negative\[0\] has 1 rows, the prompt has 2"),
        ({"input_ids": IDS, "negative": {"input_ids": IDS}, "num_beams": 3}, "num_beams=3"),
        ({"input_ids": IDS, "negative": {"input_ids": IDS}, "num_return_sequences": 2}, "num_return_sequences=2"),
        (
            {"input_ids": IDS, "negative": {"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}},
            "padded on the right",
        ),
        ({"negative": {"input_ids": IDS}}, "VCD needs input_ids"),
    ],
)
def test_wrong_arguments_of_generate_are_a_sentence(arguments: dict[str, Any], sentence: str, loaded: Load) -> None:
    module = loaded(custom_generate_files(parse_arm("vcd"))[GENERATED])
    with pytest.raises(ValueError, match=sentence):
        module.generate(SimpleNamespace(generation_config=SimpleNamespace()), **arguments)


def packed(model: HF, prompts: list[Prompt]) -> dict[str, Any]:
    """The processor's outputs for a left-padded batch, with the edits of processed pixels."""
    inputs = model.checkpoint.processor.apply_chat_template(
        tiny_models.conversations(prompts),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    places: list[Any] = [(row, number) for row, one in enumerate(prompts) for number in range(len(one.images))]
    if "pixel_values" in inputs and inputs["pixel_values"].ndim == 4:  # the images of all rows in one list
        places = list(range(len(places)))
    for place, image in zip(places, [image for one in prompts for image in one.images], strict=True):
        for edit in image.pixel_value_edits:
            pixels = inputs["pixel_values"][place]
            inputs["pixel_values"][place] = edit.apply_to_pixel_values(pixels[None])[0]
    return dict(inputs)


def until_stop(model: HF, rows: list[list[int]]) -> list[tuple[int, ...]]:
    ends = [next((i for i, token in enumerate(row) if token in model.stop_tokens), len(row)) for row in rows]
    return [tuple(row[:end]) for row, end in zip(rows, ends, strict=True)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[list[dict[str, Any]]], list[Any]]]:
    """Runs jobs in one process without the toolkit, because importing transformers takes seconds."""
    folder = tmp_path_factory.mktemp("alone")
    environment = {"PATH": "/usr/bin:/bin", "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    command, errors, pipe = [sys.executable, str(ALONE)], folder / "errors.txt", subprocess.PIPE
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            command, cwd=folder, stdin=pipe, stdout=pipe, stderr=stderr, text=True, env=environment
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None

        def run(jobs: list[dict[str, Any]]) -> list[Any]:
            torch.save(jobs, folder / "jobs.pt")
            print(folder / "jobs.pt", file=process.stdin, flush=True)
            assert process.stdout.readline() == "answered\n", errors.read_text()[-3000:]  # type: ignore[union-attr]
            results: list[Any] = torch.load(folder / "jobs.pt.answers", weights_only=False)
            return results

        yield run
        process.stdin.close()
        assert process.wait(timeout=60) == 0, errors.read_text()[-3000:]


def job(model: HF, folder: Path | None, branches: list[tuple[Prompt, ...]], **arguments: Any) -> dict[str, Any]:
    """A call of `generate` on the branches of each row."""
    inputs, *negatives = (packed(model, list(prompts)) for prompts in zip(*branches, strict=True))
    more = {"do_sample": False, "max_new_tokens": NEW, **({"negative": negatives} if folder else {}), **arguments}
    return {"model": str(model.path), "folder": folder and str(folder), "inputs": inputs, "arguments": more}


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("shipped", ("vcd", "icd", "cad", "cfg")),
        ("qwen2_5_vl", ("icd", "cad", "cfg")),
        ("llava", ("vcd",)),
        *((name, ("icd", "cad")) for name in ("qwen3_vl", "glm4v", "idefics3", "internvl", "gemma3", "mistral3")),
    ],
)
def test_generate_alone_gives_the_tokens_of_the_toolkit(
    architecture: str, names: tuple[str, ...], tmp_path: Path, alone: Callable[[list[dict[str, Any]]], list[Any]]
) -> None:
    """Single prompts, left-padded batches, sampling at a temperature near zero, and equal branches, which are greedy.

    All but the shipped one have random weights and longer answers. qwen2_5_vl, qwen3_vl and glm4v have positions of
    several axes (M-RoPE), whose offsets (`rope_deltas`) the branches must not overwrite.
    """
    checkpoint = SHIPPED if architecture == "shipped" else tiny_models.save(architecture, tmp_path / architecture)
    model = HF(path=str(checkpoint), dtype="float32", device="cpu")
    model.load()
    prompts = [prompt(number, shots) for number, shots in ((1, 2), (2, 1))]

    def tokens(arm: Arm) -> list[tuple[int, ...]]:
        answers = run_requests(model, [DecodingRequest(p, arm, max_new_tokens=NEW) for p in prompts])
        return [answer.tokens for answer in answers if isinstance(answer, Generation)]

    greedy = tokens(parse_arm("greedy"))
    jobs, expected, changed = [job(model, None, [(p,) for p in prompts])], [greedy], 0
    for name in names:
        arm = parse_arm({"name": name, "gamma" if name == "cfg" else "alpha": 3.0})
        for path, text in custom_generate_files(arm).items():
            target = tmp_path / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        branches = [arm.strategy.branches(p) for p in prompts]
        ours = tokens(arm)
        changed += ours != greedy
        jobs += [job(model, tmp_path / name, [one]) for one in branches]
        jobs.append(job(model, tmp_path / name, branches))
        jobs.append(job(model, tmp_path / name, branches, do_sample=True, temperature=1e-4, max_new_tokens=2))
        jobs.append(job(model, tmp_path / name, [(p, p) for p in prompts]))
        expected += [*([one] for one in ours), ours, [one[:2] for one in ours], greedy]
    assert [until_stop(model, rows) for rows in alone(jobs)] == expected
    assert changed >= len(names) / 2  # so the other branches were read
    if architecture != "shipped":  # whose answers are one token
        assert max(len(row) for rows in expected for row in rows) == NEW  # so their caches grew


def test_sampler_becomes_arguments_of_generate() -> None:
    arm = parse_arm({"name": "vcd", "sampling": {"temperature": 0.7, "top_p": 0.9}})
    assert sampler_arguments(arm) == {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.9, "min_p": 0.0}
    assert sampler_arguments(parse_arm("vcd")) == {"do_sample": False}


@dataclass(frozen=True)
class Branches(Strategy):
    """A strategy with the name of a class of the runtime."""


def test_a_name_of_the_runtime_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="would have the name Branches"):
        custom_generate_files(Arm(Branches()))


def test_another_branch_keeps_its_own_rope_deltas_and_restores_those_of_the_prompt(tmp_path: Path) -> None:
    """M-RoPE models store the distance of positions from cached tokens on the model, once for all callers."""
    model = HF(path=str(tiny_models.save("qwen2_5_vl", tmp_path)), dtype="float32", device="cpu")
    weights = model.engine.runner.model
    inputs, other = (packed(model, [prompt(1, shots)]) for shots in (2, 0))
    weights(**inputs)
    deltas = weights.model.rope_deltas.clone()
    branch = OtherBranch(weights, other)
    token = torch.tensor([[40]])
    logits = [branch.next_logits(None), branch.next_logits(token)]
    assert torch.equal(weights.model.rope_deltas, deltas)
    assert not torch.equal(branch.delta, deltas)
    extended = {**other, "input_ids": torch.cat([other["input_ids"], token], 1)}
    for name in ("attention_mask", "mm_token_type_ids"):
        extended[name] = torch.nn.functional.pad(other[name], (0, 1), value=int(name == "attention_mask"))
    weights.model.rope_deltas = None
    for got, whole in zip(logits, (other, extended), strict=True):
        assert torch.allclose(got, weights(**whole).logits[:, -1], atol=1e-4)
