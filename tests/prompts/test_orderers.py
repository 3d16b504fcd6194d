"""Where the best demonstration ends up."""

from collections import Counter

from icl.registry import build
from icl.streams import StreamKey
from icl.types import Context, Demo, Example


def _context(seed: int = 0, query: str = "q", shots: int = 5) -> Context:
    demos = tuple(Demo(Example(f"e{i}", (), "?", ("a",)), 0.5, i) for i in range(shots))  # equal scores: ranks decide
    return Context(Example(query, (), "?", ()).query, demos, StreamKey(seed, query))


def _ids(name: str, context: Context) -> str:
    return "".join(demo.example.id[1] for demo in build("orderer", name).order(context).demos)


def test_as_retrieved_is_best_first_and_reversed_its_exact_reverse() -> None:
    assert _ids("as_retrieved", _context()) == "01234"
    assert _ids("reversed", _context()) == "43210"


def test_ordering_twice_is_ordering_once() -> None:
    for name in ("as_retrieved", "reversed", "random"):
        once = build("orderer", name).order(_context())
        assert build("orderer", name).order(once) == once


def test_random_is_the_query_s_own_and_uniform() -> None:
    assert _ids("random", _context(0, "q")) == _ids("random", _context(0, "q"))
    assert len({_ids("random", _context(s, f"q{i}")) for s in range(3) for i in range(10)}) > 20
    lasts = Counter(_ids("random", _context(0, f"q{i}", 3))[-1] for i in range(600))
    assert all(abs(lasts[last] - 200) < 60 for last in "012")
