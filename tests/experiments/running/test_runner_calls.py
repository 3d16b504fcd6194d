"""What the runner reports while it computes, in which order, and with which notes."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.running import run as run_module
from experiments.running import windows
from experiments.running.generation import SampleRequest
from experiments.running.recorder import Recorder
from experiments.running.run import run
from experiments.running.runner import BackgroundCalls, one_ahead, short_switches
from experiments.running.windows import cell_groups
from experiments.terminal.progress import SilentProgress
from icl.errors import DataError, PlanError
from icl.models.hf.model import HF
from icl.tasks.generated.binding import BindingTask
from icl.types import Context
from prompts.composers.turns import Chat

Mapping = Callable[..., dict[str, Any]]


class Recorded(SilentProgress):
    """A progress that records its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.notes: list[str] = []

    def begin(self, cells: int, samples: int, cells_done: int, samples_done: int) -> None:
        super().begin(cells, samples, cells_done, samples_done)
        self.calls.append(("begin", cells, samples, cells_done, samples_done))

    def cell_finished(self) -> None:
        super().cell_finished()
        self.calls.append("cell")

    def note(self, text: str) -> None:
        self.notes.append(text)

    def set_phase(self, what: str, reset_rate: bool = False) -> None:
        super().set_phase(what, reset_rate)
        self.calls.append(what)

    def end(self) -> None:
        self.calls.append("end")


def go(config: dict[str, Any], folder: Path, *overrides: str) -> Recorded:
    progress = Recorded()
    run(load_config(config, overrides), folder, progress)
    return progress


def test_phases_and_cells_are_reported_in_order(mapping: Mapping, tmp_path: Path) -> None:
    progress = go(mapping(grid={"shots": [1, 0]}), tmp_path)
    window = ["retrieving demonstrations", "answering", "cell", "retrieving demonstrations"]
    assert progress.calls == [("begin", 2, 12, 0, 0), "loading the model", *window, *window, "end"]
    more = go(mapping(grid={"shots": [1, 0, 2]}), tmp_path)
    assert more.calls[0] == ("begin", 3, 18, 2, 12)
    assert more.calls.count("cell") == 1


def test_each_of_several_models_is_named_when_it_loads(mapping: Mapping, tmp_path: Path) -> None:
    config = mapping(grid={"model": ["fake-copy", "fake-vote"]})
    del config["model"]
    phases = [call for call in go(config, tmp_path).calls if str(call).startswith("loading")]
    assert phases == ["loading the model fake-copy", "loading the model fake-vote"]


def test_cells_of_a_model_are_computed_by_task_and_few_shots_first(mapping: Mapping, shapes: str) -> None:
    tasks = [{"name": shapes, "queries": 3}, {"name": shapes, "queries": 4}]
    config = mapping(shots=None, grid={"shots": [2, 0], "task": tasks, "seed": None})
    del config["task"], config["grid"]["seed"]
    grid = expand(load_config({**config, "seeds": [0, 1]}))
    (model,) = grid.models
    groups = [[(len(c.task.queries), c.shots, c.seed) for c in cells] for cells in cell_groups(grid, model)]
    assert groups == [[(n, k, s) for s in (0, 1)] for n in (3, 4) for k in (0, 2)]
    assert cell_groups(grid, object()) == []  # type: ignore[arg-type]  # another model


def test_shots_whose_prompts_continue_one_another_are_computed_together(mapping: Mapping) -> None:
    def groups(order: str, retriever: str) -> list[list[int]]:
        grid = expand(load_config(mapping(shots=None, order=order, retriever=retriever, grid={"shots": [2, 0, 1]})))
        return [[cell.shots for cell in cells] for cells in cell_groups(grid, grid.models[0])]

    assert groups("as_retrieved", "random") == [[0], [2, 1]]
    assert groups("reversed", "random") == [[0], [1], [2]]
    assert groups("as_retrieved", "stratified") == [[0], [1], [2]], "its sets are not nested"


