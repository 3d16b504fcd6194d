"""Tasks as lmms-eval's ConfigurableMessagesTask presents them."""

import functools
import inspect
from types import SimpleNamespace
from typing import Any

import datasets
from PIL import ImageFile

from lmms_eval.api.registry import AGGREGATIONS

ImageFile.LOAD_TRUNCATED_IMAGES = True

KEYS = (
    *("test_split", "validation_split", "training_split", "fewshot_split", "process_docs", "doc_to_visual"),
    *("doc_to_text", "doc_to_target", "doc_to_choice", "doc_to_messages", "process_results", "full_docs"),
)


class RetryError(Exception):
    """tenacity's error, which hides the reason."""


def retry(function: Any) -> Any:
    @functools.wraps(function)
    def tried(*arguments: Any, **named: Any) -> Any:
        for _ in range(5):
            try:
                return function(*arguments, **named)
            except Exception:  # noqa: BLE001 - as tenacity does
                continue
        raise RetryError("RetryError[<Future state=finished raised>]")

    return tried


class ConfigurableTask:
    def __init__(self, config: dict[str, Any], model_name: str | None = None) -> None:
        self.keys = config
        self.config = SimpleNamespace(**{key: config.get(key) for key in KEYS})
        self.OUTPUT_TYPE = config.get("output_type", "generate_until")
        by_model = config.get("lmms_eval_specific_kwargs") or {}
        self.specific = by_model.get(model_name, by_model.get("default"))
        self.gather = {
            m["metric"]: m["aggregation"] if callable(m["aggregation"]) else AGGREGATIONS.get(m["aggregation"])
            for m in config["metric_list"]
        }
        self.download(config.get("dataset_kwargs"))
        self.doc_to_text(self.dataset[self.config.test_split or self.config.validation_split][0])

    @retry
    def download(self, options: Any = None) -> None:
        self.dataset = datasets.load_dataset(self.keys["dataset_path"], **(options or {}))
        for split in self.dataset if self.config.process_docs else ():
            self.dataset[split] = self.config.process_docs(self.dataset[split])
        images = [k for k, f in next(iter(self.dataset.values())).features.items() if isinstance(f, datasets.Image)]
        self.dataset_no_image = {split: rows.remove_columns(images) for split, rows in self.dataset.items()}

    def _value(self, key: str, doc: Any) -> Any:
        value = getattr(self.config, key)
        if callable(value):
            takes_two = self.specific is not None and len(inspect.signature(value).parameters) == 2
            return value(doc, self.specific) if takes_two else value(doc)
        return doc[value] if isinstance(value, str) else value

    def doc_to_visual(self, doc: Any) -> Any:
        return self._value("doc_to_visual", doc)

    def doc_to_text(self, doc: Any) -> Any:
        return self._value("doc_to_text", doc)

    def doc_to_target(self, doc: Any) -> Any:
        return self._value("doc_to_target", doc)

    def doc_to_choice(self, doc: Any) -> Any:
        return self._value("doc_to_choice", doc)

    @retry
    def process_results(self, doc: Any, results: list[Any], full_docs: Any = None) -> Any:
        if callable(self.config.process_results):
            return self.config.process_results(doc, results)
        best = min(range(len(results)), key=lambda i: results[i][0])  # losses of options
        return {"acc": float(best == self.doc_to_target(doc))}

    def aggregation(self) -> Any:
        return self.gather


class ConfigurableMessagesTask(ConfigurableTask):
    def doc_to_messages(self, doc: Any) -> Any:
        return self._value("doc_to_messages", doc)
