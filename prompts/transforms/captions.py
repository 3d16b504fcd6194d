"""Text instead of images: captions, tags or summaries that come with the data (VICL's demonstrations as text; TAMML).

The text comes before the question, and the images are removed. It is the example's public fact `key` (a list becomes
"a, b, c"), or it comes from a JSON file from example ids to texts. Such a file may hold the output of a captioner, or
intent summaries of a model (VICL's IOIS). A summary that was written with knowledge of the label leaks it: set
`saw_labels`. By default only demonstrations become text, and the query keeps its image, as in VICL. The
missing-modality test of TAMML replaces all images.
"""

import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from icl import ConfigError, Context, DataError, component
from icl import parameter_files as files
from icl.types import Where
from prompts import change_examples


@component("transform", "captions")
@dataclass(frozen=True)
class Captions:
    """A transform that replaces images by captions, tags or summaries from the data or from a file."""

    needs: ClassVar[frozenset[str]] = frozenset()

    key: str = "caption"  # public fact of an example with its text; ignored if there is a file
    file: str | None = None  # JSON file: example id -> text
    where: Where = "demos"  # owners of the images to replace
    text: str = "{caption}\n"  # format of the text before the question
    saw_labels: bool = False  # whether the texts of the file were written with knowledge of the labels
    code: str = ""  # digest of the file, set automatically
    _texts: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        if self.text.count("{caption}") != 1:
            raise ConfigError(f"text must have {{caption}} once, at the place of the caption, but it is {self.text!r}.")
        texts: dict[str, str] = {}
        if self.file is not None:
            content = files.read(files.find(self.file, "file of captions"), "captions")
            files.pin(self, content, self.file)
            texts = _parse(content, self.file)
        object.__setattr__(self, "_texts", texts)

    def transform(self, context: Context) -> Context:
        source = f" from {self.file}" if self.file else f" '{self.key}'"
        mark = f"captions:{source}{', saw labels' if self.saw_labels else ''}"
        return change_examples(context, self.where, self._with_caption, mark)

    def _with_caption(self, item: Any) -> Any:
        if not item.images:
            return item
        written = self.text.replace("{caption}", self._caption(item))
        return replace(item, images=(), question=written + item.question if item.question else written.rstrip())

    def _caption(self, item: Any) -> str:
        caption = self._texts.get(item.id) if self.file else item.meta.get(self.key)
        if caption is None:
            facts = ", ".join(item.meta) or "none"
            where = f"in {self.file}" if self.file else f"among its public facts ({facts}) under '{self.key}'"
            raise DataError(f"captions: example '{item.id}' has no text {where}. Add it, or name another key or file.")
        return ", ".join(map(str, caption)) if isinstance(caption, list | tuple) else str(caption)


def _parse(content: str, name: str) -> dict[str, str]:
    try:
        texts = json.loads(content)
    except json.JSONDecodeError as error:
        raise ConfigError(f"captions {name} is not JSON: {error}.") from error
    if not isinstance(texts, dict) or not all(isinstance(value, str) for value in texts.values()):
        raise ConfigError(f"captions {name} must map example IDs to texts, such as {{'cub-12': 'a small bird'}}.")
    return texts
