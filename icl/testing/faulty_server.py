"""Servers with known faults, in front of a correct one: for tests of clients that must notice them.

    python -m icl.testing.faulty_server http://127.0.0.1:8000/v1 --port 8001
    icl doctor server http://127.0.0.1:8001/last_only/v1

The address names the faults, joined by `+`; each address has a memory of its own. Most faults are edits of requests, as
reported of real servers: `Fault.seen_in` names the thread.
"""

import argparse
import base64
import copy
import io
import json
import random
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx2
from PIL import Image

from icl.testing.vision_server import listen

Body = dict[str, Any]
Part = dict[str, Any]
TIMEOUT = 300.0


@dataclass(eq=False)
class Memory:
    """What one faulty server remembers."""

    entries: dict[Any, Any] = field(default_factory=dict)
    last: str | None = None
    busy: int = 0
    count: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    lock: threading.RLock = field(default_factory=threading.RLock)


@dataclass(frozen=True)
class Fault:
    """A fault: what it does to a request.

    Attributes:
        found_by: The check of the probe that finds it; "" for faults that keep every relation between answers.
        seen_in: The public thread, or "".
    """

    name: str
    text: str
    edit: Callable[[Memory, Body], None]
    found_by: str
    seen_in: str


FAULTS: dict[str, Fault] = {}


def fault(found_by: str, seen_in: str = "") -> Callable[[Callable[[Memory, Body], None]], Callable[..., None]]:
    """Adds a function, whose docstring is the text, to the table."""

    def add(function: Callable[[Memory, Body], None]) -> Callable[[Memory, Body], None]:
        name = function.__name__
        FAULTS[name] = Fault(name, (function.__doc__ or "").strip().rstrip("."), function, found_by, seen_in)
        return function

    return add


@dataclass(eq=False)
class FaultyServer:
    """Passes requests to a correct server after editing them.

    Args:
        upstream: Answers a request, such as `VisionServer().respond`.
    """

    upstream: Callable[[httpx2.Request], httpx2.Response]
    delay: float = 0.0
    _memories: dict[str, Memory] = field(default_factory=lambda: defaultdict(Memory))

    def respond(self, request: httpx2.Request) -> httpx2.Response:
        """The response to a request whose path begins with the names of faults."""
        _, names, *rest = request.url.path.split("/")
        path = request.url.copy_with(path="/" + "/".join(rest))
        if request.method == "GET":
            return self.upstream(httpx2.Request("GET", path))
        memory, body = self._memories[names], copy.deepcopy(json.loads(request.content))
        with memory.lock:
            memory.busy += 1
        try:
            for name in names.split("+"):
                if name not in FAULTS:
                    text = f"no fault is named '{name}'. There are: {', '.join(FAULTS)}"
                    return httpx2.Response(404, json={"error": {"message": text}})
                FAULTS[name].edit(memory, body)
            time.sleep(self.delay)
            return self.upstream(httpx2.Request("POST", path, content=json.dumps(body).encode()))
        finally:
            with memory.lock:
                memory.busy -= 1


def images(messages: Iterable[Body]) -> list[Part]:
    """The image parts of messages, in order."""
    return [part for message in messages for part in _parts(message) if part["type"] == "image_url"]


def _parts(message: Body) -> list[Part]:
    content = message["content"]
    return content if isinstance(content, list) else []


def _keep(messages: Iterable[Body], chosen: Iterable[Part]) -> None:
    ids = {id(part) for part in chosen}
    for message in messages:
        if isinstance(message["content"], list):
            left = [part for part in message["content"] if part["type"] != "image_url" or id(part) in ids]
            message["content"] = left or [{"type": "text", "text": ""}]


def _urls(parts: Iterable[Part]) -> list[str]:
    return [part["image_url"]["url"] for part in parts]


def _put(parts: Iterable[Part], urls: Iterable[str]) -> None:
    for part, url in zip(parts, list(urls), strict=False):
        part["image_url"] = {"url": url}


