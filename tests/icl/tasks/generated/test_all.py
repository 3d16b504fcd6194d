"""Properties of all generated tasks: equal bytes from a seed, no public gold, numbers that reveal nothing."""

import hashlib
import os
import subprocess
import sys

import pytest

from icl.registry import build
from icl.testing.conformance import check_task

NODES = [
    {"name": "binding"},
    {"name": "binding", "ways": 4, "concepts": 8},
    {"name": "binding", "ways": 4, "similar": True},
    {"name": "binding", "by": "color", "hint": True},
    {"name": "binding", "by": "shape", "ways": 4},
    {"name": "binding", "by": "texture", "ways": 4},
    {"name": "binding", "by": "size", "ways": 3},
    {"name": "binding", "by": "count", "ways": 5},
    {"name": "operators"},
    {"name": "operators", "name_operator": True},
    {"name": "attribute"},
    {"name": "gated"},
    {"name": "gated", "misleading": True},
    {"name": "gated", "rule": "operator"},
    {"name": "counting"},
    {"name": "counting", "by": "shape"},
    {"name": "counting", "by": "both"},
    {"name": "counting", "by": "all"},
    {"name": "counting", "by": "shape", "bare": True},
    {"name": "counting", "bare": True, "answer": "presence"},
    {"name": "counting", "bare": True, "pair": True},
    {"name": "existence"},
    {"name": "existence", "sampling": "popular"},
    {"name": "existence", "sampling": "adversarial", "per_image": 6},
    {"name": "captions"},
    {"name": "matching"},
    {"name": "matching", "by": "color"},
    {"name": "interleaved_operators"},
    {"name": "link_context"},
    {"name": "conflict"},
    {"name": "conflict", "by": "shape", "against": "statement"},
    {"name": "conflict", "against": "none", "modes": ["image"]},
    {"name": "printed_text"},
    {"name": "printed_text", "name_box": True},
]
IDS = [" ".join(map(str, node.values())) for node in NODES]


def task_digest(task) -> str:
    """A digest of everything that the first queries and their pools hold, pixels too."""
    digest = hashlib.sha256()
    for query in task.queries[:3]:
        for e in (query, *task.pool(query.id).examples[:10]):
            record = (e.id, e.question, e.answers, e.options, e.label, e.group, e.meta, e.secret)
            digest.update(repr((record, [p.digest for p in e.images])).encode())
    return digest.hexdigest()


@pytest.mark.parametrize("node", NODES, ids=IDS)
def test_it_keeps_the_promises_of_a_task(node):
    check_task(build("task", node | {"queries": 24}), queries=8)


@pytest.mark.parametrize("node", NODES, ids=IDS)
def test_more_queries_begin_with_the_fewer(node):
    few, more = (build("task", node | {"queries": n}) for n in (5, 12))
    assert [(e.id, e.question, e.answers) for e in few.queries] == [
        (e.id, e.question, e.answers) for e in more.queries[:5]
    ]


@pytest.mark.parametrize("node", NODES, ids=IDS)
def test_another_seed_is_another_task(node):
    assert task_digest(build("task", node)) != task_digest(build("task", node | {"seed": 1}))


def test_another_process_with_other_hashes_makes_the_same_bytes():
    here = [task_digest(build("task", node)) for node in NODES]
    script = (
        f"import importlib.util as u; s = u.spec_from_file_location('t', {__file__!r}); m = u.module_from_spec(s); "
        "s.loader.exec_module(m); print('\\n'.join(m.task_digest(m.build('task', node)) for node in m.NODES))"
    )
    there = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.split() == here


@pytest.mark.parametrize("node", NODES, ids=IDS)
def test_origins_and_ids_do_not_reveal_what_an_image_shows(node):
    task = build("task", node)
    for query in task.queries[:5]:
        for example in (query, *task.pool(query.id).examples[:10]):
            public = f"{example.id} {example.group} {[p.origin for p in example.images]}".replace("_", "-")
            words = set(public.replace("-", " ").split())
            assert not words & {"red", "blue", "star", "arch", "yes", "plus", "minus", "times", example.answer}


def test_images_wait_until_they_are_looked_at(monkeypatch):
    from icl.tasks.generated import drawing

    monkeypatch.setattr(drawing, "draw", lambda *a, **k: pytest.fail("an image was drawn"))
    for node in NODES:
        task = build("task", node | {"seed": 77})
        assert len(task.pool(task.queries[0].id)) >= task.pool_size


def test_an_unknown_query_is_an_error_if_queries_have_their_own_pools():
    from icl.errors import DataError

    for name in ("binding", "operators", "attribute"):
        task = build("task", {"name": name, "queries": 3})
        for wrong in (f"{name}-00003", "other-00000", f"{name}-x"):
            with pytest.raises(DataError, match=f"no query '{wrong}': it has {name}-00000 to {name}-00002"):
                task.pool(wrong)
