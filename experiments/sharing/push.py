"""Push a run to a data set repository of a hub: samples, tables, report and results card.

What is pushed is a copy of the run directory without what belongs to this machine: its name, absolute paths, process
ids, servers. What a task, a model or a metric wrote into a sample stays as it is, except for the folders of this
machine.
"""

import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from experiments.analyses.stored_results import copy_results
from experiments.config.keys import KEYS
from experiments.report.page import write_report
from experiments.results.loaded_run import Run
from experiments.results.view_run import view_run
from experiments.sharing.card import PRIVATE_KEYS, card_text, make_card
from experiments.stopping.looks import family_folders
from experiments.store import IMPORTED, LABELS, MERGED, invocations_file, read_invocations, unite_labels
from experiments.store.store import Store, image_files, read_mapping, write_json, write_text
from icl import ConfigError, ICLError, StoreError, huggingface_hub

SAMPLES = "samples.parquet"
COLUMNS = ("seed", "query", "group", "question", "options", "gold", "output", "failed")
"""The columns of the table of samples, between the axes and the metrics."""
OWN = ["cells/*", "tables/*", "figures/*", "images/*", "looks/*", "analyses/*"]
"""Patterns of files that an earlier push may have written, and that are removed if this one has them no more."""


class HubError(ICLError):
    """An error of a hub: no token, no permission, no connection."""


@dataclass(frozen=True)
class Target:
    """A data set repository of a hub.

    Attributes:
        api: The hub's client; huggingface_hub sets its endpoint (HF_ENDPOINT).
        name: OWNER/NAME.
        public: Whether everybody may read it.
    """

    api: "huggingface_hub.HfApi"
    name: str
    public: bool = False

    def describe(self) -> str:
        """'private data set me/run on ENDPOINT'."""
        return f"{'public' if self.public else 'private'} data set {self.name} on {self.api.endpoint}"


def find_target(name: str, public: bool = False) -> Target:
    """The repository, if this user may be able to write it. Creates nothing.

    Raises:
        ConfigError: The name is none of a repository.
        HubError: There is no token, or none that can be sent; or the repository is public, and this was not requested.
    """
    if name.count("/") != 1:
        raise ConfigError(f"--to {name}: the repository is OWNER/NAME, such as me/my-run.")
    token = huggingface_hub.get_token()
    if not token:
        raise HubError("no token of a hub: run `hf auth login`, or set HF_TOKEN to a token that may write.")
    if not re.fullmatch(r"[!-~]+", token):
        raise HubError(
            "the token of the hub has a character that no token has, such as a letter with an accent or a space: run "
            "`hf auth login`, or set HF_TOKEN to the token again."
        )
    target = Target(huggingface_hub.HfApi(token=token), name, public)
    with _hub_errors(target):
        try:
            is_private = target.api.repo_info(name, repo_type="dataset").private
        except huggingface_hub.errors.RepositoryNotFoundError:
            return target
        except huggingface_hub.errors.HFValidationError as error:
            raise ConfigError(f"--to {name}: {error}") from error
    if not is_private and not public:
        raise HubError(
            f"{name} exists and is public. Add --public to push there, make it private, or use another name."
        )
    return Target(target.api, name, not is_private)


def stage(run: Run, folder: Path, images: bool = False) -> dict[str, int]:
    """Writes the files to push into a folder: a copy of the run without what belongs to this machine, and its card.

    The report and the tables are written again from the copy, so they contain images only if the copy does.

    Returns:
        Path in the repository -> size in bytes.
    """
    copied = copy_scrubbed(run, folder, images)
    view = view_run(copied)
    write_report(view)
    card = make_card(copied)
    write_json(folder / "card.json", card)
    write_text(folder / "README.md", card_text(card, SAMPLES) + _usage(images))
    columns = [c for c in (*view.axes, *COLUMNS, *view.sample_metrics) if c in view.frame]
    samples = copied.samples()[columns]
    samples.attrs.clear()  # pandas would write them into the file, and run-level metrics have no JSON
    samples.to_parquet(folder / SAMPLES, index=False)
    paths = (path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths if path.name[0] != "."}
    return dict(sorted(files.items(), key=lambda item: ("/" in item[0], item[0])))


