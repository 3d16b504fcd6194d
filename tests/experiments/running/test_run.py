import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.launch.base import Launch
from experiments.results.loaded_run import load_run
from experiments.running import runner, windows
from experiments.running.run import run
from experiments.running.run_session import RunOutcome
from experiments.running.runner import Runner
from experiments.store.store import Store
from experiments.terminal.progress import SilentProgress
from icl.errors import DataError, ModelError, StoreError
from icl.metrics.accuracy import Strict
from icl.models.base import Model, Request
from icl.models.hf import checkpoint
from icl.types import Generation

Mapping = Callable[..., dict[str, Any]]


def go(config: Any, folder: Path, *overrides: str, **more: Any) -> RunOutcome:
    return run(load_config(config, overrides), folder, **more)


def contents(folder: Path) -> dict[tuple[str, str], tuple[Any, ...]]:
    """The samples of a run, without the order in which they were computed."""
    store = Store(folder)
    return {
        (digest, sample["query"]): (sample.get("output"), str(sample.get("demos")), sample.get("prompt_digest"))
        for digest in (store.read_run() or {})["cells"]
        for sample in store.samples(digest)
    }


def test_fakes_have_their_exact_scores(mapping: Mapping, tmp_path: Path) -> None:
    models = [{"name": "fake-gold"}, {"name": "fake-gold", "accuracy": 0.0}, "fake-copy", "fake-vote"]
    config = mapping(grid={"model": models}, shots=3, seeds=[0, 1], task=mapping()["task"] | {"queries": 30})
    del config["model"]
    go(config, tmp_path)
    frame = load_run(tmp_path / "t").samples()
    means = frame.groupby("model")["strict"].mean()
    assert means["fake-gold(accuracy=1)"] == 1
    assert means["fake-gold(accuracy=0)"] == 0
    copy, vote = (frame[frame["model"] == name] for name in ("fake-copy", "fake-vote"))
    assert (copy["strict"] == copy["last_copy"]).all()
    assert (vote["strict"] == vote["vote"]).all()
    assert len(frame) == 4 * 2 * 30


