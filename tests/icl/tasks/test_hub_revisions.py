"""Data sets of a hub: their revision, and those that have moved to another owner."""

from pathlib import Path
from typing import Any

import pytest
from data_hub import DataHub, data_hub, parquet_bytes
from PIL import Image as PILImage

import icl
from experiments.grid.feasibility import data_digests
from experiments.results.loaded_run import load_run
from experiments.sharing.card import card_text, make_card
from icl.errors import DataError, ICLWarning
from icl.registry import build, describe
from icl.tasks.presets import PRESETS

OLD, NEW = "lmms-lab/POPE", "lmms-lab-encoder/POPE"


def pope_files(answers: str = "yes no yes no") -> dict[str, bytes]:
    rows = [
        {"question": f"q{i}?", "answer": answer, "image_source": f"s{i}", "category": "random",
         "image": PILImage.new("RGB", (8, 8), (9 * i, 2, 3))} for i, answer in enumerate(answers.split())
    ]  # fmt: skip
    return {"README.md": b"# POPE\n", "data/test-00000-of-00001.parquet": parquet_bytes(rows)}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    with data_hub(monkeypatch, tmp_path / "cache") as server:
        yield server


def pope(**more: Any) -> Any:
    return build("task", {"name": "hub", "preset": "pope", **more}, "x.yaml:3")


def answers(task: Any) -> dict[str, str]:
    return {e.question: e.answer for e in (*task.queries, *task.pool("").examples)}


def test_a_moved_data_set_is_read_where_it_is_now_and_else_where_it_was(hub: DataHub) -> None:
    old = hub.push(OLD, pope_files())
    task = pope()
    assert task.data_revision == f"{OLD}@{old}"
    assert task.notes == (
        f"the data set {NEW} is neither on the hub nor in its cache, so {OLD} was read, its former id.",
    )
    before = data_digests(task)
    new = hub.push(NEW, pope_files())
    moved = pope()
    assert (moved.data_revision, moved.notes) == (f"{NEW}@{new}", ())
    after = data_digests(moved)
    assert [after[key] for key in ("queries", "pool")] == [before[key] for key in ("queries", "pool")]
    assert {**before, **after} == after == {**after, "revision": f"{NEW}@{new}"}


def test_neither_id_is_one_sentence_about_the_present_one(hub: DataHub) -> None:
    with pytest.raises(
        DataError, match=rf"data set {NEW}, split 'test': there is no .* the hub has no data set '{NEW}', or"
    ):
        _ = pope().queries


def test_the_former_id_has_the_same_identity() -> None:
    assert describe(pope(path=OLD)) == describe(pope()) != describe(pope(path="other/POPE"))
    moved = [name for name in PRESETS if PRESETS[name].get("path", "").startswith("lmms-lab-encoder/")]
    assert len(moved) >= 13
    assert all(
        describe(build("task", {"name": "hub", "preset": name}))["path"].startswith("lmms-lab/") for name in moved
    )


def test_a_folder_at_the_former_path_is_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, data in pope_files().items():
        (tmp_path / OLD / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / OLD / name).write_bytes(data)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    assert len(answers(pope())) == 4
    with pytest.raises(DataError, match=r"revision: .* is on this machine and has no revisions\. Remove"):
        _ = pope(revision="v1").queries


def test_a_revision_is_read_as_it_was_and_counts_in_the_identity_only_if_it_is_set(hub: DataHub) -> None:
    first = hub.push(NEW, pope_files("yes no yes no"), "v1")
    hub.push(NEW, pope_files("no no no no"))
    assert set(answers(pope()).values()) == {"no"}
    for revision in (first, "v1"):
        task = pope(revision=revision)
        assert sorted(answers(task).values()) == ["no", "no", "yes", "yes"]
        assert task.data_revision == f"{NEW}@{first}"
        assert {**describe(pope()), "revision": revision} == describe(task)


@pytest.mark.parametrize("revision", ["v9", "0123456789" * 4])
def test_a_revision_that_is_gone_is_an_error_although_the_cache_has_another_one(hub: DataHub, revision: str) -> None:
    hub.push(NEW, pope_files())
    assert len(answers(pope())) == 4
    with pytest.raises(DataError, match=rf"has no revision '{revision}' on the hub\. Take a branch"):
        _ = pope(revision=revision).queries


BUSY = r"because of too many requests \(429\)\. Try again"
BAD_TOKEN = {"X-Error-Message": "Invalid credentials in Authorization header"}


