"""The documentation: files load, commands parse, Python compiles, the tutorial and the answers to questions run."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer
from harness_logs import write_lmms
from lmms_task import installed
from tiny_models import IS_WHOLE

from experiments.api import load_run
from experiments.cli.main import commands, main
from experiments.cli.parser import parser_of
from experiments.config.config import load_config
from experiments.config.shipped import shipped_configs
from experiments.config.yaml_document import parse_yaml
from experiments.grid.grid import expand

ROOT = Path(__file__).parent.parent
GENERATED = ("components", "notebooks", "project", "reference")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.relative_to(ROOT / "docs").parts[0] not in GENERATED),
]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NEEDS_MORE = re.compile(r"fitted: plus\.|enable_thinking: false")
"""In a file that this page alone cannot expand."""
REST = {"task": "binding", "model": "fake-vote"}
"""Keys of an experiment file that a page which shows a part of one leaves out."""
FEW = {
    "quickstart": ("grid.task.queries=[4]", "seeds=[0]", "grid.shots=[0,2]", "grid.retriever=[random]"),
    "": ("task.queries=4", "seeds=[0]"),
    "bound.yaml": ("task.queries=2", "task.support=5"),
}
FEW_FIT = {"learned.yaml": ("task.queries=24",)}


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def each_block(language: str) -> list[object]:
    return [
        pytest.param(text, id=f"{page_name(page)}-{i}")
        for page in PAGES
        for i, text in enumerate(blocks(page, language))
    ]


def block_commands(page: Path) -> Iterator[list[str]]:
    """The words of each `icl` command in an indented block, or in a shell block."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for line in [*re.findall(r"^ {4,}(\S.*)", text.replace("\\\n", " "), re.MULTILINE), *blocks(page, "sh")]:
        for part in re.split(r" && |; ", line):
            words = shlex.split(part, comments=True)
            if words and words[0].rpartition("/")[2] == "icl":
                yield words[1:]


def inline_commands(page: Path) -> Iterator[list[str]]:
    """The words of each `icl` command in the text. Those with an ellipsis or with alternatives are no commands."""
    for code in re.findall(r"`icl ([a-z][^`]*)`", page.read_text(encoding="utf-8")):
        if not re.search(r"…|\.\.\.|\||\[--", code):
            yield shlex.split(code)


