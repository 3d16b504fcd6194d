"""Task files of lmms-eval are read without running anything, and name all code that they would run."""

from pathlib import Path

import pytest
from lmms_task import TASK, installed, write_task

from icl.errors import ConfigError
from icl.harness import task_file
from icl.harness.task_file import find_task_file, function_file, read_task_file

HARMLESS = "task: plain\ndoc_to_text: question\n"


def written(folder: Path, text: str, name: str = "t.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("", ()),
        ("doc_to_visual: !function utils.visual\n", ("utils.visual",)),
        ("metric_list: [{metric: m, aggregation: !function a.b.c}]\n", ("a.b.c",)),
        ("doc_to_target: '{{answer.lower()}}'\n", ("the template of doc_to_target",)),
        ("class: !function task.Mine\n", ("class: task.Mine",)),
        ("dataset_kwargs: {trust_remote_code: true}\n", ("trust_remote_code: True",)),
        ("dataset_kwargs: {trust_remote_code: false, token: true}\n", ()),
        ("dataset_kwargs: {builder_script: load.py}\n", ("builder_script: load.py",)),
        ("dataset_path: ./load.py\n", ("dataset_path: ./load.py",)),
        ("dataset_path: pandas\n", ("dataset_path: pandas",)),  # reads pickles
        ("doc_to_text: !function utils.hidden\n", ("utils.hidden",)),  # the last of two values counts
        ("generation_kwargs: {until: ['{% x %}']}\n", ("the template of until",)),
    ],
)
def test_all_code_of_a_task_is_listed_and_needs_trust(tmp_path: Path, line: str, code: tuple[str, ...]) -> None:
    file = read_task_file(written(tmp_path, HARMLESS + line))
    assert file.code == code
    file.check_trust(True)
    if code:
        with pytest.raises(ConfigError, match=r"t\.yaml runs code: .*\. Read it, then set trust: true\."):
            file.check_trust(False)
    else:
        file.check_trust(False)


def test_yaml_tags_that_would_import_something_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"t\.yaml line 2 cannot be read as the YAML of a task"):
        read_task_file(written(tmp_path, "task: x\nrun: !!python/name:os.system\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n", "has no keys"), ("a: [\n", "line 2 cannot be read")],
)
def test_what_is_not_a_task_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_task_file(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include: 3", "include is 3, and must be a file or a list of files"),
        ("include: [3]", r"include is \[3\], and must be"),
        ("include: [[t.yaml]]", "include is .* and must be"),
        ("output_type: [a]", r"output_type is \['a'\], and must be a text"),
        ("dataset_path: 3", "dataset_path is 3, and must be a text"),
        ("dataset_kwargs: [1]", r"dataset_kwargs is \[1\], and must be a mapping"),
        ("dataset_kwargs: {data_files: {test: 3}}", r"dataset_kwargs\.data_files is \{'test': 3\}, and must be files"),
        ("metric_list: [exact_match]", r"metric_list is \['exact_match'\], and must be a list of mappings"),
        ("metric_list: {metric: exact_match}", "metric_list is .*, and must be a list"),
        ("metric_list: 3", "metric_list is 3, and must be a list"),
        ("metric_list: [{aggregation: mean}]", "metric_list is .*, and must be a list"),
        ("generation_kwargs: abc", "generation_kwargs is 'abc', and must be a mapping"),
        (
            "generation_kwargs: {max_new_tokens: .inf}",
            r"generation_kwargs\.max_new_tokens is inf, and must be a finite",
        ),
        (
            "generation_kwargs: {max_new_tokens: .nan}",
            r"generation_kwargs\.max_new_tokens is nan, and must be a finite",
        ),
        ("generation_kwargs: {max_new_tokens: '9'}", r"generation_kwargs\.max_new_tokens is '9', and must be a finite"),
        (f"repeats: 0x{'f' * 5000}", "repeats has too large a number"),
        ("a: &a [*a]", "a contains itself by an alias"),
        ("a: &a {b: {c: *a}}", "a contains itself by an alias"),
        (
            "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30)),
            "more than 100,000",
        ),
        ("[" * 3000, "nested too deeply"),
        ("a: " + "{b: " * 3000, "nested too deeply"),
        ("%YAML 1.9\n---\na: 1", "cannot be read as the YAML of a task"),
        ("a: !!bool x", "cannot be read as the YAML of a task"),
    ],
)
def test_values_of_other_types_are_errors_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    written(tmp_path, text + "\n", "base.yaml")
    path = written(tmp_path, "include: base.yaml\ntask: t\n")
    with pytest.raises(ConfigError, match=rf"base\.yaml.*{message}"):
        read_task_file(path)


