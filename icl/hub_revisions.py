"""The commit of a branch or a tag of the hub, for models and data sets.

If the hub has had too many requests (429), it is asked again at the time that it names. If that is too late, the commit
in the cache is used.
"""

import time
import warnings

from icl.errors import ICLWarning
from icl.hub_errors import Kind, retry_seconds

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
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RevisionResolutionError

    def commit(local_files_only: bool) -> str:
        repo_type = "dataset" if kind == "data set" else "model"
        arguments = {"repo_type": repo_type, "revision": revision}
        return str(HfApi().resolve_revision(name, **arguments, local_files_only=local_files_only).resolved)

    for attempt in range(1, MAX_ASKED + 1):
        try:
            return commit(constants.is_offline_mode())
        except OSError as error:
            seconds = retry_seconds(error)
            if seconds is None:
                raise
            if attempt < MAX_ASKED and seconds <= MAX_WAIT:
                time.sleep(seconds)
                continue
            try:
                cached = commit(True)
            except RevisionResolutionError:
                raise error from None
            warnings.warn(
                f"the hub has had too many requests (429), so the cached commit {cached} of {name} is used.",
                ICLWarning,
                stacklevel=2,
            )
            return cached
    raise AssertionError("the loop returns or raises")