def upload(target: Target, folder: Path, files: Mapping[str, Any]) -> str:
    """Creates the repository if there is none, and uploads the files. Returns its address. Raises HubError."""
    with _hub_errors(target):
        made = target.api.create_repo(target.name, repo_type="dataset", private=not target.public, exist_ok=True)
        target.api.upload_folder(
            repo_id=target.name,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=list(files),
            delete_patterns=OWN,
            commit_message=f"icl push {folder.name}",
        )
    return str(made)


@contextmanager
def _hub_errors(target: Target) -> Iterator[None]:
    """Turns errors of the hub and of the connection into a sentence."""
    # OSError, and the base class of its client's errors: httpx or httpx2.
    kinds = tuple(base for base in huggingface_hub.errors.HfHubHTTPError.__bases__ if issubclass(base, Exception))
    try:
        yield
    except kinds as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        remedy = {
            401: "The token is not valid: run `hf auth login`.",
            403: "The token may not write there: use one with write access, or another owner.",
        }.get(status or 0, "Nothing is lost: push again when the hub can be reached.")
        problem = " ".join(str(error).split())[:300]
        raise HubError(f"{target.name} on {target.api.endpoint}: {problem.rstrip('.')}. {remedy}") from error


def _usage(images: bool) -> str:
    """What the files of the repository are."""
    sentences = [
        f"`{SAMPLES}` has one row per sample.",
        "`report.html` shows them, `tables/` has the numbers.",
        "The rest is the run directory: `icl report`, `icl compare` and `icl check --samples 0` read a copy of it.",
        *([] if images else ["The images of the data are not here: their license may not allow it."]),
    ]
    return "\n".join(["", "## Files", "", *sentences, ""])


RUN_KEYS = ("name", "file", "config", "cells", "sizes", "clusters", "metrics", IMPORTED, MERGED)
"""The keys of run.json that are copied. Others may be anything that somebody has added."""
SESSION_KEYS = ("start", "end", "state", "invocation", "counters", "arms")
PROCESS_KEYS = ("id", "start", "worker", "trace_decimals", "versions", "devices", "driver", "git")
DETAILS = ("failed", "meta")
"""The fields of a sample in which a component may name a file."""
LABEL = r"/[mg]/[0-9a-z_]+"
"""The id of an entity in OpenImages and other data sets, such as /m/01g317."""
POSIX_PATH = re.compile(
    rf"(?<![\w.:/~*-])(?!{LABEL}(?![\w/]))(?:~[A-Za-z_][\w.-]*(?:/[\w.+@=,~-]+)+|~?(?:/[\w.+@=,~-]+){{2,}})/?"
)
LOCAL_URI = re.compile(r"(?<!\w)(?P<scheme>file:(?://(?:localhost)?)?|[A-Za-z][\w+.-]*://)(?P<path>/[^\s\"'<>|*?#]+)")
"""An address of a file on this machine: file:///home/me/x.png, sqlite:////home/me/x.db."""
WINDOWS_PATH = re.compile(r"(?<!\w)[A-Za-z]:[\\/][^\s\"'<>|:*?]+")
MIN_HOST_LENGTH = 4
"""A shorter name of a machine may be a word. It is removed where it is a field of its own."""


