"""The script of mutation testing: which changes it makes, and which tests it runs for a module."""

import ast
import subprocess
from pathlib import Path

import mutants

SOURCE = '''
"""A module."""

LIMIT = 3

def first(values: list, strict: bool = True) -> int:
    """A docstring with 1 < 2."""
    if not values and strict:
        raise ValueError(f"none of {len(values) + 1}")
    for value in values:
        if value < LIMIT:
            return value
    return values[-1] * 2
'''


def test_a_mutant_changes_one_operator_constant_comparison_or_statement():
    changes = {(m.before, m.text) for m in mutants.mutants_of("m.py", SOURCE.encode())}
    assert changes == {
        ("3", "4"),
        ("True", "False"),
        ("not values and strict", "(not values or strict)"),
        ("not values", "(values)"),
        ('raise ValueError(f"none of {len(values) + 1}")', "pass"),
        ("value < LIMIT", "(value <= LIMIT)"),
        ("return value", "pass"),
        ("values[-1] * 2", "(values[-1] / 2)"),
        ("1", "2"),
        ("2", "3"),
    }


def test_every_mutant_parses_and_differs_from_its_module():
    for module in sorted((mutants.ROOT / "decoding/formulas").rglob("*.py")):
        source = module.read_bytes()
        tree = ast.dump(ast.parse(source))
        for mutant in mutants.mutants_of(str(module), source):
            assert ast.dump(ast.parse(mutant.source(source))) != tree, mutant


def test_a_sample_takes_a_mutant_of_each_module_in_turn():
    many = {name: mutants.mutants_of(name, SOURCE.encode()) for name in ("a.py", "b.py", "c.py")}
    chosen = mutants.choose(many, 7, seed=0)
    assert sorted(sum(m.module == name for m in chosen) for name in many) == [2, 2, 3]
    assert chosen == mutants.choose(many, 7, seed=0)
    assert len(mutants.choose(many, None, seed=0)) == 30


def test_the_tests_of_a_module_are_its_mirror_and_those_that_name_it():
    tests = mutants.own_tests("decoding/strategies/vcd.py")
    assert tests[0] == "tests/decoding/test_vcd.py"
    assert {"tests/decoding/test_contrast.py", "tests/decoding/test_properties.py"} <= set(tests)
    assert all(Path(mutants.ROOT / test).exists() for test in tests)


def test_a_mutant_is_killed_by_a_test_that_calls_it_and_survives_without_one(tmp_path, monkeypatch):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "room.py").write_text("def double(x):\n    return x * 2\n\n\ndef half(x):\n    return x / 2\n")
    (folder / "test_room.py").write_text("import room\n\n\ndef test_double():\n    assert room.double(3) == 6\n")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    monkeypatch.setattr(mutants, "ROOT", folder)
    runner = mutants.Runner(tmp_path, 1)
    calls = runner.record(["test_room.py"], ["room.py"])
    changed = mutants.mutants_of("room.py", (folder / "room.py").read_bytes())
    tests = {m: mutants.select_tests(m, ["test_room.py"], calls) for m in changed}
    assert {m.before: len(chosen) for m, chosen in tests.items() if "x" in m.before} == {"x * 2": 1, "x / 2": 0}
    work = [(m, ["test_room.py"]) for m in changed if "x" in m.before]
    for served in (False, True):
        results = {m.before: result for m, result in runner.run(work, 60, served)}
        assert results == {"x * 2": "killed", "x / 2": "survived"}
    runner.close()
    assert (tmp_path / "0" / "room.py").read_bytes() == (folder / "room.py").read_bytes()


def test_marked_functions_record_calls_by_the_line_of_the_outermost_function():
    source = '@staticmethod\ndef outer():\n    """Text."""\n    def inner():\n        return 1\n    return inner\n'
    marked = mutants.mark_functions(ast.parse(source), "m.py")
    calls = []
    space = {mutants.MARK: lambda module, line: calls.append((module, line))}
    exec(compile(marked, "m.py", "exec"), space)  # noqa: S102
    inner = space["outer"]()
    assert calls == [("m.py", 1)]
    assert space["outer"].__doc__ == "Text."
    assert inner() == 1
    assert calls == [("m.py", 1), ("m.py", 1)]


ROOM = """from functools import lru_cache


class Room:
    @staticmethod
    def half(x):
        return x / 2

    @property
    def two(self):
        return (lambda: 1 + 1)()


@lru_cache
def three():
    return 3
"""
ROOM_TEST = """from room import Room, three


def test_all():
    assert (Room.half(2), Room().two, three()) == (1, 2, 3)
"""


def test_a_server_gives_methods_and_nested_functions_their_changed_code(tmp_path, monkeypatch):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "room.py").write_text(ROOM)
    (folder / "test_room.py").write_text(ROOM_TEST)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    monkeypatch.setattr(mutants, "ROOT", folder)
    runner = mutants.Runner(tmp_path, 1)
    calls = runner.record(["test_room.py"], ["room.py"])
    assert calls == {"test_room.py::test_all": {"room.py": [5, 9, 14]}}
    changed = mutants.mutants_of("room.py", (folder / "room.py").read_bytes())
    monkeypatch.setattr(runner, "start", None)  # nothing may need a process of its own
    results = [result for _, result in runner.run([(m, list(calls)) for m in changed], 60, served=True)]
    assert results == ["killed"] * len(changed)
    assert len(changed) == 6
    runner.close()
