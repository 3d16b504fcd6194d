"""`icl doctor backends`: its words, exit status, stored sides and mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.cli.main import main
from experiments.config.yaml_document import Document
from experiments.diff.comparison import compare, pixel_cause, verdict
from experiments.diff.recording import load, one_point, overrides_of, save
from icl.errors import ConfigError
from icl.models.tracing import Stage
from tests.experiments.diff.conftest import STUDY, side


@pytest.fixture
def icl(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("study.yaml").write_text(json.dumps(STUDY))

    def call(*words):
        status = main(["doctor", "backends", *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_a_stored_side_is_the_side(tmp_path):
    save(side("hf"), tmp_path / "a.trace")
    stored = load(tmp_path / "a.trace")
    _, rows = compare(stored, side("hf"))
    assert verdict(stored, side("hf"), rows).stage is None
    assert {one.status.value for row in rows for one in row.outcomes.values()} == {"equal"}
    assert stored.facts == side("hf").facts
    _, rows = compare(stored, side("model.dtype=bfloat16"))
    assert rows == compare(side("hf"), side("model.dtype=bfloat16"))[1]


def test_two_environments_are_compared_through_files(icl):
    assert icl("hf", "study.yaml", "--save", "a.trace", "--queries", "1")[0] == 0
    status, out, _ = icl("a.trace", "model.dtype=bfloat16", "study.yaml", "--queries", "1", "--json", "out.json")
    assert status == 1
    assert "They diverge at 'text', in the first step" in out
    content = json.loads(Path("out.json").read_text())
    assert content["verdict"]["stage"] == "first step"
    assert content["sides"][1]["facts"]["arithmetic"]["dtype"] == "bfloat16"
    assert [row["stage"] for row in content["stages"]] == list(Stage)
    status, out, _ = icl("a.trace", "a.trace")
    assert (status, "No difference beyond numerical noise." in out) == (0, True)


def test_hidden_stages_are_listed_with_the_reason(icl, server):
    status, out, _ = icl(server(), server("thumbnail"), "study.yaml", "grid.shots=[1]", "--queries", "1")
    assert status == 1
    assert out.count("not visible on a server") >= 4
    assert "They diverge at 'exact'" in out


def test_prompts_that_both_sides_refuse_are_listed_and_that_one_refuses_are_a_difference(icl, server):
    status, out, _ = icl(server(most_images=2), server(most_images=2), "study.yaml", "--queries", "1")
    assert status == 0
    assert "turns: both sides refuse the prompt" in out
    status, out, _ = icl(server(), server(most_images=2), "study.yaml", "--queries", "1")
    assert status == 1
    assert "They diverge at 'turns', in the first step: B refuses the prompt" in out
    assert "at most 2 images may be provided in one prompt" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("hf", "vllm"), "a study is needed: icl doctor backends A B STUDY"),
        (("hf", "study.yaml", "study.yaml"), "is not a side that"),
        (("hf", "nothing/here", "study.yaml"), "model 'nothing/here' is no folder here"),
        (("hf", "model.dtype=half", "study.yaml"), "dtype: input should be"),
        (("hf", "http://127.0.0.1:9/v1#x", "study.yaml"), "no server answers at http://127.0.0.1:9/v1"),
        (("hf", "study.yaml", "--save", "study.yaml/a.trace"), "study.yaml cannot be written"),
    ],
)
def test_a_mistake_is_a_sentence(icl, words, sentence):
    status, _, err = icl(*words, "--queries", "0")
    assert (status, sentence in err) == (2, True), err


def test_two_different_checkpoints_are_refused(icl, tmp_path):
    from tests.random_models.make import save as save_checkpoint

    other = save_checkpoint("idefics3", tmp_path / "other")
    status, _, err = icl("hf", f"model.path={other}", "study.yaml", "--queries", "0")
    assert status == 2
    assert "are two different checkpoints (hidden_size 160 and" in err


def test_words_are_models_keys_checkpoints_and_addresses():
    node = {"name": "hf", "path": "tiny", "dtype": "float32"}
    assert overrides_of("vllm", node) == {"model": {**node, "name": "vllm"}}
    assert overrides_of("owner/name", node) == {"model": {"name": "hf", "path": "owner/name"}}
    assert overrides_of("{name: hf, path: small}", node) == {"model": {"name": "hf", "path": "small"}}
    assert overrides_of("model.dtype=bfloat16 composer={name: chat, system: a b}", node) == [
        "model.dtype=bfloat16",
        "composer={name: chat, system: a b}",
    ]
    remote = {"name": "remote", "url": "http://a/v1", "model": "x", "key_env": "KEY"}
    assert overrides_of("http://b/v1#y", remote)["model"] == {**remote, "url": "http://b/v1", "model": "y"}
    assert overrides_of("http://b/v1#y", node)["model"] == {"name": "remote", "url": "http://b/v1", "model": "y"}


def test_one_point_of_a_grid_decides_the_prompts():
    data = {
        **STUDY,
        "seeds": [3, 4],
        "grid": {**STUDY["grid"], "composer": ["interleaved", "chat"]},
        "compare": {"to": {"shots": 0}},
    }
    point = one_point(Document("study", Path(), data)).data
    assert point == {
        "task": STUDY["task"], "model": STUDY["model"], "seeds": [3], "shots": 2, "composer": "interleaved",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="no key 'shot'"):
        one_point(Document("study", Path(), {**STUDY, "shot": 1}))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 3, 8, 8), (16, 12)])
def test_pixel_values_tell_what_was_done_to_them(shape):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    axis = -3 if len(shape) > 2 else 1
    flipped = np.flip(a, axis) if len(shape) > 2 else np.flip(a.reshape(16, 3, 4), 1).reshape(shape)
    assert "order of the color channels" in pixel_cause([a], [flipped], 0)
    assert "normalization" in pixel_cause([a], [2 * a + 1], 0)
    assert pixel_cause([a, b], [b, a], 0) == "order of images: those of A are 2 1 in B"
    assert "resize" in pixel_cause([a], [a + 0.1 * b], 0)


def test_a_stored_side_of_a_server_is_the_side(icl, server):
    assert icl(server(), "study.yaml", "--save", "a.trace", "--queries", "0")[0] == 0
    assert load(Path("a.trace")).entries[0].trace.tokens
