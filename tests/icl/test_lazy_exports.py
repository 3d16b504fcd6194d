"""Public names are imported at their first use, and a file that shadows a package is named then."""

import subprocess
import sys
from pathlib import Path

import pytest

import icl
from icl.lazy_exports import MARKER, PACKAGES, lazy_exports

ROOT = Path(icl.__file__).parents[1]


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_importing_icl_imports_nothing_heavy() -> None:
    code = "import icl, sys; print({'torch', 'pandas', 'numpy', 'experiments'} & set(sys.modules))"
    assert run_python(code, ROOT).stdout == "set()\n"


@pytest.mark.parametrize("name", icl.__all__)
def test_every_public_name_of_icl_is_importable_and_listed(name: str) -> None:
    assert getattr(icl, name) is not None
    assert name in dir(icl)


def test_a_file_that_shadows_a_package_is_named_at_first_use_and_never_run(tmp_path: Path) -> None:
    (tmp_path / "prompts.py").write_text("open('executed', 'w')\n")
    assert run_python("import icl", tmp_path).returncode == 0
    use = run_python("import icl; icl.load_task('binding')", tmp_path)
    assert f"'prompts' is {tmp_path / 'prompts.py'}, which shadows the package 'prompts' of mm-icl." in use.stderr
    assert not (tmp_path / "executed").exists()


def test_a_copy_of_the_toolkit_in_another_place_is_not_taken_for_a_stranger(tmp_path: Path) -> None:
    for name in PACKAGES[1:]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text(f"{MARKER}\n")
    code = "from icl.lazy_exports import check_packages; check_packages()"
    assert run_python(code, tmp_path).returncode == 0


def test_an_unknown_name_is_an_attribute_error() -> None:
    get_attribute, list_names = lazy_exports("package", {"icl.types": ("Prompt",)})
    with pytest.raises(AttributeError, match="module 'package' has no attribute 'Promt'"):
        get_attribute("Promt")
    assert "Prompt" in list_names()
