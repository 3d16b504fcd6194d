"""Checks of the imports between the product's modules: `python tests/lint_imports.py`, a part of `make lint`.

A name that a package exports (`from icl import Prompt`) is an import of the module that defines it, and so is a use of
the name through the package (`from icl.models import hf`, then `hf.Checkpoint`).

1. No circle of imports has more than two modules. Imports inside functions and for type checkers count.
2. Machinery imports no method: a module without a component imports none that defines one. The packages that list
   their components for users (`icl.edits`) may, and so may the folders of `MIXED`, whose components are machinery.
3. The layers of pyproject.toml, siblings among them, hold for exported names too, which import-linter takes for imports
   of the package.
4. No package imports from one above it, by an exported name either.
"""

import ast
import re
import subprocess
import sys
import tomllib
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

Layer = tuple[int, int]
"""Its number from the top, and the place of its part among siblings, which `|` separates."""

_COMPONENT = re.compile(r'^@component\("', re.MULTILINE)


def product_modules() -> dict[str, Path]:
    """Name -> file of the modules of the five packages that git tracks."""
    listing = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [Path(name) for name in listing.stdout.splitlines() if name.split("/")[0] in PACKAGES]
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): ROOT / path for path in files
            if (ROOT / path).exists()}  # fmt: skip


def product_exports() -> dict[str, dict[str, str]]:
    """Package -> exported name -> the module that defines it."""
    stubs = [stub for package in PACKAGES for stub in sorted((ROOT / package).rglob("__init__.pyi"))]
    return {".".join(stub.parent.relative_to(ROOT).parts): read_stub(stub.read_text(encoding="utf-8"))[0]
            for stub in stubs}  # fmt: skip


def imported(name: str, tree: ast.AST, names: Iterable[str], exports: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Those of `names` that the module `name` imports, anywhere in it."""
    own, used, packages = set(names), set[str](), dict[str, str]()
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
                if submodule in exports:
                    packages[alias.asname or alias.name] = submodule
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in packages:
            package = packages[node.value.id]
            source = exports[package].get(node.attr, "")
            used |= {f"{package}.{node.attr}" if source == package else source} & own
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


def imports_against_layers(graph: Any, contracts: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each import by which a module reaches a layer above its own, or a sibling.

    contracts: of import-linter.
    """
    lines = list[str]()
    for contract in contracts:
        if contract["type"] == "layers":
            rank = {part.strip(): (number, sibling) for number, layer in enumerate(contract["layers"])
                    for sibling, parts in enumerate(layer.split("|")) for part in parts.split(":")}  # fmt: skip
            accepted = {tuple(edge.split(" -> ")) for edge in contract.get("ignore_imports", ())}
            layered = {name: _layer(name, rank) for name in graph}
            for name, own in layered.items():
                lines += [f"{name} imports {other}, against: {contract['name']}" for other in
                          _next_layered(graph, name, layered, accepted)
                          if own is not None and _is_against(own, layered[other])]  # fmt: skip
    return sorted(lines)


def _is_against(own: Layer, other: Layer) -> bool:
    return other[0] < own[0] or (other[0] == own[0] and other[1] != own[1])


def _layer(name: str, rank: Mapping[str, Layer]) -> Layer | None:
    """The layer of a module; None for a module outside all layers."""
    parts = name.split(".")
    return next((rank[one] for one in map(".".join, (parts[:end] for end in range(len(parts), 0, -1))) if one in rank),
                None)  # fmt: skip


def _next_layered(graph: Any, name: str, layered: Mapping[str, Layer | None], accepted: set[Any]) -> set[Any]:
    """The modules of layers that a module reaches directly or through modules outside all layers."""
    waiting, visited = [name], set[str]()
    while waiting:
        module = waiting.pop()
        following = {other for other in graph[module] if (module, other) not in accepted} - visited
        visited |= following
        waiting += [other for other in following if layered[other] is None]
    return {other for other in visited if layered[other] is not None}


def imports_from_above(graph: Any) -> list[str]:
    """One line for each import of a module by a package that does not stand on the module's package."""

    def above(name: str, other: str) -> bool:
        own, its = name.split(".", maxsplit=1)[0], other.split(".", maxsplit=1)[0]
        return own != its and LEVEL[own] <= LEVEL[its]

    return [f"{name} imports {other}, which stands above it" for name, other in sorted(graph.edges)
            if above(name, other) and name != "icl.__main__"]  # fmt: skip


def run_time_text(text: str) -> str:
    """The text of a module without what stands there for type checkers."""
    tree = ast.parse(text)
    tree.body = [
        part
        for node in tree.body
        for part in (node.orelse if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) else [node])
    ]
    return ast.unparse(tree)


def main() -> int:
    """Prints the findings. Returns 1 if there are any."""
    modules = product_modules()
    sources = {name: path.read_text(encoding="utf-8") for name, path in modules.items()}
    exports = product_exports()
    graph = import_graph(sources, exports)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    run_time = import_graph({name: run_time_text(text) for name, text in sources.items()}, exports)
    packages = [name for name, path in modules.items() if path.name == "__init__.py"]
    findings = [*circles(graph), *imports_of_methods(graph, sources, packages),
                *imports_against_layers(run_time, contracts), *imports_from_above(graph)]  # fmt: skip
    print("\n".join(findings) or f"imports: {len(modules)} modules, no finding")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
