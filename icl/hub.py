"""The hub of models and data sets: its errors as sentences, the commit of a branch or a tag, and its progress bars."""

import io
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr
from typing import Any, Literal

from icl.errors import ICLWarning
from icl.libraries import datasets, httpx2, huggingface_hub, transformers
from icl.memory import causes, first_line

MISMATCH = "Consistency check failed"
"""Beginning of the error of `huggingface_hub` for a file of another size than on the hub."""

GATED, NO_REVISION = "is a gated dataset", "doesn't exist for dataset"
"""Parts of errors of `datasets`."""

Kind = Literal["model", "data set"]


def hub_problem(error: BaseException, name: str, revision: str | None = None, kind: Kind = "model") -> str:
    """A sentence about an error of the hub, with what to do. '' for an error of another kind.

    Args:
        error: What a library raised.
        name: Id of the repository.
        revision: The branch, tag or commit that was asked for. None: the newest.
        kind: What the repository holds.
    """
    constants, errors = huggingface_hub.constants, huggingface_hub.errors
    chain, what, cache = list(causes(error, contexts=True)), f"{kind} '{name}'", constants.HF_HUB_CACHE
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'data set' else ''}{name}"
    kinds: tuple[type[BaseException], ...] = (errors.HfHubHTTPError,)
    if kind == "data set":
        kinds = (errors.HfHubHTTPError, datasets.exceptions.DatasetNotFoundError)
    answer = next((one for one in chain if isinstance(one, kinds)), None)
    if answer is not None:
        return _answer_problem(answer, what, page, revision)
    at, download = f" --revision {revision}" if revision else "", "Read it once with a connection"
    if kind == "model":
        download = f"Download it once with a connection: `hf download {name}{at}`"
    else:  # without a network, `datasets` reads the rows that it has prepared, not downloaded files
        cache = str(datasets.config.HF_DATASETS_CACHE)
        download += ", or set `revision` to the whole id of a commit that was read" if revision else ""
    broken = next((one for one in chain if isinstance(one, httpx2.TransportError) or MISMATCH in str(one)), None)
    says = ""
    if any(isinstance(one, errors.IncompleteSnapshotError) for one in chain):
        says = f"the copy of {what} in {cache} is not complete, and the hub is out of reach. {download}."
    elif any(isinstance(one, errors.OfflineModeIsEnabled) for one in chain) or constants.is_offline_mode():
        says = f"{what} is no folder here and not in {cache}. HF_HUB_OFFLINE=1 forbids downloads. {download}."
    elif isinstance(broken, httpx2.ConnectError | httpx2.TimeoutException):
        says = (
            f"{what} is not in {cache}, and the hub {constants.ENDPOINT} cannot be reached. Check the connection and "
            "HF_ENDPOINT, or name a folder."
        )
    elif broken is not None:
        says = (
            f"a file of {what} did not arrive whole, and nothing of it is used ({first_line(broken)}). Run "
            "the command again: it downloads what is missing."
        )
    elif any(isinstance(one, errors.FileMetadataError) for one in chain):
        says = f"{constants.ENDPOINT} does not answer like a hub ({first_line(error)}). Check HF_ENDPOINT and proxies."
    return says


def retry_seconds(error: BaseException) -> int | None:
    """After how many seconds a hub that got too many requests (429) answers again. None if the error says nothing."""
    if not isinstance(error, huggingface_hub.errors.HfHubHTTPError) or error.response.status_code != 429:
        return None
    headers = error.response.headers
    after, limit = headers.get("Retry-After", ""), huggingface_hub.utils._http.parse_ratelimit_headers(headers)
    if after.isdigit():
        return int(after)
    return None if limit is None else limit.reset_in_seconds