@pytest.mark.parametrize(
    ("part", "answer", "revision", "says"),
    [
        ("/datasets/", (429, {"Retry-After": "9"}), None, rf"{BUSY} in 9 seconds"),
        ("/datasets/", (429, {}), "v1", rf"{BUSY} later"),
        ("/datasets/", (503, {}), "v1", r"the hub http\S+ has an error of its own \(503\) at the data set"),
        (".parquet", (500, {}), None, r"the hub http\S+ has an error of its own \(500\) at the data set"),
        ("/api/datasets/", (401, BAD_TOKEN), "v1", "the hub does not accept your token for the data set"),
        (
            "/resolve/",
            (401, {"X-Error-Code": "GatedRepo"}),
            None,
            r"is gated\. Accept its conditions on http\S+/datasets/me/data and log in",
        ),
    ],
)
def test_what_a_hub_answers_is_a_sentence(
    part: str, answer: Any, revision: str | None, says: str, hub: DataHub
) -> None:
    hub.push("me/data", pope_files(), "v1")
    hub.faults[part] = answer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", lambda seconds: None)
        with pytest.raises(DataError, match=f"data set me/data.*{says}"):
            _ = pope(path="me/data", revision=revision).queries


def test_a_hub_that_cannot_be_reached_is_a_sentence(hub: DataHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for target in ("datasets.config.HF_ENDPOINT", "huggingface_hub.constants.ENDPOINT"):
        monkeypatch.setattr(target, "http://127.0.0.1:9")
    with pytest.raises(
        DataError, match=r"data set 'me/data' is not in .*, and the hub http://127\.0\.0\.1:9 cannot be reached"
    ):
        _ = pope(path="me/data", revision="v1").queries


def test_without_a_network_a_commit_and_a_branch_that_was_read_come_from_the_cache(
    hub: DataHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.push(NEW, pope_files(), "v1", "v2")
    assert len(answers(pope(revision="v1"))) == 4
    for module in ("datasets.config", "huggingface_hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    for revision in (commit, "v1"):
        assert pope(revision=revision).data_revision == f"{NEW}@{commit}"
    for revision in ("v2", "main"):
        with pytest.raises(DataError, match="Read it once with a connection, or set `revision` to the whole id of a"):
            _ = pope(revision=revision).queries


def test_a_hub_with_too_many_requests_is_asked_again_for_the_commit(hub: DataHub) -> None:
    commit, waits = hub.push(NEW, pope_files(), "v1"), list[float]()
    hub.faults["/api/datasets/"] = (429, {"Retry-After": "9"})

    def wait(seconds: float) -> None:
        waits.append(seconds)
        hub.faults.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", wait)
        assert pope(revision="v1").data_revision == f"{NEW}@{commit}"
    assert waits == [9]
    hub.faults[f"{NEW}/revision"] = (429, {"Retry-After": "999"})
    with pytest.warns(ICLWarning, match=f"so the cached commit {commit} of {NEW} is used"):
        assert pope(revision="v1").data_revision == f"{NEW}@{commit}"


def test_without_a_network_a_copy_from_the_former_place_is_read(hub: DataHub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.push(OLD, pope_files())
    online = answers(pope())
    for module in ("datasets.config", "huggingface_hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    task = pope()
    assert (answers(task), task.data_revision) == (online, f"{OLD}@{commit}")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", Path("other"))
    with pytest.raises(DataError, match=rf"data set {NEW}.* forbids downloads\. Read it once with a .*n\.$"):
        _ = pope().queries


def test_a_run_stores_the_commit_shows_it_in_the_card_and_says_when_it_changed(
    hub: DataHub, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = hub.push(OLD, pope_files())
    config = {"name": "r", "task": {"name": "hub", "preset": "pope"}, "model": {"name": "fake-copy"},
              "grid": {"shots": [0]}, "metrics": ["lenient"]}  # fmt: skip
    run = icl.run(config)
    card = make_card(load_run(run.path))
    assert [cell["data"]["revision"] for cell in card["cells"].values()] == [f"{OLD}@{commit}"]
    assert f"{OLD}@{commit}" in card_text(card)
    assert f"so {OLD} was read, its former id" in capsys.readouterr().err
    hub.push(OLD, {**pope_files(), "README.md": b"# POPE, corrected\n"})
    icl.run(config)
    assert (
        f"finished samples of task 'POPE' are of {OLD}@{commit}, and its data set has changed"
        in capsys.readouterr().err
    )
