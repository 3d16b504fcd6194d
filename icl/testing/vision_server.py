"""A correct vision server without weights, for tests: its log-probabilities are a smooth causal function of the prompt.

Each word and each patch of an image is a vector; a state is rotated before the next vector is added, so that content
and place of everything before matter, and nothing after. The model can do one thing: if the last image stands in an
earlier turn, it repeats the answer to that turn. It reports prompt tokens, log-probabilities of answers and prompts and
cached tokens, samples with seeds, streams, and knows stop strings.
"""

import base64
import io
import itertools
import json
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Vector = NDArray[np.float64]
WIDTH = 64
GRID = 4
"""Patches of an image, along each side."""
PATCH = 8
"""Pixels of a patch, along each side, after resizing."""
BLOCK = 16
"""Tokens of a cache block."""
BOUND = 20.0
"""How much the repeated answer is preferred, in nats."""
WORDS = (
    *("dax", "wug", "fep", "A", "a", "an", "the", "red", "blue", "green", "yellow", "square", "circle", "shape"),
    *("small", "large", "left", "right", "in", "of", "on", "and", "two", "."),
)


@dataclass(frozen=True)
class Token:
    """A word or a patch of an image."""

    key: str
    vector: Vector = field(repr=False, compare=False)
    is_image: bool = False


