import json
import pickle
from pathlib import Path

import pytest
from harness_logs import vlmevalkit_rows, write_inspect, write_lm_eval, write_lmms, write_vlmevalkit

from experiments.imports import formats, logs
from experiments.imports.logs import Log, log_formats, read_logs
from icl.errors import DataError


def read_one(path: Path) -> Log:
    (log,) = read_logs(path)
    return log


def scores(log: Log, metric: str) -> list[float | None]:
    return [sample.scores.get(metric) for sample in log.samples]


def test_a_new_format_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"VLMEvalKit", "inspect", "lm-eval", "lmms-eval"} <= set(log_formats())
    (tmp_path / "own_harness.py").write_text(
        "from experiments.imports.logs import Log, LoggedSample, log_format\n"
        "@log_format('own', r'.+[.]own')\n"
        "def read(path):\n"
        "    sample = LoggedSample('1', 'prompt', ('gold',), path.read_text(), {'right': 1.0})\n"
        "    return Log(path, 'task', (sample,), {'from': 'own'})\n"
    )
    (tmp_path / "x.own").write_text("answer")
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    monkeypatch.setattr(logs, "_FORMATS", dict(logs._FORMATS))
    assert read_one(tmp_path / "x.own").samples[0].output == "answer"


def test_a_log_of_lmms_eval_keeps_its_scores_texts_and_origin(tmp_path: Path) -> None:
    log = read_one(write_lmms(tmp_path / "llava", [1.0, 0.0, 1.0]))
    assert (log.task, log.shots, scores(log, "exact")) == ("pope_mini", 0, [1.0, 0.0, 1.0])
    assert scores(log, "pope_f1") == [1.0, 0.0, 1.0]
    assert [sample.key for sample in log.samples] == ["0", "1", "2"]
    first = log.samples[0]
    assert (first.prompt, first.target, first.output) == ("Is there a 0?", ("no",), "no")
    assert (first.columns["category"], first.usage) == ("random", {"prompt_tokens": 30, "new_tokens": 2})
    origin = {"from": "lmms-eval", "version": "0.7.3", "model_args": "pretrained=llava-hf/x", "date": "20260102_030405"}
    assert dict(log.origin) == origin
    assert log.reported["exact"] == pytest.approx(2 / 3)
    assert "exact_stderr_clt" not in log.reported


def test_a_log_of_lmms_eval_is_readable_without_its_results(tmp_path: Path) -> None:
    folder = write_lmms(tmp_path, [1.0, 0.0])
    next(folder.glob("*_results.json")).unlink()
    log = read_one(folder)
    assert scores(log, "exact") == [1.0, 0.0]
    assert (log.reported, log.origin["date"]) == ({}, "20260102_030405")


def test_each_filter_of_lm_eval_is_a_metric_and_a_query_is_one_sample(tmp_path: Path) -> None:
    log = read_one(write_lm_eval(tmp_path, [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]))
    assert (log.task, log.shots, len(log.samples)) == ("gsm_mini", 5, 3)
    assert scores(log, "exact_match,strict-match") == [1.0, 0.0, 0.0]
    assert scores(log, "exact_match,flexible-extract") == [1.0, 1.0, 0.0]
    first = log.samples[0]
    assert (first.prompt, first.target) == ("Question: What is 0 + 1?\nAnswer:", ("1",))
    assert first.columns["domain"] == "d0"
    assert log.reported["exact_match,flexible-extract"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("zstandard", [True, False])
def test_the_letters_of_inspect_are_numbers_and_the_epoch_is_part_of_the_key(tmp_path: Path, zstandard: bool) -> None:
    values = {("a1", 1): "C", ("a1", 2): "I", ("b1", 1): "P", ("b1", 2): "N", ("b2", 1): None}
    log = read_one(write_inspect(tmp_path, values, zstandard=zstandard))
    by_pair = {sample.pair: sample for sample in log.samples}
    assert {pair: sample.scores.get("match") for pair, sample in by_pair.items()} == {
        ("a1", 1): 1.0,
        ("a1", 2): 0.0,
        ("b1", 1): 0.5,
        ("b1", 2): 0.0,
        ("b2", 1): None,
    }
    first = by_pair["a1", 1]
    assert (first.prompt, first.output, first.target) == ("[user] color of a1?<image>", "red", ("red",))
    assert (first.columns["scene"], first.usage) == ("a", {"prompt_tokens": 7, "new_tokens": 1})
    assert by_pair["b2", 1].failed == "out of memory"
    assert (log.task, log.origin["version"]) == ("colors", "0.3.285")


def test_a_damaged_member_of_an_inspect_log_is_noticed(tmp_path: Path) -> None:
    path = write_inspect(tmp_path, {("a1", 1): "C"})
    data = bytearray(path.read_bytes())
    at = data.index(b"samples/a1_epoch_1.json") + len("samples/a1_epoch_1.json")
    data[at + 30] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="damaged"):
        read_logs(path)


