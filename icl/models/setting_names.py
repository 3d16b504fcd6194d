"""The names of settings that whoever reads them would ignore: an error with a suggestion."""

from collections.abc import Iterable, Sequence

from icl.errors import ModelError, did_you_mean


def check_read(settings: Iterable[str], names: Sequence[str], key: str, reader: str) -> None:
    """Raise ModelError for a setting that would be ignored.

    Args:
        settings: The names that a config sets.
        names: The names that are read.
        key: The config key of the settings.
        reader: What reads them.
    """
    for name in settings:
        if name not in names:
            raise ModelError(
                f"{key}: {reader} does not read '{name}', so it would be ignored.{did_you_mean(name, names)} It takes "
                f"{', '.join(names) or 'none'}."
            )
