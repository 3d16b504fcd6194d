"""Counts the five packages: `python lab/count.py` prints a row for each room, `--check` fails over a room's budget.

A statement is a node of the syntax tree: a docstring of any length counts once and a comment not at all. Budgets stand
in pyproject.toml, [tool.budgets.statements]; to raise one, say in its comment what a user gets for it.
"""

import argparse
import ast
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("icl", "prompts", "retrievers", "decoding", "experiments")


@dataclass
class Weight:
    """What a reader of a room meets."""

    files: int = 0
    statements: int = 0
    import_lines: int = 0
    code_lines: int = 0

    def __add__(self, other: "Weight") -> "Weight":
        return Weight(
            self.files + other.files,
            self.statements + other.statements,
            self.import_lines + other.import_lines,
            self.code_lines + other.code_lines,
        )

    @property
    def row(self) -> str:
        share = 100 * self.import_lines / max(1, self.code_lines)
        return f"{self.files:6}{self.statements:12,}{share:10.1f} %"


def weigh(text: str) -> Weight:
    """The weight of one module. Code lines are those with a token that is neither a comment nor of a docstring."""
    tree = ast.parse(text)
    code, imports, docs = set[int](), set[int](), set[int]()
    statements = 0
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt):
            continue
        statements += 1
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.update(lines)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docs.update(lines)
        code.update(lines)
    written = {
        number
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#") and number in code - docs
    }
    return Weight(1, statements, len(imports), len(written))


def room(path: Path) -> str:
    """`experiments/report` for all of its files; modules of a package's own folder are the room `experiments`."""
    return "/".join(path.parent.parts[:2])


def weigh_revision(revision: str | None = None) -> dict[str, Weight]:
    """The weight of each room in the working tree, or in a git revision."""
    listing = ["git", "ls-files"] if revision is None else ["git", "ls-tree", "-r", "--name-only", revision, "--"]
    names = subprocess.run([*listing, *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rooms = dict[str, Weight]()
    for name in names.splitlines():
        path = Path(name)
        if path.suffix != ".py" or (revision is None and not (ROOT / path).exists()):
            continue
        if revision is None:
            text = (ROOT / path).read_text(encoding="utf-8")
        else:
            show = ["git", "show", f"{revision}:{name}"]
            text = subprocess.run(show, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        rooms[room(path)] = rooms.get(room(path), Weight()) + weigh(text)
    return rooms


def over_budget(rooms: Mapping[str, Weight], budgets: Mapping[str, int]) -> list[str]:
    """A sentence for each room without a budget, over it, or under a budget that is too generous to mean anything."""
    lines = []
    for name in sorted(set(rooms) | set(budgets)):
        statements = rooms.get(name, Weight()).statements
        if name not in budgets:
            lines.append(f"{name} has no budget: add it to [tool.budgets.statements] in pyproject.toml.")
        elif statements > budgets[name]:
            lines.append(
                f"{name} has {statements:,} statements, its budget is {budgets[name]:,}. Delete, or raise the budget "
                "in pyproject.toml with a comment that says what a user gets."
            )
        elif statements < 0.9 * budgets[name] - 20:
            lines.append(f"{name} has {statements:,} statements: lower its budget of {budgets[name]:,}.")
    return lines


def main() -> int:
    """Returns 1 if a room is over its budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", nargs="?", help="a git revision; default: the working tree")
    parser.add_argument("--check", action="store_true", help="print only what is over its budget")
    options = parser.parse_args()
    rooms = weigh_revision(options.revision)
    if options.check:
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        lines = over_budget(rooms, settings["tool"]["budgets"]["statements"])
        print("\n".join(lines) or "every room is within its budget")
        return bool(lines)
    packages = Counter(name.split("/")[0] for name in rooms)
    print(f"{'room':<28}{'files':>6}{'statements':>12}{'imports':>12}")
    for name in sorted(rooms):
        print(f"{name:<28}{rooms[name].row}")
    for package in packages:
        parts = [weight for name, weight in rooms.items() if name.split("/")[0] == package]
        print(f"{package + ' in all':<28}{sum(parts, Weight()).row}")
    print(f"{'all':<28}{sum(rooms.values(), Weight()).row}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
