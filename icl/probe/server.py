"""An OpenAI-compatible server: what it is, and its answers to prompts."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import httpx2

from .distances import Answer, mean_answer
from .prompts import QUESTIONS, Prompt, to_messages, user

ATTEMPTS = 4
"""Attempts after a broken connection, a rate limit or the error of a gateway, which say nothing about images."""
LONGEST_WAIT = 30.0
WORKERS = 8
TEXT_TOKENS = 16
LISTED = (20, 5)
"""Numbers of log-probabilities to ask for: the first one that the server gives."""
MOST_BYTES = 16 * 2**20
"""A longer response is no answer of one token."""
MALFORMED = (AttributeError, TypeError, LookupError, ValueError, RecursionError)
"""What reading a response of another shape raises."""
LEAST = -100.0
"""Stands for minus infinity, which servers write as -9999."""


class RefusedError(Exception):
    """The server does not answer this request."""


class UnusableServerError(Exception):
    """No request will be answered."""


@dataclass(eq=False)
class Server:
    """Sends prompts. Safe to use from several threads.

    Attributes:
        url: Base address, which ends in `/v1` on most servers.
        model: Name of the model.
        key: API key; it stands in no message and no result.
        of_texts: Compare texts, because the server gives no log-probabilities.
        listed: Number of log-probabilities to ask for.
        extra: Further fields of each request, such as arguments of the chat template.
        questions: Questions of which texts are compared.
        requests: Requests so far.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 120.0
    transport: httpx2.BaseTransport | None = field(default=None, repr=False)
    of_texts: bool = False
    listed: int = LISTED[0]
    extra: Mapping[str, Any] = field(default_factory=dict)
    questions: Sequence[str] = QUESTIONS
    requests: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        self.client = httpx2.Client(
            timeout=self.timeout,
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            limits=httpx2.Limits(max_connections=4 * WORKERS),
            trust_env=False,
            transport=self.transport,
        )

    def connect(self) -> dict[str, Any]:
        """Finds the model and what the server offers. Returns the identity of the server, for a cache.

        Raises:
            UnusableServerError: No server, no such model, a key or images are refused, or the answers are no chat
                completions.
        """
        listed = self._models()
        if not self.model:
            if len(listed) != 1:
                raise UnusableServerError(f"{self.url} serves {_names(listed)}. Name one: icl doctor server URL MODEL")
            self.model = next(iter(listed))
        elif listed and self.model not in listed:
            raise UnusableServerError(f"{self.url} serves no model '{self.model}', but {_names(listed)}.")
        self._check(user(""), "a text")
        self._check(user("A"), "an image")
        if not self.of_texts:
            self._count_log_probabilities()
        return {"url": self.url, "model": self.model, "entry": listed.get(self.model, {}), "version": self._version()}

    def post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The response to a chat request with the name of the model.

        Raises:
            RefusedError: This request is refused, or the response is no chat completion.
            UnusableServerError: The server cannot be reached, or refuses every request.
        """
        response = self._send("POST", "/chat/completions", json={**self.extra, "model": self.model, **body})
        if response.status_code in (401, 403):
            raise UnusableServerError(
                f"{self.url} asks for a key (status {response.status_code}). Name the environment variable that holds "
                "it: --key-env NAME"
            )
        if response.status_code != 200:
            raise RefusedError(f"status {response.status_code}: {_start_of(response.text)}")
        try:
            data = response.json()
        except (ValueError, RecursionError) as error:
            raise RefusedError(f"the response is not JSON: {_start_of(response.text)}") from error
        try:
            texts = [choice["message"].get("content") for choice in data["choices"]]
            _ = (data.get("usage") or {}).get("prompt_tokens")
        except MALFORMED as error:
            raise RefusedError(f"the response is no chat completion: {_start_of(response.text)}") from error
        if not texts or not all(text is None or isinstance(text, str) for text in texts):
            raise RefusedError(f"the response has no text: {_start_of(response.text)}")
        return dict(data)

    def body(self, prompt: Prompt, question: str = QUESTIONS[0]) -> dict[str, Any]:
        """The request for one answer, without the name of the model."""
        body: dict[str, Any] = {"messages": to_messages(prompt, question), "temperature": 0}
        if self.of_texts:
            return body | {"max_tokens": TEXT_TOKENS}
        return body | {"max_tokens": 1, "logprobs": True, "top_logprobs": self.listed}

    def answer(self, prompt: Prompt, question: str = QUESTIONS[0]) -> Answer:
        """The answer to one question."""
        data = self.post(self.body(prompt, question))
        try:
            return to_answer(data)
        except MALFORMED as error:
            raise RefusedError(
                f"its log-probabilities are not of the protocol: {_start_of(json.dumps(data))}"
            ) from error

    def ask(self, prompt: Prompt, repeats: int = 1) -> Answer:
        """The mean answer to the first question, or the texts of all questions."""
        if not self.of_texts:
            answers = [self.answer(prompt) for _ in range(repeats)]
            return answers[0] if repeats == 1 else mean_answer(answers)
        answers = [self.answer(prompt, question) for question in self.questions]
        texts = tuple(answer.texts[0] for answer in answers)
        return Answer({}, texts, answers[0].tokens, answers[0].data)

    def ask_at_once(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """The answers to prompts that are sent in parallel, eight at a time."""
        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(self.ask, prompts))

    def text(self, body: Mapping[str, Any]) -> str:
        """The text of the first choice."""
        return self.post(body)["choices"][0]["message"].get("content") or ""

    def streamed(self, prompt: Prompt, question: str) -> Answer | None:
        """The answer that is put together from a stream; None if the server refuses to stream."""
        text, top = "", dict[str, float]()
        with self._lock:
            self.requests += 1
        body = {**self.extra, "model": self.model, **self.body(prompt, question), "stream": True}
        with self.client.stream("POST", self.url + "/chat/completions", json=body) as response:
            if response.status_code != 200:
                return None
            for line in response.iter_lines():
                if line.startswith("data:") and "[DONE]" not in line:
                    for choice in json.loads(line[5:]).get("choices", []):
                        text += (choice.get("delta") or {}).get("content") or ""
                        top |= {token: value for token, value in _first_token(choice).items() if token not in top}
        return Answer(top, (text,))

    def curl(self, prompt: Prompt) -> str:
        """A command that sends a prompt, without the key."""
        body = json.dumps({**self.extra, "model": self.model, **self.body(prompt)}).replace("'", "'\\''")
        key = ' -H "Authorization: Bearer $KEY"' if self.key else ""
        return f"curl -s {self.url}/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"

    def _send(self, method: str, path: str, **more: Any) -> httpx2.Response:
        with self._lock:
            self.requests += 1
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                response = self._receive(method, path, more)
            except httpx2.InvalidURL as error:
                raise UnusableServerError(f"{self.url} is not an address: {error}") from error
            except (httpx2.ConnectError, httpx2.UnsupportedProtocol) as error:
                raise UnusableServerError(f"no server answers at {self.url} ({error}). Is it running?") from error
            except httpx2.TimeoutException as error:
                raise RefusedError(f"no answer within {self.timeout:g} s") from error
            except httpx2.TransportError as error:
                if last:
                    raise RefusedError(f"the connection broke {ATTEMPTS} times ({error})") from error
                continue
            except httpx2.HTTPError as error:
                raise RefusedError(f"the response cannot be read ({error})") from error
            # vLLM answers 500 once to an image of a prompt that it refused before.
            is_repeated = response.status_code in (429, 502, 503, 504) or (response.status_code == 500 and not attempt)
            if not is_repeated:
                return response
            if last:
                word = "limits the rate" if response.status_code == 429 else "is not ready: it may still load its model"
                raise UnusableServerError(
                    f"{self.url} {word} (status {response.status_code}: {_start_of(response.text)}). Try again later."
                )
            time.sleep(_wait(response, attempt))
        raise AssertionError("unreachable")

    def _receive(self, method: str, path: str, more: Mapping[str, Any]) -> httpx2.Response:
        """The response with its content. Raises RefusedError if it is too long."""
        with self.client.stream(method, self.url + path, **more) as response:
            content = bytearray()
            for piece in response.iter_bytes():
                content += piece
                if len(content) > MOST_BYTES:
                    raise RefusedError(f"the response has more than {MOST_BYTES // 2**20} MiB")
            headers = {name: value for name, value in response.headers.items() if name == "retry-after"}
            return httpx2.Response(response.status_code, headers=headers, content=bytes(content))

    def _models(self) -> dict[str, dict[str, Any]]:
        """Name -> entry of the served models; empty if the server does not list them."""
        try:
            response = self._send("GET", "/models")
        except RefusedError as error:
            raise UnusableServerError(f"{self.url}/models: {error}") from error
        try:
            entries = response.json()["data"] if response.status_code == 200 else []
            return {entry["id"]: dict(entry) for entry in entries if isinstance(entry["id"], str)}
        except MALFORMED as error:
            raise UnusableServerError(
                f"{self.url}/models is not a list of models: {_start_of(response.text)}. Is this the base address of "
                "an OpenAI-compatible API? It mostly ends in /v1."
            ) from error

    def _version(self) -> str | None:
        """What vLLM and others say at /version, outside the API."""
        try:
            response = self._send("GET", "/../version" if self.url.endswith("/v1") else "/version")
            return str(response.json()["version"]) if response.status_code == 200 else None
        except (RefusedError, UnusableServerError, *MALFORMED):
            return None  # most servers have no such page

    def _check(self, prompt: Prompt, what: str) -> None:
        try:
            self.post({"messages": to_messages(prompt, QUESTIONS[0]), "temperature": 0, "max_tokens": 1})
        except RefusedError as error:
            raise UnusableServerError(
                f"the model '{self.model}' at {self.url} does not take {what}: {error}"
            ) from error

    def _count_log_probabilities(self) -> None:
        for self.listed in LISTED:
            try:
                if len(self.answer(user("")).top) > 1:
                    return
            except RefusedError:
                continue  # some servers allow fewer, others none
        self.of_texts = True


def to_answer(data: Mapping[str, Any]) -> Answer:
    """Reads a response: the text, the first token's log-probabilities, and the number of prompt tokens."""
    choice = data["choices"][0]
    tokens = (data.get("usage") or {}).get("prompt_tokens")
    return Answer(_first_token(choice), (choice["message"].get("content") or "",), tokens, data)


def _first_token(choice: Mapping[str, Any]) -> dict[str, float]:
    first, *_ = (choice.get("logprobs") or {}).get("content") or [{}]
    top: dict[str, float] = {}
    for item in first.get("top_logprobs") or []:  # several tokens may have one text: the likeliest comes first
        top.setdefault(item["token"], max(float(item["logprob"]), LEAST))
    return top


def _wait(response: httpx2.Response, attempt: int) -> float:
    try:
        seconds = float(response.headers["Retry-After"])
    except (KeyError, ValueError):  # no header, or a date
        return float(2**attempt)
    return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else LONGEST_WAIT


def _names(listed: Mapping[str, Any]) -> str:
    return ", ".join(listed) or "no model that it lists"


def _start_of(text: str) -> str:
    return " ".join(text.split())[:160]
