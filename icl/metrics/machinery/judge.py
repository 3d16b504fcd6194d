"""A judge model as a metric (Zheng et al., NeurIPS 2023): a model reads the question, the accepted answers and the
answer, and says whether the answer is right.

`score` calls no model: it looks a verdict up, and returns None where there is none. `icl run` asks the judge for
missing verdicts when its samples are finished (`experiments.running.judging`), so a judge slows no sample and loses
none. A verdict is stored in the folder of caches, under the digest of the judge, the prompt with question and answer,
and the rule. It is computed once for all arms, seeds and runs.

The rule that reads a reply: the word after the last "verdict:", else the first word, else the only word of the last
line. It must be the word for right or for wrong. Any other reply is stored as unreadable and has no score.

Differs from the paper in the task: one answer against a reference (its "reference-guided grading"), not a choice
between two answers. No released code was compared.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypedDict

from icl import Better, ConfigError, DataError, canonical_digest, did_you_mean, split_reasoning
from icl.parameter_files import cache_folder, find, pin, read
from icl.registry import NestedComponent, PositiveInt, component
from icl.types import Example, Generation, Part, Prompt, Turn

PROMPTS = Path(__file__).parent / "judge_prompts"
META_FIELDS = ("image_content", "descs")
"""Fields filled from `meta`: what the image has, and its numbered elements (descs)."""
FIELDS = ("question", "gold", "answer", "options", *META_FIELDS)
CONTROLS = 40
"""The largest number of queries for each control of a judge."""

RULE = 1
"""The number of the rule that reads replies: a part of the key of a verdict."""


class JudgeVerdict(TypedDict):
    """What a judge said about an answer. `right` is None if its reply was unreadable."""

    right: bool | None
    reply: str


@dataclass(frozen=True)
class JudgeRequest:
    """A question to the judge. key: the identity of its verdict."""

    key: str
    prompt: Prompt
    texts: Mapping[str, str]


@component("metric", "judge")
@dataclass(frozen=True)
class Judge:
    """1 if a judge model calls the answer right, 0 if it calls it wrong. No score without a verdict."""

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True
    fields: ClassVar[tuple[str, ...]] = ("question", "answer")  # those that a prompt must have
    exchangeable: ClassVar[bool] = True  # whether answer and gold can change places

    judge: Annotated[Any, NestedComponent("model")]  # the model that judges; there is no default
    prompt: str = "correct.txt"  # a file with {question} and {answer}, and perhaps {gold} and {options}
    images: bool = False  # whether the judge sees the images of the question
    right: str = "yes"  # the word for a right answer
    wrong: str = "no"  # the word for a wrong answer
    max_new_tokens: PositiveInt = 16  # length limit of a reply
    code: str = ""  # digest of the prompt's text, set when it is read

    def __post_init__(self) -> None:
        pin(self, self.template, f"the judge's prompt '{self.prompt}'")
        if self.judge.needs:
            needs = " and ".join(sorted(self.judge.needs))
            raise ConfigError(f"judge: this model reads {needs} in addition to a prompt, so it cannot judge.")
        if self.right.lower() == self.wrong.lower() or not re.fullmatch(r"\w+", self.right + self.wrong):
            raise ConfigError(f"right and wrong must be two different words, not {self.right!r} and {self.wrong!r}.")

    @cached_property
    def template(self) -> str:
        """The text of the prompt. Raises ConfigError."""
        text = read(find(self.prompt, "prompt of a judge", PROMPTS), "the judge's prompt")
        names = re.findall(r"\{(\w+)\}", text)
        for name in names:
            if name not in FIELDS:
                fields = ", ".join(f"{{{field}}}" for field in FIELDS)
                raise ConfigError(
                    f"the judge's prompt '{self.prompt}' has no field {{{name}}}.{did_you_mean(name, FIELDS)} {fields}"
                )
        for name in self.fields:
            if name not in names:
                raise ConfigError(f"the judge's prompt '{self.prompt}' lacks {{{name}}}, which the judge must read.")
        return text

    def score(self, generation: Generation, example: Example) -> float | None:
        request = self.request(generation.text, example)
        return self.value(self.verdicts.get(request.key), request)

    def value(self, verdict: JudgeVerdict | None, request: JudgeRequest) -> float | None:
        """The score of a verdict, None if there is none or it was unreadable."""
        return None if verdict is None or verdict["right"] is None else float(verdict["right"])

    @property
    def rule(self) -> tuple[str | int, ...]:
        """What reads a reply: a part of the key of a verdict."""
        return self.right, self.wrong, self.max_new_tokens

    def request(self, output: str, example: Example) -> JudgeRequest:
        """The prompt about an answer. A reasoning block of the output is left out."""
        texts = {
            "question": example.question,
            "gold": " / ".join(example.answers),
            "options": " / ".join(example.options),
            "answer": split_reasoning(output).answer.strip(),
        }
        for field in META_FIELDS:
            if f"{{{field}}}" not in self.template:
                continue
            if field not in example.meta:
                raise DataError(
                    f"the judge's prompt '{self.prompt}' needs {field} of query '{example.id}', which the task does "
                    f"not store. Add {field} to `columns.meta` of the task, or use a prompt without it."
                )
            content = example.meta[field]
            texts[field] = content if isinstance(content, str) else ", ".join(map(str, content))
        text = re.sub(r"\{(\w+)\}", lambda match: texts[match[1]], self.template)
        images = tuple(
            Part(image, f"query.image[{i}]") for i, image in enumerate(example.images if self.images else ())
        )
        prompt = Prompt((Turn("user", (*images, Part(text, "query.question"))),))
        key = canonical_digest([self.judge.digest, prompt.digest, *self.rule, RULE])
        return JudgeRequest(key, prompt, texts)

    def parse(self, reply: str, request: JudgeRequest) -> bool | None:
        """The verdict in a reply to a request, by the rule of the module. None if it has none."""
        text = re.sub(r"[*_`#\"']", "", split_reasoning(reply).answer).strip().lower()
        words = {self.right.lower(): True, self.wrong.lower(): False}
        if marked := re.findall(r"verdict\s*[:=]\s*(\w+)", text):
            return words.get(marked[-1])
        first = re.match(r"\w+", text)
        last = re.fullmatch(r"\W*(\w+)\W*", text.splitlines()[-1]) if text else None
        candidates = (first[0] if first else "", last[1] if last else "")
        return next((words[word] for word in candidates if word in words), None)

    def add(self, request: JudgeRequest, reply: str) -> None:
        """Stores the verdict of a reply, with what the judge was asked."""
        verdict: JudgeVerdict = {"right": self.parse(reply, request), "reply": reply}
        self.verdicts[request.key] = verdict
        self._file.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": request.key, **verdict, **request.texts}, ensure_ascii=False)
        with self._file.open("ab") as file:
            file.write(f"{line}\n".encode(errors="replace"))  # at once: processes may share the file

    def swapped(self, output: str, example: Example) -> JudgeRequest:
        """The request with the answer in place of the gold and the gold in place of the answer."""
        answer = self.request(output, example).texts["answer"]
        return self.request(example.answer, replace(example, answers=(answer,)))

    @cached_property
    def verdicts(self) -> dict[str, JudgeVerdict]:
        """Key -> verdict, as the file had them when they were first used, and those added since."""
        return dict(_read_verdicts(self._file))

    @cached_property
    def _file(self) -> Path:
        name = canonical_digest([self.judge.digest, self.code, *self.rule])[:16]
        return cache_folder() / "verdicts" / f"{name}.jsonl"


def _read_verdicts(path: Path) -> Iterator[tuple[str, JudgeVerdict]]:
    """The verdicts of a file. A line that is cut or damaged is skipped: the judge is asked again."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            content = json.loads(line)
            key, right, reply = str(content["key"]), content["right"], str(content["reply"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if right is None or isinstance(right, bool):
            yield key, {"right": right, "reply": reply}
