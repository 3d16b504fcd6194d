"""Images of later batches are processed in a thread while the model decodes."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from decoding.arms.arm import parse_arm
from decoding.engine import read_ahead
from decoding.engine.engine import run_requests
from decoding.engine.read_ahead import CHUNK, ReadAhead
from decoding.engine.requests import DecodingRequest
from icl.errors import ImageError
from icl.models.hf.image_processing import ImageProcessor
from icl.models.hf.model import HF
from icl.types import Generation, Prompt
from lab.bench.decoding import prompts_of
from tests.decoding.prompts import prompt
from tests.decoding.toy import Toy


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
    monkeypatch.setattr(read_ahead, "MAX_IMAGES", 7)
    with read_ahead.read_ahead(model) as ahead:
        ahead.start([prompt(i, shots=2) for i in range(9)])  # three images each
        ahead.wait()
    assert sum(sizes) == 6