def _answer_problem(error: BaseException, what: str, page: str, revision: str | None) -> str:
    """A sentence about an answer with an error status. `datasets` leaves only its text, for what is not there."""
    constants, errors = huggingface_hub.constants, huggingface_hub.errors
    has_token, login = huggingface_hub.get_token() is not None, "log in (`hf auth login`, or HF_TOKEN)"
    if isinstance(error, errors.RevisionNotFoundError) or NO_REVISION in str(error):
        return (
            f"the {what} has no revision '{revision or constants.DEFAULT_REVISION}' on the hub. Take a branch, tag or "
            f"commit of {page}/commits/main as `revision`."
        )
    if isinstance(error, errors.GatedRepoError) or GATED in str(error):
        account = "with the account of your token" if has_token else f"and {login}"
        return f"the {what} is gated. Accept its conditions on {page} {account}."
    if isinstance(error, errors.RepositoryNotFoundError) or not isinstance(error, errors.HfHubHTTPError):
        closed = (
            "may not be read with your token. Check both" if has_token else f"is private. Check the name, or {login}"
        )
        return f"there is no such folder here, and the hub has no {what}, or it {closed}."
    status = error.response.status_code
    if status == 429:
        seconds = retry_seconds(error)
        again = "later" if seconds is None else f"in {seconds} seconds"
        return f"the hub does not give the {what}, because of too many requests (429). Try again {again}."
    reasons = {
        401: f"the hub does not accept your token for the {what}. Correct HF_TOKEN, or log in again (`hf auth login`).",
        403: f"your token may not read the {what}. Give it the right to read gated and private repositories.",
    }
    if status >= 500:
        reasons[status] = (
            f"the hub {constants.ENDPOINT} has an error of its own ({status}) at the {what}. Try again later."
        )
    return reasons.get(status, f"the hub refuses the {what}: {first_line(error)}.")


MAX_ASKED, MAX_WAIT = 3, 60
"""The number of requests to a hub that answers 429, and the maximal seconds between two of them."""


def hub_commit(name: str, revision: str | None, kind: Kind = "model") -> str:
    """The commit of a revision, from the hub, or from its cache if the hub is out of reach.

    Args:
        name: Id of the repository.
        revision: Branch, tag or commit. None: the newest. A whole commit id is not looked up.
        kind: What the repository holds.

    Raises:
        OSError, httpx2.HTTPError, RevisionResolutionError: The hub and its cache do not know it. `hub_problem` explains
            them.
    """

    def commit(local_files_only: bool) -> str:
        repo_type = "dataset" if kind == "data set" else "model"
        arguments: dict[str, Any] = {"repo_type": repo_type, "revision": revision, "local_files_only": local_files_only}
        return str(huggingface_hub.HfApi().resolve_revision(name, **arguments).resolved)

    for attempt in range(1, MAX_ASKED + 1):
        try:
            return commit(huggingface_hub.constants.is_offline_mode())
        except OSError as error:
            seconds = retry_seconds(error)
            if seconds is None:
                raise
            if attempt < MAX_ASKED and seconds <= MAX_WAIT:
                time.sleep(seconds)
                continue
            try:
                cached = commit(True)
            except huggingface_hub.errors.RevisionResolutionError:
                raise error from None
            warnings.warn(
                f"the hub has had too many requests (429), so the cached commit {cached} of {name} is used.",
                ICLWarning,
                stacklevel=2,
            )
            return cached
    raise AssertionError("the loop returns or raises")


# Hides progress bars of libraries, which would break up the toolkit's own progress display.
#
# Slow steps that the toolkit does not report, such as a download or a large data set, keep their bar on a terminal.


SMALL_SOURCE_BYTES = 2**28
"""Sources below this size, in bytes, load too fast to need a bar."""


@contextmanager
def hide_transformers_progress(really: bool = True) -> Iterator[None]:
    """Hide the progress bars of transformers and restore the setting afterwards. `really=False` changes nothing."""
    logging = transformers.utils.logging
    if not really or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def hide_hub_progress(quick: bool) -> AbstractContextManager[None]:
    """Hide the progress bars of `huggingface_hub` for small files or without a terminal, and restore the setting."""
    return _hide_progress(huggingface_hub.utils, quick)


def hide_datasets_progress(quick: bool) -> AbstractContextManager[None]:
    """Hide the progress bars of `datasets` for a quick source or without a terminal, and restore the setting."""
    return _hide_progress(datasets, quick)


@contextmanager
def _hide_progress(library: Any, quick: bool) -> Iterator[None]:
    if library.are_progress_bars_disabled() or not (quick or not sys.stderr.isatty()):
        yield
        return
    library.disable_progress_bars()
    try:
        yield
    finally:
        library.enable_progress_bars()


@contextmanager
def hide_bars_of_logs() -> Iterator[None]:
    """Hide what is written to stderr unless it is a terminal, for libraries without a switch for their bars."""
    if sys.stderr.isatty():
        yield
        return
    with redirect_stderr(io.StringIO()):
        yield
