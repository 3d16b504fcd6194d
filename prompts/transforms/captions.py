"""Text instead of images: captions, tags or summaries that come with the data (VICL's demonstrations as text; TAMML).

The text stands before the question; the images are gone. It is the example's public fact `key` (a list becomes
"a, b, c"), or it comes from a JSON file that maps example ids to texts: what a captioner or a model's intent summary
(VICL's IOIS) made beforehand. A summary that was written with the label in sight leaks it: say so with `saw_labels`.
Only demonstrations become text by default, and the query keeps its image, as in VICL; all of it for the missing-
modality test of TAMML.
"""

import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from icl.errors import ConfigError, DataError
from icl.registry import component
from icl.types import Context, Where
from prompts import parameter_files as files
from prompts.example_changes import changed


@component("transform", "captions")
@dataclass(frozen=True)
class Captions:
    """Images replaced by captions, tags or summaries from the data or from a file."""

    needs: ClassVar[frozenset[str]] = frozenset()

    key: str = "caption"  # the public fact of an example that is shown; not read where there is a file
    file: str | None = None  # JSON: example id -> text
    where: Where = "demos"  # whose images become text
    text: str = "{caption}\n"  # how it is written before the question
    saw_labels: bool = False  # the texts of the file were made with the labels in sight
    code: str = ""  # digest of the file, filled in
    _texts: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        if self.text.count("{caption}") != 1:
            raise ConfigError(f"text must have {{caption}} once, where the caption goes; it is {self.text!r}.")
        told: dict[str, str] = {}
        if self.file is not None:
            content = files.read(files.find(self.file, "file of captions"), "captions")
            files.pin(self, content, self.file)
            told = _parsed(content, self.file)
        object.__setattr__(self, "_texts", told)

    def transform(self, context: Context) -> Context:
        source = f" from {self.file}" if self.file else f" '{self.key}'"
        mark = f"captions:{source}{', saw labels' if self.saw_labels else ''}"
        return changed(context, self.where, self._told, mark)

    def _told(self, item: Any) -> Any:
        if not item.images:
            return item
        written = self.text.replace("{caption}", self._caption(item))
        return replace(item, images=(), question=written + item.question if item.question else written.rstrip())

    def _caption(self, item: Any) -> str:
        found = self._texts.get(item.id) if self.file else item.meta.get(self.key)
        if found is None:
            have = ", ".join(item.meta) or "none"
            where = f"in {self.file}" if self.file else f"among its public facts ({have}) under '{self.key}'"
            raise DataError(f"captions: example '{item.id}' has no text {where}. Add it, or name another key or file.")
        return ", ".join(map(str, found)) if isinstance(found, list | tuple) else str(found)


def _parsed(content: str, name: str) -> dict[str, str]:
    try:
        told = json.loads(content)
    except json.JSONDecodeError as error:
        raise ConfigError(f"captions {name} is not JSON: {error}.") from error
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise ConfigError(f"captions {name} must map example ids to texts, such as {{'cub-12': 'a small bird'}}.")
    return told
