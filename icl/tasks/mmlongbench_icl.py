"""The in-context part of MMLongBench (Wang et al., 2505.10610): many-shot classification of images by numbered labels.

The released JSON file has, for each domain, several sets of demonstrations (`exemplar_list`, rounds of {image, id}) and
queries (`test_example`, {image, answer}). A query gets one of the sets of its domain, drawn for it, with the
demonstrations shuffled within each round. Labels are numbers, so only the demonstrations tell what they mean. Metrics:
`strict` or `lenient`; the released score reads the text after "label:".

Differs from the released code in the number of demonstrations, which is the context length there (8K to 128K tokens).
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from icl import DataError, Example, Image, StreamKey, component
from icl.tasks.base import LimitedTask, SeveralPoolsTask, limited_choice
from icl.tasks.cell_values import RelativePaths
from icl.tasks.generated.episode import choice, shuffled

QUESTION = "What is the label of this image?"


@component("task", "mmlongbench_icl")
@dataclass(frozen=True, kw_only=True)
class MMLongBenchICLTask(RelativePaths, SeveralPoolsTask, LimitedTask):
    """Images with numbered labels that only the demonstrations of the query's set explain."""

    path: str  # JSON file of the release
    images: str  # folder to which image paths are relative

    @property
    def title(self) -> str:
        return f"MMLongBench ICL {Path(self.path).stem}"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        tests = [
            (f"{domain}-{number:05d}", domain, test)
            for domain, data in self._domains.items()
            for number, test in enumerate(data["test_example"])
        ]
        names = [name for name, *_ in tests]
        chosen = limited_choice(
            names, self.query_limit, self.seed, "mmlongbench_icl", key="queries", whole=f"of {self.path}"
        )
        return tuple(
            self._example(name, domain, test["image"], test["answer"])
            for name, domain, test in (tests[i] for i in chosen)
        )

    def pool_key(self, query_id: str) -> str | None:
        return query_id if query_id.rpartition("-")[0] in self._domains else None

    def pool_examples(self, key: str) -> tuple[Example, ...]:
        rng, domain = StreamKey(self.seed, key).numpy("mmlongbench_icl/demonstrations"), key.rpartition("-")[0]
        rounds = choice(rng, self._domains[domain]["exemplar_list"])
        items = [item for one in rounds for item in shuffled(rng, one)]
        return tuple(
            self._example(f"{key}-s{i:04d}", domain, item["image"], item["id"]) for i, item in enumerate(items)
        )

    @property
    def pool_size(self) -> int:
        sets = [one for data in self._domains.values() for one in data["exemplar_list"]]
        return min(sum(map(len, one)) for one in sets)

    def _example(self, name: str, domain: str, image: str, answer: Any) -> Example:
        answers = answer if isinstance(answer, list) else [answer]
        return Example(
            id=name,
            images=(Image.from_path(self._folder / image, f"MMLongBench {image}"),),
            question=QUESTION,
            answers=tuple(map(str, answers)),
            label=str(answers[0]),
            domain=domain,
        )

    @cached_property
    def _folder(self) -> Path:
        return self._place(self.images)

    @cached_property
    def _domains(self) -> dict[str, Any]:
        path = self._place(self.path)
        try:
            domains = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"MMLongBench: {path} cannot be read as JSON ({error}). Give a file of its ICL part."
            ) from error
        if not isinstance(domains, dict) or not all(map(_is_domain, domains.values())):
            raise DataError(f"MMLongBench: {path} must map domains to exemplar_list and test_example.")
        return domains


def _is_domain(data: Any) -> bool:
    return isinstance(data, dict) and bool(data.get("exemplar_list")) and bool(data.get("test_example"))
