"""The engines on real architectures with random weights, and on the checkpoint that comes with the toolkit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch

from decoding.arm import Arm, controls_of, parse_arm
from decoding.base import NewThread, Strategy
from decoding.engine import run_jobs
from decoding.jobs import Counters, Failure, Job
from decoding.strategies.greedy import GreedyDecoding
from decoding.strategies.vcd import VCD
from icl.models.hf.model import HF
from icl.types import Generation, Prompt
from tests.decoding.prompts import vcd_one_at_a_time
from tests.decoding.test_strategies import ALL, made

NEW = 6
ARCHITECTURES = ("llava", "qwen2_5_vl", "idefics3", "gemma3", "qwen3_5")
SHIPPED = Path(__file__).parents[2] / "icl/models/tiny/checkpoints/vlm"


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HF]:
    made: dict[str, HF] = {}

    def get(name: str) -> HF:
        if name not in made:
            folder = SHIPPED if name == "shipped" else tiny_models.save(name, tmp_path_factory.mktemp(name))
            made[name] = HF(path=str(folder), dtype="float32", device="cpu")
            made[name].load()
        return made[name]

    return get


needs_shipped = pytest.mark.skipif(not (SHIPPED / "config.json").exists(), reason="the shipped checkpoint is not there")
every = pytest.mark.parametrize("name", [*ARCHITECTURES, pytest.param("shipped", marks=needs_shipped)])


def questions(name: str) -> list[Prompt]:
    """Unequal lengths and numbers of pictures; each asks about a picture of its own."""
    shown = [[1, 2, 3], [4], [5, 1, 6, 2], [2, 7]]
    return [
        tiny_models.prompt(pictures, "colour" + "?" * i, query=f"q{i}", size=(56, 84))
        for i, pictures in enumerate(shown)
    ]


def texts_of(model: HF, answers: list[Generation | Failure]) -> list[tuple[int, ...]]:
    assert all(isinstance(answer, Generation) for answer in answers), answers
    return [answer.tokens for answer in answers if isinstance(answer, Generation)]


def generated(model: HF, prompts: list[Prompt], new: int) -> list[tuple[int, ...]]:
    """`generate` of transformers on the processor's own inputs, one left-padded batch; cut at the end token."""
    inputs = model.checkpoint.processor.apply_chat_template(
        tiny_models.conversations(prompts),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    with torch.inference_mode():
        whole = model.engine.runner.model.generate(**inputs, do_sample=False, max_new_tokens=new)
    answers = []
    for row in whole[:, inputs["input_ids"].shape[1] :].tolist():
        end = next((i for i, token in enumerate(row) if token in model.stop_tokens), len(row))
        answers.append(tuple(row[:end]))
    return answers


def arms() -> list[Arm]:
    vcd = parse_arm({"name": "vcd", "noise_step": 999})
    mild = parse_arm({"name": "vcd", "alpha": 3.0, "beta": 0.01, "sampling": {"temperature": 1.5}})
    return [parse_arm("greedy"), parse_arm("sampling"), vcd, mild, *controls_of(vcd)[:2]]


@every
def test_the_greedy_arm_is_transformers_generate(name: str, model_of: Callable[[str], HF]) -> None:
    model = model_of(name)
    answers = run_jobs(model, [Job(p, parse_arm("greedy"), max_new_tokens=NEW) for p in questions(name)])
    assert texts_of(model, answers) == generated(model, questions(name), NEW)


@every
def test_vcd_is_two_plain_readings_a_step(name: str, model_of: Callable[[str], HF]) -> None:
    """The slow reading prefills both whole prompts anew before each token and batches nothing."""
    model, method = model_of(name), VCD(alpha=2.0, noise_step=999)
    answers = run_jobs(model, [Job(p, Arm(method), max_new_tokens=NEW) for p in questions(name)])
    with torch.inference_mode():
        slow = [vcd_one_at_a_time(model, method, p, NEW) for p in questions(name)]
    assert texts_of(model, answers) == slow


@every
def test_six_arms_together_are_each_alone(name: str, model_of: Callable[[str], HF]) -> None:
    model, counters = model_of(name), Counters()
    jobs = [Job(p, arm, max_new_tokens=NEW) for p in questions(name) for arm in arms()]
    together = texts_of(model, run_jobs(model, jobs, counters))
    alone = {
        arm.label: texts_of(model, run_jobs(model, [Job(p, arm, max_new_tokens=NEW) for p in questions(name)]))
        for arm in arms()
    }
    assert together == [alone[arm.label][i] for i in range(len(questions(name))) for arm in arms()]
    assert counters.prompts_opened == 3 * len(questions(name))  # the prompts, noised at 999 and at 500
    one_by_one = [texts_of(model, run_jobs(model, [job]))[0] for job in jobs[:6]]
    assert one_by_one == together[:6]


@every
def test_option_scores_are_log_probabilities_of_the_whole_text(name: str, model_of: Callable[[str], HF]) -> None:
    model, options = model_of(name), ("red", "a square", "no")
    jobs = [Job(p, parse_arm(n), options, "options") for p in questions(name) for n in ("greedy", "vcd")]
    answers = run_jobs(model, jobs)
    for job, answer in zip(jobs, answers, strict=True):
        assert isinstance(answer, Generation)
        if job.arm.label != "greedy":
            continue
        for option, ids in zip(options, model.option_ids(job.prompt, options), strict=True):
            total = 0.0
            for i, token in enumerate(ids):
                session = model.open([job.prompt])
                if i:
                    session.extend([ids[:i]])
                total += float(session.logits[0].log_softmax(-1)[token])
            assert answer.option_scores[option] == pytest.approx(total, abs=1e-4)


def read_anew(model: HF, strategy: Strategy, question: Prompt, limit: int) -> tuple[int, ...]:
    """All branches read from their beginning for each token, one question at a time, nothing cached or shared."""

    def generate(prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        return [model.text(read_anew(model, GreedyDecoding(), p, max_new_tokens)) for p in prompts]

    (note,) = strategy.prepare([question], generate)
    branches, thread, tokens = strategy.branches(question, note), NewThread(question.key), list[int]()
    while len(tokens) < limit:
        sessions = [model.open([branch]) for branch in branches]
        for session in sessions:
            if tokens:
                session.extend([tokens])
        logits = torch.stack([session.logits.float() for session in sessions])
        mask, told = strategy.mask(logits[0]), strategy.follow(logits, len(tokens), [thread])
        token = int((told if mask is None else told.masked_fill(~mask, -torch.inf)).argmax())
        if token in model.stop_tokens:
            break
        tokens.append(token)
    return tuple(tokens)


def family() -> list[Strategy]:
    """Every strategy that writes text, with short preparations."""
    return [
        replace(one, tokens=4) if name in ("code", "dcd") else one  # type: ignore[type-var]
        for name in ALL
        if not (one := made(name)).options_only and name not in ("random_gate", "other_answers")
    ]


def named(question: Prompt) -> Prompt:
    """With the composers' names on its question."""
    asked = {part.name for part in question.turns[-1].parts if part.text is not None}
    return question.map(lambda part: replace(part, name="query.question") if part.name in asked else part)


@pytest.mark.slow
@every
def test_the_whole_family_together_is_each_read_anew(name: str, model_of: Callable[[str], HF]) -> None:
    model, asked = model_of(name), [named(q) for q in questions(name)[:3:2]]  # of three pictures and of four
    jobs = [Job(p, Arm(strategy), max_new_tokens=3) for strategy in family() for p in asked]
    together = texts_of(model, run_jobs(model, jobs))
    with torch.inference_mode():
        slow = [read_anew(model, strategy, p, 3) for strategy in family() for p in asked]
    apart = [(job.arm.label, a, b) for job, a, b in zip(jobs, together, slow, strict=True) if a != b]
    assert not apart
