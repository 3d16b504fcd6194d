"""The tree of the packages at any revision, with figures of its language: `python tests/draw_tree.py [REVISION]`.

Each line is a folder with its number of Python files and lines. Below it stand the loose files at the root of each
package, the uses of words that name no thing, and the class names with several meanings.
"""

import io
import re
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath

PACKAGES = ("icl", "prompts", "retrievers", "decoding", "experiments")
WORDS = ("told", "said", "found", "asked", "given", "held", "kept", "wanted", "known", "seen", "picture", "colour")


def python_files(revision: str) -> dict[PurePosixPath, str]:
    """Path -> text of the packages' Python files at a revision."""
    command = ["git", "archive", revision, *PACKAGES]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = [member for member in tar if member.isfile() and member.name.endswith(".py")]
        streams = {PurePosixPath(member.name): tar.extractfile(member) for member in members}
        return {path: stream.read().decode() for path, stream in streams.items() if stream is not None}


def draw(files: Mapping[PurePosixPath, str]) -> None:
    """Prints a line for each folder, deeper ones indented."""
    count, lines = Counter[PurePosixPath](), Counter[PurePosixPath]()
    for path, text in files.items():
        count[path.parent] += 1
        lines[path.parent] += text.count("\n")
    for folder in sorted(count):
        name = "    " * (len(folder.parts) - 1) + folder.name + "/"
        print(f"{name:40}{count[folder]:5} files {lines[folder]:7,} lines")
    print(f"{'all':40}{len(files):5} files {sum(lines.values()):7,} lines")


def language(files: Mapping[PurePosixPath, str]) -> None:
    """Prints how often each word stands in the code, and the class names that several modules define."""
    text = "\n".join(files.values())
    counts = Counter(re.findall(r"[a-z]+", text.lower()))
    print("words:", ", ".join(f"{word} {counts[word]:,}" for word in WORDS))
    places: defaultdict[str, set[PurePosixPath]] = defaultdict(set)
    for path, source in files.items():
        for name in re.findall(r"^class ([A-Z]\w*)", source, re.MULTILINE):
            places[name].add(path)
    repeated = sorted(name for name, paths in places.items() if len(paths) > 1)
    print(f"class names of several modules: {len(repeated)}", *repeated)


def main() -> None:
    files = python_files(sys.argv[1] if len(sys.argv) > 1 else "HEAD")
    draw(files)
    loose = {package: sum(str(path.parent) == package for path in files) for package in PACKAGES}
    print("loose files:", ", ".join(f"{package} {number}" for package, number in loose.items()))
    language(files)


if __name__ == "__main__":
    main()
