from pathlib import Path

import pytest

from experiments.config.config import load_config
from experiments.config.yaml_document import parse_yaml, read_document
from icl.errors import ConfigError


def test_every_value_has_its_line_also_in_flow_lists_over_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\n\ngrid:\n  decoding: [greedy,\n    vdc]\n")
    document = read_document(path)
    assert document.where("grid", "decoding", 1) == f"{path}:5: grid.decoding[1]"
    assert document.where("grid", "decoding", 1, "alpha") == f"{path}:5: grid.decoding[1].alpha"
    assert document.where("seeds") == f"{path}: seeds"


def test_yes_and_no_are_strings_and_1e_3_is_a_number() -> None:
    data, _ = parse_yaml("a: [yes, no, on, true, 1e-3, .5, 1., 2024-01-01]", "f")
    assert data["a"] == ["yes", "no", "on", True, 0.001, 0.5, 1.0, "2024-01-01"]


@pytest.mark.parametrize("directive", ["", "%YAML 1.1\n---\n", "%YAML 1.2\n---\n"])
def test_a_time_is_a_string_and_010_is_ten(directive: str) -> None:
    data, _ = parse_yaml(f"{directive}a: [2:00:00, 12:30, 12, -3, +7, 0, 0x1f, 010, 0o10, 1_000, 0b11, yes, off]", "f")
    assert data["a"] == ["2:00:00", "12:30", 12, -3, 7, 0, 31, 10, 8, 1000, 3, "yes", "off"]


def test_shots_with_a_leading_zero_are_decimal(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("name: x\ntask: easy-vqa\nmodel: fake-copy\nshots: 010\n")
    assert load_config(tmp_path / "x.yaml").base["shots"] == 10


def test_own_keys_override_merged_keys() -> None:
    data, lines = parse_yaml("a: &a {p: 1, q: 2}\nb:\n  <<: *a\n  p: 3\n", "f")
    assert data["b"] == {"p": 3, "q": 2}
    assert lines["b", "p"] == 4


def test_a_merge_of_several_mappings_takes_each_key_from_the_first_that_has_it() -> None:
    text = "a: &a {p: 1, q: 2}\nb: &b {q: 3, r: 4}\nc:\n  r: 5\n  <<: [*a, *b]\n"
    data, lines = parse_yaml(text, "f")
    assert data["c"] == {"p": 1, "q": 2, "r": 5}
    assert lines["c", "r"] == 4


def test_nested_merges_do_not_fill_the_memory() -> None:
    bases = ["&a0 {x: 1}", *(f"&a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 10))]
    with pytest.raises(ConfigError, match=r"more than 100,000 values. Are its aliases nested?"):
        parse_yaml(f"a:\n  <<: [{', '.join(bases)}]", "f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "f:3: a is defined twice (first in line 1). Keep one."),
        ("g:\n  x: 1\n  x: 2", "f:3: g.x is defined twice (first in line 2). Keep one."),
        ("a: [1, 2", "f:1: not valid YAML: "),
        ("a:\n\t- x", "f:2: not valid YAML: found character '\\t' that cannot start any token."),
        (
            "a: !!python/object/apply:os.system [ls]",
            "f:1: the tag tag:yaml.org,2002:python/object/apply:os.system makes",
        ),
        ("a: !mine 3", "f:1: the tag !mine makes an object; only plain values are allowed."),
        ("a: &x [*x]", "f:1: an alias that contains itself."),
        ("? [1]\n: 2", "f:1: a key must be a string."),
        ("a: *b", "f:1: not valid YAML: found undefined alias 'b'."),
        ("a: !!int x", "f:1: 'x' is not a valid int."),
        ("a: !!bool maybe", "f:1: 'maybe' is not a valid bool."),
        ("a:\n  <<: 3", "f:2: << requires a mapping or a list of mappings, such as <<: *base."),
        ("a: &a 1\nb: &a 2", "f:2: the anchor &a is defined twice. Keep one."),
        ("a: 1\n---\nb: 2", "f:2: not valid YAML: but found another document."),
        ("%YAML 1.9\n---\na: 1", "f: not valid YAML: version minor part can only be 2 or 1, got (1, 9)."),
        ("%YAML 2.0\n---\na: 1", "f:1: not valid YAML: found incompatible YAML document"),
        ("a: !!timestamp 2024-01-01", "f:1: the tag tag:yaml.org,2002:timestamp makes an object"),
        ("a: \x00", "f: not valid YAML: unacceptable character"),
    ],
)
def test_a_mistake_is_reported_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "f")
    assert str(error.value).startswith(message)


def test_nested_aliases_do_not_fill_the_memory() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(ConfigError, match=r"more than 100,000 values. Are its aliases nested?"):
        parse_yaml("\n".join(lines), "f")


@pytest.mark.parametrize("text", ["a: " + "[" * 3000 + "]" * 3000, "".join(f"{' ' * i}a:\n" for i in range(1500))])
def test_deep_nesting_is_an_error_and_does_not_overflow(text: str) -> None:
    with pytest.raises(ConfigError, match="f: lists or mappings are nested too deeply"):
        parse_yaml(text, "f")


def test_the_error_of_a_missing_file_lists_files_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match=r"there is no file .*absent.yaml. Beside it: other.yaml."):
        read_document(tmp_path / "absent.yaml")


def test_the_error_of_a_missing_file_lists_the_nearest_name_first(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d", "e", "quickstart"):
        (tmp_path / f"{name}.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match=r"Beside it: quickstart\.yaml, .*, …\."):
        read_document(tmp_path / "quikstart.yml")


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "is empty"), (b"- 1\n", "an experiment must be a mapping with keys"), (b"\xff\xfe\x00", "cannot be read")],
)
def test_a_file_without_a_mapping_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.yaml").write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        read_document(tmp_path / "x.yaml")
