"""Runs whose comparisons end when they are decided: what is computed, and that the looks depend on nothing else."""

import hashlib
import random
import shutil

import numpy as np
import pytest

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.results.loaded_run import load_run
from experiments.running import runner
from experiments.running.run import run
from experiments.sharing.card import make_card
from experiments.stopping.plan import make_stop_plan, order_clusters, planned_comparisons
from experiments.stopping.sequential import ladder, look_sizes
from experiments.store.store import Store, write_json
from experiments.terminal.progress import SilentProgress
from icl.errors import ConfigError, StoreError
from icl.types import Example
from tests.experiments.stopping.anytime_p import anytime_p


def ends(contents):
    """comparison -> (look of its end, end)."""
    found_at = {}
    for content in contents:
        for key, node in content["comparisons"].items():
            found_at[int(key)] = content["look"], node["end"]
    return found_at


def test_an_arm_ends_with_its_comparison_and_the_reference_with_the_last(go, looks, tmp_path):
    outcome = go("a")
    assert ends(looks("a")) == {0: (13, "open"), 1: (6, "decided")}
    frame = load_run(tmp_path / "a" / "t").samples()
    assert frame.groupby("shots")["query"].count().to_dict() == {0: 39, 1: 39, 2: 18}
    assert (outcome.computed, outcome.samples, outcome.missing) == (96, 96, 0)
    own, reference = (set(frame[frame["shots"] == shots]["query"]) for shots in (2, 0))
    assert own < reference
    again = go("a")
    assert (again.computed, again.present, again.samples) == (0, 96, 96)


def test_verify_misses_no_sample_of_comparisons_that_have_ended_and_one_that_was_removed(go, tmp_path, capsys):
    go("a")
    store = Store(tmp_path / "a" / "t")
    verify = ["check", str(store.folder), "--samples", "1", "--trust", "--quiet"]
    write_json(store.folder / "card.json", make_card(load_run(store.folder, trust=True)))
    assert main(verify) == 0, capsys.readouterr()
    digest = store.read_run()["cells"][2]
    store.replace_samples(digest, list(store.samples(digest))[1:])
    write_json(store.folder / "card.json", make_card(load_run(store.folder, trust=True)))
    assert main(verify) == 1
    assert "1 of 60 queries is missing." in capsys.readouterr().out


def test_the_looks_have_the_p_values_of_the_stored_scores(go, looks, tmp_path, config_file):
    go("a", "stop={futility: null}")
    plan = make_stop_plan(expand(load_config(config_file)))
    frame = load_run(tmp_path / "a" / "t").samples().set_index(["shots", "query"])["strict"]
    order = order_clusters(expand(load_config(config_file)).cells[0].task.queries, 0)
    sizes = look_sizes(60, 20)
    for i, one in enumerate(plan.comparisons):
        nodes = [c["comparisons"][str(i)] for c in looks("a") if "result" in c["comparisons"].get(str(i), {})]
        queries = [query for cluster in order[: sizes[len(nodes) - 1]] for query in cluster[1:]]
        sums = [frame[one.axes["shots"], query] - frame[0, query] for query in queries]
        p = anytime_p(sums, sizes[: len(nodes)], 60, ladder(2))
        assert [node["result"]["p"] for node in nodes] == p.tolist()
        assert [x for node in nodes for x in node["sums"]] == sums
        assert nodes[-1]["result"]["difference"] == pytest.approx(np.mean(sums))