# A file with vectors expands after the command that fits them: the tests of whole pages run both. The file without
# thinking runs on a twin of its model (tests/icl/models/hf/test_template_arguments.py).
@pytest.mark.parametrize("text", [block for block in each_block("yaml") if not NEEDS_MORE.search(block.values[0])])
def test_every_experiment_file_expands(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, _ = parse_yaml(
        re.sub(r"path: [\w-]+/[\w.-]+, dtype: \w+", "path: tiny", text), "block"
    )  # a checkpoint elsewhere
    whole = keys if "name" in keys and "model" in {**keys, **keys.get("grid", {})} else REST | keys
    with installed(monkeypatch):  # a stand-in of lmms-eval
        assert expand(load_config(whole)).cells


@pytest.mark.parametrize("text", each_block("python"))
def test_all_python_compiles(text: str) -> None:
    compile(text, "block", "exec")


@cache
def parsed_command(name: str) -> click.Command:
    return typer.main.get_command(parser_of(name, "", lambda function: function))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_command_exists_and_takes_its_arguments(page: Path) -> None:
    for words in [*block_commands(page), *inline_commands(page)]:
        name, *arguments = words
        assert name in commands(), f"no command {name}"
        if not arguments:
            continue
        try:
            command = parsed_command(name)
            if hasattr(command, "resolve_command"):
                name, command, arguments = command.resolve_command(click.Context(command), arguments)
            if arguments:
                command.make_context(name, [*arguments])
        except click.ClickException as error:
            pytest.fail(f"icl {' '.join(words)}: {error.format_message()}")
        if name in ("run", "plan") and arguments[0].islower():
            file = arguments[0]
            assert file in shipped_configs() or file.endswith((".yaml", "run.json")), f"no experiment {file}"


SECTIONS = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8").split("\n## ")[1:]
EXTENDING = [
    (section.partition("\n")[0], *match.groups())
    for section in SECTIONS
    if (match := re.search(r"```python\n# (\w+\.py)\n(.*?^class .*?)```", section, re.MULTILINE | re.DOTALL))
]
"""(kind, file, text) of each section with a component."""


@pytest.mark.parametrize(("kind", "file", "text"), EXTENDING, ids=[kind for kind, _, _ in EXTENDING])
def test_every_component_of_the_page_on_extending_passes_its_check(
    kind: str, file: str, text: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).write_text(text, encoding="utf-8")
    section = next(section for section in SECTIONS if file in section)
    named = re.findall(rf"{re.escape(file)}:(\w+)", section)
    name = [*named, *re.findall(r"^class (\w+)", text, re.MULTILINE)][0]
    assert main(["check", kind.rsplit(maxsplit=1)[-1].lower(), f"{file}:{name}"]) == 0


def test_the_page_on_extending_has_a_component_of_each_kind() -> None:
    kinds = {"Retriever", "Composer", "Metric", "Reranker", "Orderer", "Transform", "Embedder", "Image edit"}
    assert {kind for kind, _, _ in EXTENDING} == kinds | {"Intervention", "Model", "Launcher"}


def run_page(title: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the commands of a page in their order, on few queries. tests/journeys runs its Python."""
    page = ROOT / "docs" / f"{title}.md"
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "120")
    files = {text.partition("\n")[0].removeprefix("# "): text for text in blocks(page, "yaml") if text.startswith("# ")}
    for command in block_commands(page):
        more = FEW.get(command[1], FEW[""]) if command[0] == "run" else FEW_FIT.get(command[1], ())
        words = [*command, *(more if command[0] in ("run", "fit") else ())]
        for name in files.keys() & words:
            (folder / name).write_text(files[name], encoding="utf-8")
        assert main(words) == 0, f"icl {' '.join(words)}"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of somebody who reads one page after another. The quickstart is computed once."""
    return tmp_path_factory.mktemp("reader")


WHOLE_PAGES = (
    *("tutorial", "gallery/vcd_on_my_model", "gallery/is_my_gain_real"),
    *("gallery/does_retrieval_help", "gallery/learned_demonstrations", "gallery/labels_or_images"),
    "gallery/task_vector",
)
RUN_PAGES = WHOLE_PAGES if IS_WHOLE else ("tutorial", "gallery/learned_demonstrations", "gallery/task_vector")
"""What trains, fits and runs. `make nightly` runs the other pages too; here their commands and files are read."""


@pytest.mark.parametrize("name", RUN_PAGES)
def test_a_page_runs_from_its_first_command_to_its_last(name: str, reader: Path, monkeypatch) -> None:
    run_page(name, reader, monkeypatch)
    if name == "tutorial":
        assert "\\toprule" in (reader / "scores.tex").read_text()


def test_the_page_on_logs_runs_on_logs(tmp_path: Path, monkeypatch) -> None:
    for arm, scores in {"greedy": [1.0, 0.0, 1.0, 1.0], "vcd": [1.0, 1.0, 0.0, 1.0]}.items():
        write_lmms(tmp_path / "logs" / arm, scores)
    run_page("gallery/import_lmms_eval_logs", tmp_path, monkeypatch)
    assert (tmp_path / "pope.tex").is_file()


def test_the_page_on_data_goes_from_files_to_a_table(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "data.md"
    (make,) = blocks(page, "python")
    (study,) = (text for text in blocks(page, "yaml") if text.startswith("# own.yaml"))
    (tmp_path / "own.yaml").write_text(study, encoding="utf-8")
    exec(make, {})  # noqa: S102  the page's own text
    own = {"first", "own.yaml", "runs/own", "data/rows.jsonl"}
    commands = [words for words in block_commands(page) if own & set(words)]
    assert [words[0] for words in commands] == ["try", "new", "plan", "run", "show"]
    for words in commands:
        assert main(words) == 0, f"icl {' '.join(words)}"
    assert "options are not in the prompt" not in capsys.readouterr().out
    samples = load_run("runs/own").samples()
    assert set(samples["query"]) == {f"row-{i:02d}" for i in range(16)}
    assert {name for demos in samples["demos"].dropna() for name, *_ in demos} <= {
        f"pool-row-{i}" for i in range(16, 48)
    }
    assert samples.groupby([meta["type"] for meta in samples["meta"]])["question"].first().to_dict() == {
        "choice": "What color is the image?\nA. red\nB. green\nC. blue\nD. yellow\n"
        "Answer with the option's letter from the given choices directly.",
        "free": "What color is the image?",
    }
    guessed, own = (load_config(path).task for path in ("first.yaml", "own.yaml"))
    assert dict(guessed) == dict(own)


VERDICTS = ("replicates", "does not replicate", "undecided", "trained to", "no better than a constant")


def test_every_finding_on_the_page_of_results_has_a_verdict_that_the_page_defines() -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^- \*\*(.+?)\*\*: ", text.split("## On the shipped models")[0], re.MULTILINE)) == VERDICTS
    rows = re.findall(r"^\| (.+) \|$", text.split("| verdict |\n|---|---|---|\n")[1].split("\n\n")[0], re.MULTILINE)
    assert len(rows) == 9
    assert [row for row in rows if not row.split(" | ")[-1].startswith(VERDICTS)] == []


def test_the_table_of_presets_says_when_their_data_were_last_checked() -> None:
    from experiments.cli.data import preset_row
    from icl.tasks.presets import PRESETS

    lines = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("| `")] == [preset_row(name) for name in PRESETS]


def test_the_comparison_counts_the_presets_that_exist() -> None:
    count = len(list((ROOT / "icl" / "tasks" / "presets").glob("*.yaml")))
    for page in ("README.md", "docs/comparison.md"):
        assert re.findall(r"(\d+) presets", (ROOT / page).read_text(encoding="utf-8")) == [str(count)], page
