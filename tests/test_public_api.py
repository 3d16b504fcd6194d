"""The public API: one page lists it, and documents import from nothing else."""

import ast
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.public_api import PAGE, PUBLIC_MODULES, ROOT, page, public_names

TOOLKIT = ("icl", "prompts", "retrievers", "decoding", "experiments")
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "questions").glob("*.md")),
]
NOTEBOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))


def python_blocks(path: Path) -> Iterator[str]:
    """The Python code of a Markdown file or a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield from re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    else:
        for cell in json.loads(text)["cells"]:
            if cell["cell_type"] == "code":
                yield re.sub(r"(?m)^(%%|!).*", "", "".join(cell["source"]))  # commands of IPython


def toolkit_imports(code: str) -> Iterator[tuple[str, str]]:
    """(module, name) of each `from module import name` of the toolkit, and (module, '') of each `import module`."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in TOOLKIT:
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] in TOOLKIT)


def test_the_page_lists_every_public_name() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python tests/public_api.py`"


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_every_public_name_exists_and_has_a_docstring(module: str) -> None:
    missing = [name for name, text in public_names(importlib.import_module(module)) if not text]
    assert not missing


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=lambda path: path.name)
def test_documents_import_public_names_only(path: Path) -> None:
    for code in python_blocks(path):
        for module, name in toolkit_imports(code):
            assert module in PUBLIC_MODULES, f"{path.name} imports {module}"
            assert not name or name in importlib.import_module(module).__all__, f"{path.name}: {module}.{name}"


@pytest.mark.parametrize("package", PUBLIC_MODULES)
def test_no_module_hides_a_public_name(package: str) -> None:
    """An import of `icl/component.py` would put the module in the place of the decorator `icl.component`."""
    module = importlib.import_module(package)
    folder = Path(str(module.__file__)).parent
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    hidden = {name for name in module.__all__ if name in modules and not isinstance(getattr(module, name), ModuleType)}
    assert not hidden, f"{package}: rename the modules {sorted(hidden)}"