def test_looks_are_the_same_with_workers_after_shuffling_and_after_a_stop(go, looks, look_files, tmp_path, monkeypatch):
    go("one")
    expected = look_files("one")
    assert len(expected) == 14
    go("workers", "launcher={name: local, workers: 4}")
    assert look_files("workers") == expected

    real, calls = runner.Runner._record, []

    def record(self, sample):
        real(self, sample)
        calls.append(sample)
        if len(calls) in (20, 55):
            raise KeyboardInterrupt

    monkeypatch.setattr(runner.Runner, "_record", record)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            go("stopped")
    go("stopped")
    assert look_files("stopped") == expected

    shutil.copytree(tmp_path / "one", tmp_path / "shuffled")
    for path in (tmp_path / "shuffled").glob("t/cells/*/0.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        random.Random(0).shuffle(lines)
        path.write_text("".join(lines))
    for path in (tmp_path / "shuffled").glob("t/looks/*/look-*.json"):
        path.unlink()
    assert go("shuffled").computed == 0
    assert look_files("shuffled") == expected


def test_a_failed_sample_that_is_answered_later_changes_no_look(go, look_files, looks, tmp_path, monkeypatch):
    monkeypatch.setenv("FAILING", "0.1")
    first = go("a")
    assert first.failed > 5
    before = look_files("a")
    pairs = sum(sum(node.get("pairs", ())) for content in looks("a") for node in content["comparisons"].values())
    clusters = sum(len(node.get("pairs", ())) for content in looks("a") for node in content["comparisons"].values())
    assert pairs < clusters, "failed pairs are dropped"
    monkeypatch.setenv("FAILING", "0")
    second = go("a")
    assert second.computed == first.failed
    assert look_files("a") == before
    assert go("a").computed == 0


def test_an_arm_that_is_given_up_does_not_hold_up_the_others_and_takes_its_looks_later(go, looks, monkeypatch):
    monkeypatch.setenv("BROKEN", "1")
    monkeypatch.setattr(runner, "MAX_INITIAL_FAILURES", 5)
    outcome = go("a", "stop={futility: null}")
    assert outcome.missing > 0
    before = ends(looks("a"))
    assert before[1] == (6, "decided")
    assert before[0] == (1, "running")
    monkeypatch.setenv("BROKEN", "")
    go("a", "stop={futility: null}")
    assert ends(looks("a"))[0] == (20, "open")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stop={level: 0.1}"], "level was 0.05 and is 0.1 now"),
        (["stop={looks: 10}"], "looks was None and is 10 now"),
        (["stop={futility: null}"], "futility was 0.05 and is None now"),
        (["seeds=[0,1]"], "seeds was 1 and is 2 now"),
        (["compare.metric=lenient", "metrics=[strict,lenient]"], "metric was strict and is lenient now"),
        (["stop=null"], "was started with `stop`, which the config lacks now"),
    ],
)
def test_changes_of_the_plan_are_refused_with_a_sentence(go, look_files, overrides, words):
    go("a")
    before = look_files("a")
    with pytest.raises(StoreError, match=words):
        go("a", *overrides)
    assert look_files("a") == before


def test_a_run_that_was_killed_before_its_first_sample_goes_on(go, look_files, tmp_path):
    go("a")
    expected = look_files("a")
    plan = tmp_path / "b" / "t" / "looks" / "family-1" / "plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_bytes(expected["family-1/plan.json"])
    go("b")
    assert look_files("b") == expected


def test_more_queries_are_refused(go, config_file):
    go("a")
    with pytest.raises(StoreError, match="was made with another config"):
        go("a", "task.count=80")


def test_a_run_that_was_started_without_stop_cannot_get_it(go):
    go("a", "stop=null")
    with pytest.raises(StoreError, match="was started without `stop`"):
        go("a")


def test_fewer_arms_stay_in_the_family_and_more_are_a_family_of_their_own(go, looks, look_files):
    go("a")
    first = look_files("a")
    go("a", "grid.shots=[0,1,2,3]")
    assert {name: data for name, data in look_files("a").items() if name.startswith("family-1")} == first
    assert set(ends(looks("a", 2))) == {0}
    go("b", "grid.shots=[0,1]")
    assert ends(looks("b"))[0][1] == "open"


def test_a_comparison_whose_arm_left_the_grid_waits_and_counts_in_the_family(go, looks, monkeypatch):
    real, calls = runner.Runner._record, []

    def record(self, sample):
        real(self, sample)
        calls.append(sample)
        if len(calls) == 30:
            raise KeyboardInterrupt

    monkeypatch.setattr(runner.Runner, "_record", record)
    with pytest.raises(KeyboardInterrupt):
        go("a")
    assert go("a", "grid.shots=[0,2]").missing == 0
    before = ends(looks("a"))
    assert before[1] == (6, "decided"), "level / 2, as with both comparisons"
    assert before[0] == (3, "running")
    assert go("a").missing == 0
    assert ends(looks("a"))[0][1] == "open"


def test_the_family_is_always_corrected(go):
    with pytest.raises(ConfigError, match="always corrected over their family"):
        go("a", "compare.correction=none")


def test_a_comparison_without_another_arm_is_refused(config_file):
    with pytest.raises(ConfigError, match="no comparison that could be decided"):
        planned_comparisons(expand(load_config(config_file, ["grid.shots=[0]"])))


