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


Edit = Callable[[Memory, Body], None]


@dataclass(frozen=True)
class Fault:
    """A fault: what it does to a request.

    Attributes:
        found_by: The check of the probe that finds it; "" for faults that keep every relation between answers.
        seen_in: The public thread, or "".
    """

    name: str
    text: str
    edit: Edit
    found_by: str
    seen_in: str = ""


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


def _keep_images(messages: Iterable[Body], chosen: Iterable[Part]) -> None:
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


def keep(choose: Callable[[list[Part]], Iterable[Part]]) -> Edit:
    """An edit that keeps the chosen images."""
    return lambda _, body: _keep_images(body["messages"], choose(images(body["messages"])))


def put(choose: Callable[[list[str]], list[str]]) -> Edit:
    """An edit that puts other addresses in the places of the images."""

    def edit(_memory: Memory, body: Body) -> None:
        parts = images(body["messages"])
        _put(parts, choose(_urls(parts)))

    return edit


def paint(edit_pixels: Callable[[Image.Image], Image.Image]) -> Edit:
    """An edit of the pixels of each image."""

    def edit(_memory: Memory, body: Body) -> None:
        for part in images(body["messages"]):
            url = part["image_url"]["url"]
            if url.startswith("data:"):
                out = io.BytesIO()
                image = Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1])))
                edit_pixels(image).save(out, "PNG", compress_level=1)
                part["image_url"] = {"url": "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()}

    return edit


def drop_turns(role: str) -> Edit:
    """An edit that removes the messages of a role."""

    def edit(_memory: Memory, body: Body) -> None:
        body["messages"] = [message for message in body["messages"] if message["role"] != role]

    return edit


def set_fields(**settings: Any) -> Edit:
    """An edit that sets fields of a request."""
    return lambda _, body: body.update(settings)


def _text_key(messages: Iterable[Body]) -> str:
    """Messages as a cache that ignores images sees them."""
    texts = [
        [message["role"], [part.get("text", "<image>") for part in _parts(message)] or message["content"]]
        for message in messages
    ]
    return json.dumps(texts)


def _shuffled(memory: Memory, body: Body) -> None:
    parts = images(body["messages"])
    with memory.lock:
        urls = memory.rng.sample(_urls(parts), len(parts))
    _put(parts, urls)


def _cached_by_text(memory: Memory, body: Body) -> None:
    parts = images(body["messages"])
    with memory.lock:
        first = memory.entries.setdefault(_text_key(body["messages"]), _urls(parts))
    _put(parts, first)


def _cached_prefix_by_text(memory: Memory, body: Body) -> None:
    parts = images(body["messages"])
    with memory.lock:
        first = memory.entries.setdefault(_text_key(body["messages"]), _urls(parts))
    _put(parts[:-1], first)


def _cached_by_head(memory: Memory, body: Body) -> None:
    for part in images(body["messages"]):
        url = part["image_url"]["url"]
        with memory.lock:
            part["image_url"] = {"url": memory.entries.setdefault((url[:2000], len(url)), url)}


def _cached_by_16_bits(memory: Memory, body: Body) -> None:
    for part in images(body["messages"]):
        url = part["image_url"]["url"]
        with memory.lock:
            part["image_url"] = {"url": memory.entries.setdefault(zlib.crc32(url.encode()) & 0xFFFF, url)}


def _cached_sometimes(memory: Memory, body: Body) -> None:
    parts, key = images(body["messages"]), _text_key(body["messages"])
    with memory.lock:
        old = memory.entries.get(key, _urls(parts))
        memory.entries[key] = _urls(parts)
        if memory.rng.random() < 0.125:
            _put(parts, old)


def _previous(memory: Memory, body: Body) -> None:
    if parts := images(body["messages"]):
        with memory.lock:
            old, memory.last = memory.last, parts[0]["image_url"]["url"]
        if old:
            _put(parts[:1], [old])


def _busy_swapped(memory: Memory, body: Body) -> None:
    parts = images(body["messages"])
    with memory.lock:
        crowded, other = memory.busy > 1, memory.last
        memory.last = parts[0]["image_url"]["url"] if parts else None
    if crowded and other and parts:
        _put(parts[:1], [other])


def _busy_dropped(memory: Memory, body: Body) -> None:
    with memory.lock:
        memory.count += 1
        dropped = memory.busy > 1 and memory.count % 4 == 0
    if dropped:
        _keep_images(body["messages"], [])


def _sometimes_dropped(memory: Memory, body: Body) -> None:
    with memory.lock:
        chosen = [part for part in images(body["messages"]) if memory.rng.random() > 0.05]
    _keep_images(body["messages"], chosen)


def _earlier_dropped(_memory: Memory, body: Body) -> None:
    _keep_images(body["messages"], images(body["messages"][-1:]))


def _first_turn_only(_memory: Memory, body: Body) -> None:
    _keep_images(body["messages"], images(body["messages"][:2]))


def _images_first(_memory: Memory, body: Body) -> None:
    for message in body["messages"]:
        if isinstance(message["content"], list):
            message["content"].sort(key=lambda part: part["type"] != "image_url")


def _texts_joined(_memory: Memory, body: Body) -> None:
    for message in body["messages"]:
        if parts := _parts(message):
            text = " ".join(part["text"] for part in parts if part["type"] == "text")
            others = [part for part in parts if part["type"] != "text"]
            message["content"] = [*others, {"type": "text", "text": text}]


def _answers_emptied(_memory: Memory, body: Body) -> None:
    for message in body["messages"]:
        if message["role"] == "assistant":
            message["content"] = ""


def _turns_merged(_memory: Memory, body: Body) -> None:
    parts = [
        part
        for message in body["messages"]
        for part in _parts(message) or [{"type": "text", "text": str(message["content"])}]
    ]
    body["messages"] = [{"role": "user", "content": parts}]


def _history_cut(_memory: Memory, body: Body) -> None:
    last = body["messages"][-7:]
    body["messages"] = last if last[0]["role"] == "user" else last[1:]


def _assistant_images_dropped(_memory: Memory, body: Body) -> None:
    for message in body["messages"]:
        if message["role"] == "assistant" and isinstance(message["content"], list):
            message["content"] = [part for part in message["content"] if part["type"] != "image_url"]


def _stream_drops(_memory: Memory, body: Body) -> None:
    if body.get("stream"):
        _keep_images(body["messages"], images(body["messages"])[-1:])


def _seed_ignored(memory: Memory, body: Body) -> None:
    with memory.lock:
        memory.count += 1
        body["seed"] = memory.count


def _never_greedy(_memory: Memory, body: Body) -> None:
    body["temperature"] = body.get("temperature") or 1.0


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("none", "No fault", lambda memory, body: None, ""),
        Fault("last_only", "Only the last image is kept", keep(lambda parts: parts[-1:]), "each", "mlx-vlm #1084"),
        Fault("first_only", "Only the first image is kept", keep(lambda parts: parts[:1]), "each"),
        Fault("first_repeated", "The first image stands in all places", put(lambda urls: urls[:1] * len(urls)), "each"),
        Fault(
            "all_dropped",
            "All images are dropped",
            keep(lambda parts: []),
            "reads",
            "kilocode #10102, hermes-agent #62574",
        ),
        Fault(
            "blank", "All pixels are gray", paint(lambda image: Image.new("RGB", image.size, (128, 128, 128))), "reads"
        ),
        Fault(
            "reversed_from_3",
            "Three or more images are reversed",
            put(lambda urls: urls[::-1] if len(urls) >= 3 else urls),
            "place",
            "LM Studio #1675, #1663",
        ),
        Fault("rotated", "The query's image comes first", put(lambda urls: urls[-1:] + urls[:-1]), "place"),
        Fault("sorted_images", "Images come in the order of a set", put(sorted), "order"),
        Fault("shuffled", "Images come in the order in which they were loaded", _shuffled, "order"),
        Fault(
            "deduplicated",
            "A repeated image is dropped",
            keep(lambda parts: {part["image_url"]["url"]: part for part in reversed(parts)}.values()),
            "twice",
        ),
        Fault(
            "cached_by_text",
            "A cache ignores images",
            _cached_by_text,
            "reads",
            "sglang-omni #258, exo #2272, vllm-mlx #718, ATOM #1358, imp #1180",
        ),
        Fault(
            "cached_prefix_by_text",
            "A prefix cache ignores images: all but the last are old",
            _cached_prefix_by_text,
            "each",
        ),
        Fault("cached_by_head", "A cache hashes the first bytes and the length of a file", _cached_by_head, "cache"),
        Fault("cached_by_16_bits", "A cache has a key of 16 bits", _cached_by_16_bits, "hashes", "LMCache #4783"),
        Fault(
            "cached_sometimes",
            "One of eight requests gets the images of the previous request with the same text",
            _cached_sometimes,
            "cache",
        ),
        Fault("previous", "The first image comes from the previous request", _previous, "cache", "llama.cpp #4194"),
        Fault("busy_swapped", "Under load, the first image is another request's", _busy_swapped, "together"),
        Fault("busy_dropped", "Under load, one of four requests loses its images", _busy_dropped, "together"),
        Fault("sometimes_dropped", "One of twenty images is lost", _sometimes_dropped, "cache"),
        Fault("earlier_dropped", "Images of earlier turns are dropped", _earlier_dropped, "turns", "ollama #7563"),
        Fault("first_turn_only", "Images of later turns are dropped", _first_turn_only, "turns"),
        Fault("at_most_4", "At most four images, without an error", keep(lambda parts: parts[:4]), "many"),
        Fault(
            "last_10",
            "The last ten images, without an error",
            keep(lambda parts: parts[-10:]),
            "many",
            "llama.cpp #14111",
        ),
        Fault("images_first", "Images of a message come before its text", _images_first, "between"),
        Fault("texts_joined", "The texts of a message are joined at its end", _texts_joined, "between"),
        Fault("answers_removed", "The assistant's turns are removed", drop_turns("assistant"), "roles"),
        Fault("answers_emptied", "The assistant's turns are emptied", _answers_emptied, "roles"),
        Fault("turns_merged", "All turns become one of the user", _turns_merged, "roles"),
        Fault("system_dropped", "The system prompt is dropped", drop_turns("system"), "system"),
        Fault("history_cut", "Only the last six or seven turns are kept", _history_cut, "earlier"),
        Fault(
            "assistant_images_dropped",
            "Images in the assistant's turns are dropped",
            _assistant_images_dropped,
            "assistant",
        ),
        Fault(
            "thumbnail",
            "Images have 8 x 8 pixels",
            paint(lambda image: image.convert("RGB").resize((8, 8)).resize(image.size)),
            "",
        ),
        Fault(
            "mean_color",
            "Images are one color, their mean",
            paint(lambda image: image.convert("RGB").resize((1, 1), Image.Resampling.BOX).resize(image.size)),
            "detail",
        ),
        Fault("gray", "Images lose their colors", paint(lambda image: image.convert("L")), "detail"),
        Fault(
            "alpha_black",
            "Images with an alpha channel are black",
            paint(lambda image: Image.new("RGB", image.size) if image.mode == "RGBA" else image),
            "files",
        ),
        Fault(
            "channels_exchanged",
            "Red and blue are exchanged",
            paint(lambda image: Image.merge("RGB", image.convert("RGB").split()[::-1])),
            "",
        ),
        Fault("stream_drops", "A stream keeps the last image alone", _stream_drops, "stream"),
        Fault("stop_ignored", "Stop strings are ignored", set_fields(stop=None), "sampling"),
        Fault("seed_ignored", "Seeds are ignored", _seed_ignored, "sampling"),
        Fault("n_ignored", "There is one answer, whatever n", set_fields(n=1), "sampling"),
        Fault("temperature_ignored", "All answers are greedy", set_fields(temperature=0), "sampling"),
        Fault("never_greedy", "Temperature 0 is replaced by 1", _never_greedy, "logprobs"),
    )
}


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
