"""A task of lmms-eval in this process: its rows, and its functions with their values checked.

Importing lmms-eval changes global settings (Pillow then accepts truncated images, warnings are silenced), which are
restored. Its methods `download` and `process_results` try five times, two seconds apart, and hide the reason of a
failure; they are called without that.
"""

import inspect
import os.path
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from icl import PIL, ConfigError, DataError, datasets, did_you_mean, hide_datasets_progress
from icl.harness.task_file import TaskFile, read_task_file, require_installed

OUTPUT_TYPES = ("generate_until", "multiple_choice")
LOCAL_BUILDERS = ("arrow", "csv", "json", "parquet", "text")
"""Values of `dataset_path` with which `data_files` are files of this machine, relative to the task file."""


@dataclass(frozen=True, eq=False)
class LoadedTask:
    """A task with its data, and the functions that its file names.

    Attributes:
        task: An instance of lmms-eval's ConfigurableMessagesTask.
    """

    file: TaskFile
    task: Any

    @property
    def query_split(self) -> str:
        """The split that lmms-eval evaluates: test, else validation."""
        return str(self.task.config.test_split or self.task.config.validation_split)

    @property
    def pool_split(self) -> str | None:
        """The task's split for demonstrations, None unless it has one besides the split of the queries."""
        config = self.task.config
        candidates = (config.fewshot_split, config.training_split, config.validation_split)
        return next((split for split in candidates if split and split != self.query_split), None)

    def rows(self, split: str) -> "datasets.Dataset":
        """The rows of a split. Raises DataError if there is no such split."""
        if split not in self.task.dataset:
            names = ", ".join(self.task.dataset)
            raise DataError(
                f"{self.file.title} has no split '{split}'.{did_you_mean(split, self.task.dataset)} It has: {names}."
            )
        rows: datasets.Dataset = self.task.dataset[split]
        return rows

    def document(self, split: str, row: int) -> "TaskDocument":
        return TaskDocument(self, split, row)