def test_equivalent_pairs_count_once_and_equal_arms_not_at_all(config_file, toy):
    grid = expand(
        load_config(
            config_file,
            [
                f"model={toy}",
                "grid.shots=[1]",
                "grid.decoding=[greedy, vcd, {name: mask_only, of: {name: vcd}}]",
                "compare.to={decoding: greedy}",
            ],
        )
    )
    assert [one.name for one in planned_comparisons(grid)] == ["vcd"]
    assert len(make_stop_plan(grid).untested["singles"]) == 1


def test_the_order_of_clusters_is_that_of_a_hash(config_file):
    queries = [Example(f"q{i}", (), "", ("a",), group=f"g{i // 2}" if i < 10 else None) for i in range(30)]
    order = order_clusters(queries, 0)
    fewer = order_clusters([q for q in queries if q.id not in ("q12", "q20")], 0)
    assert fewer == tuple(row for row in order if row[0] not in ("query q12", "query q20"))
    assert order_clusters(queries, 1) != order
    assert ("group g2", "q4", "q5") in order


def test_groups_seeds_and_a_run_level_metric_are_decided(go, looks, config_file):
    go("groups", "task={name: task.py:Singles, count: 240, size: 2}", "seeds=[0,1]", "stop={looks: 6}")
    decided = ends(looks("groups"))
    assert decided[1][1] == "decided"
    node = looks("groups")[0]["comparisons"]["1"]
    assert node["pairs"] == [4] * 20
    assert node["result"]["p"] == 1, "fewer than 50 clusters differ"
    config_file.write_text(config_file.read_text().replace("strict", "macro_f1"))
    go("f1", "grid.shots=[0,2]", "stop={looks: 4}")
    assert ends(looks("f1"))[0][1] == "decided"
    assert looks("f1")[-1]["comparisons"]["0"]["result"]["low"] is None


def test_several_models_take_turns_at_five_looks(go, looks, config_file, tmp_path):
    text = config_file.read_text().replace('model: {name: fake-scripted, answer: "answers.py:answer"}\n', "")
    models = '  model: [{name: fake-scripted, answer: "answers.py:answer"}, {name: fake-gold, accuracy: 0.4}]\n'
    config_file.write_text(text.replace("grid:\n", f"grid:\n{models}"))
    go("a")
    contents = looks("a")
    assert contents[0]["of"] == 5
    assert len(ends(contents)) == 4


class _Notes(SilentProgress):
    def __init__(self):
        self.texts = []

    def note(self, text):
        self.texts.append(text)


def lost_files(family):
    """(name, content) of damaged files of a family; None: the file is removed."""
    whole = (family / "look-002.json").read_bytes()
    return [
        ("look-002.json", b"{"),
        ("look-002.json", bytes(len(whole))),
        ("look-002.json", whole.replace(b'"result": {', b'"result": "text", "was": {', 1)),
        ("look-002.json", whole.replace(b'"0": {', b'"7": {', 1)),
        ("look-001.json", None),
        ("plan.json", b""),
        ("plan.json", b'{"looks": 20}'),
        ("plan.json", None),
    ]


def test_damaged_and_lost_files_of_looks_are_made_again_and_nothing_else_changes(go, look_files, tmp_path, config_file):
    go("a")
    before, folder = look_files("a"), tmp_path / "a" / "t"
    samples = {path: path.read_bytes() for path in folder.glob("cells/*/*.jsonl")}
    for name, data in lost_files(folder / "looks" / "family-1"):
        path = folder / "looks" / "family-1" / name
        path.unlink() if data is None else path.write_bytes(data)
        with pytest.raises(StoreError, match=rf"{name} .*Run the same command again"):
            load_run(folder).looks()
        progress = _Notes()
        assert run(load_config(config_file), tmp_path / "a", progress).computed == 0
        assert progress.texts == [f"{path} was damaged or missing and is made again from the config and the samples."]
        assert look_files("a") == before
        assert {path: path.read_bytes() for path in folder.glob("cells/*/*.jsonl")} == samples
    shutil.rmtree(folder / "looks")
    go("a")
    assert look_files("a") == before


def test_a_look_is_made_again_in_a_run_that_goes_on(go, look_files, tmp_path, interrupted):
    go("whole")
    interrupted("a", 60)
    path = tmp_path / "a" / "t" / "looks" / "family-1" / "look-001.json"
    path.write_bytes(path.read_bytes()[:40])
    go("a")
    assert look_files("a") == look_files("whole")


def test_a_lost_plan_is_not_made_from_another_config(go, tmp_path):
    go("a")
    path = tmp_path / "a" / "t" / "looks" / "family-1" / "plan.json"
    plan = path.read_bytes()
    path.unlink()
    for override in ("grid.shots=[0,2]", "stop={level: 0.2}"):
        with pytest.raises(StoreError, match=r"plan.json is missing.* undo the change first"):
            go("a", override)
    go("a")
    assert path.read_bytes() == plan


