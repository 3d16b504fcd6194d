"""Public names are imported at their first use, and a file that shadows a package is reported then."""

import importlib
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest

import icl
from icl import testing
from icl.lazy_exports import PACKAGES, lazy_exports, read_stub
from icl.registry import PACKAGES as KINDS

ROOT = Path(icl.__file__).parents[1]
STUBS = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("__init__.pyi"))


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_importing_icl_imports_nothing_heavy() -> None:
    code = "import icl, sys; print({'torch', 'pandas', 'numpy', 'experiments'} & set(sys.modules))"
    assert run_python(code, ROOT).stdout == "set()\n"


@pytest.mark.parametrize("name", icl.__all__)
def test_every_public_name_of_icl_is_importable_and_listed(name: str) -> None:
    assert getattr(icl, name) is not None
    assert name in dir(icl)


@pytest.mark.parametrize("shadow", ["prompts.py", "prompts/__init__.py", "experiments/__init__.py", "decoding.py"])
def test_a_projects_file_of_the_name_of_a_package_is_neither_used_nor_run(tmp_path: Path, shadow: str) -> None:
    (tmp_path / shadow).parent.mkdir(exist_ok=True)
    (tmp_path / shadow).write_text("open('executed', 'w')\n")
    use = run_python("import icl; print(icl.load_task('binding').title, icl.load_run, icl.Composer)", tmp_path)
    assert use.returncode == 0, use.stderr
    assert not (tmp_path / "executed").exists()


def test_a_package_that_was_imported_before_icl_is_named(tmp_path: Path) -> None:
    (tmp_path / "prompts.py").write_text("")
    for code in ("icl.load_task('binding')", "from icl.registry import entries; entries('metric')"):
        use = run_python(f"import prompts, icl; {code}", tmp_path)
        assert f"'prompts' is {tmp_path / 'prompts.py'}, which shadows the package 'prompts' of mm-icl." in use.stderr


def test_a_projects_module_that_is_hidden_is_an_error_that_names_its_folder(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "mine.py").write_text("class Mine: pass\n")
    use = run_python("import icl; import prompts.mine", tmp_path)
    assert (
        f"'prompts.mine' is not a module of mm-icl, whose package 'prompts' hides the folder {tmp_path / 'prompts'}. "
        "Rename the folder. A config can name a component by its file: prompts/mine.py:Name." in use.stderr
    )
    assert "No module named 'prompts.theirs'" in run_python("import icl, prompts.theirs", tmp_path).stderr
    build = "import icl; from icl.registry import build; build('composer', 'prompts.mine:Mine')"
    assert "icl.errors.ConfigError: 'prompts.mine' is not a module of mm-icl" in run_python(build, tmp_path).stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    get_attribute, list_names, public = lazy_exports("icl")
    with pytest.raises(AttributeError, match="module 'icl' has no attribute 'Promt'"):
        get_attribute("Promt")
    assert "Prompt" in list_names()
    assert "Prompt" in public


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: path.parent.name)
def test_every_exported_name_comes_from_the_module_that_defines_it(stub: Path) -> None:
    package = importlib.import_module(".".join(stub.parent.relative_to(ROOT).parts))
    sources, _ = read_stub(stub.read_text())
    for name, module in sources.items():
        defined = importlib.import_module(module if module != package.__name__ else f"{module}.{name}")
        assert getattr(package, name) is (defined if module == package.__name__ else getattr(defined, name))


def test_the_base_classes_of_all_kinds_are_public() -> None:
    assert {kind.title() for kind in KINDS} <= set(icl.__all__)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_check(kind: str) -> None:
    assert callable(getattr(testing, f"check_{kind}"))


def test_the_logger_is_silent_without_a_handler() -> None:
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("icl").handlers)


def test_a_library_that_is_imported_lazily_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(icl.pa)) is pyarrow  # noqa: S301  bytes of this process