def test_a_model_that_cannot_be_loaded_is_an_error_before_the_first_sample_of_another(
    mapping: Mapping, tmp_path: Path
) -> None:
    folder = tmp_path / "weightless"
    shutil.copytree(checkpoint.TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = mapping(grid={"model": ["fake-copy", {"name": "hf", "path": str(folder)}]})
    del config["model"]
    with pytest.raises(ModelError, match="no weights"):
        go(config, tmp_path / "runs")
    assert contents(tmp_path / "runs" / "t") == {}


def test_all_arms_see_the_same_queries_and_demonstrations(mapping: Mapping, tmp_path: Path) -> None:
    config = mapping(grid={"model": ["fake-copy", "fake-vote"], "composer": ["chat", "interleaved"]}, shots=3)
    del config["model"]
    go(config, tmp_path)
    frame = load_run(tmp_path / "t").samples()
    assert (frame.groupby("query")["demos"].agg(lambda demos: len({str(d) for d in demos})) == 1).all()


def test_random_demonstrations_are_nested_across_shots(mapping: Mapping, tmp_path: Path) -> None:
    config = mapping(grid={"shots": [2, 4]}, order="as_retrieved")
    go(config, tmp_path)
    frame = load_run(tmp_path / "t").samples().set_index(["query", "shots"])["demos"]
    assert all(frame[query, 4][:2] == frame[query, 2] for query in {query for query, _ in frame.index})


def test_the_same_command_again_does_nothing(mapping: Mapping, tmp_path: Path) -> None:
    assert go(mapping(), tmp_path).computed == 6
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json*") if path.name[0] != "."}
    again = go(mapping(), tmp_path)
    assert (again.computed, again.present, again.samples) == (0, 6, 6)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json*") if path.name[0] != "."} == before


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def test_lost_descriptions_of_cells_are_written_again_and_no_sample_is_computed_twice(
    mapping: Mapping, tmp_path: Path
) -> None:
    config = mapping(grid={"shots": [0, 2]})
    folder = go(config, tmp_path).folder
    before = {path: path.read_bytes() for path in folder.glob("cells/*/*")}
    one, other = sorted(path for path in before if path.name == "cell.json")
    for content in (None, b"", b"{", bytes(300)):
        one.unlink() if content is None else one.write_bytes(content)
        other.unlink()
        progress = Notes()
        assert go(config, tmp_path, progress=progress).computed == 0
        assert progress.texts == [
            f"{one if one.parent.name == first_cell(folder) else other}, and 1 more, was missing or damaged and is "
            "written again. Finished samples are kept."
        ]
        assert {path: path.read_bytes() for path in folder.glob("cells/*/*")} == before
    (folder / "run.json").unlink()
    assert go(config, tmp_path).computed == 0
    assert len(load_run(folder).samples()) == 12


def first_cell(folder: Path) -> str:
    return str((Store(folder).read_run() or {})["cells"][0])


def test_metrics_that_change_are_computed_in_a_cell_whose_description_is_lost(mapping: Mapping, tmp_path: Path) -> None:
    folder = go(mapping(metrics=["strict"]), tmp_path).folder
    (path,) = folder.glob("cells/*/cell.json")
    path.unlink()
    assert go(mapping(metrics=["strict", "lenient"]), tmp_path).computed == 0
    assert load_run(folder).samples()["lenient"].notna().all()


def test_images_of_a_finished_run_that_are_lost_or_damaged_are_saved_again(mapping: Mapping, tmp_path: Path) -> None:
    config = mapping(shots=2)
    folder = go(config, tmp_path).folder
    before = {path: path.read_bytes() for path in folder.glob("images/*.png")}
    assert len(before) > 3
    first, second, third, *_ = before
    samples = {path: path.read_bytes() for path in folder.glob("cells/*/*")}
    first.unlink()
    second.write_bytes(before[second][:50])
    third.write_bytes(before[third][:45] + bytes([before[third][45] ^ 1]) + before[third][46:])
    progress = Notes()
    assert go(config, tmp_path, progress=progress).computed == 0
    assert progress.texts == ["3 images of the report, missing or damaged, saved again."]
    assert {path: path.read_bytes() for path in folder.glob("images/*.png")} == before
    shutil.rmtree(folder / "images")
    assert go(config, tmp_path).computed == 0
    assert {path: path.read_bytes() for path in folder.glob("images/*.png")} == before
    assert {path: path.read_bytes() for path in folder.glob("cells/*/*")} == samples


def test_images_of_earlier_samples_are_saved_again_by_a_run_that_computes_others(
    mapping: Mapping, tmp_path: Path
) -> None:
    folder = go(mapping(grid={"shots": [0]}), tmp_path).folder
    before = {path.name for path in folder.glob("images/*.png")}
    shutil.rmtree(folder / "images")
    config = mapping(grid={"shots": [0, 1]})
    assert run(load_config(config), tmp_path, limit=1).computed == 1
    assert before <= {path.name for path in folder.glob("images/*.png")}


def test_a_run_that_was_killed_after_its_last_sample_is_finished(mapping: Mapping, tmp_path: Path) -> None:
    config = load_config(mapping())
    store = Store(run(config, tmp_path).folder)
    info = store.read_run() or {}
    (session,) = info["sessions"]
    store.write_run({**info, "sessions": [{"start": session["start"], "state": "running"}]})
    assert run(config, tmp_path).computed == 0
    assert [session["state"] for session in (store.read_run() or {})["sessions"]] == ["finished"]


def test_a_larger_grid_computes_only_its_new_cells(mapping: Mapping, tmp_path: Path) -> None:
    go(mapping(grid={"shots": [0, 2]}), tmp_path)
    outcome = go(mapping(grid={"shots": [0, 2, 3]}), tmp_path)
    assert (outcome.present, outcome.computed) == (12, 6)
    assert sorted(set(load_run(tmp_path / "t").samples()["shots"])) == [0, 2, 3]


def test_cells_that_left_the_config_stay_on_disk_and_out_of_the_table(mapping: Mapping, tmp_path: Path) -> None:
    go(mapping(grid={"shots": [0, 2]}), tmp_path)
    go(mapping(grid={"shots": [2, 3]}), tmp_path)
    assert sorted(set(load_run(tmp_path / "t").samples()["shots"])) == [2, 3]
    assert go(mapping(grid={"shots": [0, 2]}), tmp_path).computed == 0


@pytest.mark.parametrize("sizes", [(1, 1), (2, 5), (64, 1024)])
def test_batches_and_windows_change_no_sample(
    mapping: Mapping, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int]
) -> None:
    config = mapping(model=toy, grid={"shots": [0, 3], "decoding": ["greedy", "vcd"]}, seeds=[0, 1])
    go(config, tmp_path / "usual")
    monkeypatch.setattr(windows, "RETRIEVAL_BATCH", sizes[0])
    monkeypatch.setattr(windows, "WINDOW_SAMPLES", sizes[1])
    go(config, tmp_path / "other")
    assert contents(tmp_path / "usual" / "t") == contents(tmp_path / "other" / "t")


