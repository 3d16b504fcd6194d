"""Batches within a token budget."""

import gc
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

import decoding.engine.engine
from decoding.arms.arm import Arm, default_controls, parse_arm
from decoding.base import Generate, Note, Strategy
from decoding.engine import engine
from decoding.engine.engine import (
    BATCH_TOKENS,
    CHUNK,
    ROWS_PER_PREFILL,
    BatchQueue,
    ReadAhead,
    run_requests,
    token_budget,
)
from decoding.engine.requests import Counters, DecodingRequest, Failure, LazyBranches, PreparedRequest
from decoding.engine.result_collector import prepare_requests
from decoding.engine.trace import TRACE_FIELDS
from icl.errors import ImageError
from icl.images import Image
from icl.memory import BatchLimit
from icl.models.hf.image_processing import ImageProcessor
from icl.models.hf.model import HF
from icl.streams import StreamKey
from icl.types import Generation, Part, Prompt, Turn
from lab.bench.decoding import prompts_of
from tests.decoding.prompts import prompt
from tests.decoding.toy import Toy, ToySession


def six_arms() -> list[Arm]:
    vcd = parse_arm("vcd")
    mild = parse_arm({"name": "vcd", "alpha": 0.4, "sampling": {"temperature": 0.9}})
    return [parse_arm("greedy"), parse_arm("sampling"), vcd, mild, *default_controls(vcd)[:2]]


def jobs_of(arms: Sequence[Arm], count: int = 7) -> list[DecodingRequest]:
    return [
        DecodingRequest(prompt(i, shots=i % 3), arm, max_new_tokens=3 + i % 4) for arm in arms for i in range(count)
    ]


def test_six_arms_together_answer_as_each_request_alone() -> None:
    model = Toy(stop_bias=1.0)
    requests = jobs_of(six_arms())
    together = run_requests(model, requests)
    assert all(isinstance(answer, Generation) for answer in together)
    by_arm = [answer for arm in six_arms() for answer in run_requests(model, [j for j in requests if j.arm == arm])]
    assert by_arm == together
    assert [run_requests(model, [request])[0] for request in requests] == together


def test_answers_do_not_depend_on_order_or_budget() -> None:
    model = Toy(stop_bias=1.0)
    requests = jobs_of(six_arms())
    whole = run_requests(model, requests)
    model.max_batch_tokens = 1
    assert run_requests(model, requests[::-1])[::-1] == whole


def test_each_distinct_branch_prompt_is_prefilled_once() -> None:
    model, counters = Toy(), Counters()
    run_requests(model, jobs_of(six_arms()), counters)
    assert model.counts["prompts"] == counters.prompts_prefilled == 14  # 7 references, 7 noised
    assert counters.branch_prompts == 7 * (1 + 1 + 2 + 2 + 1 + 1)
    assert counters.duplicates_merged == 7 * 8 - 14
    assert counters.rows < counters.rows_without_sharing


def test_equal_requests_are_computed_once() -> None:
    model, counters = Toy(), Counters()
    greedy, sampled, vcd = parse_arm("greedy"), parse_arm("sampling"), parse_arm({"name": "vcd", "label": "again"})
    p = prompt(1)
    other_query = Prompt(p.turns, StreamKey(0, "another query"))
    requests = [
        DecodingRequest(p, greedy),
        DecodingRequest(p, greedy),
        DecodingRequest(other_query, greedy),  # greedy has no stream: the query does not matter
        DecodingRequest(p, greedy, max_new_tokens=3),
        DecodingRequest(p, parse_arm("vcd")),
        DecodingRequest(p, vcd),  # a label is no difference
        DecodingRequest(other_query, vcd),  # its noise is another
        DecodingRequest(p, sampled),
        DecodingRequest(p, sampled),  # the same stream
        DecodingRequest(other_query, sampled),
        DecodingRequest(p, greedy, ("w1", "w2"), "options"),
        DecodingRequest(p, Arm(greedy.strategy, sampled.sampler), ("w1", "w2"), "options"),  # options are not sampled
        DecodingRequest(p, greedy, ("w2", "w1"), "options"),
    ]
    answers = run_requests(model, requests, counters)
    assert counters.decoding_requests == 13
    assert counters.requests_reused == 5
    assert answers[0] == answers[1] == answers[2]
    assert answers[4] == answers[5]
    assert answers[7] == answers[8] != answers[9]
    assert answers[10] == answers[11]