@pytest.mark.parametrize("suffix", ["tsv", "json"])
def test_a_judged_table_of_vlmevalkit_keeps_its_hits(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "Qwen2_VL" / f"Qwen2_VL_MMBench_DEV_EN_exact_matching_result.{suffix}"
    log = read_one(write_vlmevalkit(path, vlmevalkit_rows([1, 0, 1])))
    assert (log.task, log.origin["model_args"]) == ("MMBench_DEV_EN", "Qwen2_VL")
    assert [dict(sample.scores) for sample in log.samples] == [{"hit": 1.0}, {"hit": 0.0}, {"hit": 1.0}]
    assert (log.samples[0].prompt, log.samples[0].target) == ("Which color is 0?\nA. red\nB. blue", ("A",))
    assert log.samples[1].columns["category"] == "c1"


def test_predictions_of_vlmevalkit_without_hits_get_text_metrics(tmp_path: Path) -> None:
    path = write_vlmevalkit(tmp_path / "m" / "m_MMBench.tsv", vlmevalkit_rows([1, 0], has_hits=False))
    log = read_one(path)
    assert [dict(sample.scores) for sample in log.samples] == [
        {"strict": 1.0, "lenient": 1.0},
        {"strict": 0.0, "lenient": 0.0},
    ]


def test_rotations_of_one_question_are_one_cluster(tmp_path: Path) -> None:
    rows = [*vlmevalkit_rows([1, 0]), *vlmevalkit_rows([1], first=1_000_000)]
    log = read_one(write_vlmevalkit(tmp_path / "m" / "m_MMBench.json", rows))
    assert [sample.group for sample in log.samples] == ["0", None, "0"]


def test_a_prediction_that_the_model_did_not_give_is_a_failed_sample(tmp_path: Path) -> None:
    rows = vlmevalkit_rows([1, 1])
    rows[1]["prediction"] = "Failed to obtain answer via API."
    log = read_one(write_vlmevalkit(tmp_path / "m" / "m_MMBench.json", rows))
    assert [sample.failed for sample in log.samples] == [None, "Failed to obtain answer"]


def test_side_files_with_pickled_objects_are_never_read(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return marker.touch, ()

    write_vlmevalkit(tmp_path / "m" / "m_MMBench.tsv", vlmevalkit_rows([1]))
    (tmp_path / "m" / "m_MMBench_openai_result.pkl").write_bytes(pickle.dumps(Attack()))
    assert len(read_logs(tmp_path / "m")) == 1
    assert not marker.exists()


def test_an_excel_file_is_read_or_refused_by_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "m" / "m_MMBench.xlsx"
    path.parent.mkdir()
    path.write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"m_MMBench\.xlsx is (an Excel file, and openpyxl|damaged)"):
        read_logs(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("20260102_samples_x.jsonl", "{", "line 1 of .* is damaged"),
        ("20260102_samples_x.jsonl", json.dumps({"doc_id": 1}), "line 1 of .* has no 'input'"),
        ("20260102_samples_x.jsonl", "", "has no samples"),
        ("samples_x_2026-01-02T03-04-05.jsonl", json.dumps({"doc_id": 1}), "has no 'arguments'"),
        ("m_MMBench.tsv", "index\tanswer\n1\tA\n", "row 1 of .* has no 'prediction'"),
        ("m_MMBench.json", "{}", "is damaged: it is no list"),
        ("2026_x.eval", "no zip", "is damaged, or not a log of inspect"),
        ("other.txt", "", "is no log of"),
    ],
)
def test_a_file_that_is_no_log_is_refused_by_a_sentence(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_logs(tmp_path / name)


def test_results_of_another_shape_are_refused_by_a_sentence(tmp_path: Path) -> None:
    folder = write_lmms(tmp_path, [1.0])
    next(folder.glob("*_results.json")).write_text('{"config": [1]}')
    with pytest.raises(DataError, match="has not the shape of a log of lmms-eval"):
        read_logs(folder)


def test_two_logs_of_one_task_and_a_missing_path_are_refused(tmp_path: Path) -> None:
    write_lmms(tmp_path / "first", [1.0])
    write_lmms(tmp_path / "second", [1.0])
    with pytest.raises(DataError, match="two logs of 'pope_mini'"):
        read_logs(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_logs(tmp_path / "third")
