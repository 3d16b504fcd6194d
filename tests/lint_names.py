"""Two checks of names in all Python files of the repository: `python tests/lint_names.py`, a part of `make lint`.

1. No identifier is a word of `BANNED`, and none contains a word of `BANNED_PARTS`.
2. A public class name has one meaning: no two modules of the packages define it.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("icl", "prompts", "retrievers", "decoding", "experiments")

BANNED_PARTS = frozenset({"told", "said", "picture", "pictures"})
BANNED = BANNED_PARTS | {
    *("album", "alike", "apart", "around", "aside", "asked", "asleep", "ballot", "bars", "begun", "beside", "blame"),
    *("brief", "colour", "desk", "drawn", "enough", "fair", "found", "gang", "given", "heard", "held", "kept", "known"),
    *("labelled", "lane", "lanes", "lead", "lends", "lent", "meant", "most", "normalise", "opener", "orphan", "pick"),
    *("relabelled", "seat", "seen", "settled", "shown", "spared", "spoken", "spreads", "stand_ins", "sure", "threaded"),
    *("torn", "track", "wanted", "wire", "won"),
}
"""Words that do not say what a value is, British spellings, and earlier names of the toolkit's parts."""


def tracked(*patterns: str) -> list[Path]:
    """The files that git tracks and that still exist."""
    listing = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listing.stdout.splitlines() if (ROOT / name).exists()]


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(identifier, line) of everything that a module defines, assigns or takes as a parameter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield (node.id if isinstance(node, ast.Name) else node.attr), node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, node.lineno


def banned_word(identifier: str) -> str | None:
    """The banned word in an identifier, or None."""
    plain = identifier.strip("_").lower()
    if plain in BANNED:
        return plain
    return next((part for part in plain.split("_") if part in BANNED_PARTS), None)


def banned_identifiers(path: Path, text: str) -> list[str]:
    """One line for each identifier of a file that uses a banned word."""
    names = sorted(bound_names(ast.parse(text)), key=lambda name: name[1])
    return [f"{path}:{line}: '{name}' does not say what the value is" for name, line in names if
            banned_word(name)]  # fmt: skip


def repeated_classes(files: dict[Path, str]) -> list[str]:
    """One line for each public class name that several modules define."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{path}:{node.lineno}")
    return [f"class {name} has {len(at)} meanings: {', '.join(at)}" for name, at in sorted(places.items()) if at[1:]]


def main() -> int:
    """Prints the findings. Returns 1 if there are any."""
    files = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in tracked("*.py")}
    findings = [line for path, text in files.items() for line in banned_identifiers(path, text)]
    findings += repeated_classes({path: text for path, text in files.items() if path.parts[0] in PACKAGES})
    print("\n".join(findings) or f"names: {len(files)} files, no finding")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
