"""An edit of a module that a component imports, or of a file that it reads, makes another component of it."""

import hashlib
import importlib
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from icl.code_files import code_digest_of_file, names_of_files
from icl.errors import ICLWarning
from icl.loading import code_digest, load_function

FILES = {
    "mine.py": """
        import json
        import helper
        from lib import numbers
        from pathlib import Path

        HERE = Path(__file__).parent

        def rules():
            texts = (HERE / "rules.txt").read_text(), (HERE / "more" / "en.txt").read_text()
            return helper.rule(), numbers.ONE, *texts, open(f"{HERE}/formatted.txt").read()

        def later():
            from lazy import VALUE
    """,
    "helper.py": "import deep\ndef rule(): return deep.NUMBER\n",
    "deep.py": "NUMBER = 1\n",
    "lazy.py": "VALUE = 1\n",
    "lib/__init__.py": "",
    "lib/numbers.py": "from . import constants\nfrom .rounding import digits\nONE = constants.ONE\n",
    "lib/constants.py": "ONE = 1\n",
    "lib/rounding.py": "def digits(): return open('lib/digits.txt')\n",
    "rules.txt": "1",
    "more/en.txt": "1",
    "formatted.txt": "1",
    "alone.py": "def rules(): return open('unused.txt', 'w')\n",
    "unused.py": "VALUE = 1\n",
    "unused.txt": "1",
    "json.txt": "1",
}
FOLLOWED = ("helper.py", "deep.py", "lazy.py", "lib/numbers.py", "lib/constants.py", "lib/rounding.py")
READ = ("rules.txt", "more/en.txt", "formatted.txt")


