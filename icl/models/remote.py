"""The component `remote`: any endpoint that speaks OpenAI's chat completions, asked many things at once.

A server of `icl serve` says that it is one (see `icl.models.icl_server`); it is sent strategies and scores whole
options.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from annotated_types import Ge, Le

from icl import __version__
from icl.canonical_json import canonical_digest
from icl.constraints import Count, Positive, PositiveInt
from icl.errors import ConfigError, ICLError, ModelError, did_you_mean
from icl.models import icl_server as served
from icl.models.base import Model, OnAnswer, Request
from icl.models.chat_messages import messages, read
from icl.models.endpoint import Endpoint, EndpointUnavailableError
from icl.models.icl_server import ServerInfo
from icl.registry import component
from icl.types import Generation, Prompt

OWN = ("model", "messages", "stream", "n", "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens")
LETTERS = 4
"""Characters of a token, where tokens are only estimated."""

DRAWN = ("temperature", "top_p", "top_k", "min_p")
PLAIN = frozenset({"generate", "score"})


class _Abilities:
    """Of the class, what any endpoint can do; of an instance, what its server can."""

    def __get__(self, model: "Remote | None", owner: type["Remote"]) -> frozenset[str]:
        if model is None or not isinstance(model.server, ServerInfo):
            return PLAIN
        return PLAIN | {"strategies"}


@component("model", "remote")
@dataclass(frozen=True)
class Remote(Model):
    """Any OpenAI-compatible endpoint, by chat completions with images as PNG data URLs: answers, and option scores.

    Options are scored by the first token of the answer (see `icl.models.chat_messages`), in which they should differ,
    as letters do. Strategies other than greedy run inside the model, so on a server of `icl serve` alone, which scores
    whole options too.
    """

    abilities: ClassVar[frozenset[str]] = _Abilities()  # type: ignore[assignment]
    is_endpoint: ClassVar[bool] = True
    abilities_when_served: ClassVar[frozenset[str]] = frozenset({"strategies", "adapters"})
    counts_exactly: ClassVar[bool] = False

    url: str  # of the API, up to /v1
    model: str  # as the endpoint calls it
    key_env: str | None = None  # the environment variable that holds the API key; none: no key is sent
    concurrency: Annotated[int, Ge(1), Le(1024)] = 8  # requests in flight
    timeout: Positive = 120.0  # seconds for one answer
    retries: Count = 5  # tries after the first: on 408, 429, 5xx, time-outs, broken connections
    backoff: Positive = 1.0  # seconds before the second try, doubled for each one more; Retry-After goes first
    max_tokens: PositiveInt | None = None  # context length; none: the endpoint refuses what it cannot read
    image_tokens: Count = 256  # estimate of what one image takes of the context
    top_logprobs: Annotated[int, Ge(2), Le(100)] = 20  # tokens that an endpoint lists for option scores
    adapter: str | None = None  # of the model, as the server calls it: what is asked instead of the model alone
    limit_name: Literal["max_tokens", "max_completion_tokens"] = (
        "max_tokens"  # what the endpoint calls an answer's limit
    )
    extra: dict[str, Any] = field(default_factory=dict, hash=False)  # more fields of each request, such as temperature

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"model.url: '{self.url}' is not an http address, such as http://127.0.0.1:8000/v1.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError("model.url: an address alone, since it is written into records. Keys go into `key_env`.")
        if taken := sorted(set(OWN) & self.extra.keys()):
            raise ConfigError(f"model.extra: {', '.join(taken)} is set by the backend or its own fields.")

    @cached_property
    def digest(self) -> str:
        """Names endpoint, model and what changes a request; what a provider changes behind a name, nobody knows."""
        told = {"url": self.base, "model": self.model, "extra": self.extra, "image_tokens": self.image_tokens}
        if self.adapter is not None:
            told["adapter"] = self.adapter
        return canonical_digest({"backend": "remote", **told, "max_tokens": self.max_tokens})[:32]

    @property
    def base(self) -> str:
        return self.url.rstrip("/")

    @cached_property
    def endpoint(self) -> Endpoint:
        """Raises ModelError where the key's variable is empty."""
        key = os.environ.get(self.key_env, "").strip() if self.key_env else None
        if self.key_env and not key:
            raise ModelError(f"model.key_env: the environment variable {self.key_env} is empty. Put the API key there.")
        return Endpoint(self.base, key, self.key_env, self.timeout, self.retries, self.backoff, self.concurrency)

    @cached_property
    def server(self) -> ServerInfo | str:
        """What the endpoint is, where it is one of ours; else why it is not. It is asked once."""
        try:
            return served.server_info(self.endpoint)
        except ModelError as error:  # no key: a plan can be made without
            return str(error)

    @property
    def strategies_hint(self) -> str:
        """Why it has no strategies."""
        if isinstance(self.server, ServerInfo):
            return ""
        why = self.server.rstrip(".")
        return (
            f"With model 'remote' it runs where the server is one of `icl serve`, and this one does not say so ({why})."
        )

    def strategy_refusal(self, node: Mapping[str, Any]) -> str | None:
        """Why a strategy cannot be sent, or None."""
        if not isinstance(self.server, ServerInfo):
            return None
        if taken := sorted(set(DRAWN) & self.extra.keys()):
            return f"model.extra sets {', '.join(taken)}; say it in the arm, as `sampling: {{temperature: ...}}`."
        return self.server.refusal(node)

    @property
    def notes(self) -> tuple[str, ...]:
        """Whether the server is of another version."""
        if not isinstance(self.server, ServerInfo) or self.server.version == __version__:
            return ()
        return (f"the server runs mm-icl {self.server.version}, and this is {__version__}: its strategies may differ",)

    @cached_property
    def counts(self) -> dict[str, int]:
        return dict.fromkeys(("requests", "prompt_tokens", "new_tokens", "images_shown"), 0)

    @cached_property
    def cached(self) -> list[int]:
        """Of each answer, the prompt tokens that the endpoint found in its prefix cache, where it says so."""
        return []

    def load(self) -> None:
        endpoint = self.endpoint
        if isinstance(self.server, str):  # it may have been started since it was asked
            vars(self)["server"] = served.server_info(endpoint)
        known = self.server.adapters if isinstance(self.server, ServerInfo) else None
        if self.adapter is not None and known is not None and self.adapter not in known:
            there = f"It has {', '.join(known)}" if known else "It has none"
            raise ModelError(
                f"model.adapter: the server at {self.base} has no adapter '{self.adapter}'."
                f"{did_you_mean(self.adapter, known)} {there}: start it with `icl serve --adapter {self.adapter}=DIR`."
            )

    def unload(self) -> None:
        """Closes the connections."""
        if "endpoint" in vars(self):
            self.endpoint.close()

    def counters(self) -> dict[str, int]:
        """requests, tokens, cached_tokens (found in the server's prefix cache, where it says so), retries."""
        return {**self.counts, "cached_tokens": sum(self.cached), "retries": self.endpoint.retry_count}

    def count_tokens(self, prompt: Prompt) -> int:
        """An estimate, for the context budget: four characters a token, and `image_tokens` an image."""
        letters = sum(len(part.text) for part in prompt.parts() if part.text is not None)
        return math.ceil(letters / LETTERS) + self.image_tokens * len(prompt.images)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        found: dict[int, Generation] = {}

        def done(i: int, said: Generation | str) -> None:
            if isinstance(said, str):
                raise ModelError(said)
            found[i] = said

        self.generate_each(requests, done)
        return [found[i] for i in range(len(requests))]

    def generate_each(self, requests: Sequence[Request], on_answer: OnAnswer) -> None:
        """Calls `on_answer` in this thread with each answer, or why there is none, as soon as it is known.

        Raises EndpointUnavailableError where the endpoint has gone or refuses everything, after what was in flight is
        told.
        """
        self.endpoint.stopped.clear()
        _ = self.cached  # made before threads use it
        gone: EndpointUnavailableError | None = None
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="remote") as pool:
            asked: dict[Future[Generation], int] = {pool.submit(self._answer, r): i for i, r in enumerate(requests)}
            try:
                for one in as_completed(asked):
                    error = one.exception()
                    if isinstance(error, EndpointUnavailableError):
                        gone = gone or error
                        self.endpoint.stopped.set()  # what has not begun ends by itself
                    elif isinstance(error, ICLError):
                        if gone is None:
                            on_answer(asked[one], str(error))
                    else:
                        said = one.result()
                        self._count(requests[asked[one]], said)
                        on_answer(asked[one], said)
            finally:
                self.endpoint.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
        if gone is not None:
            raise EndpointUnavailableError(
                f"{gone} What was answered is kept; the same command asks for the rest."
            ) from gone

    def _count(self, request: Request, said: Generation) -> None:
        counts = self.counts
        counts["requests"] += 1
        counts["prompt_tokens"] += said.usage.prompt_tokens
        counts["new_tokens"] += said.usage.new_tokens
        counts["images_shown"] += len(request.prompt.images)

    def _answer(self, request: Request) -> Generation:
        if self.endpoint.stopped.is_set():
            raise EndpointUnavailableError("stopped.")
        body: dict[str, Any]
        limit: dict[str, Any] = {self.limit_name: request.max_new_tokens}
        asked = self.adapter or self.model
        if request.strategy is not None:
            body = {"model": asked, **self.extra, **served.strategy_request(request), **limit}
            return self._read(body, lambda told: served.generation_in(told, self.base))
        body = {"model": asked, "messages": messages(request.prompt), "temperature": 0, **self.extra, **limit}
        if request.score_options:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return self._read(body, lambda told: read(told, request, self.base))

    def _read(self, body: Mapping[str, Any], reader: Callable[[dict[str, Any]], Generation]) -> Generation:
        told = self.endpoint.post("/chat/completions", body)
        self._note(told)
        try:
            return reader(told)
        except ModelError as error:
            raise ModelError(self.endpoint.mask_key(str(error))) from error

    def _note(self, told: Mapping[str, Any]) -> None:
        usage = told.get("usage")
        details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
        found = details.get("cached_tokens") if isinstance(details, dict) else None
        if isinstance(found, int) and found > 0:
            self.cached.append(found)
