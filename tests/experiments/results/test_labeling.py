from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from unread_run import WORDINGS, labels_of, says, write_unread_run

from experiments.imports.merged_runs import merge_runs
from experiments.report.sections.scores import scores_section
from experiments.results.labeling import (
    AUDITED_QUERIES,
    Queue,
    apply_labels,
    audit_reader,
    describe_labels,
    judge_error,
    make_queue,
    query_order,
    require_queue,
)
from experiments.results.loaded_run import load_run
from experiments.results.paired_runs import pair_runs
from experiments.results.run_metrics import run_level
from experiments.results.view_run import NO_REFERENCE, view_run
from experiments.sharing.card import card_text, make_card
from experiments.sharing.verify import problems_of_card
from experiments.stats.arm_comparisons import compare_arms
from experiments.stats.arms import tidy_frame
from experiments.stats.compare import compare
from experiments.stats.settled import LabelColumn, share_of_level
from experiments.store.labels import Label, Labels, append_labels, read_labels, unite_labels
from icl import StoreError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_unread_run(tmp_path_factory.mktemp("unread") / "run")


@pytest.fixture
def run(source, tmp_path):
    """A copy whose labels are its own."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in source.path.iterdir():
        (folder / path.name).symlink_to(path)
    return load_run(folder)


def _queue(run):
    return make_queue(run.lazy_samples(), "lenient")


def _gain(run):
    (gain,) = view_run(run).comparisons["ICL gain"]
    return gain


def _label(run, queries, by="ana", **changed):
    append_labels(run.path, labels_of(_queue(run).first(queries), by, queries, **changed))


def test_the_queue_has_every_unread_output_once_and_read_ones_of_the_first_queries(run):
    frame, queue = run.lazy_samples(), _queue(run)
    unread = [one for one in queue.first(None) if one.is_unread]
    assert len(unread) == (frame["unread:lenient"].fillna("") != "").sum()
    assert len({one.key for one in queue.first(None)}) == len(queue.first(None))
    audited = list(queue.outputs)[:AUDITED_QUERIES]
    assert {one.query for one in queue.first(None) if not one.is_unread} <= set(audited)
    shuffled = make_queue(frame.sample(frac=1, random_state=0), "lenient")
    assert [one.key for one in shuffled.first(None)] == [one.key for one in queue.first(None)]


def test_without_labels_a_view_is_as_before(run):
    assert LabelColumn.LABEL.of("lenient") not in view_run(run).frame
    append_labels(run.path, [Label("of another run", True, "ana")])
    assert _gain(run).labels == ""


def test_a_false_gain_is_gone_with_the_labels_of_sixty_queries(run):
    before = _gain(run)
    _label(run, 60)
    gain = _gain(run)
    truth = [says(*one) for one in zip(run.samples()["gold"].str[0], run.samples()["output"], strict=True)]
    arms = run.samples()["shots"].to_numpy()
    difference = np.mean(np.array(truth)[arms == 4]) - np.mean(np.array(truth)[arms == 0])
    assert before.result.difference > 0.1 > abs(difference)
    assert gain.result.low <= difference <= gain.result.high
    assert gain.verdict == "open"
    assert gain.labels.startswith("60 of 1")
    assert gain.labels in gain.numbers
    notes = scores_section(view_run(run)).notes
    assert "Unread outputs are settled by labels of 60 of 110 queries that have some, by 1 person." in notes


def test_a_true_gain_stays(tmp_path):
    run = write_unread_run(tmp_path / "run", gain=0.2)
    _label(run, 60)
    assert _gain(run).verdict == "better"


@pytest.mark.parametrize("wording", WORDINGS)
def test_a_gain_from_wording_alone_is_gone_with_sixty_labels_and_a_true_gain_stays(tmp_path, wording):
    for name, gain in (("equal", 0.0), ("better", 0.2)):
        run = write_unread_run(tmp_path / name, gain=gain, wording=WORDINGS[wording], prose=0.7)
        frame = run.samples()
        by_rules = compare(frame.drop(columns="unread:lenient"), {"shots": 0}).iloc[-1]
        assert by_rules["low"] > 0.15
        assert _gain(run).verdict == "undecided" or gain
        _label(run, 60)
        by_labels = _gain(run)
        truth = np.array([says(gold[0], text) for gold, text in zip(frame["gold"], frame["output"], strict=True)])
        difference = truth[frame["shots"] == 4].mean() - truth[frame["shots"] == 0].mean()
        assert by_labels.result.low <= difference <= by_labels.result.high
        assert by_labels.verdict == ("better" if gain else "open")


def test_labels_of_a_part_of_the_sample_settle_nothing(run):
    outputs = _queue(run).first(60)
    append_labels(run.path, labels_of(outputs[:-1]))
    assert _gain(run).labels == ""
    append_labels(run.path, labels_of(outputs[-1:]))
    assert _gain(run).labels != ""


def test_with_all_labels_the_comparison_is_the_exact_test_of_the_truth(run):
    _label(run, None)
    frame = run.lazy_samples()
    truth = [float(says(g[0], o)) for g, o in zip(run.samples()["gold"], run.samples()["output"], strict=True)]
    exact = compare(frame.assign(lenient=truth).drop(columns="unread:lenient"), {"shots": 0})
    gain = _gain(run)
    assert (gain.result.difference, gain.p) == pytest.approx((exact["difference"].iloc[-1], exact["p"].iloc[-1]))


def test_a_second_look_costs_half_of_the_level(run):
    _label(run, 60)
    one = _gain(run)
    append_labels(run.path, [Label(next(iter(read_labels(run.path).people)), True, "ana", look=30)])
    two = _gain(run)
    assert two.result.low < one.result.low < one.result.high < two.result.high
    assert two.result.p == pytest.approx(min(1, 2 * one.result.p))


def test_two_people_who_disagree_leave_an_output_unread(run):
    _label(run, 60)
    agreed = _gain(run)
    unread = [one for one in _queue(run).first(60) if one.is_unread][:5]
    append_labels(run.path, [Label(one.key, not says(one.gold[0], one.text), "bo", look=60) for one in unread])
    disputed = _gain(run)
    assert len(read_labels(run.path).disputed) == 5
    assert disputed.labels == agreed.labels
    assert disputed.result.high - disputed.result.low > agreed.result.high - agreed.result.low


def test_a_reader_that_misreads_is_corrected_and_one_slip_is_forgiven(run):
    _label(run, 60)
    before, read = _gain(run), [one for one in _queue(run).first(60) if not one.is_unread]
    for number, wide in ((1, False), (2, True)):
        one = read[number - 1]
        append_labels(run.path, [Label(one.key, not says(one.gold[0], one.text), "ana", look=60)])
        (checked,) = audit_reader(_queue(run), read_labels(run.path)).values()
        assert checked.errors == number
        after = _gain(run)
        assert (after.result.high - after.result.low > before.result.high - before.result.low + 0.01) == wide


def test_a_judge_becomes_the_proxy_and_decides_nothing_alone(run):
    outputs = [one for one in _queue(run).first(None) if one.is_unread]
    rules = _gain(run)
    append_labels(run.path, [Label(one.key, says(one.gold[0], one.text), "qwen", judge="d") for one in outputs])
    assert _gain(run).numbers == rules.numbers
    _label(run, 60)
    judged = _gain(run)
    (run.path / "labels.jsonl").unlink()
    _label(run, 60)
    assert judged.result.high - judged.result.low < _gain(run).result.high - _gain(run).result.low


@pytest.fixture
def halves(tmp_path):
    """Two runs with one arm each, of which the first is labeled."""
    runs = [write_unread_run(tmp_path / f"at-{shots}", shots=[shots]) for shots in (0, 4)]
    _label(runs[0], 60)
    return runs


def test_labels_of_one_run_settle_a_merged_run(halves, tmp_path):
    done = merge_runs(tmp_path / "all", [run.path for run in halves])
    merged = load_run(tmp_path / "all")
    assert done.labels == len(read_labels(halves[0].path).people)
    assert _gain(merged).labels.startswith("60 of ")
    assert not load_run(tmp_path / "at-4").lazy_samples().columns.str.startswith("unread").any()


def test_labels_of_one_run_settle_its_comparison_with_another(halves):
    view = pair_runs(*(view_run(run, None, NO_REFERENCE) for run in halves)).view
    table = compare(view.scores, view.to, view.metric, axes=view.axes)
    assert table["labels"].iloc[-1].startswith("60 of ")
    assert abs(table["difference"].iloc[-1]) < 0.1


def test_a_card_counts_labels_and_is_checked_against_them(run):
    _label(run, 60)
    card = make_card(run)
    assert (card["labels"]["people"], card["labels"]["disputed"]) == (1, 0)
    assert "by 1 person" in card_text(card)
    assert list(problems_of_card(card, run)) == []
    one = next(one for one in _queue(run).first(60) if one.is_unread)
    append_labels(run.path, [Label(one.key, not says(one.gold[0], one.text), "ana", look=60)])
    problems = "; ".join(problems_of_card(card, run))
    assert "the number of labels of the card is not that of the samples" in problems
    assert "a score of the card" in problems


def test_a_run_compares_its_arms_as_its_page_does(run):
    _label(run, 60)
    gain, row = _gain(run), run.compare({"shots": 0}).iloc[-1]
    assert (row["difference"], row["low"], row["high"]) == pytest.approx(
        (gain.result.difference, gain.result.low, gain.result.high)
    )


def _frame(unread, misread=frozenset(), queries=80):
    """Two arms with the answer 'yes' throughout: at 0 shots unread in some queries, at 4 shots misread in some."""
    rows = [
        {"shots": k, "query": f"q{i}", "seed": 0, "cell": f"c{k}", "question": f"Q{i}", "gold": ["yes"],
         "output": f"yes {k}", "lenient": float(not (k and i in misread)),
         "unread:lenient": "yes" if k == 0 and i in unread else ""}
        for k in (0, 4) for i in range(queries)
    ]  # fmt: skip
    return tidy_frame(pd.DataFrame(rows), ("shots",))


def _labels(queue, queries=None, *, leave=()):
    keys = [one.key for one in queue.first(queries) if one.query not in leave]
    return Labels({key: {"ana": True} for key in keys}, {}, (queries or len(queue.unread),))


def test_an_arm_that_is_read_where_no_output_is_unread_is_audited():
    order = sorted(range(80), key=lambda i: query_order(f"q{i}"))
    frame = _frame(unread=set(order[20:]), misread=set(order[:20:4]))
    queue = make_queue(frame, "lenient")
    assert [*queue.outputs][:AUDITED_QUERIES] == [f"q{i}" for i in order[:20]]
    (checked,) = audit_reader(queue, _labels(queue)).values()
    assert (checked.errors, checked.is_refuted) == (5, True)
    labeled = apply_labels(frame, "lenient", _labels(queue))
    assert labeled[LabelColumn.AUDITED.of("lenient")].sum() == 40


def test_queries_are_counted_by_their_unread_outputs_and_the_audit_comes_in_addition():
    order = sorted(range(80), key=lambda i: query_order(f"q{i}"))
    queue = make_queue(_frame(unread=set(order[10:70])), "lenient")
    assert len(queue.unread) == 60
    assert {one.query for one in queue.first(15) if one.is_unread} == {f"q{i}" for i in order[10:25]}
    assert queue.first(60) == queue.first(None)


def _two_tasks(misread):
    """Two tasks of 60 queries, unread at 0 shots in every third. In 'broken', right outputs at 4 shots are misread."""
    frames = [
        _frame(unread=set(range(0, 60, 3)), misread=misread if task == "broken" else frozenset(), queries=60)
        for task in ("broken", "good")
    ]
    both = pd.concat(
        [
            own.assign(task=task, query=task + own["query"], question=task + own["question"])
            for own, task in zip(frames, ("broken", "good"), strict=True)
        ],
        ignore_index=True,
    )
    return tidy_frame(both, ("task", "shots"))


def _difference(frame, task):
    """4 shots less 0 shots in a task: (low, high) of the interval, and how it was settled."""
    arms = [frame[(frame["task"] == task) & (frame["shots"] == k)] for k in (0, 4)]
    one = compare_arms(task, "4", "0", tuple(arms), "lenient")
    return one.result.low, one.result.high, one.labels, one.bounds


def test_a_reader_that_fails_in_one_task_is_corrected_there_alone_and_makes_no_false_claim():
    frame = _two_tasks(misread=set(range(0, 60, 2)))
    queue = make_queue(frame, "lenient")
    assert {task: len(own.queries) for task, own in queue.audits.items()} == {"broken": 20, "good": 20}
    before = _difference(frame, "broken")
    assert before[3].high < 0  # the bounds trust the reader, and both arms are equal in truth
    labels = _labels(queue)
    checked = audit_reader(queue, labels)
    assert (checked["broken"].is_refuted, checked["good"].is_refuted) == (True, False)
    labeled = apply_labels(frame, "lenient", labels)
    audited = labeled[LabelColumn.AUDITED.of("lenient")]
    assert set(labeled["query"][audited]) == set(queue.audits["broken"].queries)
    low, high, *_ = _difference(labeled, "broken")
    assert low < 0 < high
    low, high, *_ = _difference(labeled, "good")
    assert -low == pytest.approx(high)
    assert high < 0.1
    sentences = " ".join(describe_labels(queue, labels))
    assert "good: the reader agrees with 3" in sentences
    assert "broken: the reader agrees with 2" in sentences


def test_the_error_of_a_judge_is_of_outputs_that_the_reader_cannot_read():
    order = sorted(range(80), key=lambda i: query_order(f"q{i}"))
    queue = make_queue(_frame(unread=set(order[:30])), "lenient")
    outputs = queue.first(None)
    judged = {one.key: one.is_unread for one in outputs}  # wrong on what is read, which no judge is asked for
    labels = Labels({one.key: {"ana": True} for one in outputs}, judged)
    assert len(outputs) > 30
    assert "On 30 labeled outputs it refuses 0 of 30 right ones" in judge_error(labels, outputs)


def test_an_output_counts_only_in_the_task_and_the_arm_that_gave_it():
    """Two tasks and two queries of each ask the same: equal texts have one label, and count where they were given."""
    outputs = [  # task, query, shots, output; the reader is wrong on "no" alone
        ("a", "a1", 0, "no"), ("a", "a1", 4, "yes"), ("a", "a2", 0, "yes"), ("a", "a2", 4, "yes"),
        ("b", "b1", 0, "yes"), ("b", "b1", 4, "yes"), ("b", "b2", 0, "no"), ("b", "b2", 4, "yes"),
        ("a", "a3", 0, "perhaps"), ("b", "b3", 0, "perhaps"),
    ]  # fmt: skip
    rows = [
        {"task": task, "query": query, "shots": shots, "question": "Is it?", "gold": "yes", "output": output}
        | {"lenient": 1.0, "unread:lenient": "" if output != "perhaps" else "no verdict"}
        for task, query, shots, output in outputs
    ]
    queue = make_queue(tidy_frame(pd.DataFrame(rows), ("task", "shots")), "lenient")
    people = {one.key: {"ana": one.text == "yes"} for one in queue.first(None)}
    for checked in audit_reader(queue, Labels(people, {}, ())).values():
        assert (checked.labels, checked.errors) == (3, 1)
        assert [(arm.labels, arm.errors) for arm in checked.arms] == [(2, 1), (2, 0)]


def test_what_a_refuted_reader_read_counts_as_unread_until_twenty_queries_are_audited():
    frame = _two_tasks(misread=set(range(0, 60, 2)))
    queue = make_queue(frame, "lenient")
    leave = queue.audits["broken"].queries[12]
    labeled = apply_labels(frame, "lenient", _labels(queue, leave=(leave,)))
    low, high, coverage, bounds = _difference(labeled, "broken")
    assert (low < 0 < high, coverage, bounds.unread > 0.5) == (True, "", True)
    low, high, *_ = _difference(labeled, "good")
    assert -low == pytest.approx(high)
    assert high < 0.1


def test_a_run_level_metric_stays_undecided_whatever_is_labeled():
    frame = _frame(unread=set(range(40)))
    frame = run_level(frame.assign(f1=frame["lenient"]), {"metrics": {"f1": {"name": "f1", "run_level": True}}}, ())
    frame = frame.rename(columns={"unread:lenient": "unread:f1"})
    labels = _labels(make_queue(_frame(unread=set(range(40))), "lenient"))
    assert apply_labels(frame, "f1", labels) is frame
    assert make_queue(frame, "f1").outputs == {}
    frame.attrs["metrics"] = ("f1",)
    with pytest.raises(StoreError, match=r"'f1' is computed from whole arms.*No other score of the run"):
        require_queue(frame, "f1", Path("run"))


def test_a_look_at_everything_after_an_earlier_one_has_half_of_the_level(run):
    whole = len(_queue(run).unread)
    _label(run, whole)
    alone = _gain(run)
    append_labels(run.path, labels_of(_queue(run).first(60), look=60))
    after = _gain(run)
    assert after.result.difference == pytest.approx(alone.result.difference)
    assert after.result.p == pytest.approx(min(1, 2 * alone.result.p))
    assert after.result.high - after.result.low > alone.result.high - alone.result.low


def test_people_without_names_stay_two_in_a_merged_run(tmp_path):
    for name, right in (("ana", True), ("ben", False)):
        for folder in (tmp_path / name, tmp_path / "pushed" / name):
            folder.mkdir(parents=True)
        append_labels(tmp_path / name, [Label("k", right, name)])
        unite_labels(tmp_path / "pushed" / name, [tmp_path / name], anonymous=True)
    (tmp_path / "all").mkdir()
    unite_labels(tmp_path / "all", [tmp_path / "pushed" / name for name in ("ana", "ben")])
    assert read_labels(tmp_path / "all").disputed == ["k"]


@pytest.mark.parametrize("earlier", range(5))
def test_the_shares_of_all_looks_are_the_whole_level(earlier):
    shares = [share_of_level(look, is_last=False) for look in range(1, earlier + 1)]
    assert sum(shares) + share_of_level(earlier + 1, is_last=True) == 1


def test_damaged_lines_are_counted_where_the_labels_are_described():
    labels = Labels({}, {}, damaged=("line 3 of run/labels.jsonl",))
    assert [*describe_labels(Queue("lenient", {}), labels)] == [
        "1 damaged line of labels.jsonl: labels that they may take back do not count."
    ]
