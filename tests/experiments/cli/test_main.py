import json
import logging
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import icl as icl_package
from experiments.cli.main import commands
from icl.lazy_exports import PACKAGES, ROOT
from icl.registry import entries

ICL = Callable[..., Any]
TINY_CHECKPOINT = Path(icl_package.__file__).parent / "models" / "tiny" / "checkpoints" / "vlm"


def test_help_lists_every_command_with_its_line_within_the_terminal(icl: ICL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    output = icl("--help")
    assert output.status == 0
    assert all(len(line) <= 80 for line in output.out.splitlines())
    assert {"run", "plan", "ls", "try", "check"} <= set(commands())
    assert all(f"  {name}" in output.out for name in commands())
    assert all(line in " ".join(output.out.split()) for line in commands().values())


def test_help_imports_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys; from experiments.cli.main import main; main(['--help'])\n"
        "heavy = "
        "{'torch', 'transformers', 'pandas', 'numpy', 'pydantic', 'rich', 'typer', 'experiments.config.config'}\n"
        "mine = [m for m in sys.modules if m.startswith('experiments.cli.') and m != 'experiments.cli.main']\n"
        "print(sorted(heavy & set(sys.modules)), mine)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] []"


def test_without_a_command_the_help_is_printed_with_status_2(icl: ICL) -> None:
    assert icl().status == 2


def test_a_misspelled_command_is_reported_with_the_nearest(icl: ICL) -> None:
    output = icl("rnu")
    assert (output.status, output.out) == (2, "")
    assert output.err == "icl: no command named 'rnu'. Did you mean 'run'? (icl --help)\n"


def test_an_error_contains_no_terminal_control_characters(icl: ICL) -> None:
    Path("x.yaml").write_text('task: "\\e[2Jnope\\u202e"\nmodel: fake-vote\n')
    output = icl("run", "x.yaml")
    assert output.status == 2
    assert output.err == "x.yaml:1: task: no task named '�[2Jnope�'. (icl ls task)\n"


def test_the_version_is_printed(icl: ICL) -> None:
    assert icl("--version").out.startswith("mm-icl 0.")


@pytest.mark.parametrize("command", ["run", "plan", "ls", "try", "check", "show"])
def test_every_command_has_a_help_page(icl: ICL, command: str) -> None:
    output = icl(command, "--help")
    assert output.status == 0
    assert commands()[command] in " ".join(output.out.split())


def test_schema_is_json_with_every_key_and_component(icl: ICL, tmp_path: Path) -> None:
    from experiments.config.keys import KEYS

    assert icl("ls", "schema", "--out", "icl.json").status == 0
    schema = json.loads((tmp_path / "icl.json").read_text())
    assert set(schema["properties"]) == set(KEYS)
    named, bare = schema["properties"]["launcher"]["anyOf"]
    assert named["$ref"] == "#/$defs/launcher"
    assert "workers" in bare["properties"]  # `launcher: {workers: 2}` is two of the usual launcher
    assert "name" not in bare["required"]
    names = [one["properties"]["name"]["const"] for one in schema["$defs"]["strategy"]["anyOf"] if "properties" in one]
    assert names == list(entries("strategy"))
    assert "$defs" not in json.dumps(schema["$defs"]).replace("#/$defs/", "")


def test_check_accepts_a_component_of_the_toolkit(icl: ICL) -> None:
    output = icl("check", "vcd", "alpha=0.5")
    assert output.status == 0
    assert output.out.startswith(
        "strategy 'vcd' fulfills the contract that every strategy must keep.\n"
        "2 branches, with a mask, weights 1.5, -0.5"
    )


def test_check_reports_what_is_wrong_with_a_custom_component(icl: ICL, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom icl.types import RetrievedExample\n\n"
        "@dataclass(frozen=True)\nclass Mine:\n    needs: ClassVar = frozenset()\n"
        "    def fit(self, pool, resources):\n        self.pool_of[0] = pool\n        return self\n"
        "    pool_of: ClassVar = {}\n"
        "    def retrieve(self, queries, k, policy):\n"
        "        return [tuple(RetrievedExample(e.id) for e in self.pool_of[0].examples[12:12 + k]) for _ in queries]\n"
    )
    output = icl("check", "mine.py:Mine")
    assert output.status == 1
    assert output.err.startswith("retriever 'mine.py:Mine': ")
    assert "are the query itself or have its image." in output.err


def test_check_accepts_a_reranker(icl: ICL) -> None:
    assert icl("check", "near_duplicate_cap").status == 0


def test_check_of_an_unknown_name_is_an_error(icl: ICL) -> None:
    assert icl("check", "vdc").err == "no component named 'vdc'. Did you mean 'vcd'? (icl ls)\n"


def test_check_of_a_misspelled_kind_names_the_kind(icl: ICL) -> None:
    message = "there is no kind of component 'retriver'. Did you mean 'retriever'?\n"
    assert icl("check", "retriver", "knn").err == message
    assert icl("check", "retriver", "mine.py:Mine").err == message


TWO = "'random' is the name of a retriever and of an orderer. Say which: icl check retriever random.\n"


def test_check_of_a_name_of_two_kinds_is_an_error_that_names_them(icl: ICL) -> None:
    output = icl("check", "random")
    assert (output.status, output.err) == (2, TWO)
    assert icl("check", "orderer", "random").status == 0


RUN = """
    name: small
    task: SHAPES
    model: fake-copy
    grid: {shots: [0, 2]}
"""


def test_run_shows_the_table_and_a_second_run_has_nothing_to_do(
    icl: ICL, grid: Callable[[str], str], tmp_path: Path
) -> None:
    first = icl("run", grid(RUN))
    assert first.status == 0
    assert "done         12 samples, 0 failed   runs/small" in first.err
    assert "shapes" in first.out
    assert (tmp_path / "runs" / "small" / "report.html").is_file()
    again = icl("run", "grid.yaml")
    assert (again.status, again.err) == (0, "")
    assert again.out == f"nothing to do (12 samples present)   runs/small\n{first.out}"
    assert first.out.endswith("report  runs/small/report.html\n")


TINY = """
    name: tiny
    model: {name: hf, path: tiny}
    task: {name: binding, queries: 2}
    grid: {shots: [0, 2]}
"""


def times(*folders: Path) -> dict[str, int]:
    """The last change of each file that a stored summary depends on."""
    files = [path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {str(path): path.stat().st_ctime_ns for path in files if path.is_file() and path.name[0] != "."}


def test_a_finished_run_prints_its_table_without_model_samples_or_statistics(
    grid: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both runs are processes of their own, as users start them."""
    monkeypatch.chdir(tmp_path)
    code = (
        f"import sys; from experiments.cli.main import main; status = main(['run', {grid(TINY)!r}])\n"
        "print(status, sorted({'torch', 'transformers', 'pandas', 'scipy', 'pyarrow', 'matplotlib', 'httpx2'}"
        " & set(sys.modules)))"
    )
    run = partial(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *first, _ = run().stdout.splitlines()
    before = times(tmp_path / "runs", *(ROOT / package for package in PACKAGES))
    done = run()
    assert times(tmp_path / "runs", *(ROOT / package for package in PACKAGES)) == before
    head, *table, last = done.stdout.splitlines()
    assert head == "nothing to do (4 samples present)   runs/tiny"
    assert table == first
    assert last == "0 []"


def test_a_finished_run_is_not_taken_for_finished_after_a_change(
    icl: ICL, grid: Callable[[str], str], tmp_path: Path
) -> None:
    """Whatever a digest covers: the checkpoint, a component's file, the data, a parameter."""
    (tmp_path / "data.jsonl").write_text("".join(f'{{"question": "q{i}", "answer": "a"}}\n' for i in range(8)))
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom prompts.composers.turns import Chat\n\n"
        "@dataclass(frozen=True)\nclass Mine(Chat):\n    pass\n"
    )
    shutil.copytree(TINY_CHECKPOINT, tmp_path / "model")
    config = grid("""
        name: own
        model: {name: hf, path: model}
        task: {name: hub, path: data.jsonl, columns: {question: question, answer: answer}}
        composer: "mine.py:Mine"
        max_new_tokens: 2
        shots: 0
    """)
    assert icl("run", config, "--quiet").status == 0
    assert icl("run", config).out.startswith("nothing to do")
    for name, old, new in (
        ("model/tokenizer_config.json", "2048", "2047"),
        ("mine.py", "    pass\n", "    pass\n\n\nVALUE = 1\n"),
        ("data.jsonl", "q3", "Q3"),
        ("", "max_new_tokens", "max_new_tokens=3"),
    ):
        file = tmp_path / name
        before = file.read_text() if name else ""
        if name:
            assert old in before
            file.write_text(before.replace(old, new))
        again = icl("run", config, *([] if name else [new]))
        assert again.status == 2, name
        assert "runs/own was made with" in again.err
        assert "nothing to do" not in again.out
        if name:
            file.write_text(before)
    assert icl("run", config).out.startswith("nothing to do")


def test_a_changed_run_prints_a_new_table(
    icl: ICL, grid: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = icl("run", grid(RUN))
    folder, as_made = Path("runs/small"), Path("as_made")
    shutil.copytree("runs", as_made)
    report = (folder / "report.html").read_text()
    for change in ("report", "samples", "metrics", "summary", "width"):
        shutil.rmtree("runs")
        shutil.copytree(as_made, "runs")
        words = ["run", "grid.yaml"]
        if change == "report":
            (folder / "report.html").unlink()
        elif change == "samples":
            (path,) = [p for p in folder.glob("cells/*/*.jsonl") if '"demos"' in p.read_text()]
            path.write_text(re.sub(r'"lenient": [01]\.0', '"lenient": 0.0', path.read_text()))
        elif change == "metrics":
            words.append("metrics=[strict]")
        elif change == "summary":
            (folder / ".summary.json").write_text('{"state": 1}')
        else:
            monkeypatch.setenv("COLUMNS", "50")
        again = icl(*words)
        assert again.status == 0, change
        assert (again.out.endswith(first.out)) == (change in ("report", "summary")), change
        assert again.out.endswith("report  runs/small/report.html\n"), change
        assert bool((folder / "report.html").read_text() == report) == (change in ("report", "width", "summary")), (
            change
        )


def test_run_takes_overrides_and_another_folder(icl: ICL, grid: Callable[[str], str], tmp_path: Path) -> None:
    output = icl("run", grid(RUN), "grid.shots=[1]", "name=other", "--runs", "elsewhere", "--quiet")
    assert (output.status, output.out) == (0, "")
    assert (tmp_path / "elsewhere" / "other" / "run.json").is_file()


def test_run_with_a_failed_sample_ends_with_1_and_can_be_continued(
    icl: ICL, grid: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    config = grid(RUN.replace("task: SHAPES", "task: {name: SHAPES, broken: bad.png}"))
    output = icl("run", config)
    assert output.status == 1
    assert (
        "sample q-0001: image bad.png is not an image in one of the formats PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM, "
        "JPEG2000. Sample marked failed; 1 of 12 so far." in (output.err)
    )
    assert "done         12 samples, 2 failed" in output.err
    assert icl("run", config, "--quiet").status == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (RUN.replace("model", "modle"), "grid.yaml:3: modle: no key 'modle'. Did you mean 'model'?\n"),
        (
            RUN.replace("fake-copy", "fake-cpy"),
            "grid.yaml:3: model: no model named 'fake-cpy'. Did you mean 'fake-copy'?",
        ),
        (
            RUN.replace("fake-copy", "tiny"),
            "grid.yaml:3: model: no model named 'tiny'. To use a checkpoint, write {name: hf, path: tiny}.",
        ),
        (
            RUN.replace("[0, 2]", "[0, 20]"),
            "grid.yaml:4: grid.shots[1]: 20 demonstrations from a pool of 9 (task 'shapes')",
        ),
        (
            RUN + "    decoding: vcd\n",
            "grid.yaml:5: decoding: model 'fake-copy': decoding 'vcd' needs next-token logits",
        ),
    ],
)
def test_a_users_mistake_is_one_sentence_and_status_2(
    icl: ICL, grid: Callable[[str], str], text: str, sentence: str
) -> None:
    output = icl("run", grid(text))
    assert (output.status, output.out) == (2, "")
    assert output.err.startswith(sentence)
    assert output.err.count("\n") == 1
    assert icl("plan", "grid.yaml").err == output.err


def test_a_plan_is_made_although_a_run_of_the_name_has_other_settings(icl: ICL, grid: Callable[[str], str]) -> None:
    assert icl("run", grid(RUN), "--quiet").status == 0
    output = icl("plan", "grid.yaml", "grid.shots=[4]")
    assert output.status == 0
    assert "icl run would refuse" in output.out
    assert "shots 0, 2, now 4" in " ".join(output.out.split())
    assert "samples are finished" not in output.out
    assert icl("run", "grid.yaml", "grid.shots=[4]").status == 2


def test_plan_prints_the_grid_and_the_present_samples(icl: ICL, grid: Callable[[str], str], tmp_path: Path) -> None:
    assert icl("plan", grid(RUN)).out.startswith("2 arms   2 cells   12 samples\n")
    assert not (tmp_path / "runs").exists()
    icl("run", "grid.yaml", "--quiet")
    assert "reused       12 samples are finished, 0 are missing" in icl("plan", "grid.yaml").out


def test_a_run_with_another_config_under_its_name_is_refused_or_forked(icl: ICL, grid: Callable[[str], str]) -> None:
    icl("run", grid(RUN), "--quiet")
    output = icl("run", "grid.yaml", "model=fake-vote")
    assert output.status == 2
    assert output.err.startswith("runs/small was made with another config (model fake-copy, now fake-vote).")
    fork = icl("run", "grid.yaml", "model=fake-vote", "--fork")
    assert (fork.status, "runs/small-2" in fork.err) == (0, True)


@pytest.mark.parametrize(
    "where",
    ["experiments.config.config.load_config", "experiments.running.run.run", "experiments.cli.run._show_results"],
)
def test_ctrl_c_reports_that_finished_samples_are_stored(
    icl: ICL, grid: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stopped)
    output = icl("run", grid(RUN))
    assert output.status == 130
    assert output.err.endswith("stopped. Finished samples are stored; run the same command to continue.\n")


def test_ctrl_c_while_a_command_is_imported_is_reported(icl: ICL, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", stopped)
    output = icl("run", "x.yaml")
    assert (output.status, output.err) == (130, "stopped.\n")


@pytest.mark.parametrize(
    "words", [("report", "runs/small"), ("compare", "runs/small"), ("analyze", "runs/small", "vote")]
)
def test_ctrl_c_in_a_command_that_only_reads_is_reported(
    icl: ICL, grid: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.results.loaded_run.load_run", stopped)
    output = icl(*words)
    assert (output.status, output.err) == (130, "stopped.\n")


def test_a_process_that_is_interrupted_ends_with_130_and_resumes(grid: Callable[[str], str], tmp_path: Path) -> None:
    import signal

    slow = "import time\ndef answer(request):\n    time.sleep(0.02)\n    return 'red'\n"
    (tmp_path / "slow.py").write_text(slow)
    config = grid("""
        name: slow
        task: {name: SHAPES, queries: 200}
        model: {name: fake-scripted, answer: "slow.py:answer"}
    """)
    command = [sys.executable, "-m", "experiments.cli.main", "run", config, "--quiet"]
    restore_sigint = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # background jobs of a shell ignore it
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=restore_sigint)  # noqa: PLW1509
    while not any((tmp_path / "runs").rglob("run.json")) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (
        130,
        "stopped. Finished samples are stored; run the same command to continue.\n",
    )


@pytest.mark.parametrize("command", commands())
def test_help_has_no_indentation_of_its_source(icl: ICL, command: str) -> None:
    output = icl(command, "--help").out.partition("[OPTIONS]")[2]
    prose = [line for line in output.split("\nOptions:")[0].split("\nArguments:")[0].splitlines()[1:] if line.strip()]
    assert len(prose) > 1
    assert [line for line in prose if not line.startswith("  ") or "  " in line[2:] or line[2] == " "] == []


def test_a_command_takes_verbose_anywhere(icl: ICL, grid: Callable[[str], str]) -> None:
    config = grid(RUN)
    silent = icl("run", config, "name=a", "--quiet")
    once = icl("run", "--verbose", config, "name=b", "--quiet")
    twice = icl("-v", "run", config, "name=c", "--quiet", "--verbose")
    assert (silent.status, once.status, twice.status) == (0, 0, 0)
    assert "INFO" not in silent.err
    assert "INFO icl.experiments.terminal.progress: loading the model" in once.err
    assert "DEBUG" not in once.err
    assert "DEBUG icl.experiments.terminal.progress: 2 of 2 cells finished" in twice.err
    assert logging.getLogger("icl").level == logging.NOTSET


def test_every_help_names_the_option(icl: ICL) -> None:
    assert "--verbose" in icl("--help").out
    assert "--verbose" in icl("run", "--help").out


def test_check_compares_a_metric_with_cases(icl: ICL) -> None:
    lines = [{"output": "The answer is **red**.", "answers": ["red"], "right": True}]
    lines += [{"output": "red", "answers": ["red"], "right": False}]
    Path("cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = icl("check", "metric", "lenient", "--cases", "cases.jsonl")
    assert output.status == 1
    assert output.out.splitlines() == [
        "line 2: wrong, scored 1.0: 'red' (answers red)",
        "agreement 1 of 2",
        "share .500 ±.405, Cohen's kappa .000 ±.811",
    ]
    assert "agreement 0 of 2\n" in icl("check", "lenient", "answer=none", "--cases", "cases.jsonl").out
    shipped = icl("check", "metric", "lenient", "--cases", "shipped")
    agreement = re.fullmatch(r"agreement (\d+) of (\d+)", shipped.out.splitlines()[-2])
    assert agreement is not None
    agreeing, num_cases = map(int, agreement.groups())
    assert num_cases > 3000
    assert num_cases - 20 < agreeing == num_cases - (len(shipped.out.splitlines()) - 2)
    assert "--cases checks a metric" in icl("check", "vcd", "--cases", "cases.jsonl").err
    assert "none.jsonl cannot be read" in icl("check", "lenient", "--cases", "none.jsonl").err