def test_values_that_the_tasks_of_lmms_eval_have_are_accepted(tmp_path: Path) -> None:
    text = (
        "generation_kwargs:\nmetric_list: [{metric: a, aggregation: , higher_is_better: }, ]\nx: &x [1]\nz: [*x, *x]\n"
        "dataset_kwargs: {data_files: {test: [a, b]}}\n"
    )
    assert read_task_file(written(tmp_path, text)).keys["z"] == [[1], [1]]
    assert read_task_file(written(tmp_path, "dataset_kwargs: {data_files: a}\nmetric_list: [null]\n")).code == ()


def test_names_that_no_file_can_have_are_errors(tmp_path: Path) -> None:
    name = "x" * 5000
    with pytest.raises(ConfigError, match=r"there is no task file x{200} "):
        find_task_file(f"{name}.yaml")
    with pytest.raises(ConfigError, match=r"there is no task file ~nobody-here/t\.yaml "):
        find_task_file("~nobody-here/t.yaml")
    with pytest.raises(ConfigError, match=r"includes x{200}, and there is no such file"):
        read_task_file(written(tmp_path, f"include: {name}\n"))
    file = read_task_file(written(tmp_path, f"doc_to_text: !function {name}.text\n"))
    assert function_file(file.functions()[0]) is None
    assert len(file.digest) == 12


def test_included_files_are_merged_and_the_own_keys_count_first(tmp_path: Path) -> None:
    written(tmp_path, "include: b.yaml\ndoc_to_text: !function u.a\nx: 1\n", "a")
    written(tmp_path, "x: 2\nw: 3\n", "b.yaml")
    written(tmp_path, "x: 4\nz: 5\n", "c")
    file = read_task_file(written(tmp_path, "include: [a, c]\ntask: t\n"))
    assert file.keys == {"task": "t", "x": 1, "w": 3, "z": 5, "doc_to_text": "!function u.a"}
    assert sorted(path.name for path in file.files) == ["a", "b.yaml", "c", "t.yaml"]
    assert file.code == ("u.a",)


def test_a_function_is_searched_beside_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    for folder in (tmp_path, tmp_path / "shared"):
        (folder / "utils.py").write_text("")
    written(tmp_path / "shared", "process_results: !function utils.score\n", "base.yaml")
    file = read_task_file(written(tmp_path, "include: shared/base.yaml\ndoc_to_text: !function utils.text\n"))
    assert [function_file(name) for name in file.functions("process_results", "doc_to_text")] == [
        tmp_path / "shared" / "utils.py",
        tmp_path / "utils.py",
    ]
    before = file.digest
    (tmp_path / "shared" / "utils.py").write_text("a = 1\n")
    assert read_task_file(file.path).digest != before


def test_an_include_that_is_missing_or_endless_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="includes other, and there is no such file"):
        read_task_file(written(tmp_path, "include: other\n"))
    with pytest.raises(ConfigError, match="includes itself"):
        read_task_file(written(tmp_path, "include: t.yaml\n"))


def test_the_digest_changes_with_every_file_that_the_code_may_come_from(tmp_path: Path) -> None:
    path = written(tmp_path, "include: base\n" + TASK)
    written(tmp_path, "repeats: 1\n", "base")
    (tmp_path / "utils.py").write_text("a = 1\n")
    digests = {read_task_file(path).digest}
    for name, text in (("utils.py", "a = 2\n"), ("helper.py", ""), ("base", "repeats: 2\n"), ("t.yaml", TASK)):
        (tmp_path / name).write_text(text)
        digests.add(read_task_file(path).digest)
    assert len(digests) == 5
    (tmp_path / "notes.txt").write_text("")
    assert read_task_file(path).digest in digests


def test_a_name_is_a_task_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with installed(monkeypatch):
        file = find_task_file("colors")
        assert (file.title, file.keys["test_split"]) == ("colors", "test")
        assert file.code == ("the template of doc_to_target", "utils.text")
        with pytest.raises(ConfigError, match=r"no task 'color'\. Did you mean 'colors'\?"):
            find_task_file("color")
        with pytest.raises(ConfigError, match=r"'paint' is a group .* such as colors, shades"):
            find_task_file("paint")
    assert not any(name.startswith("lmms_eval") for name in __import__("sys").modules)


def test_without_the_package_a_name_is_an_error_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(task_file, "installed_folder", lambda: None)
    task_file._installed_tasks.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'lmms-eval>=0\.7\.3,<0\.8' 'filelock<4'"):
        find_task_file("mme")


def test_a_missing_file_is_an_error_with_the_places_that_were_searched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"there is no task file no\.yaml \(looked in {tmp_path}"):
        find_task_file("no.yaml", (tmp_path,))
    write_task(tmp_path / "here")
    assert find_task_file("here/hues.yaml", (tmp_path,)).title == "hues"
