"""Traces of prompts through an OpenAI-compatible server, which hides most stages.

vLLM's server returns token ids if asked; others ignore the question, or refuse it and are asked without.
"""

import itertools
import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from icl.errors import ModelError
from icl.images import Image
from icl.models.chat_messages import messages
from icl.models.tracing import STEPS, Stage, Trace, Tracer, margin
from icl.probe.images import data_url
from icl.probe.server import LEAST, MALFORMED, RefusedError, Server, UnusableServerError
from icl.types import Prompt

if TYPE_CHECKING:
    from icl.models.remote import Remote

NOT_VISIBLE = "not visible on a server"
ASKS_FOR_IDS = {"return_token_ids": True}


class RemoteTracer(Tracer):
    """Shows answers, and as far as the server does, log-probabilities, the number of tokens and their ids."""

    model: "Remote"

    @property
    def hidden(self) -> Mapping[Stage, str]:
        return dict.fromkeys((Stage.TEXT, Stage.IDS, Stage.IMAGES, Stage.PIXELS, Stage.FEATURES), NOT_VISIBLE) | (
            {Stage.FIRST: "the server gives no log-probabilities"} if self.server.of_texts else {}
        )

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Address, model and version of the server. Raises ModelError if it cannot be used."""
        try:
            return self.server.connect()
        except UnusableServerError as error:
            raise ModelError(str(error)) from error

    @cached_property
    def server(self) -> Server:
        model = self.model
        extra = {**model.extra, **model.prompt_fields}
        return Server(model.base, model.adapter or model.model, model.endpoint.key, model.timeout, extra=extra)

    @property
    def facts(self) -> Mapping[str, Mapping[str, Any]]:
        versions = {"server": self.identity["version"]} if self.identity["version"] else {}
        return {"template": self.model.template, "images": self.model.image_processor, "versions": versions}

    def trace(self, prompt: Prompt, *, raw_images: bool = False) -> Trace:
        _ = self.identity
        written = messages(prompt)
        if raw_images:
            _with_files(written, prompt.images)
        body: dict[str, Any] = {"messages": written, "temperature": 0, self.model.limit_name: STEPS}
        if not self.server.of_texts:
            body |= {"logprobs": True, "top_logprobs": self.server.listed}
        try:
            return _trace(self._post(body))
        except UnusableServerError as error:
            raise ModelError(str(error)) from error
        except (RefusedError, *MALFORMED) as error:
            raise ModelError(f"{self.model.base}: {error}") from error

    def _post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self.server.post({**body, **ASKS_FOR_IDS})
        except RefusedError:
            return self.server.post(body)


def _with_files(written: list[dict[str, Any]], images: tuple[Image, ...]) -> None:
    """Puts the images in place of those that are flattened."""
    rest = iter(images)
    for part in itertools.chain(*(message["content"] for message in written if isinstance(message["content"], list))):
        if part["type"] == "image_url":
            part["image_url"] = {"url": data_url(next(rest).load())}


def _trace(data: Mapping[str, Any]) -> Trace:
    """Reads a response. Raises one of MALFORMED if it has another form."""
    choice = data["choices"][0]
    answer, ids = choice["message"].get("content") or "", data.get("prompt_token_ids")
    listed = (choice.get("logprobs") or {}).get("content") or []
    stopped = choice.get("finish_reason") == "stop"
    tokens = [str(step["token"]) for step in listed]
    last = tokens[-1].strip() if tokens else ""
    if stopped and not (last and answer.rstrip().endswith(last)):
        tokens = tokens[:-1]  # it ends the answer, and some servers list it
    steps = [_step(step) for step in listed]
    return Trace(
        ids=None if ids is None else tuple(map(int, ids)),
        prompt_tokens=(data.get("usage") or {}).get("prompt_tokens"),
        top=steps[0] if steps else {},
        tokens=tuple(tokens),
        margins=tuple(map(margin, steps)),
        answer=answer.strip(),
        stopped=stopped,
    )


def _step(step: Mapping[str, Any]) -> dict[str, float]:
    """Text -> log-probability, of several tokens with one text the likeliest. Raises ValueError for NaN."""
    top: dict[str, float] = {}
    for item in step.get("top_logprobs") or ():
        value = max(float(item["logprob"]), LEAST)
        if not math.isfinite(value):
            raise ValueError(f"{item['logprob']} is listed as a log-probability")
        top[str(item["token"])] = max(value, top.get(str(item["token"]), LEAST))
    return top