@dataclass(frozen=True)
class TaskDocument:
    """One row of a task: what the task makes of it, and how it scores an answer."""

    loaded: LoadedTask
    split: str
    row: int
    last: dict[str, Mapping[str, Any]] = field(default_factory=dict, compare=False, repr=False)
    """The last answer and its values, since a task computes all its metrics at once."""

    @property
    def where(self) -> str:
        return f"{self.loaded.file.title}, split '{self.split}', row {self.row}"

    @property
    def content(self) -> Mapping[str, Any]:
        """The row without its images, as lmms-eval scores it. Read again each time: the task's code may change it."""
        row: Mapping[str, Any] = self.loaded.task.dataset_no_image[self.split][self.row]
        return row

    @property
    def whole(self) -> Mapping[str, Any]:
        """The row with its images, read again each time."""
        row: Mapping[str, Any] = self.loaded.rows(self.split)[self.row]
        return row

    def images(self) -> "list[PIL.Image.Image]":
        """The images of the question. Raises DataError for other media."""
        return self._only_images(self._call("doc_to_visual", self.whole) or [])

    def text(self) -> str:
        text = self._of_row("doc_to_text")
        if not isinstance(text, str):
            raise DataError(f"{self.where}: doc_to_text gives {type(text).__name__}, and a question is a text.")
        return text

    def messages(self) -> "tuple[list[PIL.Image.Image], str]":
        """Images and text of the task's messages: one turn of the user, with the images before the text.

        Raises:
            DataError: The messages have another form, which a question with demonstrations cannot keep.
        """
        turns = self._call("doc_to_messages", self.whole)
        if [turn["role"] for turn in turns] != ["user"]:
            roles = ", ".join(str(turn["role"]) for turn in turns)
            raise DataError(f"{self.where}: doc_to_messages gives turns of {roles}, and a question is one turn.")
        content = turns[0]["content"]
        pieces = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        kinds = [str(piece["type"]) for piece in pieces]
        if kinds != sorted(kinds):  # 'image' before 'text'
            raise DataError(
                f"{self.where}: doc_to_messages puts images between texts. Set messages: false to put them first, by "
                "doc_to_visual and doc_to_text."
            )
        images = self._only_images([piece.get("url") for piece in pieces if piece["type"] != "text"])
        return images, "".join(str(piece["text"]) for piece in pieces if piece["type"] == "text")

    def options(self) -> tuple[str, ...]:
        if self.loaded.task.config.doc_to_choice is None:
            return ()
        return tuple(str(option) for option in self._of_row("doc_to_choice"))

    def answers(self, options: tuple[str, ...]) -> tuple[str, ...]:
        """The accepted answers, each once. A whole number is a place in the options."""
        target = self._of_row("doc_to_target")
        accepted = target if isinstance(target, list | tuple) else [target]
        for answer in accepted:
            if options and isinstance(answer, int) and not 0 <= answer < len(options):
                raise DataError(f"{self.where}: the answer is option {answer}, and there are {len(options)} options.")
        texts = [options[a] if options and isinstance(a, int) else str(a) for a in accepted if a is not None]
        if not any(text.strip() for text in texts):
            raise DataError(f"{self.where} has no answer: its gold is not public. Choose another split.")
        return tuple(dict.fromkeys(text for text in texts if text.strip()))

    def scores(self, text: str, option_scores: Mapping[str, float]) -> Mapping[str, Any]:
        """Metric -> value of an answer, as the task computes it.

        Args:
            text: The answer.
            option_scores: Option -> log-probability, which a multiple-choice task reads in place of the text.

        Returns:
            Nothing for a multiple-choice task without scores of its options (`answer_mode: options`).
        """
        by_options = self.loaded.task.OUTPUT_TYPE == "multiple_choice"
        if by_options and not option_scores:
            return {}
        key = repr(sorted(option_scores.items())) if by_options else text
        if key not in self.last:
            values = self._call("process_results", self.content, self._results(text, option_scores), **self._all_rows())
            self.last.clear()
            self.last[key] = values
        return self.last[key]

    def _results(self, text: str, option_scores: Mapping[str, float]) -> list[Any]:
        """An answer in the form that lmms-eval's models return. For options they return losses."""
        if self.loaded.task.OUTPUT_TYPE != "multiple_choice":
            return [text.strip()]
        best = max(option_scores.values(), default=0.0)
        return [(-option_scores[option], option_scores[option] == best) for option in self.options()]

    def _all_rows(self) -> dict[str, Any]:
        needs_all = getattr(self.loaded.task.config, "full_docs", False)
        return {"full_docs": self.loaded.task.dataset_no_image[self.split]} if needs_all else {}

    def _of_row(self, method: str) -> Any:
        """The value of a method that rarely reads images: they are decoded only if it fails without them."""
        try:
            return self._call(method, self.content)
        except DataError as error:
            if not isinstance(error.__cause__, KeyError | AttributeError | TypeError):
                raise
        return self._call(method, self.whole)

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """The value of a method of the task. Raises DataError with the place of an error in the task's code."""
        try:
            return getattr(self.loaded.task, method)(*arguments, **named)
        except Exception as error:  # code of others may raise anything
            raise DataError(f"{self.where}: {method} failed: {_reason(error)}") from error

    def _only_images(self, media: Sequence[Any]) -> "list[PIL.Image.Image]":
        for item in media:
            if not isinstance(item, PIL.Image.Image):
                raise DataError(
                    f"{self.where} has a {type(item).__name__} where an image is expected. Tasks about video or audio "
                    "cannot be used."
                )
        return list(media)


def load_task(file: TaskFile, specific_kwargs: str, trust: bool) -> LoadedTask:
    """The task with its data.

    Args:
        file: The task file.
        specific_kwargs: The model name for which `lmms_eval_specific_kwargs` are read, or 'default'.
        trust: Whether its code may run.

    Raises:
        ConfigError: The code is not trusted, lmms-eval is missing, or the task is of a kind that cannot be used.
        DataError: The data cannot be read.
    """
    file.check_trust(trust)
    check_kind(file)
    require_installed()
    return _loaded(file.path, file.digest, specific_kwargs)


