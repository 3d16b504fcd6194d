"""Two checks of the imports between the product's modules: `python tests/lint_imports.py`, a part of `make lint`.

1. No circle of imports has more than two modules. Imports inside functions and for type checkers count.
2. Machinery imports no method: a module without a component imports none that defines one. The packages that list
   their components for users (`icl.edits`) may, and so may the folders of `MIXED`, whose components are machinery.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import networkx

ROOT = Path(__file__).parents[1]
PACKAGES = ("icl", "prompts", "retrievers", "decoding", "experiments")
LARGEST_CIRCLE = 2
MIXED = ("machinery", "arms", "formulas", "models", "launch", "observers")
"""Folders with components that machinery may import: defaults, wrappers, samplers, backends."""
ANALYSES = "experiments.analyses."
"""Methods without a component: an analysis may build on another method."""

_COMPONENT = re.compile(r'^@component\("', re.MULTILINE)


def product_modules() -> dict[str, Path]:
    """Name -> file of the modules of the five packages that git tracks."""
    listing = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [Path(name) for name in listing.stdout.splitlines() if name.split("/")[0] in PACKAGES]
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): ROOT / path for path in files
            if (ROOT / path).exists()}  # fmt: skip


def imported(tree: ast.AST, names: Iterable[str]) -> set[str]:
    """Those of `names` that a module imports, anywhere in it."""
    own, used = set(names), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names} & own
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                used |= {submodule if submodule in own else node.module} & own
    return used


def import_graph(sources: Mapping[str, str]) -> Any:
    """An edge from each module to those that it imports. sources: module -> its text."""
    graph = networkx.DiGraph()
    for name, text in sources.items():
        graph.add_node(name)
        graph.add_edges_from((name, other) for other in imported(ast.parse(text), sources) - {name})
    return graph


def circles(graph: Any) -> list[str]:
    """One line for each circle of more than LARGEST_CIRCLE modules."""
    cycles = (sorted(one) for one in networkx.strongly_connected_components(graph) if len(one) > LARGEST_CIRCLE)
    return [f"{len(one)} modules import each other in a circle: {', '.join(one)}" for one in sorted(cycles)]


def imports_of_methods(graph: Any, sources: Mapping[str, str], packages: Iterable[str]) -> list[str]:
    """One line for each import of a method by machinery. packages: the modules that are an `__init__.py`."""
    methods = {name for name, text in sources.items() if _COMPONENT.search(text)
               and not {*name.split(".")[:-1]} & {*MIXED}}  # fmt: skip
    listing = set(packages)
    return [f"{name} imports the method {other}" for name, other in sorted(graph.edges)
            if other in methods and name not in methods | listing and not name.startswith(ANALYSES)]  # fmt: skip


def main() -> int:
    """Prints the findings. Returns 1 if there are any."""
    modules = product_modules()
    sources = {name: path.read_text(encoding="utf-8") for name, path in modules.items()}
    graph = import_graph(sources)
    packages = [name for name, path in modules.items() if path.name == "__init__.py"]
    findings = [*circles(graph), *imports_of_methods(graph, sources, packages)]
    print("\n".join(findings) or f"imports: {len(modules)} modules, no finding")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