def test_two_lost_plans_look_alike(go, tmp_path):
    go("a")
    go("a", "grid.shots=[0,1,2,3]")
    plans = sorted((tmp_path / "a" / "t" / "looks").glob("*/plan.json"))
    for path in plans:
        path.unlink()
    with pytest.raises(StoreError, match=r"family-1/plan.json is missing"):
        go("a", "grid.shots=[0,1,2,3]")
    assert not any(path.exists() for path in plans)


def test_without_compare_the_usual_references_are_used(config_file):
    overrides = ["compare=null", "grid.retriever=[random, balanced]", "grid.shots=[0,2]"]
    names = [(one.name, one.against) for one in planned_comparisons(expand(load_config(config_file, overrides)))]
    assert names == [("2 shots, balanced", "2 shots, random")]
    shots = planned_comparisons(expand(load_config(config_file, ["compare=null"])))
    assert [(one.name, one.against) for one in shots] == [("1 shot", "0 shots"), ("2 shots", "0 shots")]


@pytest.mark.parametrize(("metric", "is_whole"), [("strict", True), ("rouge_l", False)])
def test_sums_are_whole_only_under_a_metric_of_right_and_wrong(config_file, metric, is_whole):
    overrides = [f"metrics=[{metric}]", f"compare.metric={metric}"]
    plan = make_stop_plan(expand(load_config(config_file, overrides)))
    assert plan.metric_node["accuracy"] is is_whole
    assert plan.design("singles").whole is is_whole


def test_the_looks_are_those_of_version_0_2(go, look_files, config_file):
    """Digests of look files that 0.2.0 wrote: a run of it goes on, and reports read it."""
    words = ("seeds=[0,1]", "task={name: task.py:Singles, count: 240, size: 2}", "stop={looks: 6}")
    margin = ("task={name: task.py:Singles, count: 300}", "grid.shots=[0,2]", "stop={margin: 0.9, looks: 5}")
    runs = {"plain": ((), "strict"), "seeds": (words, "strict"), "margin": (margin, "strict")}
    runs |= {"mean": (("stop={'null': mean, futility: null}",), "strict")}
    runs |= {"f1": (("stop={looks: 4}",), "macro_f1"), "graded": (("stop={looks: 10}",), "rouge_l")}
    text, digests = config_file.read_text(), {}
    for name, (overrides, metric) in runs.items():
        config_file.write_text(text.replace("strict", metric))
        go(name, *overrides)
        data = b"".join(data for path, data in look_files(name).items() if "look-" in path)
        digests[name] = hashlib.sha256(data).hexdigest()[:16]
    assert digests == {
        "plain": "2865a42ac1ca3a79",
        "seeds": "0f350464f257a59d",
        "margin": "035debfce20b706e",
        "mean": "fd68bb09304154d4",
        "f1": "45ed26e218cb09ff",
        "graded": "5b53769c0388b378",
    }


def test_an_arm_whose_outputs_are_unread_is_never_called_different_for_its_wording(
    go, looks, look_files, tmp_path, config_file
):
    answers = tmp_path / "answers.py"
    bare = answers.read_text()
    last = 'return "yes" if chance(key.query, key.seed, shots) < RIGHT[shots] else "no"'
    answers.write_text(
        bare.replace(
            last,
            last.replace("return ", "own = ")
            + """
    return own if shots else f"It might be yes or no, and I say {own}\""""
            + "\n",
        )
    )
    metric = ("metrics=[lenient]", "compare.metric=lenient")
    go("prose", *metric)
    assert {end for _, end in ends(looks("prose")).values()} == {"open"}
    entries = [node for content in looks("prose") for node in content["comparisons"].values() if "result" in node]
    assert all(node["unread"] and len(node["high_sums"]) == len(node["sums"]) for node in entries)
    assert all(low <= high for node in entries for low, high in zip(node["sums"], node["high_sums"], strict=True))
    before = look_files("prose")
    shutil.rmtree(tmp_path / "prose" / "t" / "looks" / "family-1")
    go("prose", *metric)
    assert look_files("prose") == before
    answers.write_text(bare)
    go("bare", *metric)
    assert ends(looks("bare"))[1][1] == "decided"
    assert not any(
        "unread" in node or "high_sums" in node for content in looks("bare") for node in content["comparisons"].values()
    )