def test_finished_samples_that_keep_their_recorded_steps_are_noted(mapping: Mapping, toy: str, tmp_path: Path) -> None:
    def notes(*overrides: str) -> list[str]:
        progress = go(mapping(model=toy, shots=None, grid={"shots": [0]}), tmp_path, *overrides)
        return [note for note in progress.notes if "recorded steps" in note]

    assert notes("top_logprobs=2") == [], "nothing was finished before"
    assert notes("top_logprobs=2") == [], "they have these steps"
    assert notes() == [], "none are wanted"
    (note,) = notes("top_logprobs=3", "grid.shots=[0, 1]")
    assert note.endswith(
        "6 finished samples keep their recorded steps. To record the steps of all samples, start a new run with --fork."
    )


def test_what_a_model_cannot_do_is_an_error_before_any_data_are_read(
    mapping: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "check_data", lambda grid: pytest.fail("the data were read"))
    with pytest.raises(PlanError, match="needs next-token logits"):
        go(mapping(decoding="vcd"), tmp_path)
    assert not (tmp_path / "t").exists()


def test_a_run_whose_first_samples_fail_raises_only_if_none_was_ever_finished(
    mapping: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "import os\n\n\ndef answer(request):\n    if os.environ.get('BROKEN'):\n        raise ValueError('no')\n"
        "    return 'red'\n"
    )
    config = mapping(model={"name": "fake-scripted", "answer": f"{tmp_path / 'mine.py'}:answer"}, grid={"shots": [0]})
    monkeypatch.setattr("experiments.running.runner.MAX_INITIAL_FAILURES", 2)
    monkeypatch.setattr("experiments.running.preflight.Preflight.check_answer", lambda *_: None)
    monkeypatch.setenv("BROKEN", "1")
    with pytest.raises(DataError, match=r"the first 2 samples all failed; the last one: .*no"):
        go(config, tmp_path / "new")
    monkeypatch.delenv("BROKEN")
    go(config, tmp_path / "old")
    monkeypatch.setenv("BROKEN", "1")
    go({**config, "grid": {"shots": [0, 1]}}, tmp_path / "old")  # raises nothing: six samples are there


MODEL = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from icl.models.base import Model
from icl.types import Generation


@dataclass(frozen=True)
class Mine(Model):
    abilities: ClassVar[frozenset] = frozenset({"generate"})
    digest: ClassVar[str] = "mine"
    is_endpoint: ClassVar[bool] = ENDPOINT

    def count_tokens(self, prompt):
        return 1

    def generate(self, requests):
        with (Path(__file__).parent / "limits").open("a") as file:
            print(*(request.max_new_tokens for request in requests), file=file)
        return [Generation("red") for _ in requests]
"""


@pytest.mark.parametrize(("is_endpoint", "first"), [(False, "1"), (True, "9")])
def test_the_first_answer_has_one_token_or_at_an_endpoint_the_limit_of_the_run(
    mapping: Mapping, tmp_path: Path, is_endpoint: bool, first: str
) -> None:
    (tmp_path / "mine.py").write_text(MODEL.replace("ENDPOINT", str(is_endpoint)))
    go(mapping(model=f"{tmp_path / 'mine.py'}:Mine", max_new_tokens=9, shots=0), tmp_path)
    assert (tmp_path / "limits").read_text().split() == [first] + ["9"] * 6


def test_fields_that_arms_share_are_dropped_after_each_window(
    mapping: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.running.windows.WINDOW_SAMPLES", 2)
    sizes, sample = [], Recorder.sample

    def counted(self: Recorder, *arguments: Any) -> Any:
        made = sample(self, *arguments)
        sizes.append(len(self.shared))
        return made

    monkeypatch.setattr(Recorder, "sample", counted)
    go(mapping(), tmp_path)
    assert sizes == [1, 2] * 3


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