def test_batches_stay_within_the_models_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Toy(stop_bias=-9.0)
    model.max_batch_tokens = 400
    sizes: list[int] = []
    advance = ToySession.advance

    def watched(self: ToySession, tokens: torch.Tensor) -> None:
        advance(self, tokens)
        longest = max(model.count_tokens(row.prompt) + len(row.tokens) for row in self.rows)
        sizes.append(len(self) * longest)

    monkeypatch.setattr(ToySession, "advance", watched)
    counters = Counters()
    run_requests(
        model,
        [DecodingRequest(prompt(i, shots=i % 4), parse_arm("vcd"), max_new_tokens=4) for i in range(30)],
        counters,
    )
    assert counters.batches > 3
    assert 100 < max(sizes) <= 400


def test_the_session_of_a_finished_batch_is_freed_without_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions, make = list[weakref.ref[ToySession]](), ToySession.__init__

    def make_session(session: ToySession, *arguments: Any) -> None:
        sessions.append(weakref.ref(session))
        make(session, *arguments)

    monkeypatch.setattr(ToySession, "__init__", make_session)
    gc.disable()
    try:
        run_requests(Toy(), [DecodingRequest(prompt(0), parse_arm("vcd"), max_new_tokens=2)])
        alive = [session() for session in sessions]
    finally:
        gc.enable()
    assert alive == [None] * len(sessions)
    assert sessions


@pytest.mark.parametrize("lazy_branches", ["auto", "always", "never"])
def test_requests_that_join_a_running_batch_get_the_same_answers_in_fewer_steps(
    lazy_branches: LazyBranches, monkeypatch: pytest.MonkeyPatch
) -> None:
    beams = parse_arm({"name": "greedy", "sampling": {"beams": 2}})
    requests = [
        DecodingRequest(prompt(i, shots=i % 3), arm, max_new_tokens=1 + 9 * (i % 4 == 0))
        for arm in (*six_arms(), beams)
        for i in range(16)
    ]
    sizes: list[int] = []
    monkeypatch.setattr(BatchLimit, "record_fit", lambda self, size: sizes.append(size))
    model, waiting, joining = Toy(stop_bias=-9.0), Counters(), Counters()
    model.max_batch_tokens = 1200
    expected = run_requests(model, requests, waiting, lazy_branches=lazy_branches)
    answers = run_requests(model, requests, joining, lazy_branches=lazy_branches, continuous_batching=True)
    assert answers == expected
    assert joining.forwards < 0.75 * waiting.forwards
    assert joining.batches < waiting.batches
    assert max(sizes) <= 1200
    assert joining.prompts_prefilled + joining.prompts_saved == waiting.prompts_prefilled + waiting.prompts_saved
    assert joining.arms == waiting.arms or lazy_branches == "auto"  # schedules depend on the requests of a batch


def test_answers_are_reported_while_longer_ones_still_run() -> None:
    model, reported = Toy(stop_bias=-9.0), list[int]()
    model.max_batch_tokens = 250
    requests = [DecodingRequest(prompt(i), parse_arm("greedy"), max_new_tokens=3 + 30 * (i == 0)) for i in range(9)]
    run_requests(model, requests, continuous_batching=True, on_result=lambda i, _: reported.append(i))
    assert reported == [1, 2, 3, 4, 5, 6, 0, 7, 8]  # with the last two, nothing waits for a place any more


def broken_prompt(tmp_path: Path) -> Prompt:
    path = tmp_path / "broken.png"
    path.write_bytes(b"not an image")
    parts = (Part(Image.from_path(path), "query.image[0]"), Part("What?", "query.question"))
    return Prompt((Turn("user", parts),), StreamKey(0, "broken"))


def test_an_unreadable_image_fails_its_own_requests(tmp_path: Path) -> None:
    model, counters = Toy(), Counters()
    broken = broken_prompt(tmp_path)
    requests = [DecodingRequest(p, arm) for p in (prompt(1), broken, prompt(2)) for arm in six_arms()]
    answers = run_requests(model, requests, counters)
    for i, answer in enumerate(answers):
        if 6 <= i < 12:
            assert isinstance(answer, Failure)
            assert "broken.png" in answer.reason
        else:
            assert isinstance(answer, Generation)
    assert counters.requests_failed == 6