def test_continuous_batching_changes_the_windows_but_no_sample(
    mapping: Mapping, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "WINDOW_TOKENS", 1)
    sizes: list[int] = []
    run_window = Runner._run_window

    def watched(self: Runner, model: Any, window: Any, *more: Any) -> None:
        sizes.append(len(window))
        run_window(self, model, window, *more)

    monkeypatch.setattr(Runner, "_run_window", watched)
    model = {"name": toy, "max_batch_tokens": 200, "stop_bias": 1.0}
    config = mapping(model=model, grid={"shots": [3], "decoding": ["greedy", "vcd"]})
    go(config, tmp_path / "usual")
    assert len(sizes) > 1
    sizes.clear()
    go(config, tmp_path / "other", "continuous_batching=true")
    assert len(sizes) == 1
    assert contents(tmp_path / "usual" / "t") == contents(tmp_path / "other" / "t")


def test_a_judge_is_unloaded_with_the_model_whose_answers_it_judged(
    mapping: Mapping, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unloaded: list[str] = []
    monkeypatch.setattr(Model, "unload", lambda self: unloaded.append(self.digest))
    judge = {"name": toy, "salt": "judge"}
    arms = [{"name": "best_of_n", "samples": n, "accept": "w4", "judge_model": judge} for n in (2, 3)]
    go(mapping(model=toy, shots=1, grid={"decoding": arms}), tmp_path)
    assert unloaded == ["toy-3.0-", "toy-3.0-judge"]


def test_every_window_has_its_phases(mapping: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phases: list[str] = []

    class PhaseLog(SilentProgress):
        def set_phase(self, what: str, reset_rate: bool = False) -> None:
            phases.append(what)

    monkeypatch.setattr(windows, "RETRIEVAL_BATCH", 2)
    monkeypatch.setattr(windows, "WINDOW_SAMPLES", 2)
    go(mapping(shots=3), tmp_path, progress=PhaseLog())
    window = ["retrieving demonstrations", "answering"]
    assert phases == ["loading the model", *3 * window, "retrieving demonstrations"]


def test_missing_samples_are_computed_as_in_one_call(mapping: Mapping, toy: str, tmp_path: Path) -> None:
    config = mapping(model=toy, grid={"retriever": ["random", "balanced"], "decoding": ["greedy", "vcd"]})
    go(config, tmp_path / "whole")
    go(config, tmp_path / "holes")
    for i, path in enumerate(sorted((tmp_path / "holes").rglob("*.jsonl"))):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[i % 3 :: 2]) + lines[0][: 10 * i])
    outcome = go(config, tmp_path / "holes")
    assert 0 < outcome.computed < outcome.samples
    assert contents(tmp_path / "whole" / "t") == contents(tmp_path / "holes" / "t")


