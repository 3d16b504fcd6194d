"""A model of the hub at one commit, in the cache of `huggingface_hub`.

A branch or tag becomes a commit once, and everything is read from the folder of that commit, as from any other folder:
first the files without weights, of which a plan is made, then the weights. So files of different commits never meet.

A file that arrives is compared with its size, and a large one with its sha256. So is the size of each file that is in
the cache. A file that differs is removed and downloaded again.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from icl import ModelError, httpx2, hub_commit, hub_problem, huggingface_hub, parse_json_object
from icl.hub import hide_hub_progress
from icl.models.cached_checkpoint import checksum

SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.py", "*.tiktoken", "tokenizer*", "vocab*", "merges*")
UNUSED_FILES = ("*/*.json", "*/*.txt", "*/*.model")
"""Files that a model may need next to its weights, and those of other folders that it does not."""

SINGLE, PICKLE = "model.safetensors", "pytorch_model.bin"
OTHER_WEIGHTS = (".safetensors", ".gguf", ".onnx", ".h5", ".msgpack", ".npz")
MAX_NAMES = 3
"""How many names of files an error message lists."""


@dataclass(frozen=True)
class HubModel:
    """A model on the hub.

    Attributes:
        name: Its id.
        revision: Branch, tag or commit. None: the newest commit.
        key: The config key that names it, for error messages.
    """

    name: str
    revision: str | None = None
    key: str = "model.path"

    @cached_property
    def commit(self) -> str:
        """The commit of the revision. Raises ModelError if neither the hub nor the cache knows it."""
        with self._explained():
            return hub_commit(self.name, self.revision)
        raise AssertionError("an error of the hub is raised")

    @cached_property
    def folder(self) -> Path:
        """The folder of the commit, with all files but the weights. Raises ModelError."""
        return self.downloaded(SMALL_FILES, UNUSED_FILES)

    @property
    def weight_names(self) -> list[str]:
        """Names of the files with the weights, which need not be downloaded. Raises ModelError if some are missing."""
        names = set(self._sizes(self.folder)) or {path.name for path in self.folder.iterdir()}
        if indexed := indexed_names(self.folder, names, f"{self.key}: {self.name}"):
            return indexed
        if SINGLE in names:
            return [SINGLE]
        others = sorted(name for name in names if fnmatch(name, "*.bin") or fnmatch(name, "*.pt*"))
        why = "no weights that transformers reads. Name a checkpoint with safetensors"
        if others:
            why = (
                f"weights as pickles only, such as {others[0]}. A pickle may run code when it is read. The hub adds "
                f"safetensors in a pull request, which `revision: refs/pr/N` reads; or download it (`hf download "
                f"{self.name}`) and name the folder"
            )
        elif others := sorted(name for name in names if name.endswith(OTHER_WEIGHTS)):
            why = f"no weights that transformers reads ({SINGLE}), only {', '.join(others[:MAX_NAMES])}"
        raise ModelError(f"{self.key}: {self.name} has {why}.")

    def download_weights(self) -> None:
        """Download the weights into the folder. Raises ModelError."""
        self.downloaded(self.weight_names)

    def _sizes(self, folder: Path) -> dict[str, int]:
        """Name of each file of the commit -> its bytes. Empty if an older release filled the cache."""

        try:
            return {
                file.path: file.size for file in huggingface_hub.get_cached_repo_tree(self.name, revision=folder.name)
            }
        except huggingface_hub.errors.CachedRepoTreeNotFoundError:
            return {}

    def downloaded(self, patterns: Sequence[str], unused: Sequence[str] = ()) -> Path:
        """The folder of the commit after a download.

        Args:
            patterns: The files to download.
            unused: Those of them that are left out.

        Raises:
            ModelError: The hub does not give them, or they do not arrive as the hub has them.
        """
        blobs = (
            Path(huggingface_hub.constants.HF_HUB_CACHE)
            / huggingface_hub.file_download.repo_folder_name(repo_id=self.name, repo_type="model")
            / "blobs"
        )
        arguments: dict[str, Any] = {"allow_patterns": list(patterns), "ignore_patterns": list(unused)}
        arguments["local_files_only"] = huggingface_hub.constants.is_offline_mode()
        for _ in range(2):
            before = {path.name for path in blobs.glob("*")}
            with self._explained(), hide_hub_progress(quick=bool(unused)):
                folder = Path(huggingface_hub.HfApi().snapshot_download(self.name, revision=self.commit, **arguments))
            damaged = [name for name, size in self._sizes(folder).items() if _is_damaged(folder / name, size, before)]
            if not damaged:
                return folder
            for name in damaged:
                (folder / name).resolve().unlink()
                (folder / name).unlink(missing_ok=True)
        raise ModelError(
            f"{self.key}: {damaged[0]} of {self.name} does not arrive as the hub has it (another size or sha256), and "
            "nothing of it is used. Try again later, or through another network."
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises ModelError for an error of the hub."""

        try:
            yield
        except (OSError, httpx2.HTTPError, huggingface_hub.errors.RevisionResolutionError) as error:
            problem = hub_problem(error, self.name, self.revision) or f"'{self.name}' cannot be downloaded: {error}"
            raise ModelError(f"{self.key}: {problem}") from error


def indexed_names(folder: Path, names: Collection[str], where: str) -> list[str]:
    """The files that the index of the weights names; none if there is no index, or a file with all weights.

    Args:
        folder: The folder of the index.
        names: The files that exist.
        where: Beginning of an error message.

    Raises:
        ModelError: A file does not exist.
    """
    for single in (SINGLE, PICKLE):
        index = folder / f"{single}.index.json"
        if single in names or not index.is_file():
            continue
        try:
            shards = sorted(set(parse_json_object(index.read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{where}: {index.name} is not an index of weights ({error}). Copy it again.") from error
        if missing := [name for name in shards if name not in names]:
            raise ModelError(
                f"{where} lacks {len(missing)} of {len(shards)} files with weights that {index.name} names: "
                f"{', '.join(missing[:MAX_NAMES])}. The upload or the copy is not complete."
            )
        return shards
    return []


def _is_damaged(file: Path, size: int, before: Collection[str]) -> bool:
    """Whether a file has another size than on the hub, or is new and has another sha256, which names its blob."""
    blob = file.resolve()
    if not blob.is_file():
        return False
    is_new_and_large = blob.name not in before and len(blob.name) == 64 and file.is_symlink()
    return blob.stat().st_size != size or (is_new_and_large and checksum(blob) != blob.name)
