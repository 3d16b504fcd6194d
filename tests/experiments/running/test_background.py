"""Threads of a run: windows made ahead and answers recorded beside the model change no sample and lose none."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.running import windows
from experiments.running.background import BackgroundCalls, one_ahead, short_switches
from experiments.running.generation import SampleRequest
from experiments.running.run import run
from icl.models.hf.model import HF
from icl.tasks.generated.binding import BindingTask
from icl.types import Context
from prompts.composers.chat import Chat

CONFIG: dict[str, Any] = {
    "task": {"name": "binding", "queries": 12},
    "model": {"name": "hf", "path": "tiny", "dtype": "float32", "device": "cpu"},
    "seeds": [0],
    "max_new_tokens": 3,
    "grid": {"shots": [2], "decoding": ["greedy", "vcd"]},
}


def sample_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("cells/*/*.jsonl"))}


def test_the_next_item_is_made_while_the_caller_works() -> None:
    is_second_made = Event()

    def items() -> Iterator[int]:
        yield 1
        is_second_made.set()
        yield 2

    with ThreadPoolExecutor(1) as thread:
        ahead = one_ahead(items(), thread)
        assert next(ahead) == 1
        assert is_second_made.wait(10)
        assert list(ahead) == [2]


def test_an_error_is_raised_where_its_item_is_taken() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("second")

    with ThreadPoolExecutor(1) as thread:
        ahead = one_ahead(items(), thread)
        assert next(ahead) == 1
        with pytest.raises(ValueError, match="second"):
            next(ahead)


def test_calls_are_made_in_order_and_none_after_one_that_failed() -> None:
    calls, made = BackgroundCalls(), list[int]()

    def call(number: int) -> None:
        if number == 2:
            raise ValueError("two")
        made.append(number)

    for number in (0, 1):
        calls.submit(call, number)
    calls.wait()
    assert made == [0, 1]
    calls.submit(call, 2)
    with pytest.raises(ValueError, match="two"):
        calls.wait()
    calls.submit(call, 3)
    calls.close()
    assert made == [0, 1]


def test_the_switch_interval_is_restored() -> None:
    before = sys.getswitchinterval()
    with short_switches():
        assert sys.getswitchinterval() < before
    assert sys.getswitchinterval() == before


def test_samples_are_those_of_a_run_without_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW_SAMPLES", 8)
    used: list[str] = []
    submit = BackgroundCalls.submit
    monkeypatch.setattr(BackgroundCalls, "submit", lambda self, *call: used.append("call") or submit(self, *call))
    run(load_config({**CONFIG, "name": "threads"}), tmp_path)
    assert len(used) == 24
    monkeypatch.setattr(HF, "enable_threads", lambda self: False)
    run(load_config({**CONFIG, "name": "plain"}), tmp_path)
    assert len(used) == 24
    threads, plain = sample_files(tmp_path / "threads"), sample_files(tmp_path / "plain")
    assert threads == plain
    assert sum(text.count(b"\n") for text in plain.values()) == 24


def test_an_interrupt_loses_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.running import runner

    answer = runner.answer

    def interrupted(model: Any, requests: Any, counters: Any, on_answer: Any, **settings: Any) -> None:
        def counting(request: SampleRequest, result: Any) -> None:
            on_answer(request, result)
            answered.append(request.item.example.id)
            if len(answered) == 9:
                raise KeyboardInterrupt

        answer(model, requests, counters, counting, **settings)

    answered: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(runner, "answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(load_config({**CONFIG, "name": "interrupted"}), tmp_path)
    assert sum(text.count(b"\n") for text in sample_files(tmp_path / "interrupted").values()) == 9
    done = run(load_config({**CONFIG, "name": "interrupted"}), tmp_path)
    assert (done.present, done.computed) == (9, 15)


def test_windows_of_a_retriever_that_calls_the_model_are_not_made_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("made ahead")

    monkeypatch.setattr("experiments.running.runner.one_ahead", refuse)
    config = {**CONFIG, "name": "calls", "grid": {"shots": [1], "order": [{"name": "entropy"}]}}
    run(load_config(config), tmp_path)


def test_a_thread_counts_tokens_while_another_processes_images() -> None:
    model = HF(path="tiny", dtype="float32", device="cpu")
    model.load()
    assert model.enable_threads()
    task, alone = BindingTask(query_limit=48), HF(path="tiny", dtype="float32", device="cpu")
    prompts = [Chat().compose(Context(query.query)) for query in task.queries]
    expected = [alone.count_tokens(prompt) for prompt in prompts]
    images = [(image, False) for prompt in prompts for image in prompt.images]
    with ThreadPoolExecutor(2) as threads, short_switches():
        ahead = [threads.submit(model.pixels.prepare_ahead, images[i : i + 4]) for i in range(0, len(images), 4)]
        counts = [threads.submit(model.count_tokens, prompt) for prompt in prompts]
        session_rows = len(model.open(prompts))
        assert [count.result() for count in counts] == expected
        for each in ahead:
            each.result()
    assert session_rows == len(prompts)