def test_equal_prompts_of_arms_seeds_and_retrievers_meet_in_one_call(
    mapping: Mapping, toy: str, tmp_path: Path
) -> None:
    decodings = ["greedy", {"name": "vcd", "alpha": 0.5}, {"name": "mask_only", "of": "vcd"}]
    config = mapping(model=toy, shots=0, seeds=[0, 1, 2], grid={"decoding": decodings})
    go(config, tmp_path)
    counters = Store(tmp_path / "t").read_run()["sessions"][-1]["counters"]  # type: ignore[index]
    assert counters["decoding_requests"] == 6 * 9
    assert counters["prompts_prefilled"] == 6 + 18  # the plain prompt of a query once; its noise differs by seed
    assert counters["requests_reused"] == 6 * 2 * 2


def test_option_scores_are_stored_and_scored(mapping: Mapping, toy: str, tmp_path: Path) -> None:
    go(mapping(model=toy, answer_mode="options"), tmp_path)
    frame = load_run(tmp_path / "t").samples()
    assert len(frame)
    for row in frame.itertuples():
        assert set(row.option_scores) == {"red", "green", "blue"}
        best = max(row.option_scores, key=row.option_scores.get)
        assert (row.output, row.option) == (best, float(best == row.gold[0]))


def broken(folder: Path, mapping: Mapping) -> dict[str, Any]:
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    config = mapping(grid={"shots": [0, 2]})
    return {**config, "task": {**config["task"], "broken": str(folder / "bad.png")}}


def test_an_unreadable_image_fails_its_samples_and_the_run_goes_on(mapping: Mapping, tmp_path: Path) -> None:
    progress = SilentProgress()
    outcome = go(broken(tmp_path, mapping), tmp_path, progress=progress)
    assert (outcome.computed, outcome.failed, progress.failures) == (12, 2, 2)
    frame = load_run(tmp_path / "t").samples()
    failed = frame[frame["failed"].notna()]
    assert set(failed["query"]) == {"q-0001"}
    assert failed["failed"].str.contains("bad.png is not an image in one of the formats").all()
    assert failed["strict"].isna().all()
    assert frame[frame["failed"].isna()]["strict"].notna().all()


def test_a_failed_sample_is_tried_again_and_counts_when_it_works(mapping: Mapping, tmp_path: Path) -> None:
    from PIL import Image as PILImage

    config = broken(tmp_path, mapping)
    go(config, tmp_path)
    assert go(config, tmp_path).failed == 2
    PILImage.new("RGB", (16, 16), (30, 170, 60)).save(tmp_path / "bad.png")
    outcome = go(config, tmp_path)
    assert (outcome.present, outcome.computed, outcome.failed) == (10, 2, 0)
    assert load_run(tmp_path / "t").samples()["failed"].isna().all()


def test_a_gigantic_image_fails_its_sample(mapping: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image as PILImage

    monkeypatch.setattr("icl.images.MAX_PIXELS", 100 * 100)
    PILImage.new("RGB", (200, 100)).save(tmp_path / "bad.png")
    config = mapping()
    outcome = go({**config, "task": {**config["task"], "broken": str(tmp_path / "bad.png")}}, tmp_path)
    assert (outcome.computed, outcome.failed) == (6, 1)
    frame = load_run(tmp_path / "t").samples().set_index("query")
    assert "has 200 x 100 pixels, more than the limit of 10,000. Make it smaller." in frame.loc["q-0001", "failed"]


FIRST_ANSWER_ONLY = """
calls = []
def answer(request):
    calls.append(request)
    if len(calls) > 1:
        raise ValueError(f"no answer {len(calls)}")
    return "yes"
"""


def test_a_run_in_which_everything_fails_stops(
    mapping: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "MAX_INITIAL_FAILURES", 3)
    (tmp_path / "mine.py").write_text(FIRST_ANSWER_ONLY)
    config = mapping(model={"name": "fake-scripted", "answer": f"{tmp_path / 'mine.py'}:answer"})
    with pytest.raises(DataError, match=r"the first 3 samples all failed; the last one: .*ValueError: no answer"):
        go(config, tmp_path)


def test_another_experiment_under_the_same_name_is_refused(mapping: Mapping, tmp_path: Path) -> None:
    go(mapping(), tmp_path)
    with pytest.raises(StoreError) as error:
        go(mapping(model="fake-vote"), tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 't'} was made with another config (model fake-copy, now fake-vote). "
        "Use another name, or --fork to start a new run from its config."
    )
    assert go(mapping(model="fake-vote"), tmp_path, fork=True).folder == tmp_path / "t-2"


