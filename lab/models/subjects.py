"""The rows of the table of models: all twins."""

from pathlib import Path

from lab.architectures.run import Subjects
from lab.architectures.verdicts import Verdict
from lab.models.checks import check_twin, prompts
from tests.random_models.twins.twin import save_twin, twins


def twin_folder(name: str, folder: Path) -> Path:
    """The twin in `folder`, written if it does not exist."""
    return folder if (folder / "README.md").is_file() else save_twin(name, folder)


def check_token_ids(folder: Path) -> Verdict:
    """See `lab.models.token_ids`, which needs vLLM."""
    from lab.models.token_ids import check_ids

    return check_ids(folder)


ROWS = tuple(name for name, twin in twins().items() if twin.images)
MODELS = Subjects("lab.models", "twin", ROWS, twin_folder, check_twin, prompts, 16384, check_token_ids)