def _edit_pixels(body: Body, change: Callable[[Image.Image], Image.Image]) -> None:
    for part in images(body["messages"]):
        url = part["image_url"]["url"]
        if url.startswith("data:"):
            out = io.BytesIO()
            image = Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1])))
            change(image).save(out, "PNG", compress_level=1)
            part["image_url"] = {"url": "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()}


def _text_key(messages: Iterable[Body]) -> str:
    """Messages as a cache that ignores images sees them."""
    texts = [
        [message["role"], [part.get("text", "<image>") for part in _parts(message)] or message["content"]]
        for message in messages
    ]
    return json.dumps(texts)


@fault("")
def none(_memory: Memory, _body: Body) -> None:
    """No fault."""


@fault("each", "mlx-vlm #1084")
def last_only(_memory: Memory, body: Body) -> None:
    """Only the last image is kept."""
    _keep(body["messages"], images(body["messages"])[-1:])


@fault("each")
def first_only(_memory: Memory, body: Body) -> None:
    """Only the first image is kept."""
    _keep(body["messages"], images(body["messages"])[:1])


@fault("each")
def first_repeated(_memory: Memory, body: Body) -> None:
    """The first image stands in all places."""
    parts = images(body["messages"])
    _put(parts, _urls(parts)[:1] * len(parts))


@fault("reads", "kilocode #10102, hermes-agent #62574")
def all_dropped(_memory: Memory, body: Body) -> None:
    """All images are dropped."""
    _keep(body["messages"], [])


@fault("reads")
def blank(_memory: Memory, body: Body) -> None:
    """All pixels are gray."""
    _edit_pixels(body, lambda image: Image.new("RGB", image.size, (128, 128, 128)))


@fault("place", "LM Studio #1675, #1663")
def reversed_from_3(_memory: Memory, body: Body) -> None:
    """Three or more images are reversed."""
    parts = images(body["messages"])
    if len(parts) >= 3:
        _put(parts, _urls(parts)[::-1])


@fault("place")
def rotated(_memory: Memory, body: Body) -> None:
    """The query's image comes first."""
    parts = images(body["messages"])
    urls = _urls(parts)
    _put(parts, urls[-1:] + urls[:-1])


@fault("order")
def sorted_images(_memory: Memory, body: Body) -> None:
    """Images come in the order of a set."""
    parts = images(body["messages"])
    _put(parts, sorted(_urls(parts)))


@fault("order")
def shuffled(memory: Memory, body: Body) -> None:
    """Images come in the order in which they were loaded."""
    parts = images(body["messages"])
    with memory.lock:
        urls = memory.rng.sample(_urls(parts), len(parts))
    _put(parts, urls)


@fault("twice")
def deduplicated(_memory: Memory, body: Body) -> None:
    """A repeated image is dropped."""
    first = {part["image_url"]["url"]: part for part in reversed(images(body["messages"]))}
    _keep(body["messages"], first.values())


@fault("reads", "sglang-omni #258, exo #2272, vllm-mlx #718, ATOM #1358, imp #1180")
def cached_by_text(memory: Memory, body: Body) -> None:
    """A cache ignores images."""
    parts = images(body["messages"])
    with memory.lock:
        first = memory.entries.setdefault(_text_key(body["messages"]), _urls(parts))
    _put(parts, first)


@fault("each")
def cached_prefix_by_text(memory: Memory, body: Body) -> None:
    """A prefix cache ignores images: all but the last are old."""
    parts = images(body["messages"])
    with memory.lock:
        first = memory.entries.setdefault(_text_key(body["messages"]), _urls(parts))
    _put(parts[:-1], first)


@fault("cache")
def cached_by_head(memory: Memory, body: Body) -> None:
    """A cache hashes the first bytes and the length of a file."""
    for part in images(body["messages"]):
        url = part["image_url"]["url"]
        with memory.lock:
            part["image_url"] = {"url": memory.entries.setdefault((url[:2000], len(url)), url)}


def _cached_by_key(memory: Memory, body: Body, mask: int) -> None:
    for part in images(body["messages"]):
        url = part["image_url"]["url"]
        with memory.lock:
            part["image_url"] = {"url": memory.entries.setdefault(zlib.crc32(url.encode()) & mask, url)}


@fault("hashes", "LMCache #4783")
def cached_by_16_bits(memory: Memory, body: Body) -> None:
    """A cache has a key of 16 bits."""
    _cached_by_key(memory, body, 0xFFFF)


@fault("cache")
def cached_sometimes(memory: Memory, body: Body) -> None:
    """One of eight requests gets the images of the previous request with the same text."""
    parts, key = images(body["messages"]), _text_key(body["messages"])
    with memory.lock:
        old = memory.entries.get(key, _urls(parts))
        memory.entries[key] = _urls(parts)
        if memory.rng.random() < 0.125:
            _put(parts, old)


@fault("cache", "llama.cpp #4194")
def previous(memory: Memory, body: Body) -> None:
    """The first image comes from the previous request."""
    if parts := images(body["messages"]):
        with memory.lock:
            old, memory.last = memory.last, parts[0]["image_url"]["url"]
        if old:
            _put(parts[:1], [old])


@fault("together")
def busy_swapped(memory: Memory, body: Body) -> None:
    """Under load, the first image is another request's."""
    parts = images(body["messages"])
    with memory.lock:
        crowded, other = memory.busy > 1, memory.last
        memory.last = parts[0]["image_url"]["url"] if parts else None
    if crowded and other and parts:
        _put(parts[:1], [other])


@fault("together")
def busy_dropped(memory: Memory, body: Body) -> None:
    """Under load, one of four requests loses its images."""
    with memory.lock:
        memory.count += 1
        dropped = memory.busy > 1 and memory.count % 4 == 0
    if dropped:
        _keep(body["messages"], [])


@fault("cache")
def sometimes_dropped(memory: Memory, body: Body) -> None:
    """One of twenty images is lost."""
    with memory.lock:
        chosen = [part for part in images(body["messages"]) if memory.rng.random() > 0.05]
    _keep(body["messages"], chosen)


@fault("turns", "ollama #7563")
def earlier_dropped(_memory: Memory, body: Body) -> None:
    """Images of earlier turns are dropped."""
    _keep(body["messages"], images(body["messages"][-1:]))


@fault("turns")
def first_turn_only(_memory: Memory, body: Body) -> None:
    """Images of later turns are dropped."""
    _keep(body["messages"], images(body["messages"][:2]))


@fault("many")
def at_most_4(_memory: Memory, body: Body) -> None:
    """At most four images, without an error."""
    _keep(body["messages"], images(body["messages"])[:4])


@fault("many", "llama.cpp #14111")
def last_10(_memory: Memory, body: Body) -> None:
    """The last ten images, without an error."""
    _keep(body["messages"], images(body["messages"])[-10:])


@fault("between")
def images_first(_memory: Memory, body: Body) -> None:
    """Images of a message come before its text."""
    for message in body["messages"]:
        if isinstance(message["content"], list):
            message["content"].sort(key=lambda part: part["type"] != "image_url")


@fault("between")
def texts_joined(_memory: Memory, body: Body) -> None:
    """The texts of a message are joined at its end."""
    for message in body["messages"]:
        if parts := _parts(message):
            text = " ".join(part["text"] for part in parts if part["type"] == "text")
            others = [part for part in parts if part["type"] != "text"]
            message["content"] = [*others, {"type": "text", "text": text}]


@fault("roles")
def answers_removed(_memory: Memory, body: Body) -> None:
    """The assistant's turns are removed."""
    body["messages"] = [message for message in body["messages"] if message["role"] != "assistant"]


@fault("roles")
def answers_emptied(_memory: Memory, body: Body) -> None:
    """The assistant's turns are emptied."""
    for message in body["messages"]:
        if message["role"] == "assistant":
            message["content"] = ""


@fault("roles")
def turns_merged(_memory: Memory, body: Body) -> None:
    """All turns become one of the user."""
    parts = [
        part
        for message in body["messages"]
        for part in _parts(message) or [{"type": "text", "text": str(message["content"])}]
    ]
    body["messages"] = [{"role": "user", "content": parts}]


@fault("system")
def system_dropped(_memory: Memory, body: Body) -> None:
    """The system prompt is dropped."""
    body["messages"] = [message for message in body["messages"] if message["role"] != "system"]


@fault("earlier")
def history_cut(_memory: Memory, body: Body) -> None:
    """Only the last six or seven turns are kept."""
    last = body["messages"][-7:]
    body["messages"] = last if last[0]["role"] == "user" else last[1:]


@fault("assistant")
def assistant_images_dropped(_memory: Memory, body: Body) -> None:
    """Images in the assistant's turns are dropped."""
    for message in body["messages"]:
        if message["role"] == "assistant" and isinstance(message["content"], list):
            message["content"] = [part for part in message["content"] if part["type"] != "image_url"]


@fault("")
def thumbnail(_memory: Memory, body: Body) -> None:
    """Images have 8 x 8 pixels."""
    _edit_pixels(body, lambda image: image.convert("RGB").resize((8, 8)).resize(image.size))


@fault("detail")
def mean_color(_memory: Memory, body: Body) -> None:
    """Images are one color, their mean."""
    _edit_pixels(body, lambda image: image.convert("RGB").resize((1, 1), Image.Resampling.BOX).resize(image.size))


@fault("detail")
def gray(_memory: Memory, body: Body) -> None:
    """Images lose their colors."""
    _edit_pixels(body, lambda image: image.convert("L"))


@fault("files")
def alpha_black(_memory: Memory, body: Body) -> None:
    """Images with an alpha channel are black."""
    _edit_pixels(body, lambda image: Image.new("RGB", image.size) if image.mode == "RGBA" else image)


@fault("")
def channels_exchanged(_memory: Memory, body: Body) -> None:
    """Red and blue are exchanged."""
    _edit_pixels(body, lambda image: Image.merge("RGB", image.convert("RGB").split()[::-1]))


@fault("stream")
def stream_drops(_memory: Memory, body: Body) -> None:
    """A stream keeps the last image alone."""
    if body.get("stream"):
        _keep(body["messages"], images(body["messages"])[-1:])


@fault("sampling")
def stop_ignored(_memory: Memory, body: Body) -> None:
    """Stop strings are ignored."""
    body.pop("stop", None)


@fault("sampling")
def seed_ignored(memory: Memory, body: Body) -> None:
    """Seeds are ignored."""
    with memory.lock:
        memory.count += 1
        body["seed"] = memory.count


@fault("sampling")
def n_ignored(_memory: Memory, body: Body) -> None:
    """There is one answer, whatever n."""
    body.pop("n", None)


@fault("sampling")
def temperature_ignored(_memory: Memory, body: Body) -> None:
    """All answers are greedy."""
    body["temperature"] = 0


@fault("logprobs")
def never_greedy(_memory: Memory, body: Body) -> None:
    """Temperature 0 is replaced by 1."""
    body["temperature"] = body.get("temperature") or 1.0


def forward(url: str, **headers: str) -> Callable[[httpx2.Request], httpx2.Response]:
    """A function that sends requests to the host of an address, with these headers."""
    base, client = httpx2.URL(url), httpx2.Client(timeout=TIMEOUT, trust_env=False)
    headers = {"Content-Type": "application/json", **headers}

    def respond(request: httpx2.Request) -> httpx2.Response:
        place = base.copy_with(path=request.url.path)
        return client.request(request.method, place, content=request.content, headers=headers)

    return respond


def main() -> None:
    """Serves faults in front of a server until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "upstream", help="base address of a correct server, without its faults: http://127.0.0.1:8000/v1"
    )
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    server = listen(FaultyServer(forward(options.upstream)).respond, options.port)
    path = httpx2.URL(options.upstream).path
    for name, one in FAULTS.items():
        print(f"http://127.0.0.1:{server.server_port}/{name}{path}  {one.text}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
