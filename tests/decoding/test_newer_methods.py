"""Residual Decoding, CRoPS, SAVCD, adaptive shots and Parallel-ICL, by hand and against what they reduce to."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from decoding.arms.arm import Arm
from decoding.arms.inspection import measure_weights
from decoding.base import DefaultNote, InitialStepState
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from decoding.formulas.distributions import RowSteps, jensen_shannon
from decoding.formulas.sampling import Greedy
from decoding.prompt_edits import keep_demonstrations
from decoding.strategies.adaptive_shots import AdaptiveShots, first_clear, information, margins
from decoding.strategies.crops import CRoPS
from decoding.strategies.reconstructions.residual import ResidualDecoding, residual
from decoding.strategies.reconstructions.savcd import CHANGES, SAVCD, chosen_change, entropy_plausibility_mask
from decoding.strategies.resdec import ResDec, residual_guidance
from decoding.strategies.self_aug import CHANGES as SELF_AUG_CHANGES
from decoding.strategies.self_aug import SelfAug, sparsity_mask
from decoding.strategies.self_aug import chosen_change as self_aug_choice
from decoding.strategies.self_demonstrations import SelfDemonstrations, chosen_pairs
from decoding.strategies.several_prompts import MoICL, ParallelICL
from decoding.strategies.vcd import VCD
from decoding.strategies.xmore import XMoRe
from icl.errors import ConfigError, PlanError
from icl.registry import build
from icl.streams import StreamKey
from tests.decoding.prompts import prompt
from tests.decoding.toy import STOP, Row, Toy

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(3, 4, 9, generator=GENERATOR)


def run_steps(strategy, steps: torch.Tensor, states=None) -> torch.Tensor:
    """The scores of each step: logits [T, B, V] -> [T, B, V]."""
    states = states or [InitialStepState() for _ in range(steps.shape[1])]
    return torch.stack([strategy.combine_stateful(logits[None], t, states) for t, logits in enumerate(steps)])


def test_residual_adds_the_weighted_mean_of_the_stable_steps() -> None:
    steps = torch.randn(5, 1, 6, generator=GENERATOR)
    scores = run_steps(ResidualDecoding(), steps)[4, 0]
    logprobs = steps[:, 0].log_softmax(-1)
    changes = torch.stack([jensen_shannon(logprobs[i][None], logprobs[i - 1][None])[0, 0] for i in (1, 2, 3)])
    stable = [i for i, change in zip((1, 2, 3), changes, strict=True) if change <= changes.sort().values[1]]
    assert len(stable) == 2
    best = [float(logprobs[i].exp().max()) for i in stable]
    history = sum(c * logprobs[i] for c, i in zip(best, stable, strict=True)) / sum(best)
    assert torch.allclose(scores, logprobs[4] + 0.5 * history, atol=1e-6)
    mean = run_steps(ResidualDecoding(history="all"), steps)[4, 0]
    assert not torch.allclose(mean, scores)
    assert torch.allclose(residual(logprobs[1:4], changes, stable=False), (mean - logprobs[4]) / 0.5, atol=1e-5)


def test_a_token_ruled_out_at_an_unstable_step_alone_keeps_its_score() -> None:
    logprobs = torch.randn(3, 6, generator=GENERATOR).log_softmax(-1)
    logprobs[1, 5] = -torch.inf
    scores = residual(logprobs, torch.tensor([0.1, 0.9, 0.2]))
    assert torch.equal(scores, residual(logprobs[[0, 2]], torch.zeros(2)))
    assert scores.isfinite().all()


def test_residual_leaves_two_steps_and_forgets_what_is_outside_its_window() -> None:
    steps = torch.randn(12, 2, 6, generator=GENERATOR)
    scores, plain = run_steps(ResidualDecoding(window=3), steps), steps.log_softmax(-1)
    assert torch.allclose(scores[:2], plain[:2])
    assert not torch.allclose(scores[2], plain[2])
    other = steps.clone()
    other[:7] += 1.7 * torch.randn(7, 2, 6, generator=GENERATOR)
    assert torch.allclose(run_steps(ResidualDecoding(window=3), other)[11], scores[11], atol=1e-6)
    states = [InitialStepState(), InitialStepState()]
    last = run_steps(ResidualDecoding(window=3), steps, states)[11]
    again = ResidualDecoding(window=3).combine_stateful(steps[11][None], 11, states)
    assert torch.equal(last, again)
    assert len(states[0].memory) <= 4
    assert torch.allclose(run_steps(ResidualDecoding(alpha=0.0), steps), plain)


def test_crops_by_hand_and_confident_rows_are_the_references() -> None:
    crops = CRoPS()
    reference, language, statistics = LOGITS.log_softmax(-1)
    gamma = math.exp(-0.01 * 8)
    full = reference + (1 - gamma) / gamma * (reference - language)
    scores, expected = crops.combine(LOGITS, 7), 2 * full - statistics
    assert torch.allclose(scores.log_softmax(-1), expected.log_softmax(-1), atol=1e-5)
    rows = torch.cat([crops.combine(LOGITS[:, i : i + 1], step) for i, step in enumerate((7, 0, 3, 2))])
    assert torch.allclose(crops.combine(LOGITS, RowSteps([7, 0, 3, 2])), rows, atol=1e-6)  # type: ignore[arg-type]
    certain = LOGITS.clone()
    certain[0, 1, 2] += 20
    scores = crops.combine(certain, 7)
    assert torch.allclose(scores[1].log_softmax(-1), certain[0, 1].log_softmax(-1))
    assert crops.reference_decides(certain[0]).tolist() == [False, True, False, False]
    assert crops.mask(certain[0])[1].sum() == 1  # type: ignore[index]
    assert len(crops.branches(prompt(2))) == 3


@pytest.mark.parametrize(
    ("alpha", "rate", "beta", "confident"), [(1, 0.01, 0.1, 0.95), (0.5, 0.2, 0.1, 0.5), (2, 0.1, 0, 0.4)]
)
def test_crops_follows_the_steps_of_the_released_code(alpha: float, rate: float, beta: float, confident: float) -> None:
    """Its loop, row by row: cut off, renormalize, ask whether the best token is likely enough, then contrast."""
    logits = 3 * torch.randn(3, 60, 12, generator=torch.Generator().manual_seed(3))
    crops = CRoPS(alpha=alpha, rate=rate, beta=beta, confident=confident)
    scores, keeps = crops.combine(logits, 4), crops.mask(logits[0])
    scores = scores if keeps is None else scores.masked_fill(~keeps, -torch.inf)
    is_confident = crops.reference_decides(logits[0])
    for row in range(60):
        plain, language, statistics = logits[:, row]
        if beta:
            plain = plain.masked_fill(plain < plain.max() + math.log(beta), -torch.inf)
        logprobs, gamma = plain.log_softmax(-1), math.exp(-rate * 5)
        assert bool(is_confident[row]) == bool(logprobs.exp().max() > confident)
        if logprobs.exp().max() <= confident:
            plain = logprobs + (1 - gamma) / gamma * (logprobs - language.log_softmax(-1))
            plain = (1 + alpha) * plain - alpha * statistics.log_softmax(-1)
        assert torch.allclose(scores[row].softmax(-1), plain.softmax(-1), atol=1e-5), row
    assert 0 < int(is_confident.sum()) < 60


def slow_resdec(steps: torch.Tensor, t: int, window: int, count: int, alpha: float) -> list[float]:
    """Scores of one row at step t by the formulas of the paper, in Python numbers: steps [T, V] of logits."""
    logprobs = [[x - math.log(sum(map(math.exp, row))) for x in row] for row in steps.double().tolist()]
    pool = sorted(range(len(logprobs[t])), key=lambda y: -logprobs[t][y])[:count]
    shares = [[math.exp(row[y]) / sum(math.exp(row[z]) for z in pool) for y in pool] for row in logprobs]

    def divergence(p: list[float], q: list[float]) -> float:
        return sum(
            0.5 * a * math.log(2 * a / (a + b)) + 0.5 * b * math.log(2 * b / (a + b)) for a, b in zip(p, q, strict=True)
        )

    past = range(max(1, t - window), t)
    if not past:
        return logprobs[t]
    start = min(past, key=lambda i: divergence(shares[i], shares[i - 1]))
    weights = {i: -sum(logprobs[i][y] for y in pool) / len(pool) for i in past if i >= start}
    total = sum(weights.values())
    return [
        (1 - alpha) * now + alpha * sum(weight * logprobs[i][y] for i, weight in weights.items()) / total
        for y, now in enumerate(logprobs[t])
    ]


@pytest.mark.parametrize(("window", "count", "alpha"), [(3, 5, 0.5), (8, 64, 0.5), (2, 3, 0.9), (1, 2, 0.3)])
def test_resdec_equals_the_formulas_of_the_paper_in_python_numbers(window: int, count: int, alpha: float) -> None:
    steps = 2 * torch.randn(9, 1, 11, generator=torch.Generator().manual_seed(window))
    scores = run_steps(ResDec(alpha=alpha, window=window, candidates=count), steps)
    for t in range(9):
        slow = slow_resdec(steps[:, 0], t, window, count, alpha)
        assert scores[t, 0].tolist() == pytest.approx(slow, abs=1e-4)


def test_resdec_leaves_out_the_steps_before_the_most_stable_one() -> None:
    logprobs = torch.randn(5, 6, generator=GENERATOR).log_softmax(-1)
    logprobs[3] = logprobs[2]  # step 3 changes nothing
    every = torch.arange(6)
    assert torch.equal(residual_guidance(logprobs, every), residual_guidance(logprobs[2:], every, is_anchored=False))
    assert not torch.allclose(residual_guidance(logprobs, every), residual_guidance(logprobs, every, False))
    same = logprobs[:1].expand(4, -1)
    assert torch.allclose(residual_guidance(same, every), same[0])


def test_self_aug_widens_its_mask_with_the_entropy_in_bits() -> None:
    sharp, flat = torch.tensor([[90.0, 5.0, 0.0, 0.0]]), torch.zeros(1, 4)
    assert sparsity_mask(sharp, 0.5).sum() == 1
    assert sparsity_mask(flat, 0.5).all()
    probabilities = torch.tensor([[0.6, 0.25, 0.15]])
    bits = -sum(p * math.log2(p) for p in probabilities[0].tolist())
    threshold = 0.6 / (1 + math.exp(0.5 * bits))
    assert sparsity_mask(probabilities.log() + 3, 0.5).tolist() == [[p >= threshold for p in (0.6, 0.25, 0.15)]]
    assert 0.15 < threshold < 0.25


def test_self_aug_reads_definitions_and_examples_and_takes_the_choice_after_the_reason() -> None:
    requests = []

    def generate(prompts, max_new_tokens):
        requests.extend(prompts)
        return ["it asks for a color, so noise is weak. Choice: Inversion", "no idea", "Choice: mask or crop"]

    prompts = [prompt(2), prompt(1), prompt(0)]
    assert SelfAug().prepare(prompts, generate) == ["inversion", "noise", "noise"]
    assert all(len(one.images) == 1 and one.text.count("Choice:") == 3 for one in requests)
    assert all(f"{name}: " in requests[0].text for name in SELF_AUG_CHANGES)
    assert isinstance(self_aug_choice("crop and mask"), DefaultNote)
    keyed = [replace(prompt(1), key=StreamKey(0, f"q{i}")) for i in range(60)]
    choices = SelfAug(choice="random").prepare(keyed, generate)
    assert all(choices.count(name) > 3 for name in SELF_AUG_CHANGES)
    boxes = [SelfAug().branches(one, "crop")[1].images[-1].edits[0].describe() for one in keyed[:2]]
    assert boxes[0] != boxes[1]
    assert boxes[0] == SelfAug().branches(keyed[0], "crop")[1].images[-1].edits[0].describe()
    for name in SELF_AUG_CHANGES:
        assert [i.edits == () for i in SelfAug().branches(prompts[0], name)[1].images] == [True, True, False]


def test_savcd_takes_the_change_that_the_model_names_once_per_question() -> None:
    requests = []

    def generate(prompts, max_new_tokens):
        requests.extend(prompts)
        return ["Colors.", "none of these", "crop or mask"]

    prompts = [prompt(2), prompt(1), prompt(0)]
    assert SAVCD().prepare(prompts, generate) == ["colors", "noise", "noise"]
    assert all(len(request.images) == 1 and "colors, crop" in request.text for request in requests)
    changed = SAVCD().branches(prompts[0], "colors")[1]
    assert "random_colors" in changed.images[-1].edits[0].describe()
    assert [i.edits == () for i in changed.images] == [True, True, False]
    assert chosen_change("the CROP") == "crop"
    assert [isinstance(chosen_change(text), DefaultNote) for text in ("crop", "noise", "", "crop, mask")] == [
        0,
        0,
        1,
        1,
    ]
    keyed = [replace(prompt(1), key=StreamKey(0, f"q{i}")) for i in range(60)]
    random = SAVCD(choice="random").prepare(keyed, generate)
    assert all(random.count(name) > 3 for name in CHANGES)
    assert SAVCD(choice="flip").prepare(prompts, generate) == ["flip"] * 3
    assert torch.equal(SAVCD().combine(LOGITS[:2], 0), VCD().combine(LOGITS[:2], 0))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_the_declared_weights_of_savcd_are_those_of_its_scores(alpha: float) -> None:
    strategy = SAVCD(alpha=alpha, sharpest=0.0)
    assert strategy.weights == pytest.approx((1 + alpha, -alpha))
    assert measure_weights(strategy) == pytest.approx(strategy.weights, abs=1e-3)


def test_the_mask_of_savcd_is_wide_for_an_uncertain_reference() -> None:
    sharp, flat = torch.tensor([[9.0, 5.0, 0.0, 0.0]]), torch.zeros(1, 4)
    assert entropy_plausibility_mask(flat, 1.0).all()
    assert entropy_plausibility_mask(sharp, 1.0).sum() == 1
    mild = torch.tensor([[2.0, 0.5, 0.0, 0.0]])
    share = 0.5 * (1 - float(torch.special.entr(mild.softmax(-1)).sum()) / math.log(4))
    assert entropy_plausibility_mask(mild, 0.5).tolist() == (mild >= 2 + math.log(share)).tolist()


RUNGS = torch.tensor([[0.4, 0.35, 0.25], [0.6, 0.3, 0.1], [0.9, 0.05, 0.05]]).log()[:, None]


def test_adaptive_shots_take_the_first_clear_rung_and_stay_on_it() -> None:
    logits = torch.cat([RUNGS[:1] * 0, RUNGS])
    for margin, rung in ((0.0, 0), (0.1, 0), (0.2, 1), (1.0, 2), (99.0, 2)):
        strategy = AdaptiveShots(ladder=(0, 2), margin=margin)
        state = InitialStepState()
        assert torch.equal(strategy.combine_stateful(logits, 0, [state]), RUNGS[rung])
        later = torch.cat([RUNGS[:1] * 0, RUNGS.flip(0)])
        assert torch.equal(strategy.combine_stateful(later, 1, [state]), RUNGS.flip(0)[rung])
    assert margins(RUNGS)[1, 0] == pytest.approx(math.log(2))


def test_shots_by_entropy_read_all_options_and_no_impossible_ones() -> None:
    close = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).log()
    expected = [0.0, math.log(3) - 1.5 * math.log(2), 0.0]  # log N - H, with N = 2, 3 and 1 possible options
    assert information(close).tolist() == pytest.approx(expected, abs=1e-6)
    both, rungs = torch.tensor([[0.45, 0.45, 0.1], [0.5, 0.25, 0.25]]).log()[:, None], []
    for clear_by in ("margin", "entropy"):
        strategy = AdaptiveShots(ladder=(0,), margin=0.1, clear_by=clear_by)
        rungs.append(first_clear(strategy.clarity(both), strategy.margin).item())
    assert rungs == [1, 0]  # two likely options of three are unclear, and yet say more than none


def test_adaptive_shots_read_the_nearest_demonstrations() -> None:
    whole = prompt(1, shots=4)
    branches = AdaptiveShots(ladder=(0, 1, 2)).branches(whole)
    assert [len(b.images) for b in branches] == [5, 1, 2, 3, 5]
    assert branches[2] == keep_demonstrations(whole, (3,))
    assert AdaptiveShots(ladder=(1,), near="first").branches(whole)[1] == keep_demonstrations(whole, (0,))
    with pytest.raises(ConfigError, match="ascending"):
        AdaptiveShots(ladder=(2, 1))
    with pytest.raises(ConfigError, match="shares has 1 numbers for the 2 rungs"):
        AdaptiveShots(ladder=(0, 1), shares=(1.0,))


def test_the_fitted_margin_is_the_smallest_with_the_highest_accuracy() -> None:
    unsure, certain = [0.5, 0.3, 0.2], [0.98, 0.01, 0.01]
    right_late = [[unsure, unsure], [certain, certain], [[0.3, 0.5, 0.2], certain]]
    logprobs = torch.tensor(right_late).log()
    fitted = AdaptiveShots(ladder=(0,)).fit(logprobs, [0, 0, 0])
    values = margins(logprobs).T
    assert fitted.margin > math.log(0.5 / 0.3) - 1e-6
    assert fitted.margin <= math.log(98) + 1e-4
    chosen = first_clear(values.contiguous(), fitted.margin)
    assert logprobs.argmax(-1)[torch.arange(3), chosen].tolist() == [0, 0, 0]
    assert sum(fitted.shares) == pytest.approx(1)
    assert len(AdaptiveShots(ladder=(0,)).calibration_strategies(4)) == 2
    with pytest.raises(ConfigError, match="0 shots"):
        AdaptiveShots().calibration_strategies(0)


def test_the_random_control_has_the_frequencies_of_the_fit() -> None:
    strategy = AdaptiveShots(ladder=(0, 2), choice="random", shares=(0.5, 0.5, 0.0))
    logits = torch.cat([RUNGS[:1] * 0, RUNGS]).expand(-1, 200, -1)
    states = [InitialStepState(StreamKey(0, str(i))) for i in range(200)]
    strategy.combine_stateful(logits, 0, states)
    rungs = [state.memory[0] for state in states]
    assert 70 < rungs.count(0) < 130
    assert rungs.count(2) == 0


@dataclass(frozen=True, eq=False)
class FixedVectors:
    """An embedder with a vector for each demonstration (by its owner) and for the query."""

    vectors: Any
    digest = "fixed vectors"

    def embed_images(self, items):
        rows = np.array([self.vectors[item.id] for item in items], dtype=float)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_texts(self, texts):
        """Whether the text has an answer, and its length, as a direction."""
        rows = np.array([[1 + text.count("a"), len(text)] for text in texts], dtype=float)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


VECTORS = {"0": [1, 0.1], "1": [1, -0.1], "2": [0.1, 1], "3": [-0.1, 1], "None": [1, 0]}


def parallel(**parameters) -> ParallelICL:
    return ParallelICL(embedder=FixedVectors(VECTORS), **parameters)


def test_parallel_icl_weights_its_clusters_by_similarity() -> None:
    whole = prompt(1, shots=4)
    near, far = keep_demonstrations(whole, (0, 1)), keep_demonstrations(whole, (2, 3))
    strategy = parallel(tau=1.0)
    ((chunks, weights),) = strategy.prepare([whole], generate=None)
    branches = strategy.branches(whole, (chunks, weights))
    assert set(branches[1:]) == {near, far}
    similarity = [np.mean([np.dot(v, VECTORS["None"]) / np.linalg.norm(v) for v in chunk]) for chunk in
                  ([VECTORS["0"], VECTORS["1"]], [VECTORS["2"], VECTORS["3"]])]  # fmt: skip
    share = weights[branches.index(near) - 1]
    assert share == pytest.approx(1 / (1 + math.exp(similarity[1] - similarity[0])), abs=1e-9)
    assert set(parallel(tau=1e-6).branches(whole)[1:]) == {near}
    assert set(parallel(share="nearest").branches(whole)[1:]) == {near}


def test_the_papers_parallel_icl_reads_images_and_texts_and_has_equal_chunks() -> None:
    """By hand: concatenated unit vectors, clusters cut into equal parts, and a softmax of mean dot products."""

    class Near(FixedVectors):
        digest = "near vectors"

    longer = {f"demo[{i}].answer": "a" * (i + 1) for i in range(4)}
    whole = prompt(1, shots=4).map(lambda part: replace(part, content=longer.get(part.name, part.content)))
    embedder = Near(VECTORS | {"2": [1, 0.2]})  # k-means: {0, 1, 2} and {3}
    strategy = ParallelICL(embedder=embedder, **ParallelICL.presets["paper"])
    ((chunks, weights),) = strategy.prepare([whole], generate=None)
    assert sorted(map(sorted, chunks)) in ([[0, 1], [2, 3]], [[0, 3], [1, 2]])  # by the order of the clusters
    texts = {part.name: part.text for part in whole.parts() if part.name}
    dots = []
    for i in range(4):
        image, query = np.array(embedder.vectors[str(i)]), np.array(VECTORS["None"])
        text = embedder.embed_texts([f"{texts[f'demo[{i}].question']} {texts[f'demo[{i}].answer']}"])
        question = embedder.embed_texts([texts["query.question"]])
        cosine = image @ query / np.linalg.norm(image) / np.linalg.norm(query)
        dots.append(float(cosine + (text * question).sum()))
    expected = np.exp([np.mean([dots[i] for i in chunk]) for chunk in chunks])
    assert weights == pytest.approx((expected / expected.sum()).tolist(), abs=1e-9)


def test_parallel_icl_by_texts_needs_no_images() -> None:
    bare = prompt(3, shots=4).without_images("all")
    assert len(parallel(features="texts", chunks="even").branches(bare)) == 3


def test_parallel_icl_divides_the_demonstrations_that_a_prompt_still_has() -> None:
    part = keep_demonstrations(prompt(1, shots=4), (1, 2, 3))
    branches = parallel(tau=1.0).branches(part)
    assert {*branches[1:]} == {keep_demonstrations(part, (1,)), keep_demonstrations(part, (2, 3))}


def test_parallel_icl_compares_images_by_the_vectors_of_its_own_embedder() -> None:
    class Reversed(FixedVectors):
        digest = "reversed vectors"

    whole, opposite = prompt(1, shots=4), VECTORS | {"None": [0, 1]}
    assert {*parallel(tau=1e-6).branches(whole)[1:]} == {keep_demonstrations(whole, (0, 1))}
    other = ParallelICL(embedder=Reversed(opposite), tau=1e-6)
    assert {*other.branches(whole)[1:]} == {keep_demonstrations(whole, (2, 3))}


def test_parallel_icl_is_the_product_with_the_weights_of_each_prompt() -> None:
    """No weight is rounded, and rows of a batch have their own."""
    notes = [([[0, 1], [2, 3]], weights) for weights in ([0.9, 0.1], [0.31, 0.69], [0.5, 0.5])]
    states = [InitialStepState(note=note) for note in notes]
    logits = torch.randn(3, 3, 9, generator=GENERATOR)
    scores, logprobs = parallel().combine_stateful(logits, 0, states), logits.log_softmax(-1)
    for row, (_, (first, second)) in enumerate(notes):
        assert torch.allclose(scores[row], first * logprobs[1, row] + second * logprobs[2, row], atol=1e-6)


def test_the_engine_passes_the_weights_of_each_prompt_to_its_rows() -> None:
    """A batch of answers and option scores equals a slow decode of each prompt alone."""
    model, arm = Toy(), Arm(parallel(tau=1.0), Greedy())
    prompts = [prompt(number, shots=shots) for number, shots in ((1, 4), (2, 3), (3, 4))]
    answers = run_requests(model, [DecodingRequest(one, arm, max_new_tokens=5) for one in prompts])
    options = ("w3 w5", "w4")
    scored = run_requests(model, [DecodingRequest(one, arm, options, answer_mode="options") for one in prompts])
    for one, answer, scores in zip(prompts, answers, scored, strict=True):
        ((chunks, weights),) = arm.strategy.prepare([one], generate=None)
        rows = [Row(keep_demonstrations(one, chunk)) for chunk in chunks]

        def logprobs(tokens: list[int], rows: list[Row] = rows, weights: list[float] = weights) -> torch.Tensor:
            logits = model.logits_of([Row(row.prompt, tokens) for row in rows])
            return (torch.tensor(weights)[:, None] * logits.log_softmax(-1)).sum(0).log_softmax(-1)

        tokens: list[int] = []
        while len(tokens) < 5 and (token := int(logprobs(tokens).argmax())) != STOP:
            tokens.append(token)
        assert answer.tokens == tuple(tokens)
        for ids, score in zip(model.option_ids(one, options), scores.option_scores.values(), strict=True):
            expected = sum(float(logprobs(ids[:i])[ids[i]]) for i in range(len(ids)))
            assert score == pytest.approx(expected, abs=1e-4)


def test_a_config_with_the_removed_resolution_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"strategy 'parallel_icl' has no parameter 'resolution'.*It takes groups"):
        build("strategy", {"name": "parallel_icl", "resolution": 16})


def test_parallel_icl_reduces_to_moicl_and_to_the_whole_prompt() -> None:
    whole = prompt(1, shots=4)
    equal = parallel(share="equal", chunks="consecutive")
    assert equal.branches(whole) == MoICL(groups=2).branches(whole)
    assert torch.allclose(equal.combine(LOGITS, 0), MoICL(groups=2).combine(LOGITS, 0), atol=1e-6)
    assert parallel(groups=1).branches(whole) == (whole, whole)
    assert set(parallel(chunks="random", share="equal").branches(whole)[1:]) != {whole}


@pytest.mark.parametrize("chunks", ["clustered", "consecutive", "random"])
def test_equal_shares_are_equal_for_three_chunks(chunks: str) -> None:
    """The scores are those of MoICL, whose groups have the same weight, on the same groups."""
    whole = prompt(1, shots=6)
    vectors = {str(i): [math.cos(i // 2 * 2.1), math.sin(i // 2 * 2.1 + i % 2 / 50)] for i in range(6)} | {
        "None": [1, 0]
    }
    strategy = ParallelICL(embedder=FixedVectors(vectors), groups=3, chunks=chunks, share="equal")
    branches = strategy.branches(whole)
    assert len(set(branches[1:])) == len(branches[1:]) == 3
    if chunks != "random":
        groups = MoICL(groups=3).branches(whole)
        assert set(branches) == set(groups)
    logits = torch.randn(4, 2, 9, generator=GENERATOR)
    assert torch.allclose(strategy.combine(logits, 0), MoICL(groups=3).combine(logits, 0), atol=1e-6)


def test_parallel_icl_without_images_to_compare_is_a_sentence() -> None:
    bare = prompt(3).without_images("query")
    with pytest.raises(PlanError, match="the query has none"):
        parallel().branches(bare)
    with pytest.raises(PlanError, match="demonstration 0 has none"):
        parallel().branches(prompt(3).without_images("demos"))


def test_self_made_demonstrations_are_the_confirmed_pairs_in_text() -> None:
    def generate(prompts, max_new_tokens):
        texts = [part.text or "" for p in prompts for part in p.parts() if part.name == "query.question"]
        assert len(texts) == len(prompts)
        if "Variation" in texts[0]:
            return [f"{'which' if 'number 1' in t else 'who'} {t[-2]}?" for t in texts]
        if "Is this answer right" in texts[0]:
            return ["Yes." if " 2?" in t or " 3?" in t else "no" for t in texts]
        return [f"answer to {t}" for t in texts]

    strategy, prompts = SelfDemonstrations(), [prompt(1), prompt(2)]
    notes = strategy.prepare(prompts, generate)
    assert notes[0] == "".join(f"Question: which {i}? Answer: answer to which {i}?\n" for i in (2, 3))
    assert notes[1].startswith("Question: who 2?")
    shuffled = SelfDemonstrations(shuffled=True).prepare(prompts[:1], generate)[0]
    assert shuffled == "Question: which 2? Answer: answer to which 3?\nQuestion: which 3? Answer: answer to which 2?\n"
    rewritten = strategy.branches(prompts[0], notes[0])[1]
    assert rewritten.text.endswith(f"{notes[0]}What is number 1?")
    assert strategy.branches(prompts[0], "")[1] == prompts[0]
    assert torch.equal(strategy.combine(LOGITS[:2], 0), LOGITS[1])
    pairs = [(("a", ""), True), (("a", "b"), False), (("c", "d"), True), (("a", "b"), True)]
    assert chosen_pairs(pairs, 3) == [("c", "d"), ("a", "b")]
    with pytest.raises(ConfigError, match="less than the 3"):
        SelfDemonstrations(count=3, variations=2)


@dataclass(frozen=True, eq=False)
class SharedSpace(FixedVectors):
    """Images and captions in one space: the caption 'x .. y ..' has these coordinates."""

    digest = "shared space"

    def embed_texts(self, texts):
        rows = np.array([[float(v) for v in text.split()[1::2]] for text in texts])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_x_more_shows_the_nearest_captions_in_a_view_of_their_own(tmp_path) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("x 0 y 1\nx 1 y 0\nx 1 y 0.2\nx 1 y 0\n\nx -1 y 0\n")
    embedder = SharedSpace({"query": [1, 0]})
    method = XMoRe(captions=str(file), k=2, embedder=embedder, by="normalized")
    whole, image, texts = method.branches(prompt(1))
    assert whole == prompt(1)
    assert [len(p.images) for p in (image, texts)] == [1, 0]
    assert texts.text == "[user] Captions of similar images:\nx 1 y 0.2\nx 1 y 0\nWhat is number 1?"
    (_, both) = XMoRe(captions=str(file), k=2, embedder=embedder, view="one_prompt").branches(prompt(1))
    assert len(both.images) == 1
    random, keys = XMoRe(captions=str(file), k=1, choice="random"), [StreamKey(0, str(i)) for i in range(20)]
    assert len({random.branches(replace(prompt(1), key=key))[2].text for key in keys}) == 4
    views = LOGITS[1:].log_softmax(-1)
    certainty = 1 - torch.special.entr(views.exp()).sum(-1) / math.log(9)
    shares = certainty / certainty.sum(0)
    expected = (shares[..., None] * views.exp()).sum(0).log()
    assert torch.allclose(method.combine(LOGITS, 0), expected, atol=1e-5)
    with pytest.raises(ConfigError, match="has 4 different captions, fewer than k: 5"):
        XMoRe(captions=str(file), k=5)
    with pytest.raises(PlanError, match="the query has none"):
        method.branches(prompt(1).without_images("query"))
    assert XMoRe().branches(prompt(1)) == (prompt(1), *XMoRe(by="inverse").branches(prompt(1))[1:])
