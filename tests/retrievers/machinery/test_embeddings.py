"""The embedding cache: each content is embedded once per embedder, also by several processes, and is never stale."""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icl.errors import ICLWarning, ModelError
from icl.parameter_files import cache_folder
from icl.registry import build
from retrievers.base import Vectors, normalize_rows
from retrievers.embedders.image_statistics import Histogram
from retrievers.machinery import embeddings as cache_module
from retrievers.machinery.embeddings import EmbeddingCache, num_embedded, shared_cache
from retrievers.machinery.encoder import Encoder
from retrievers.machinery.vector_store import VectorStore

Make = Callable[..., Any]


@dataclass(frozen=True)
class Lengths:
    """Embeds the length of a text and records its calls in a file, so calls of all processes can be counted."""

    log: str
    shift: int = 0
    wait: float = 0.0

    @property
    def digest(self) -> str:
        return f"lengths-{self.shift}"

    def embed_images(self, items: Sequence[Any]) -> Vectors:
        raise NotImplementedError

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        import time

        with open(self.log, "a") as file:
            file.write("".join(f"{text}\n" for text in texts))
        time.sleep(self.wait)
        return normalize_rows(np.array([[len(text) + self.shift, 10.0, sum(text.encode()) % 7] for text in texts]))


def _calls(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def test_a_second_run_embeds_nothing(cache: Path, color: Make, example: Make) -> None:
    items = [example(f"e{i}", color("red", i)) for i in range(5)]
    first = EmbeddingCache(Histogram(), cache)
    vectors = first.embed_images(items)
    assert first.count["image"] == 5
    again = EmbeddingCache(Histogram(), cache)  # as another process would
    assert np.array_equal(again.embed_images(items), vectors)
    assert not any(again.count.values())


def test_cached_vectors_are_the_embedder_s_own(cache: Path, clip: Path, noise: Make, example: Make) -> None:
    items, texts = [example(f"e{i}", noise(i)) for i in range(6)], ["which red ?", "count", "the blue shape"]
    encoder = Encoder(str(clip))
    for _ in range(2):
        cached = EmbeddingCache(encoder, cache)
        assert np.allclose(cached.embed_images(items), encoder.embed_images(items), atol=1e-6)
        assert np.allclose(cached.embed_texts(texts[::-1]), encoder.embed_texts(texts)[::-1], atol=1e-6)


def test_an_image_in_several_examples_is_embedded_once(cache: Path, color: Make, example: Make) -> None:
    source = EmbeddingCache(Histogram(), cache)
    vectors = source.embed_images([example(f"e{i}", color("red", 0)) for i in range(9)])
    assert source.count["image"] == 1
    assert vectors.shape == (9, 512)


def test_an_edited_image_is_another_image(cache: Path, color: Make, example: Make) -> None:
    from icl.edits import Blank

    source = EmbeddingCache(Histogram(), cache)
    plain, edited = source.embed_images([example("a", color("red")), example("b", color("red").edit(Blank()))])
    assert plain @ edited < 0.5


def test_entries_of_another_encoder_are_never_served(
    cache: Path, save_towers: Make, noise: Make, example: Make
) -> None:
    items = [example("e", noise(0))]
    folder = save_towers(cache.parent / "checkpoint", seed=0)
    before = EmbeddingCache(Encoder(str(folder)), cache).embed_images(items)
    save_towers(folder, seed=1)  # trained on: the same folder, other weights
    source = EmbeddingCache(Encoder(str(folder)), cache)
    after = source.embed_images(items)
    assert source.count["image"] == 1
    assert not np.allclose(before, after, atol=1e-3)


def test_settings_are_part_of_the_key(cache: Path, color: Make, example: Make) -> None:
    items = [example("e", color("red"))]
    assert EmbeddingCache(Histogram(8), cache).embed_images(items).shape == (1, 512)
    assert EmbeddingCache(Histogram(4), cache).embed_images(items).shape == (1, 64)


@pytest.mark.parametrize(
    "about",
    [
        *("{", "[]", "\x00" * 30, '{"dim": 3}', '{"digest": "something-else", "dim": 3}'),
        *(f'{{"digest": "lengths-0", "dim": {dim}}}' for dim in ("0", "1", "3000000", '"3"')),
    ],
)
def test_a_damaged_description_is_written_again(tmp_path: Path, cache: Path, about: str) -> None:
    texts = ["one", "three", "eleven"]
    before = EmbeddingCache(Lengths(str(tmp_path / "log")), cache).embed_texts(texts)
    (path,) = cache.rglob("about.json")
    whole = path.read_bytes()
    path.write_text(about)
    assert np.array_equal(EmbeddingCache(Lengths(str(tmp_path / "log")), cache).embed_texts(texts), before)
    assert path.read_bytes() == whole
    calls = _calls(tmp_path / "log")
    assert np.array_equal(EmbeddingCache(Lengths(str(tmp_path / "log")), cache).embed_texts(texts), before)
    assert _calls(tmp_path / "log") == calls


def _fill(embedder: Lengths, folder: Path, texts: list[str], start: Any, out: Any) -> None:
    source = EmbeddingCache(embedder, folder)
    start.wait()
    vectors = source.embed_texts(texts)
    out.put((source.count["text"], vectors.tolist()))


def _in_processes(log: Path, folder: Path, shares: list[list[str]], wait: float) -> list[tuple[int, list[list[float]]]]:
    context = multiprocessing.get_context("fork")
    start, out = context.Barrier(len(shares)), context.Queue()
    workers = [
        context.Process(target=_fill, args=(Lengths(str(log), wait=wait), folder, texts, start, out))
        for texts in shares
    ]
    for worker in workers:
        worker.start()
    results = [out.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    return results


def test_processes_with_the_same_work_do_it_once(tmp_path: Path, cache: Path) -> None:
    texts = [f"text-{i}" for i in range(40)]
    results = _in_processes(tmp_path / "log", cache, [texts, texts, texts], 0.1)
    assert sorted(count for count, _ in results) == [0, 0, 40]
    assert results[0][1] == results[1][1] == results[2][1]
    assert sorted(_calls(tmp_path / "log")) == sorted(texts)


def test_processes_that_fill_at_once_lose_and_mix_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "CHUNK", 3)  # many small writes
    shares = [[f"text-{i:03}" for i in range(60 * n, 60 * n + 90)] for n in range(4)]  # overlapping by a third
    _in_processes(tmp_path / "log", cache, shares, 0.001)
    everything = sorted({text for share in shares for text in share})
    after = EmbeddingCache(Lengths(str(tmp_path / "log")), cache)
    assert np.array_equal(after.embed_texts(everything), Lengths(str(tmp_path / "other")).embed_texts(everything))
    assert after.count["text"] == 0


def test_another_process_s_new_entries_are_seen_without_reopening(tmp_path: Path, cache: Path) -> None:
    early = EmbeddingCache(Lengths(str(tmp_path / "log")), cache)
    early.embed_texts(["one"])
    EmbeddingCache(Lengths(str(tmp_path / "log")), cache).embed_texts(["two", "three"])
    early.embed_texts(["three", "one", "two"])
    assert _calls(tmp_path / "log") == ["one", "two", "three"]


@pytest.mark.parametrize(("vector_bytes", "key_bytes", "lost"), [(5, 0, 1), (0, 40, 2), (5, 40, 2), (13, 0, 2)])
def test_a_write_cut_short_is_not_read(
    tmp_path: Path, cache: Path, vector_bytes: int, key_bytes: int, lost: int
) -> None:
    source = EmbeddingCache(Lengths(str(tmp_path / "log")), cache)
    source.embed_texts(["one", "two", "three"])
    (vectors,), (keys,) = cache.rglob("*.vectors"), cache.rglob("*.keys")
    vectors.write_bytes(vectors.read_bytes()[: 3 * 12 - vector_bytes])
    keys.write_bytes(keys.read_bytes()[: 3 * 32 - key_bytes])
    again = EmbeddingCache(Lengths(str(tmp_path / "log")), cache)
    assert np.array_equal(again.embed_texts(["one", "two", "three"]), source.embed_texts(["one", "two", "three"]))
    assert again.count["text"] == lost


def test_not_finite_vectors_are_refused(cache: Path) -> None:
    @dataclass(frozen=True)
    class Bad(Lengths):
        def embed_texts(self, texts: Sequence[str]) -> Vectors:
            return np.full((len(texts), 3), np.nan, np.float32)

    with pytest.raises(ModelError, match="must give one finite row each"):
        EmbeddingCache(Bad("unused"), cache).embed_texts(["one"])
    assert not list(cache.rglob("*.keys"))


def test_an_unwritable_cache_warns_once_and_still_embeds(tmp_path: Path, color: Make, example: Make) -> None:
    (tmp_path / "file").write_text("in the way")
    items = [example("e", color("red")), example("f", color("blue"))]
    source = EmbeddingCache(Histogram(), tmp_path / "file")
    with pytest.warns(
        ICLWarning, match=f"cache {tmp_path / 'file'} cannot be written: Not a directory.*ICL_CACHE"
    ) as warning_records:
        got = source.embed_images(items)
    assert np.array_equal(source.embed_images(items[::-1]), got[::-1])
    assert len(warning_records) == 1
    assert source.count["image"] == 2  # the second time from memory
    assert np.array_equal(got, EmbeddingCache(Histogram(), tmp_path / "other").embed_images(items))


def test_a_disk_that_was_full_for_a_while_mixes_no_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = VectorStore(tmp_path / "shards", "digest")
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    keys = [bytes([i]) * 32 for i in range(4)]
    shards.add(keys[:1], rows[:1])
    opened = Path.open

    def full(path: Path, *arguments: Any) -> Any:
        file = opened(path, *arguments)
        if path.suffix == ".vectors":
            file.write(rows[1:3].tobytes()[:17])  # only a part was written
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.warns(ICLWarning, match="cannot be written: No space left"):
            shards.add(keys[1:3], rows[1:3])
    shards.add(keys[3:], rows[3:])
    assert np.array_equal(shards.gather(keys), rows)
    again = VectorStore(tmp_path / "shards", "digest")
    assert again.missing(keys) == keys[1:3]
    assert np.array_equal(again.gather([keys[0], keys[3]]), rows[[0, 3]])


def test_a_cache_that_cannot_be_locked_warns(
    cache: Path, color: Make, example: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("filelock.FileLock.acquire", read_only)
    with pytest.warns(ICLWarning, match=r"cannot be written: Read-only file system\..*ICL_CACHE"):
        assert len(EmbeddingCache(Histogram(), cache).embed_images([example("e", color("red"))])) == 1


def test_a_cache_that_could_not_be_created_is_filled_later(tmp_path: Path, cache: Path) -> None:
    (cache).mkdir(parents=True, exist_ok=True)
    (cache / "embeddings").write_text("in the way")
    source = EmbeddingCache(Lengths(str(tmp_path / "log")), cache)
    with pytest.warns(ICLWarning):
        source.embed_texts(["one"])
    (cache / "embeddings").unlink()
    source.embed_texts(["one", "two"])
    assert EmbeddingCache(Lengths(str(tmp_path / "log")), cache).embed_texts(["two"]).shape == (1, 3)
    assert _calls(tmp_path / "log") == ["one", "two"]


@pytest.mark.parametrize("damage", ["zeroed", "exchanged", "one bit"])
def test_changed_vectors_are_computed_again_once(tmp_path: Path, cache: Path, damage: str) -> None:
    texts = ["one", "three", "eleven"]
    before = EmbeddingCache(Lengths(str(tmp_path / "log")), cache).embed_texts(texts)
    (path,) = cache.rglob("*.vectors")
    data = np.frombuffer(path.read_bytes(), np.float32).reshape(3, 3).copy()
    if damage == "zeroed":
        data[1] = 0
    elif damage == "exchanged":
        data[[0, 1]] = data[[1, 0]]
    else:
        data.view(np.uint32)[2, 1] ^= 1
    path.write_bytes(data.tobytes())
    for _ in range(2):
        assert np.array_equal(EmbeddingCache(Lengths(str(tmp_path / "log")), cache).embed_texts(texts), before)
        assert _calls(tmp_path / "log") == texts * 2


def test_an_edited_embedder_of_one_s_own_gets_no_earlier_vectors(tmp_path: Path, cache: Path) -> None:
    code = (
        "from dataclasses import dataclass\nimport numpy as np\n\n@dataclass(frozen=True)\nclass Mine:\n"
        "    digest = 'mine'\n    def embed_images(self, items): ...\n"
        "    def embed_texts(self, texts):\n        return np.array([[3.0, 4.0]] * len(texts)) / 5\n"
    )
    (tmp_path / "mine.py").write_text(code)
    first = EmbeddingCache(build("embedder", f"{tmp_path}/mine.py:Mine"), cache).embed_texts(["a"])
    (tmp_path / "mine.py").write_text(code.replace("[3.0, 4.0]", "[4.0, 3.0]"))
    second = EmbeddingCache(build("embedder", f"{tmp_path}/mine.py:Mine"), cache).embed_texts(["a"])
    assert first.tolist() == [pytest.approx([0.6, 0.8])]
    assert second.tolist() == [pytest.approx([0.8, 0.6])]


def test_keys_whose_vectors_are_gone_are_embedded_again(tmp_path: Path, cache: Path) -> None:
    EmbeddingCache(Lengths(str(tmp_path / "log")), cache).embed_texts(["one"])
    for path in cache.rglob("*.vectors"):
        path.unlink()
    EmbeddingCache(Lengths(str(tmp_path / "log")), cache).embed_texts(["one"])
    assert _calls(tmp_path / "log") == ["one", "one"]


def test_retrievers_share_one_embedder_in_a_process(cache: Path, color: Make, example: Make) -> None:
    assert shared_cache(Histogram()) is shared_cache(Histogram())
    assert shared_cache(Histogram()) is not shared_cache(Histogram(4))
    assert shared_cache(Histogram()) is not shared_cache(Histogram(), str(cache / "other"))
    before = num_embedded()["image"]
    shared_cache(Histogram()).embed_images([example("e", color("red"))])
    shared_cache(Histogram()).embed_images([example("e", color("red"))])
    assert num_embedded()["image"] == before + 1


def test_the_cache_folder_is_the_given_the_environment_s_or_the_platform_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("ICL_CACHE")
    assert cache_folder().name == "mm-icl"