@dataclass(eq=False)
class VisionServer:
    """Answers chat requests.

    Attributes:
        most_images: A prompt with more is refused.
        sight: Factor of everything that comes from images; 0 is a model that is blind.
        log_probabilities: Whether they can be asked for.
        counts_cached: Whether it reports the number of cached tokens.
        noise: Standard deviation of what is added to log-probabilities, in nats, as of arithmetic in changing batches.
    """

    most_images: int = 16
    sight: float = 1.0
    log_probabilities: bool = True
    counts_cached: bool = True
    noise: float = 0.0
    _prompts: list[tuple[str, ...]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def transport(self) -> httpx2.MockTransport:
        """A transport that calls this server without a socket."""
        return httpx2.MockTransport(self.respond)

    def respond(self, request: httpx2.Request) -> httpx2.Response:
        """The response to a request of the API."""
        if request.method == "GET":
            if request.url.path.endswith("/models"):
                return httpx2.Response(200, json={"object": "list", "data": [{"id": "shapes", "object": "model"}]})
            return httpx2.Response(404, json={"error": {"message": "not places"}})
        try:
            return self.chat(json.loads(request.content))
        except ValueError as error:
            return httpx2.Response(400, json={"error": {"message": str(error)}})

    def chat(self, body: Mapping[str, Any]) -> httpx2.Response:
        """The response to a chat request. Raises ValueError if it is refused."""
        tokens, images, turns = self._read(body["messages"])
        if images > self.most_images:
            raise ValueError(f"at most {self.most_images} images may be provided in one prompt")
        preferred = _repeated_answer(turns)
        choices = []
        for index in range(body.get("n", 1)):
            text, listed = self._generate(body, tokens, preferred, index)
            choice: dict[str, Any] = {"index": index, "message": {"role": "assistant", "content": text}}
            if body.get("logprobs") and self.log_probabilities:
                choice["logprobs"] = {"content": listed}
            choices.append(choice)
        if body.get("stream"):
            first = choices[0]
            chunk = {"choices": [{"index": 0, "delta": first["message"], "logprobs": first.get("logprobs")}]}
            text = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
            return httpx2.Response(200, text=text, headers={"Content-Type": "text/event-stream"})
        usage: dict[str, Any] = {"prompt_tokens": len(tokens)}
        if self.counts_cached:
            usage["prompt_tokens_details"] = {"cached_tokens": self._count_cached(tokens)}
        answer: dict[str, Any] = {"choices": choices, "usage": usage}
        if "prompt_logprobs" in body and self.log_probabilities:
            answer["prompt_logprobs"] = [None, *({"0": {"logprob": value}} for value in self._prompt_scores(tokens))]
        return httpx2.Response(200, json=answer)

    def _read(self, messages: Iterable[Mapping[str, Any]]) -> tuple[list[Token], int, list[tuple[str, str, str]]]:
        """Tokens, number of images, and role, last image and text of each turn."""
        tokens, images, turns = list[Token](), 0, list[tuple[str, str, str]]()
        for message in messages:
            tokens.append(_word(f"<{message['role']}>"))
            content = message["content"]
            parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
            last, text = "", ""
            for part in parts:
                if part["type"] == "image_url":
                    images += 1
                    patches = _patches(part["image_url"]["url"], self.sight)
                    last = "|".join(patch.key for patch in patches)
                    tokens += patches
                else:
                    text += part["text"]
                    tokens += [_word(word) for word in _split(part["text"])]
            turns.append((message["role"], last, text.strip()))
        return [*tokens, _word("<assistant>")], images, turns

    @cached_property
    def _turning(self) -> Vector:
        orthogonal: Vector = np.linalg.qr(_matrix("turning", WIDTH, WIDTH))[0]
        return orthogonal

    def _states(self, tokens: Iterable[Token]) -> Iterator[Vector]:
        state = np.zeros(WIDTH)
        for token in tokens:
            state = self._turning @ state + token.vector
            yield state

    def _logits(self, state: Vector) -> Vector:
        logits: Vector = 2 * np.tanh(state / 8) @ _matrix("vocabulary", WIDTH, len(WORDS))
        return logits

    def _prompt_scores(self, tokens: list[Token]) -> list[float]:
        """The log-probability of each token but the first. A word outside the vocabulary counts as another one."""
        scores = []
        for state, token in zip(self._states(tokens), tokens[1:], strict=False):
            values = _log_softmax(self._logits(state))
            scores.append(0.0 if token.is_image else float(values[zlib.crc32(token.key.encode()) % len(WORDS)]))
        return scores

    def _generate(
        self, body: Mapping[str, Any], tokens: list[Token], preferred: str, index: int
    ) -> tuple[str, list[dict[str, Any]]]:
        stops = [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or []
        temperature, rng = body.get("temperature", 1.0), np.random.default_rng([body.get("seed") or 0, index])
        *_, state = self._states(tokens)
        words, listed = list[str](), list[dict[str, Any]]()
        for step in range(body.get("max_tokens", 16)):
            logits = self._logits(state)
            if step == 0 and preferred in WORDS:
                logits[WORDS.index(preferred)] += BOUND
            values = _log_softmax(logits) + self._draw_noise()
            if temperature == 0:
                chosen = int(values.argmax())
            else:
                chosen = int(rng.choice(len(WORDS), p=np.exp(_log_softmax(logits / temperature))))
            order = np.argsort(-values, kind="stable")[: body.get("top_logprobs") or 1]
            top = [{"token": WORDS[i], "logprob": float(values[i])} for i in order]
            listed.append({"token": WORDS[chosen], "logprob": float(values[chosen]), "top_logprobs": top})
            words.append(WORDS[chosen])
            text = " ".join(words)
            if places := [text.index(stop) for stop in stops if stop in text]:
                return text[: min(places)], listed
            state = self._turning @ state + _word(WORDS[chosen]).vector
        return " ".join(words), listed

    def _draw_noise(self) -> Vector | float:
        if not self.noise:
            return 0.0
        with self._lock:
            values: Vector = self._rng.normal(0, self.noise, len(WORDS))
        return values

    def _count_cached(self, tokens: list[Token]) -> int:
        """The longest prefix, in whole blocks, that an earlier prompt had."""
        keys = tuple(token.key for token in tokens)
        with self._lock:
            longest = max((_common(keys, earlier) for earlier in self._prompts), default=0)
            self._prompts = [*self._prompts[-100:], keys]
        return longest // BLOCK * BLOCK

    def listen(self) -> ThreadingHTTPServer:
        """A socket on a free loopback port, whose thread runs until `shutdown`."""
        return listen(self.respond)


def listen(respond: Callable[[httpx2.Request], httpx2.Response], port: int = 0) -> ThreadingHTTPServer:
    """Serves a function from request to response on a loopback port, by default a free one, in a thread."""

    class Handler(BaseHTTPRequestHandler):
        # With Nagle's algorithm, the content waits 40 ms until the client has acknowledged the headers.
        protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer(httpx2.Request("GET", f"http://127.0.0.1{self.path}"))

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(httpx2.Request("POST", f"http://127.0.0.1{self.path}", content=content))

        def answer(self, request: httpx2.Request) -> None:
            response = respond(request)
            self.send_response(response.status_code)
            self.send_header("Content-Type", response.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


@lru_cache(maxsize=256)
def _patches(url: str, sight: float) -> tuple[Token, ...]:
    """The patches of the image of an address."""
    side = GRID * PATCH
    # Averages over areas, as the resizing of processors does.
    pixels = np.asarray(_image(url).resize((side, side), Image.Resampling.BOX), dtype=np.float64) / 255 - 0.5
    rows = pixels.reshape(GRID, PATCH, GRID, PATCH, 3).swapaxes(1, 2).reshape(GRID * GRID, -1)
    project = _matrix("pixels", PATCH * PATCH * 3, WIDTH)
    return tuple(Token(f"{zlib.crc32(row.tobytes()):08x}", sight * row @ project, is_image=True) for row in rows)


def _image(url: str) -> Image.Image:
    """The image of an address, turned as its EXIF data say, on white."""
    if not url.startswith("data:"):
        raise ValueError("only data URLs are accepted")
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))))
    if image.mode == "RGBA":
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")


def _repeated_answer(turns: list[tuple[str, str, str]]) -> str:
    """The answer to the earlier turn with the image of the last one, or ''."""
    pairs = itertools.pairwise(turns)
    answers = {image: text for (_, image, _), (role, _, text) in pairs if role == "assistant" and image}
    return answers.get(turns[-1][1], "")


def _split(text: str) -> list[str]:
    """Words, and white space at the ends, which templates may remove."""
    ends = [f"<{part!r}>" for part in (text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]) if part]
    return text.split() + ends


def _word(word: str) -> Token:
    return Token(word, _matrix(word, 1, WIDTH)[0])


_MATRICES: dict[tuple[str, int, int], Vector] = {}


def _matrix(name: str, rows: int, columns: int) -> Vector:
    key = (name, rows, columns)
    if key not in _MATRICES:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        _MATRICES[key] = rng.standard_normal((rows, columns)) * (8 / rows if rows > 1 else 1.0) ** 0.5
    return _MATRICES[key]


def _log_softmax(logits: Vector) -> Vector:
    shifted = logits - logits.max()
    values: Vector = shifted - np.log(np.exp(shifted).sum())
    return values


def _common(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count