def check_kind(file: TaskFile) -> None:
    """Raises ConfigError for output types and media that the toolkit does not have."""
    output_type = str(file.keys.get("output_type", OUTPUT_TYPES[0]))
    if output_type not in OUTPUT_TYPES:
        raise ConfigError(f"{file.path} has the output type {output_type}. Those that work: {', '.join(OUTPUT_TYPES)}.")
    if "dataset_path" not in file.keys:
        raise ConfigError(f"{file.path} names no data (dataset_path), so it is not a task.")
    options = file.keys.get("dataset_kwargs") or {}
    if options.get("video") or options.get("From_YouTube"):
        raise ConfigError(f"{file.path} is a task about videos, which the toolkit does not read.")


@lru_cache(maxsize=8)
def _loaded(path: Path, digest: str, specific_kwargs: str) -> LoadedTask:
    """The task of a file. digest: the digest of its files, so that edited code is loaded again."""
    file = read_task_file(path)
    _check_local_data(file)
    _silence(file)
    try:
        with hide_datasets_progress(file.keys["dataset_path"] in LOCAL_BUILDERS):
            task = _task_class()(config=_configured(path), model_name=specific_kwargs)
    except Exception as error:  # code of others may raise anything
        raise DataError(f"{path} cannot be loaded by lmms-eval: {_reason(error)}{_local_copy_hint(file)}") from error
    return LoadedTask(file, task)


def _check_local_data(file: TaskFile) -> None:
    """Raises DataError if a file or folder of this machine that the task reads is missing."""
    options = file.keys.get("dataset_kwargs") or {}
    source = str(file.keys["dataset_path"])
    if options.get("load_from_disk") and not os.path.isdir(source):
        raise DataError(f"{file.path}: dataset_path is the folder {source}, which does not exist.")
    for name in _texts(options.get("data_files")) if source in LOCAL_BUILDERS else ():
        places = [folder / name for folder in (file.path.parent, Path.cwd())]
        if "://" not in name and "*" not in name and not any(map(os.path.isfile, places)):
            raise DataError(f"{file.path}: the data file {name:.200} does not exist (looked in {places[0].parent}).")


def _local_copy_hint(file: TaskFile) -> str:
    """How to use a copy of data of the hub, as a sentence after an error."""
    source = str(file.keys["dataset_path"])
    if source in LOCAL_BUILDERS or os.path.exists(source):
        return ""
    return (
        f" The data are {source} on the hub. For a copy on this machine, write a task file with "
        f"`include: {file.path}`, `dataset_path: parquet` and `dataset_kwargs: {{data_files: {{test: FILE}}}}`."
    )


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else [value] if value else []


def _configured(path: Path) -> Any:
    from lmms_eval import utils

    return utils.load_yaml_config(str(path), mode="full")


@lru_cache
def _task_class() -> Any:
    """lmms-eval's task class, without the retries of its methods."""
    truncated = PIL.ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        with warnings.catch_warnings():
            import lmms_eval.api.metrics  # noqa: F401 - otherwise `aggregation: mean` is None
            from lmms_eval.api.task import ConfigurableMessagesTask
    finally:
        PIL.ImageFile.LOAD_TRUNCATED_IMAGES = truncated
    once = {name: inspect.unwrap(getattr(ConfigurableMessagesTask, name)) for name in ("download", "process_results")}
    return type("TaskOnce", (ConfigurableMessagesTask,), once)


def _silence(file: TaskFile) -> None:
    """Turns off the logs of lmms-eval and of the task's modules: their aggregations would log at every call."""
    try:
        from loguru import logger
    except ImportError:
        return
    for module in {"lmms_eval", *(function.rpartition(".")[0] for function in file.functions())}:
        logger.disable(module)


def _reason(error: Exception) -> str:
    """The first line of an error, with its type if the line alone says little."""
    lines = str(error).strip().splitlines()
    text = lines[0].rstrip(".") if lines else ""
    return f"{text}." if len(text) > 30 else f"{type(error).__name__}: {text}." if text else f"{type(error).__name__}."