def test_other_demonstrations_under_the_same_name_are_refused(
    mapping: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(mapping(), tmp_path)
    monkeypatch.setattr("icl.tasks.base.Pool.digest", "91bc" * 16)
    with pytest.raises(
        StoreError, match=r"was made with other demonstrations of task 'shapes' \(pool digest .{4}… now"
    ):
        go(mapping(), tmp_path)


def test_a_folder_of_something_else_is_refused(mapping: Mapping, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match=r"is not a run directory and is not empty. Use another name."):
        go(mapping(), tmp_path)


def test_a_run_that_was_killed_before_it_wrote_its_run_file_goes_on(mapping: Mapping, tmp_path: Path) -> None:
    go(mapping(), tmp_path)
    (tmp_path / "t" / "run.json").unlink()
    assert go(mapping(), tmp_path).present == 6
    (tmp_path / "t" / "run.json").unlink(missing_ok=True)
    with pytest.raises(StoreError, match="was made with another config"):
        go(mapping(model="fake-vote"), tmp_path)


@pytest.mark.parametrize("number", ["", '"format": 3,'])
def test_a_run_of_another_format_is_refused_and_keeps_its_files(mapping: Mapping, tmp_path: Path, number: str) -> None:
    go(mapping(metrics=["strict"]), tmp_path)
    folder = tmp_path / "t"
    for path in (folder / "run.json", *folder.glob("cells/*/cell.json")):
        path.write_text(path.read_text().replace('"format": 2,', number))
    cells = [*folder.glob("cells/*")]
    launch = Launch.new(folder, {"name": "local", "workers": 1}, 1, [cell.name for cell in cells])
    launch.write()  # its workers are dead: their files would be merged
    for cell in cells:
        (cell / f"{launch.workers[0]}.jsonl").write_bytes((cell / "0.jsonl").read_bytes())

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}

    before = files()
    with pytest.raises(StoreError, match=r"run\.json has (no format number|format 3)"):
        go(mapping(metrics=["strict", "lenient"]), tmp_path)
    with pytest.raises(StoreError, match=r"run\.json has (no format number|format 3)"):
        load_run(folder).samples()
    assert files() == before


def test_scores_that_are_no_numbers_fail_their_samples(mapping: Mapping, tmp_path: Path) -> None:
    def answer(request: Request) -> Generation:
        return Generation("x", option_scores=dict.fromkeys(request.options, math.nan))

    config = mapping(model={"name": "fake-scripted", "answer": answer}, answer_mode="options")
    assert go(config, tmp_path).failed == 6
    reasons = [why for cell in Store(tmp_path / "t").folder.glob("cells/*") for why in failed_of(cell)]
    assert len(reasons) == 6
    assert all(why.endswith("is not a number (NaN).") for why in reasons)


