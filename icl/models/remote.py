"""The component `remote`: an endpoint with OpenAI's chat completions API, with many requests in flight.

A server of `icl serve` is recognized (see `icl.models.icl_server`). It also runs strategies and scores whole options.
"""

import ipaddress
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from annotated_types import Ge, Le

from icl import __version__, cache_folder, parse_json_object, write_cache
from icl.errors import ConfigError, ICLError, ModelError, did_you_mean
from icl.models import check_read, icl_server
from icl.models.base import Model, OnAnswer, Request
from icl.models.chat_messages import messages, read
from icl.models.endpoint import Endpoint, EndpointUnavailableError
from icl.models.icl_server import ServerInfo
from icl.models.remote_tracing import RemoteTracer
from icl.probe.instrument import CHECKS, Prompts, Status
from icl.probe.run import VERSION, probe
from icl.probe.server import Server, UnusableServerError
from icl.registry import Count, Positive, PositiveInt, component, later_parameter
from icl.text.json_text import canonical_digest
from icl.types import Generation, Prompt
from icl.untrusted import refusal, untrusted_run

# Probes the server of a model before a run: whether it reads prompts of this shape as they are sent.
#
# See `icl.probe`. A result is kept for a day, by server, model, version and checks.


DAY = 24 * 3600


def is_private(url: str) -> bool:
    """Whether an address is on this machine or in a private network, where a request costs nothing."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:  # a name
        return host == "localhost" or "." not in host


def checks_of(prompt: Prompt) -> tuple[str, ...]:
    """The checks that matter for prompts of this shape; none without images."""
    images = [sum(part.image is not None for part in turn.parts) for turn in prompt.turns]
    kinds = {
        Prompts.WITH_IMAGES: max(images) > 0,
        Prompts.WITH_SEVERAL_IN_ONE_TURN: max(images) > 1,
        Prompts.WITH_IMAGES_IN_TURNS: sum(count > 0 for count in images) > 1,
    }
    return tuple(check.name for check in CHECKS.values() if kinds.get(check.matters_for))


def probe_server(server: Server, prompt: Prompt) -> dict[str, Any] | None:
    """What the probe says of the server: date, status, and a sentence for each check that is not ok.

    None if prompts of this shape have no images.

    Raises:
        ModelError: The server has a fault that changes such prompts.
    """
    if not (checks := checks_of(prompt)):
        return None
    try:
        identity = server.connect()
        content = {"server": identity, "checks": checks, "extra": server.extra, "version": VERSION}
        path = cache_folder() / "probes" / f"{canonical_digest(content)[:32]}.json"
        if (record := _stored(path)) is None:
            record = _probe(server, checks)
            write_cache(path, record)
    except UnusableServerError as error:  # it answered the run's own prompt
        record = {"date": _now(), "status": str(Status.OPEN), "red": {}, "open": {"all": str(error)}}
    if red := record["red"]:
        name, text = next(iter(red.items()))
        more = f" (and {len(red) - 1} more)" if len(red) > 1 else ""
        raise ModelError(
            f"model.url: the server at {server.url} does not read prompts as they are sent. {name}: {text}{more}. "
            f"`icl doctor server {server.url} {server.model}` shows all of it; `model.probe: false` runs without this "
            "check."
        )
    return {"url": server.url, "model": server.model, **record}


def _stored(path: Path) -> dict[str, Any] | None:
    try:
        record = parse_json_object(path.read_bytes())
        is_new = 0 <= time.time() - path.stat().st_mtime < DAY
    except (OSError, ValueError):  # none yet, or a damaged one: the server is probed again
        return None
    tables = [record.get(key) for key in ("red", "open")]
    is_whole = all(isinstance(one, dict) and all(map(_is_text, [*one, *one.values()])) for one in tables)
    return record if is_new and is_whole and _is_text(record.get("date")) else None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _probe(server: Server, checks: tuple[str, ...]) -> dict[str, Any]:
    result = probe(server, checks)

    def texts(status: Status) -> dict[str, str]:
        return {row.check: row.text for row in result.rows if row.status is status}

    return {"date": _now(), "status": str(result.status), "red": texts(Status.RED), "open": texts(Status.OPEN)}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


RESERVED_FIELDS = (
    "model",
    "messages",
    "stream",
    "n",
    "logprobs",
    "top_logprobs",
    "max_tokens",
    "max_completion_tokens",
)
"""Fields of a request that `extra` must not set."""

CHARACTERS_PER_TOKEN = 4
"""For estimates of the number of tokens."""

SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "min_p")
ENDPOINT_ABILITIES = frozenset({"generate", "score"})


class _Abilities:
    """Descriptor: on the class, the abilities of any endpoint; on an instance, the abilities of its server."""

    def __get__(self, model: "Remote | None", owner: type["Remote"]) -> frozenset[str]:
        if model is None or not isinstance(model.server, ServerInfo):
            return ENDPOINT_ABILITIES
        return ENDPOINT_ABILITIES | {"strategies"}


@component("model", "remote")
@dataclass(frozen=True)
class Remote(Model):
    """An OpenAI-compatible endpoint: answers and option scores by chat completions, images as PNG data URLs.

    Options are scored by the first token of the answer (see `icl.models.chat_messages`), so they should differ in it,
    as letters do. Strategies other than greedy run only on a server of `icl serve`, which also scores whole options.
    """

    abilities: ClassVar[frozenset[str]] = _Abilities()  # type: ignore[assignment]
    is_endpoint: ClassVar[bool] = True
    abilities_when_served: ClassVar[frozenset[str]] = frozenset({"strategies", "adapters"})
    counts_exactly: ClassVar[bool] = False

    url: str  # address of the API, up to /v1
    model: str  # name of the model at the endpoint
    key_env: str | None = None  # environment variable with the API key; none: no key is sent
    concurrency: Annotated[int, Ge(1), Le(1024)] = 8  # requests in flight
    timeout: Positive = 120.0  # seconds without a byte of the answer
    retries: Count = 5  # after the first attempt: on 408, 429, 5xx, timeouts, broken connections
    backoff: Positive = 1.0  # seconds before the second attempt, doubled for each further one; Retry-After has priority
    max_tokens: PositiveInt | None = None  # context length; none: the endpoint refuses what is too long
    image_tokens: Count = 256  # estimated tokens of one image
    top_logprobs: Annotated[int, Ge(2), Le(100)] = 20  # tokens that an endpoint lists for option scores
    adapter: str | None = None  # name of an adapter at the server, requested instead of the model
    limit_name: Literal["max_tokens", "max_completion_tokens"] = (
        "max_tokens"  # the endpoint's name of the limit of an answer
    )
    template: dict[str, Any] = later_parameter({})  # arguments of its chat template (chat_template_kwargs)
    image_processor: dict[str, Any] = later_parameter({})  # settings of its image processor (mm_processor_kwargs)
    probe: bool | None = later_parameter(None)  # run `icl doctor server` first; none: in a private network
    extra: dict[str, Any] = field(
        default_factory=dict, hash=False
    )  # further fields of each request, such as temperature

    def __post_init__(self) -> None:
        _ = self._untrusted_run
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"model.url: '{self.url}' is not an http address, such as http://127.0.0.1:8000/v1.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(
                "model.url: the URL must not contain credentials, because it is stored in the "
                "run. Put the key into `key_env`."
            )
        if taken := sorted({*RESERVED_FIELDS, *self.prompt_fields} & self.extra.keys()):
            raise ConfigError(f"model.extra: {', '.join(taken)} is set by the backend or its own fields.")

    @cached_property
    def digest(self) -> str:
        """Digest of endpoint, model and settings that change a request.

        A provider may change the model behind a name, which the digest cannot show.
        """
        identity = {"url": self.base, "model": self.model, "extra": self.extra, "image_tokens": self.image_tokens}
        if self.adapter is not None:
            identity["adapter"] = self.adapter
        identity |= self.prompt_fields
        return canonical_digest({"backend": "remote", **identity, "max_tokens": self.max_tokens})[:32]

    @property
    def prompt_fields(self) -> dict[str, Any]:
        """The fields of each request that change how the server writes its prompt, by their names in vLLM's server."""
        fields = {"chat_template_kwargs": self.template, "mm_processor_kwargs": self.image_processor}
        return {name: value for name, value in fields.items() if value}

    @property
    def base(self) -> str:
        return self.url.rstrip("/")

    @cached_property
    def endpoint(self) -> Endpoint:
        """The HTTP endpoint.

        Raises:
            ModelError: The environment variable of the key is empty, or a run directory that is not trusted names the
                endpoint.
        """
        if self._untrusted_run is not None:
            key_env = f", and the environment variable {self.key_env} is not read" if self.key_env else ""
            raise ModelError(refusal(self._untrusted_run, f"model.url {self.url} is not contacted{key_env}"))
        key = os.environ.get(self.key_env, "").strip() if self.key_env else None
        if self.key_env and not key:
            raise ModelError(f"model.key_env: the environment variable {self.key_env} is empty. Put the API key there.")
        return Endpoint(self.base, key, self.key_env, self.timeout, self.retries, self.backoff, self.concurrency)

    @cached_property
    def _untrusted_run(self) -> Path | None:
        """The run directory that named this model without trust, when it was built. None: the endpoint may be used."""
        return untrusted_run()

    @cached_property
    def server(self) -> ServerInfo | str:
        """The description of a server of `icl serve`, otherwise the reason why it is none. Requested once."""
        try:
            return icl_server.server_info(self.endpoint)
        except ModelError as error:  # without a key, a plan can still be made
            return str(error)

    @property
    def not_ready(self) -> str:
        if not isinstance(self.server, icl_server.NotReady):
            return ""
        return f"{self.server} Run the command again once it is."

    @property
    def strategies_hint(self) -> str:
        """Why the endpoint has no strategies, '' if it has."""
        if isinstance(self.server, ServerInfo):
            return ""
        why = self.server.rstrip(".")
        return f"With model 'remote' it runs only on a server of `icl serve`, and this endpoint is none ({why})."

    def strategy_refusal(self, node: Mapping[str, Any]) -> str | None:
        """Why a strategy cannot be sent, or None."""
        if not isinstance(self.server, ServerInfo):
            return None
        if taken := sorted(set(SAMPLING_FIELDS) & self.extra.keys()):
            return f"model.extra sets {', '.join(taken)}; set it in the arm, as `sampling: {{temperature: ...}}`."
        return self.server.refusal(node)

    def thinking_budget_refusal(self) -> str | None:
        """None on a server of `icl serve`.

        Another endpoint has no common way to continue a message that was cut. Chat templates rewrite or remove the
        reasoning in an assistant's message, and an endpoint may answer it as a turn of its own.
        """
        if isinstance(self.server, ServerInfo):
            return None
        return (
            "this endpoint cannot continue an answer after its reasoning was cut. Remove max_thinking_tokens, limit "
            f"its reasoning by model.extra, or use a server of `icl serve` (this is none: {self.server.rstrip('.')})."
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """A note if the server has another version."""
        if not isinstance(self.server, ServerInfo) or self.server.version == __version__:
            return ()
        return (f"the server runs mm-icl {self.server.version}, and this is {__version__}: its strategies may differ",)

    @cached_property
    def counts(self) -> dict[str, int]:
        return dict.fromkeys(("requests", "prompt_tokens", "new_tokens", "num_images"), 0)

    @cached_property
    def cached(self) -> list[int]:
        """Prompt tokens that were in the endpoint's prefix cache, for each answer that reports them."""
        return []

    @property
    def plan_notes(self) -> tuple[str, ...]:
        """Notes on settings that the endpoint may ignore. Raises ModelError for an argument that is wrong."""
        notes = []
        if self.image_processor:
            notes.append("image_processor: this endpoint may ignore mm_processor_kwargs, which vLLM reads")
        if not self.template:
            return tuple(notes)
        names = self.server.template if isinstance(self.server, ServerInfo) else None
        if names is None:
            return (
                *notes,
                "template: this endpoint does not say which arguments its chat template reads; it ignores others",
            )
        check_read(self.template, names, "model.template", f"the chat template at {self.base}")
        return tuple(notes)

    def set_day(self, day: date) -> None:
        vars(self)["day"] = day

    def load(self) -> None:
        endpoint = self.endpoint
        if isinstance(self.server, str):  # it may have been started since the last request
            vars(self)["server"] = icl_server.server_info(endpoint)
        adapters = self.server.adapters if isinstance(self.server, ServerInfo) else None
        if self.adapter is not None and adapters is not None and self.adapter not in adapters:
            available = f"It has {', '.join(adapters)}" if adapters else "It has none"
            raise ModelError(
                f"model.adapter: the server at {self.base} has no adapter '{self.adapter}'."
                f"{did_you_mean(self.adapter, adapters)} {available}: start it with "
                f"`icl serve --adapter {self.adapter}=DIR`."
            )

    def probe_server(self, prompt: Prompt) -> Mapping[str, Any] | None:
        """See `icl.models.remote`. About 150 requests for one token, so by default not where they may cost."""

        if not (is_private(self.url) if self.probe is None else self.probe):
            return None
        extra = {**self.extra, **self.prompt_fields}
        return probe_server(
            Server(self.base, self.adapter or self.model, self.endpoint.key, self.timeout, extra=extra), prompt
        )

    def tracer(self) -> RemoteTracer:
        return RemoteTracer(self)

    def unload(self) -> None:
        """Closes the connections."""
        if "endpoint" in vars(self):
            self.endpoint.close()

    def counters(self) -> dict[str, int]:
        """requests, tokens, cached_tokens (in the server's prefix cache, if it reports them), retries."""
        return {**self.counts, "cached_tokens": sum(self.cached), "retries": self.endpoint.retry_count}

    def count_tokens(self, prompt: Prompt) -> int:
        """An estimate for the context budget: four characters for each token, and `image_tokens` for each image."""
        characters = sum(len(part.text) for part in prompt.parts() if part.text is not None)
        return math.ceil(characters / CHARACTERS_PER_TOKEN) + self.image_tokens * len(prompt.images)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        answers: dict[int, Generation] = {}

        def on_answer(i: int, answer: Generation | str) -> None:
            if isinstance(answer, str):
                raise ModelError(answer)
            answers[i] = answer

        self.generate_each(requests, on_answer)
        return [answers[i] for i in range(len(requests))]

    def generate_each(self, requests: Sequence[Request], on_answer: OnAnswer) -> None:
        """Calls `on_answer` in this thread with each answer, or the reason of its failure, as soon as it arrives.

        Raises:
            EndpointUnavailableError: The endpoint is unavailable or refuses every request. Answers to requests in
                flight are reported first.
        """
        self.endpoint.stopped.clear()
        _ = self.cached, self.endpoint.client  # created before threads use them
        refusals: list[EndpointUnavailableError] = []  # the first is the reason; those after it are of stopped requests

        def answer(request: Request) -> Generation:
            try:
                return self._answer(request)
            except EndpointUnavailableError as error:
                refusals.append(error)  # before others stop, because it explains why they have no answer
                self.endpoint.stopped.set()  # in this thread, so that it sends no further request
                raise

        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="remote") as pool:
            index_of: dict[Future[Generation], int] = {pool.submit(answer, r): i for i, r in enumerate(requests)}
            try:
                for future in as_completed(index_of):
                    i, error = index_of[future], future.exception()
                    if not isinstance(error, ICLError):
                        generation = future.result()
                        self._count(requests[i], generation)
                        on_answer(i, generation)
                    elif not refusals:
                        on_answer(i, str(error))
            finally:
                self.endpoint.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
        if refusals:
            raise EndpointUnavailableError(
                f"{refusals[0]} Finished answers are stored. Run the same command again to continue."
            ) from refusals[0]

    def _count(self, request: Request, answer: Generation) -> None:
        counts = self.counts
        counts["requests"] += 1
        counts["prompt_tokens"] += answer.usage.prompt_tokens
        counts["new_tokens"] += answer.usage.new_tokens
        counts["num_images"] += len(request.prompt.images)

    def _answer(self, request: Request) -> Generation:
        if self.endpoint.stopped.is_set():
            raise EndpointUnavailableError("stopped.")
        body: dict[str, Any]
        limit: dict[str, Any] = {self.limit_name: request.max_new_tokens}
        model = self.adapter or self.model
        if request.strategy is not None:
            takes_day = isinstance(self.server, ServerInfo) and self.server.template is not None
            strategy = icl_server.strategy_request(request, vars(self).get("day") if takes_day else None)
            body = {"model": model, **self.extra, **self.prompt_fields, **strategy, **limit}
            return self._read(body, lambda content: icl_server.generation_in(content, self.base))
        body = {"model": model, "messages": messages(request.prompt), "temperature": 0}
        body |= {**self.extra, **self.prompt_fields, **limit}
        if request.score_options:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return self._read(body, lambda content: read(content, request, self.base))

    def _read(self, body: Mapping[str, Any], reader: Callable[[dict[str, Any]], Generation]) -> Generation:
        content = self.endpoint.post("/chat/completions", body)
        self._record_cached_tokens(content)
        try:
            return reader(content)
        except ModelError as error:
            raise ModelError(self.endpoint.mask_key(str(error))) from error

    def _record_cached_tokens(self, content: Mapping[str, Any]) -> None:
        usage = content.get("usage")
        details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        if isinstance(cached, int) and cached > 0:
            self.cached.append(cached)
