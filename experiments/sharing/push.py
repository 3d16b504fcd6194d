"""Push a run to a data set repository of a hub: samples, tables, report and results card."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.report.html import write_report
from experiments.results.loaded_run import Run
from experiments.results.view_run import view_run
from experiments.sharing.card import make_card
from experiments.sharing.card_text import card_text
from experiments.sharing.scrub import copy_scrubbed
from experiments.store.store import write_json, write_text
from icl.errors import ConfigError, ICLError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

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
        api: The hub's client, whose endpoint is that of huggingface_hub (HF_ENDPOINT).
        name: OWNER/NAME.
        public: Whether everybody may read it.
    """

    api: "HfApi"
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
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    if name.count("/") != 1:
        raise ConfigError(f"--to {name}: the repository is OWNER/NAME, such as me/my-run.")
    token = get_token()
    if not token:
        raise HubError("no token of a hub: run `hf auth login`, or set HF_TOKEN to a token that may write.")
    if not re.fullmatch(r"[!-~]+", token):
        raise HubError(
            "the token of the hub has a character that no token has, such as a letter with an accent or a space: run "
            "`hf auth login`, or set HF_TOKEN to the token again."
        )
    target = Target(HfApi(token=token), name, public)
    with _hub_errors(target):
        try:
            is_private = target.api.repo_info(name, repo_type="dataset").private
        except RepositoryNotFoundError:
            return target
        except HFValidationError as error:
            raise ConfigError(f"--to {name}: {error}") from error
    if not is_private and not public:
        raise HubError(
            f"{name} exists and is public. Add --public to push there, make it private, or use another name."
        )
    return Target(target.api, name, not is_private)


def stage(run: Run, folder: Path, images: bool = False) -> dict[str, int]:
    """Writes the files to push into a folder: a copy of the run without what belongs to this machine, and its card.

    The report and the tables are written again from the copy, so they have no image if the copy has none.

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
    copied.samples()[columns].to_parquet(folder / SAMPLES, index=False)
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
    from huggingface_hub.errors import HfHubHTTPError

    # OSError, and the base class of its client's errors: httpx or httpx2.
    kinds = tuple(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
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
        "The rest is the run directory: `icl report`, `icl compare` and `icl verify --samples 0` read a copy of it.",
        *([] if images else ["The images of the data are not here: their license may not allow it."]),
    ]
    return "\n".join(["", "## Files", "", *sentences, ""])