@pytest.mark.parametrize(
    "error",
    [
        ImageError("image 7 cannot be read."),
        RuntimeError("can't allocate memory: 9 GB"),
        MemoryError(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
@pytest.mark.parametrize("max_batch_tokens", [None, 500])
def test_a_prompt_that_cannot_be_prefilled_fails_alone(error: Exception, max_batch_tokens: int | None) -> None:
    class Picky(Toy):
        def open(self, prompts: Sequence[Prompt]) -> ToySession:
            if any("number 3" in p.text for p in prompts):
                raise error
            return super().open(prompts)

    requests, picky = jobs_of(six_arms(), count=5), Picky()
    picky.max_batch_tokens = max_batch_tokens
    plain = run_requests(Toy(), requests)
    answers = run_requests(picky, requests, continuous_batching=max_batch_tokens is not None)
    for request, answer, expected in zip(requests, answers, plain, strict=True):
        if request.prompt.key.query == "q3":
            assert isinstance(answer, Failure)
            assert ("image 7" in answer.reason) or ("out of memory" in answer.reason)
        else:
            assert answer == expected


@pytest.mark.parametrize("max_batch_tokens", [None, 500])
def test_options_that_cannot_be_scored_fail_alone(max_batch_tokens: int | None) -> None:
    """The batch has opened requests before the one that fails: none of them has a result yet."""

    class Picky(Toy):
        def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
            if "number 3" in prompt.text:
                raise ImageError("image 7 cannot be read.")
            return super().option_ids(prompt, options)

    texts, picky = jobs_of([parse_arm("greedy")], count=5), Picky()
    requests = [*texts, *(DecodingRequest(one.prompt, one.arm, ("a b", "c"), "options") for one in texts)]
    picky.max_batch_tokens = max_batch_tokens
    answers = run_requests(picky, requests, continuous_batching=max_batch_tokens is not None)
    assert isinstance(answers[8], Failure)
    assert "image 7" in answers[8].reason
    plain = run_requests(Toy(), requests)
    assert [*answers[:8], answers[9]] == [*plain[:8], plain[9]]


def test_out_of_memory_halves_the_batch() -> None:
    class Small(Toy):
        def open(self, prompts: Sequence[Prompt]) -> ToySession:
            if len(prompts) > 3:
                raise torch.OutOfMemoryError("no room")
            return super().open(prompts)

    counters, requests = Counters(), [DecodingRequest(prompt(i), parse_arm("vcd")) for i in range(9)]
    assert run_requests(Small(), requests, counters) == run_requests(Toy(), requests)
    assert counters.batches_halved > 1


def test_an_error_of_a_users_model_is_reported_and_an_error_of_ours_is_raised() -> None:
    class Broken(Toy):
        def open(self, prompts: Sequence[Prompt]) -> ToySession:
            raise RuntimeError("shape mismatch")

    requests = [DecodingRequest(prompt(1), parse_arm("greedy"))]
    (answer,) = run_requests(Broken(), requests)
    assert isinstance(answer, Failure)
    assert answer.reason.startswith(f"Broken.open ({__file__}, line ")
    assert answer.reason.endswith("failed: RuntimeError: shape mismatch.")

    class Ours(Toy):
        def open(self, prompts: Sequence[Prompt]) -> ToySession:
            raise RuntimeError("shape mismatch")

    Ours.open.__code__ = Ours.open.__code__.replace(co_filename=decoding.engine.engine.__file__)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run_requests(Ours(), requests)


@dataclass(frozen=True)
class Describes(Strategy):
    """Appends the description of the prompt, which is generated first, to the prompt."""

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[Note]:
        questions = [replace(p, turns=(*p.turns, Turn("user", (Part("Describe it."),)))) for p in prompts]
        return generate(questions, 3)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return prompt, replace(prompt, turns=(*prompt.turns, Turn("user", (Part(f"It is {note}."),))))

    def combine(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        return 2 * logits[0] - logits[1]


def test_preparation_generates_greedily_once_per_prompt() -> None:
    model, counters = Toy(stop_bias=-9.0), Counters()
    arm = Arm(Describes())
    answers = run_requests(model, [DecodingRequest(prompt(i), arm, max_new_tokens=2) for i in (1, 2, 1)], counters)
    question = replace(prompt(1), turns=(*prompt(1).turns, Turn("user", (Part("Describe it."),))))
    (described,) = run_requests(model, [DecodingRequest(question, parse_arm("greedy"), max_new_tokens=3)])
    assert isinstance(described, Generation)
    read = Describes().branches(prompt(1), described.text)
    first = 2 * model.open([read[0]]).logits - model.open([read[1]]).logits
    assert isinstance(answers[0], Generation)
    assert answers[0].tokens[0] == int(first.argmax())
    assert answers[0] == answers[2]
    assert counters.prompts_prepared == 2


def test_requests_whose_choice_is_a_default_are_counted() -> None:
    """The toy model names no change of savcd, and no choice of one change is a default."""
    counts = {}
    for choice in ("model", "random", "noise"):
        counters = Counters()
        run_requests(Toy(stop_bias=-9.0), jobs_of([parse_arm({"name": "savcd", "choice": choice})], 3), counters)
        counts[choice] = counters.to_dict()["default_notes"]
    assert counts == {"model": 3, "random": 0, "noise": 0}


def test_a_failed_preparation_fails_its_own_requests() -> None:
    class Deaf(Toy):
        def open(self, prompts: Sequence[Prompt]) -> ToySession:
            if any("Describe" in p.text and "number 2" in p.text for p in prompts):
                raise ImageError("image 2 cannot be read.")
            return super().open(prompts)

    requests = [DecodingRequest(prompt(i), Arm(Describes())) for i in (1, 2, 3)]
    first, second, third = run_requests(Deaf(), requests)
    assert isinstance(second, Failure)
    assert "image 2" in second.reason
    assert [first, third] == run_requests(Toy(), [requests[0], requests[2]])


def test_results_are_reported_as_soon_as_they_are_available(tmp_path: Path) -> None:
    model = Toy()
    model.max_batch_tokens = 1
    results: dict[int, object] = {}
    requests = [DecodingRequest(broken_prompt(tmp_path), parse_arm("greedy")), *jobs_of(six_arms(), 3)]
    answers = run_requests(model, requests, on_result=results.__setitem__)
    assert [results[i] for i in range(len(requests))] == answers


def test_usage_is_the_cost_of_an_answer_alone() -> None:
    model = Toy(stop_bias=-9.0)
    p = prompt(1)
    greedy, vcd = run_requests(model, [DecodingRequest(p, parse_arm(n), max_new_tokens=4) for n in ("greedy", "vcd")])
    assert isinstance(greedy, Generation)
    assert isinstance(vcd, Generation)
    assert (greedy.usage.prompt_tokens, greedy.usage.new_tokens, greedy.usage.forwards) == (model.count_tokens(p), 4, 4)
    assert (vcd.usage.prompt_tokens, vcd.usage.new_tokens, vcd.usage.forwards) == (2 * model.count_tokens(p), 4, 8)
    assert tuple(vcd.trace) == TRACE_FIELDS
    assert len(vcd.trace["entropy"]) == 4
    (quiet,) = run_requests(model, [DecodingRequest(p, parse_arm("vcd"))], trace=False)
    assert isinstance(quiet, Generation)
    assert quiet.trace == {}


def test_no_requests_are_no_work() -> None:
    assert run_requests(Toy(), []) == []


def test_an_image_is_described_once_however_many_calls_need_it() -> None:
    model, arms = (
        Toy(stop_bias=1.0),
        [
            parse_arm({"name": "code", "max_new_tokens": 3}),
            parse_arm({"name": "code", "kappa": 1, "max_new_tokens": 3}),
        ],
    )
    one_image = [prompt(1, question=f"What is {i}?") for i in range(4)]
    first, second = Counters(), Counters()
    answers = run_requests(model, [DecodingRequest(p, arm) for p in one_image for arm in arms], first)
    assert all(isinstance(answer, Generation) for answer in answers)
    assert first.prompts_prepared == 1
    assert run_requests(model, [DecodingRequest(p, arm) for p in one_image for arm in arms], second) == answers
    assert second.prompts_prepared == 0
    other = Counters()
    run_requests(Toy(stop_bias=1.0), [DecodingRequest(one_image[0], arms[0])], other)
    assert other.prompts_prepared == 1  # another model says something else


def test_a_batch_that_did_not_fit_is_not_tried_again_and_buffers_are_freed() -> None:
    class Small(Toy):
        opened: ClassVar[list[int]] = []
        freed: ClassVar[list[bool]] = []

        def open(self, prompts: Sequence[Prompt]) -> ToySession:
            self.opened.append(len(prompts))
            if len(prompts) > 40:
                raise torch.OutOfMemoryError("no room")
            return super().open(prompts)

        def free_buffers(self) -> None:
            self.freed.append(sys.exc_info()[0] is None)  # outside of `except`, whose traceback holds tensors

    model, counters = Small(stop_bias=-9.0), Counters()
    requests = [DecodingRequest(prompt(i), parse_arm("greedy"), max_new_tokens=2) for i in range(240)]
    model.max_batch_tokens = 64 * (max(model.count_tokens(request.prompt) for request in requests) + 2)
    assert run_requests(model, requests, counters) == run_requests(Toy(stop_bias=-9.0), requests)
    assert model.opened == [64, 32, 32, 32, 32, 40, 40, 32]
    assert model.freed == [True]
    run_requests(model, requests[:100])  # the limit is remembered for the run
    assert max(model.opened[8:]) <= 50
    assert counters.batches_halved == 1


def test_arms_of_a_context_that_did_not_fit_together_are_decoded_apart() -> None:
    class Small(Toy):
        opened: ClassVar[list[int]] = []

        def open(self, prompts: Sequence[Prompt]) -> ToySession:
            self.opened.append(len(prompts))
            if len(prompts) > 2:
                raise torch.OutOfMemoryError("no room")
            return super().open(prompts)

    model = Small()
    arms = [parse_arm({"name": "vcd", "noise_step": step}) for step in (100, 200, 300, 400)]
    requests = [DecodingRequest(prompt(i), arm, max_new_tokens=2) for i in range(3) for arm in arms]
    assert run_requests(model, requests) == run_requests(Toy(), requests)
    assert sum(size > 2 for size in model.opened) <= 5, "a failed size was tried again"


def model(max_batch_tokens: int | None = None, budget: int | None = None) -> Any:
    return SimpleNamespace(max_batch_tokens=max_batch_tokens, token_budget=budget)


def prepared(number: int, tokens: int, new_tokens: int = 2, node: Any = "greedy", branches: int = 1) -> PreparedRequest:
    request = DecodingRequest(prompt(number), parse_arm(node), max_new_tokens=new_tokens)
    digests = tuple(f"{number}/{branch}" for branch in range(branches))
    return PreparedRequest(request, (prompt(number),) * branches, digests, (tokens,) * branches)


def batches(
    requests: Sequence[PreparedRequest], limit: BatchLimit, row_overhead: int = 0
) -> Iterator[tuple[list[int], int]]:
    queue = BatchQueue(requests, limit, row_overhead)
    while queue.pending:
        yield queue.take()


def sizes(requests: Sequence[PreparedRequest], budget: int) -> list[list[int]]:
    return [indices for indices, _ in batches(requests, BatchLimit(budget))]


def test_contexts_share_a_batch_up_to_the_budget_itself() -> None:
    three = [prepared(i, tokens=8) for i in range(3)]  # rows of 10 tokens with the answer
    assert sizes(three, 30) == [[0, 1, 2]]
    assert sizes(three, 29) == [[0, 1], [2]]
    assert sizes(three, 1) == [[0], [1], [2]]  # a context is never split


def test_long_contexts_come_first_and_decide_the_length_of_all_rows() -> None:
    mixed = [prepared(0, tokens=3), prepared(1, tokens=18), prepared(2, tokens=8)]
    assert sizes(mixed, 60) == [[1, 2, 0]]
    assert sizes(mixed, 59) == [[1, 2], [0]]


def test_a_context_counts_a_row_for_each_branch_and_beam() -> None:
    contrast = [prepared(i, tokens=8, node="vcd", branches=2) for i in range(2)]
    assert [sizes(contrast, budget) for budget in (40, 39)] == [[[0, 1]], [[0], [1]]]
    beams = [prepared(i, tokens=8, node={"name": "greedy", "sampling": {"beams": 3}}) for i in range(2)]
    assert [sizes(beams, budget) for budget in (60, 59)] == [[[0, 1]], [[0], [1]]]


def test_the_arms_of_a_context_stay_together() -> None:
    requests = [prepared(0, 8), prepared(1, 8), prepared(0, 8, node="cad"), prepared(1, 8, node="cad")]
    assert sizes(requests, 1) == [[0, 2], [1, 3]]


def shots_of(number: int, shots: int, tokens: int) -> PreparedRequest:
    """A request whose prompt begins with that of fewer shots, except for the query."""
    turns = tuple(Turn("user", (Part(f"demonstration {i} of {number}"),)) for i in range(shots))
    own = Prompt((*turns, Turn("user", (Part(f"query {number}"),))), StreamKey(0, f"q{number}"))
    return PreparedRequest(DecodingRequest(own, parse_arm("greedy")), (own,), (own.digest,), (tokens,))


def test_the_shots_of_a_query_share_a_batch_if_they_fit_together() -> None:
    few_first = [shots_of(number, shots, 10 * shots) for shots in (2, 4, 8) for number in range(2)]
    longest = 80 + few_first[0].request.max_output_tokens
    assert sizes(few_first, 6 * longest) == [[4, 2, 0, 5, 3, 1]]
    assert sizes(few_first, 5 * longest) == [[4, 2, 0], [5, 3, 1]]
    assert sizes(few_first, 2 * longest) == [[4, 2], [0, 5], [3, 1]], "no batch is larger than the limit"
    others = [shots_of(0, 2, 20), prepared(0, 8), shots_of(1, 4, 40), shots_of(2, 8, 80)]
    assert sizes(others, 100 * longest) == [[3, 2, 0, 1]], "other queries are ordered by length"


def test_the_budget_is_the_models_own_or_a_multiple_of_its_prefill_or_the_default() -> None:
    assert token_budget(model(7, 100)) == 7
    assert token_budget(model(None, 100)) == 100 * ROWS_PER_PREFILL
    assert token_budget(model()) == BATCH_TOKENS


def test_a_row_counts_what_it_needs_besides_its_tokens() -> None:
    three = [prepared(i, tokens=8) for i in range(3)]
    assert list(batches(three, BatchLimit(45), row_overhead=5)) == [([0, 1, 2], 45)]
    assert list(batches(three, BatchLimit(44), row_overhead=5)) == [([0, 1], 30), ([2], 15)]


def test_batches_follow_a_limit_that_changes_between_them() -> None:
    limit = BatchLimit(40)
    iterator = batches([prepared(i, tokens=8) for i in range(10)], limit)
    assert next(iterator) == ([0, 1, 2, 3], 40)
    limit.record_failure(40)
    assert list(iterator) == [([4, 5], 20), ([6, 7], 20), ([8, 9], 20)]


def test_a_context_of_a_size_that_failed_is_split_into_its_arms() -> None:
    arms = [prepared(0, 8, node=node) for node in ("greedy", "cad", "vcd")]
    limit = BatchLimit(100)
    assert list(batches(arms, limit)) == [([0, 1, 2], 30)]
    limit.record_failure(30)
    assert [size for _, size in batches(arms, limit)] == [10, 20]


def answers(model: Any, prompts: Sequence[Prompt], **more: Any) -> list[Any]:
    arms = [parse_arm("greedy"), parse_arm("vcd")]
    return run_requests(model, [DecodingRequest(p, arm, max_new_tokens=3) for p in prompts for arm in arms], **more)


def ahead_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_images_of_later_batches_are_processed_in_the_thread_with_the_same_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[str] = []
    process = ImageProcessor._call

    def spy(self: ImageProcessor, texts: list[str], images: list[Any]) -> dict[str, Any]:
        threads.append(threading.current_thread().name.split("_")[0])
        return process(self, texts, images)

    def run() -> tuple[list[Any], list[str]]:
        model = HF(path="tiny", dtype="float32", device="cpu", token_budget=256)  # several batches
        model.load()
        threads.clear()
        return answers(model, prompts_of(0)[:8]), list(threads)

    monkeypatch.setattr(ImageProcessor, "_call", spy)
    ahead, by_thread = run()
    monkeypatch.setattr(ReadAhead, "start", lambda self, prompts: None)
    alone, by_host = run()
    assert by_thread.count("read-ahead") > 0
    assert "read-ahead" not in by_host
    assert [one.tokens for one in ahead] == [one.tokens for one in alone]
    assert [one.trace for one in ahead] == [one.trace for one in alone]


class Ahead(Toy):
    """A model whose batches hold one context, with a hook for what is prepared ahead."""

    max_batch_tokens = 1
    hook: Any = None

    def prepare_ahead(self, prompts: Sequence[Prompt]) -> None:
        self.hook(prompts)


@pytest.mark.parametrize("error", [ImageError("no such image"), ValueError("a bug of an edit")])
def test_a_prompt_that_cannot_be_prepared_fails_only_where_it_is_used(error: Exception) -> None:
    model, prompts = Ahead(), [prompt(i) for i in range(6)]

    def fail(prompts: Sequence[Prompt]) -> None:
        raise error

    model.hook = fail
    made = answers(model, prompts)
    assert all(isinstance(one, Generation) for one in made)
    assert [one.tokens for one in made] == [one.tokens for one in answers(Toy(), prompts)]


def test_an_interrupt_ends_the_thread_after_a_few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prepared = Ahead(), list[int]()
    release, started = threading.Event(), threading.Event()

    def wait(prompts: Sequence[Prompt]) -> None:
        prepared.append(len(prompts))
        started.set()
        release.wait(5)

    def interrupt(index: int, result: Any) -> None:
        raise KeyboardInterrupt

    model.hook = wait
    stop = ReadAhead.wait

    def released(self: ReadAhead) -> None:
        assert started.wait(5)
        self.is_stopped.set()  # as after an interrupt in the middle of a chunk
        release.set()
        stop(self)

    monkeypatch.setattr(ReadAhead, "wait", released)
    with pytest.raises(KeyboardInterrupt):
        answers(model, [prompt(i) for i in range(20)], on_result=interrupt)
    assert prepared == [CHUNK]
    assert ahead_threads() == []


def test_a_limited_number_of_images_is_prepared_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = Ahead(), list[int]()
    model.hook = lambda prompts: sizes.append(sum(len(one.images) for one in prompts))
    monkeypatch.setattr(engine, "MAX_IMAGES", 7)
    with engine.read_ahead(model) as ahead:
        ahead.start([prompt(i, shots=2) for i in range(9)])  # three images each
        ahead.wait()
    assert sum(sizes) == 6


def no_generation(prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
    raise AssertionError("nothing is generated")


def test_a_strategy_of_option_scores_is_refused_for_text_only() -> None:
    arm = parse_arm("pmi")
    requests = [DecodingRequest(prompt(1), arm, ("a", "b"), mode) for mode in ("generate", "options")]  # type: ignore[arg-type]
    refused, prepared = prepare_requests(requests, no_generation, lambda one: 1)
    assert isinstance(refused, Failure)
    assert refused.reason == "pmi scores options and cannot generate text. Use answer_mode: options."
    assert isinstance(prepared, PreparedRequest)
    assert prepared.branches == arm.strategy.branches(prompt(1))


def test_each_distinct_prompt_is_counted_once() -> None:
    counted: list[Prompt] = []

    def count_tokens(one: Prompt) -> int:
        counted.append(one)
        return len(counted)

    requests = [DecodingRequest(prompt(1), parse_arm(name)) for name in ("greedy", "cad", "ced")]
    greedy, cad, ced = prepare_requests(requests, no_generation, count_tokens)
    assert len(counted) == 2
    assert isinstance(greedy, PreparedRequest)
    assert isinstance(cad, PreparedRequest)
    assert isinstance(ced, PreparedRequest)
    assert (greedy.tokens, cad.tokens, ced.tokens) == ((1,), (1, 2), (1, 2))
