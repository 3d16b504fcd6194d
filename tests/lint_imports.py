"""Checks of the imports between the product's modules: `python tests/lint_imports.py`, a part of `make lint`.

A name that a package exports (`from icl import Prompt`) is an import of the module that defines it.

1. No circle of imports has more than two modules. Imports inside functions and for type checkers count.
2. Machinery imports no method: a module without a component imports none that defines one. The packages that list
   their components for users (`icl.edits`) may, and so may the folders of `MIXED`, whose components are machinery.
3. Machinery imports the exported names of its own package from the modules that define them, so that the contracts
   between the package's folders see what it imports.
4. No package imports from one above it, by an exported name either.
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
sys.path.insert(0, str(ROOT))

from icl.lazy_exports import read_stub  # noqa: E402

PACKAGES = ("icl", "prompts", "retrievers", "decoding", "experiments")
LEVEL = {"icl": 0, "prompts": 1, "retrievers": 1, "decoding": 1, "experiments": 2}
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


def product_exports() -> dict[str, dict[str, str]]:
    """Package -> exported name -> the module that defines it."""
    stubs = [ROOT / package / "__init__.pyi" for package in PACKAGES] + sorted(ROOT.glob("*/*/__init__.pyi"))
    return {".".join(stub.parent.relative_to(ROOT).parts): read_stub(stub.read_text(encoding="utf-8"))[0]
            for stub in stubs if stub.relative_to(ROOT).parts[0] in PACKAGES}  # fmt: skip


def imported(name: str, tree: ast.AST, names: Iterable[str], exports: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Those of `names` that the module `name` imports, anywhere in it."""
    own, used = set(names), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names} & own
        elif isinstance(node, ast.ImportFrom):
            folder = [name.rsplit(".", node.level)[0]] if node.level else []
            module = ".".join([*folder, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{module}.{alias.name}"
                source = exports.get(module, {}).get(alias.name, module)
                used |= {submodule if submodule in own else source} & own
    return used


def import_graph(sources: Mapping[str, str], exports: Mapping[str, Mapping[str, str]] | None = None) -> Any:
    """An edge from each module to those that it imports. sources: module -> its text; exports: `product_exports`."""
    graph = networkx.DiGraph()
    for name, text in sources.items():
        graph.add_node(name)
        graph.add_edges_from(
            (name, other) for other in imported(name, ast.parse(text), sources, exports or {}) - {name}
        )
    return graph


def circles(graph: Any) -> list[str]:
    """One line for each circle of more than LARGEST_CIRCLE modules."""
    cycles = (sorted(one) for one in networkx.strongly_connected_components(graph) if len(one) > LARGEST_CIRCLE)
    return [f"{len(one)} modules import each other in a circle: {', '.join(one)}" for one in sorted(cycles)]


def methods_of(sources: Mapping[str, str]) -> set[str]:
    """The modules that define a component of users."""
    return {name for name, text in sources.items() if _COMPONENT.search(text)
            and not {*name.split(".")[:-1]} & {*MIXED}}  # fmt: skip


def imports_of_methods(graph: Any, sources: Mapping[str, str], packages: Iterable[str]) -> list[str]:
    """One line for each import of a method by machinery. packages: the modules that are an `__init__.py`."""
    methods = methods_of(sources)
    listing = set(packages)
    return [f"{name} imports the method {other}" for name, other in sorted(graph.edges)
            if other in methods and name not in methods | listing and not name.startswith(ANALYSES)]  # fmt: skip


def imports_of_own_package(sources: Mapping[str, str], exports: Mapping[str, Mapping[str, str]]) -> list[str]:
    """One line for each module of machinery that imports exported names of the package that it is a part of."""
    methods = methods_of(sources)
    lines = []
    for name, text in sorted(sources.items()):
        package = name.split(".")[0]
        imports = re.findall(rf"^ *from {package} import ([\w, ]+)", text, re.MULTILINE)
        if name not in methods and not name.startswith(ANALYSES):
            lines += [f"{name}: import {word} from {exports[package][word]}, not from its own package"
                      for word in ", ".join(imports).split(", ") if word in exports.get(package, ())
                      and word not in ("__version__", "edits")]  # fmt: skip
    return lines


def imports_from_above(graph: Any) -> list[str]:
    """One line for each import of a module by a package that does not stand on the module's package."""

    def above(name: str, other: str) -> bool:
        own, its = name.split(".", maxsplit=1)[0], other.split(".", maxsplit=1)[0]
        return own != its and LEVEL[own] <= LEVEL[its]

    return [f"{name} imports {other}, which stands above it" for name, other in sorted(graph.edges)
            if above(name, other) and name != "icl.__main__"]  # fmt: skip


def main() -> int:
    """Prints the findings. Returns 1 if there are any."""
    modules = product_modules()
    sources = {name: path.read_text(encoding="utf-8") for name, path in modules.items()}
    exports = product_exports()
    graph = import_graph(sources, exports)
    packages = [name for name, path in modules.items() if path.name == "__init__.py"]
    findings = [*circles(graph), *imports_of_methods(graph, sources, packages),
                *imports_of_own_package(sources, exports), *imports_from_above(graph)]  # fmt: skip
    print("\n".join(findings) or f"imports: {len(modules)} modules, no finding")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
