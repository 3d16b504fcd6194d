"""Paths of parameters that begin with the home folder of a user who does not exist."""

from collections.abc import Callable

import pytest

from icl.errors import ConfigError
from icl.models.hf.adapter import LoraAdapter
from icl.models.hf.model import HF
from icl.parameter_files import cache_folder, expand_user
from icl.registry import build
from icl.tasks.drawings.table import drawings_folder
from retrievers.embedders.sentence_encoders import SentenceTransformers
from retrievers.machinery.embedding_models import find_checkpoint

STRANGER = "~no-such-user/files"


@pytest.mark.parametrize(
    "read",
    [
        expand_user,
        cache_folder,
        drawings_folder,
        find_checkpoint,
        lambda path: HF(path=path).checkpoint.folder,
        lambda path: LoraAdapter(path).folder,
        lambda path: SentenceTransformers(path=path).digest,
        lambda path: build("retriever", {"name": "external", "path": path}),
        lambda path: build("task", {"name": "emoji-shift", "modules": path}).queries,
    ],
)
def test_the_home_folder_of_an_unknown_user_is_a_sentence(read: Callable[[str], object]) -> None:
    with pytest.raises(ConfigError, match=r"files: the user 'no-such-user' has no home folder on this machine\. Write"):
        read(STRANGER)