def test_a_full_disk_keeps_its_own_message(mapping: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreError("cells cannot be written: make room.")

    monkeypatch.setattr("experiments.store.store.SampleWriter.append", full)
    monkeypatch.setattr("experiments.running.run_session.RunSession._write", lambda *_: full())
    with pytest.raises(StoreError, match="make room"):
        go(mapping(), tmp_path)


def test_a_run_file_has_config_sessions_and_cost(mapping: Mapping, toy: str, tmp_path: Path) -> None:
    go(mapping(model=toy), tmp_path)
    info = Store(tmp_path / "t").read_run() or {}
    assert info["config"]["shots"] == 2
    (session,) = info["sessions"]
    assert (session["state"], session["invocation"]) == ("finished", 1)
    assert session["counters"]["prompts"] == 1 + session["counters"]["prompts_prefilled"] == 1 + 6  # 1 of the preflight


def test_large_steps_are_logged(mapping: Mapping, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "icl"):
        go(mapping(), tmp_path)
    assert [record.getMessage() for record in caplog.records if "experiments.running" in record.name] == [
        f"{tmp_path / 't'}: 1 cells, 6 of 6 samples to compute",
        "model fake-copy is loaded",
        f"{tmp_path / 't'}: 6 samples computed, 0 of them failed",
    ]


def test_ctrl_c_leaves_a_run_that_goes_on(mapping: Mapping, tmp_path: Path) -> None:
    class Stop(SilentProgress):
        def advance(self, samples: int, work: float | None = None) -> None:
            super().advance(samples)
            if self.done == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(mapping(), tmp_path, progress=Stop())
    assert (Store(tmp_path / "t").read_run() or {})["sessions"][-1]["state"] == "interrupted"
    outcome = go(mapping(), tmp_path)
    assert (outcome.present, outcome.computed) == (4, 2)


def test_images_are_saved_once_for_the_report(mapping: Mapping, tmp_path: Path) -> None:
    go(mapping(grid={"shots": [0, 2], "composer": ["chat", "interleaved"]}), tmp_path)
    frame = load_run(tmp_path / "t").samples()
    digests = {digest for row in frame["images"] for digest in row}
    assert {path.stem for path in (tmp_path / "t" / "images").iterdir()} == digests


def test_stored_answers_are_scored_again_after_the_rules_of_built_in_metrics_have_changed(
    mapping: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(mapping(metrics=["strict"]), tmp_path)
    monkeypatch.setattr("icl.metrics.base.SCORING_REVISION", 0)
    monkeypatch.setattr(Strict, "score", lambda self, generation, example: 0.5)
    progress = SilentProgress()
    assert go(mapping(metrics=["strict"]), tmp_path, progress=progress).computed == 0
    assert progress.notes == ["6 stored answers were scored again, because the metrics have changed."]
    assert set(load_run(tmp_path / "t").samples()["strict"]) == {0.5}


def test_a_new_metric_is_computed_on_stored_answers(mapping: Mapping, tmp_path: Path) -> None:
    go(mapping(metrics=["strict"]), tmp_path)
    before = contents(tmp_path / "t")
    progress = SilentProgress()
    outcome = go(mapping(metrics=["strict", "yes_ratio"]), tmp_path, progress=progress)
    assert (outcome.computed, outcome.present) == (0, 6)
    assert progress.notes == ["6 stored answers were scored again, because the metrics have changed."]
    frame = load_run(tmp_path / "t").samples()
    assert frame.attrs["metrics"] == ("strict", "yes_ratio")
    assert frame["strict"].notna().all()
    assert contents(tmp_path / "t") == before


def test_a_run_stores_which_direction_of_its_metrics_is_better(mapping: Mapping, tmp_path: Path) -> None:
    go(mapping(metrics=["strict", "unparsed_rate", "yes_ratio"]), tmp_path)
    better = {"strict": "higher", "unparsed_rate": "lower", "yes_ratio": "neither"}
    assert load_run(tmp_path / "t").samples().attrs["better"] == better
    text = (tmp_path / "t" / "run.json").read_text()
    assert '"better": "lower"' in text
    for word in ("higher", "lower", "neither"):  # as an older run left it
        text = text.replace(f'"better": "{word}"', '"x": 0')
    (tmp_path / "t" / "run.json").write_text(text)
    assert load_run(tmp_path / "t").samples().attrs["better"] == better


def test_a_metric_added_later_leaves_the_samples_that_it_would_have_made(mapping: Mapping, tmp_path: Path) -> None:
    task = {**mapping()["task"], "queries": 12}
    go(mapping(name="later", task=task, metrics=["yes_ratio", "unparsed_rate"]), tmp_path)
    go(mapping(name="later", task=task, metrics=["strict", "yes_ratio"]), tmp_path)
    go(mapping(name="at-once", task=task, metrics=["strict", "yes_ratio"]), tmp_path)
    later, at_once = (load_run(tmp_path / name).samples() for name in ("later", "at-once"))
    assert at_once["vote"].notna().all()
    assert later.pop("scores_invocation").tolist() == [2] * len(later), "the process that scored the answers again"
    assert later.to_dict("records") == at_once.to_dict("records")


def test_a_metric_added_later_judges_the_vote_too(mapping: Mapping, tmp_path: Path) -> None:
    go(mapping(metrics=["strict"], shots=3), tmp_path)
    go(mapping(metrics=["strict", "lenient"], shots=3), tmp_path)
    frame = load_run(tmp_path / "t").samples()
    assert frame["vote:lenient"].notna().all()
    assert (frame["vote"] == frame["vote:lenient"]).all()  # lenient is the score that is looked at
    strict = mapping(metrics=["strict", "lenient"], shots=3, compare={"to": {"shots": 3}, "metric": "strict"})
    go(strict, tmp_path)
    frame = load_run(tmp_path / "t").samples()
    assert (frame["vote"] == frame["vote:strict"]).all()
    assert "vote" in frame.attrs["baselines"]
    assert "vote:strict" not in frame.attrs["baselines"]


def test_an_older_run_is_read_with_its_one_vote_and_brought_up_to_date(mapping: Mapping, tmp_path: Path) -> None:
    go(mapping(shots=3), tmp_path)
    new = load_run(tmp_path / "t").samples()
    store = Store(tmp_path / "t")
    (digest,) = (store.read_run() or {})["cells"]
    old = [
        {**sample, "baselines": {name: by["strict"] for name, by in sample["baselines"].items()}}
        for sample in store.samples(digest)
    ]
    store.replace_samples(digest, old)
    description = store.read_cell(digest) or {}
    for node in description["metrics"].values():
        del node["better"]
    store.write_cell(digest, description)
    frame = load_run(tmp_path / "t").samples()
    assert frame["vote"].tolist() == new["vote:strict"].tolist()
    assert not [column for column in frame if ":" in str(column)]
    assert go(mapping(shots=3), tmp_path).computed == 0
    again = load_run(tmp_path / "t").samples().drop(columns="scores_invocation")
    assert again.to_dict("records") == new.to_dict("records")


def test_a_smaller_config_is_reported_without_computing(mapping: Mapping, tmp_path: Path) -> None:
    go(mapping(grid={"shots": [0, 2]}), tmp_path)
    outcome = go(mapping(shots=2, compare={"to": {"shots": 2}}), tmp_path)
    assert outcome.computed == 0
    assert set(load_run(tmp_path / "t").samples()["shots"]) == {2}
    assert load_run(tmp_path / "t").info["config"]["compare"] == {"to": {"shots": 2}}


def test_a_model_with_other_parameters_under_the_same_name_is_refused(
    mapping: Mapping, toy: str, tmp_path: Path
) -> None:
    go(mapping(model={"name": toy}), tmp_path)
    with pytest.raises(StoreError, match=r"another config \(model ToyModel with other parameters or code\)"):
        go(mapping(model={"name": toy, "salt": "x"}), tmp_path)


def failed_of(cell: Path) -> list[str]:
    return list(Store(cell.parents[1]).finished_and_failed(cell.name)[1].values())