def write(folder: Path, files: dict[str, str] = FILES) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace("\n        ", "\n"), encoding="utf-8")
    return folder


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace("1", "12") + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a component and its files. Modules that a test imports from it are forgotten after the test."""
    before = {*sys.modules}
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield write(tmp_path / "study")
    for name in {*sys.modules} - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def by_import(folder: Path) -> ModuleType:
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    return importlib.import_module("mine")


@pytest.mark.parametrize("name", [*FOLLOWED, *READ])
def test_the_digest_changes_with_each_file_that_the_component_depends_on(folder: Path, name: str) -> None:
    before = code_digest_of_file(folder / "mine.py")
    edit(folder / name)
    assert code_digest_of_file(folder / "mine.py") != before


@pytest.mark.parametrize("name", ["unused.py", "unused.txt", "json.txt"])
def test_other_files_beside_it_do_not_count(folder: Path, name: str) -> None:
    before = code_digest_of_file(folder / "mine.py"), code_digest_of_file(folder / "alone.py")
    edit(folder / name)
    assert (code_digest_of_file(folder / "mine.py"), code_digest_of_file(folder / "alone.py")) == before


@pytest.mark.parametrize(
    "code",
    [
        "open(HERE / 'log', 'a')",
        "(HERE / 'log').open(mode='w')",
        "open(f'{HERE}/log', 'x')",
        "LOG.write_text('1')",
        "LOG.parent.joinpath('log').write_bytes(b'1')",
        "self.log = os.path.join(HERE, 'log'); gzip.open(self.log, 'wb')",
    ],
)
def test_a_file_that_the_component_writes_does_not_count(tmp_path: Path, code: str) -> None:
    """Otherwise each run of it would make another component of it."""
    text = f"HERE = Path(__file__).parent\nLOG = HERE / 'log'\nRULES = HERE / 'rules'\ndef run(self):\n    {code}\n"
    write(tmp_path, {"mine.py": text, "rules": "1"})
    before = code_digest_of_file(tmp_path / "mine.py")
    (tmp_path / "log").write_text("1")
    assert code_digest_of_file(tmp_path / "mine.py") == before
    edit(tmp_path / "rules")
    assert code_digest_of_file(tmp_path / "mine.py") != before


@pytest.mark.parametrize(
    "code", ["open(LOG)", "LOG.open('rb')", "open(LOG, encoding='utf-8')", "LOG = HERE / 'a'; LOG.write_text('1')"]
)
def test_a_file_that_it_may_only_read_counts(tmp_path: Path, code: str) -> None:
    text = f"HERE = Path(__file__).parent\nLOG = HERE / 'log'\ndef run():\n    {code}\n"
    write(tmp_path, {"mine.py": text, "log": "1"})
    before = code_digest_of_file(tmp_path / "mine.py")
    edit(tmp_path / "log")
    assert code_digest_of_file(tmp_path / "mine.py") != before


def test_an_edit_that_keeps_the_size_of_a_file_counts(folder: Path) -> None:
    before = code_digest_of_file(folder / "mine.py")
    (folder / "rules.txt").write_text("2")
    assert code_digest_of_file(folder / "mine.py") != before


def test_the_package_of_an_imported_module_counts(tmp_path: Path) -> None:
    write(tmp_path, {"mine.py": "import lib.numbers\n", "lib/__init__.py": "ONE = 1\n", "lib/numbers.py": ""})
    assert {*names_of_files(code_digest_of_file(tmp_path / "mine.py"))} == {
        "mine.py",
        "lib/__init__.py",
        "lib/numbers.py",
    }


def test_the_digest_names_its_files(folder: Path) -> None:
    names = names_of_files(code_digest_of_file(folder / "mine.py"))
    assert names[0] == "mine.py"
    assert {*names[1:]} == {*FOLLOWED, *READ}


def test_a_file_that_depends_on_no_other_has_the_digest_of_its_bytes(folder: Path) -> None:
    assert code_digest_of_file(folder / "alone.py") == hashlib.sha256(FILES["alone.py"].encode()).hexdigest()[:12]


def test_a_copy_of_the_folder_has_the_same_digest(folder: Path, tmp_path: Path, monkeypatch) -> None:
    before = code_digest_of_file(folder / "mine.py")
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    monkeypatch.chdir(tmp_path / "elsewhere" / "copy")
    assert code_digest_of_file(Path("mine.py")) == code_digest_of_file(Path("mine.py").resolve()) == before


def test_a_package_is_followed_from_any_of_its_modules(tmp_path: Path) -> None:
    package = write(
        tmp_path / "pack",
        {
            "__init__.py": "",
            "tasks/mine.py": "from pack.tools.text import clean\nfrom ..tools import numbers\n",
            "tools/text.py": "import pack.tools.deep as deep\n",
            "tools/numbers.py": "",
            "tools/deep.py": "",
        },
    )
    names = names_of_files(code_digest_of_file(package / "tasks" / "mine.py"))
    assert {*names[1:]} >= {"../tools/text.py", "../tools/numbers.py", "../tools/deep.py"}


def test_packages_of_the_toolkit_and_installed_ones_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path, {"mine.py": "import decoding\nfrom icl import edits\n", "decoding/__init__.py": "", "icl.py": ""})
    assert names_of_files(code_digest_of_file(tmp_path / "mine.py")) == ("mine.py",)
    assert len(names_of_files(code_digest_of_file(Path(pytest.__file__)))) == 1


def test_a_file_loaded_by_its_path_runs_the_edited_module_in_the_same_process(folder: Path) -> None:
    target = f"{folder}/mine.py:rules"
    first = load_function(target)
    assert load_function(target) is first
    assert first()[0] == 1
    edit(folder / "deep.py")
    again = load_function(target)
    assert again()[0] == 12
    assert code_digest(again) != code_digest(first)
    edit(folder / "lib" / "constants.py")
    assert load_function(target)()[1] == 12


def test_a_module_that_read_its_data_at_the_import_reads_edited_data(folder: Path) -> None:
    helper = "from pathlib import Path\nRULE = Path(__file__).with_name('rules.txt').read_text()\n"
    write(folder, {"helper.py": f"{helper}def rule(): return RULE\n"})
    assert load_function(f"{folder}/mine.py:rules")()[0] == "1"
    edit(folder / "rules.txt")
    assert load_function(f"{folder}/mine.py:rules")()[0] == "12\n"


def test_modules_of_the_same_name_in_two_folders_are_two(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other")
    edit(other / "deep.py")
    assert load_function(f"{folder}/mine.py:rules")()[0] == 1
    assert load_function(f"{other}/mine.py:rules")()[0] == 12


def digest(module: ModuleType) -> str:
    return code_digest(module.rules)


@pytest.mark.parametrize("name", ["mine.py", "deep.py", "rules.txt"])
def test_an_imported_module_has_the_digest_of_the_code_that_runs_until_it_is_loaded_again(
    folder: Path, by_import: Any, name: str
) -> None:
    before = digest(by_import)
    edit(folder / name)
    with pytest.warns(ICLWarning, match=rf"{name} was edited after this process imported .*importlib.reload"):
        assert digest(by_import) == before
    importlib.reload(sys.modules["deep" if name == "deep.py" else "mine"])
    assert digest(by_import) != before
    assert digest(by_import) == code_digest_of_file(folder / "mine.py")


def test_a_cell_depends_on_the_modules_that_it_uses(folder: Path, by_import: Any, monkeypatch) -> None:
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    cell: dict[str, Any] = {"__name__": "__main__", "helper": sys.modules["helper"]}
    exec("class Mine:\n  def score(self):\n    return helper.rule()", cell)  # noqa: S102
    before = code_digest(cell["Mine"])
    edit(folder / "unused.txt")
    assert code_digest(cell["Mine"]) == before
    edit(folder / "deep.py")
    importlib.reload(sys.modules["deep"])
    assert code_digest(cell["Mine"]) != before