@dataclass(frozen=True)
class Scrubber:
    """A remover of machine names and absolute paths from JSON values.

    Attributes:
        hosts: Names of machines.
        folders: Absolute folders of this machine, which are removed also from answers and prompts.
    """

    hosts: tuple[str, ...]
    folders: tuple[str, ...]

    def metadata(self, value: Any) -> Any:
        """The value with the last part of each absolute path, and without names of machines and variables."""
        if isinstance(value, Mapping):
            return {key: self.metadata(inner) for key, inner in value.items() if key != "key_env"}
        if isinstance(value, list):
            return [self.metadata(inner) for inner in value]
        return self._text(value) if isinstance(value, str) else value

    def sample(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """A stored sample. Of texts that are no details, only known folders are removed."""
        return {key: (self.metadata if key in DETAILS else self._without_folders)(sample[key]) for key in sample}

    def _text(self, text: str) -> str:
        if _is_absolute(text) and " /" not in text and not re.fullmatch(LABEL, text):  # one path, which may have spaces
            text = _last_part(text)
        text = WINDOWS_PATH.sub(lambda match: _last_part(match[0]), text)
        text = LOCAL_URI.sub(lambda match: f"{match['scheme']}/{_last_part(match['path'])}", text)
        text = POSIX_PATH.sub(lambda match: _last_part(match[0]), text)
        return self._host_pattern.sub("machine", text) if self._host_pattern else text

    def _without_folders(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._without_folders(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._without_folders(inner) for inner in value]
        if isinstance(value, str):
            for folder in self.folders:
                value = value.replace(folder, _last_part(folder))
        return value

    @cached_property
    def _host_pattern(self) -> re.Pattern[str] | None:
        names = [re.escape(host) for host in self.hosts if len(host) >= MIN_HOST_LENGTH]
        return re.compile(rf"\b(?:{'|'.join(names)})\b", re.IGNORECASE) if names else None


def scrubber_of(run: Run) -> Scrubber:
    """The scrubber for this machine and for the machines that computed the run."""
    machines = [one.get("machine") for one in read_invocations(Store(run.path)).values()]
    hosts = {platform.node(), *(str(one["name"]) for one in machines if isinstance(one, Mapping) and one.get("name"))}
    hosts |= {host.partition(".")[0] for host in hosts}
    paths = (run.path.resolve(), run.config_folder.resolve(), Path.cwd(), Path.home())
    folders = {str(path) for path in paths if len(path.parts) > 2}
    return Scrubber(tuple(sorted(filter(None, hosts))), tuple(sorted(folders, key=len, reverse=True)))


def copy_scrubbed(run: Run, folder: Path, images: bool = False) -> Run:
    """A copy of a run that `load_run` reads.

    Args:
        run: The run.
        folder: The folder of the copy, which is made.
        images: Whether to copy the images of the report.
    """
    _refuse_links(run.path, images)
    scrubber, source, target = scrubber_of(run), Store(run.path), Store(folder)
    info = run.info
    config = {key: value for key, value in (info.get("config") or {}).items() if key in {*KEYS} - {*PRIVATE_KEYS}}
    sessions = [{key: one[key] for key in SESSION_KEYS if key in one} for one in info.get("sessions", [])]
    plain = {key: info[key] for key in RUN_KEYS if key in info}
    target.write_run({**scrubber.metadata({**plain, "config": config}), "sessions": sessions})
    records = [
        {key: record[key] for key in PROCESS_KEYS if key in record} for record in read_invocations(source).values()
    ]
    write_text(invocations_file(target), "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records))
    for digest in map(str, info.get("cells", [])):
        if (description := source.read_cell(digest)) is not None:
            target.write_cell(digest, scrubber.metadata(description))
        target.replace_samples(digest, [scrubber.sample(sample) for sample in source.samples(digest)])
    for family in family_folders(run.path):
        for path in (family / "plan.json", *sorted(family.glob("look-[0-9]*.json"))):
            write_json(folder / path.relative_to(run.path), scrubber.metadata(read_mapping(path) or {}))
    copy_results(run.path, folder, scrubber.metadata)
    unite_labels(folder, [run.path], anonymous=True)
    if images:
        _copy_images(run, folder / "images")
    return Run(folder, run.trust)


def _refuse_links(run: Path, images: bool) -> None:
    """Raises StoreError if a file that would be copied is a link, to whatever file of this machine."""
    for name in (
        "run.json",
        "invocations.jsonl",
        LABELS,
        "cells",
        "looks",
        "analyses",
        *(["images"] if images else []),
    ):
        for path in (run / name, *(run / name).rglob("*")):
            if path.is_symlink():
                raise StoreError(f"{path} is a link, and only files of the run are pushed. Replace it by a copy.")


def _copy_images(run: Run, folder: Path) -> None:
    """Copies the images that samples name."""
    named: dict[str, tuple[str, str]] = {}
    for digest in map(str, run.info.get("cells", [])):
        Store(run.path).finished_and_failed(digest, images=named)
    folder.mkdir(parents=True, exist_ok=True)
    for path in image_files(run.path):
        if path.stem in named:
            shutil.copyfile(path, folder / path.name)


def _is_absolute(text: str) -> bool:
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute() or text.startswith(f"~{os.sep}")


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
