import re

import numpy as np
import pandas as pd
import pytest

from experiments.stats.findings import InterventionControls, describe_comparisons, findings, page_comparisons

N = 120


def scores(share):
    """The first `share` of N queries are right."""
    return [int(i < round(share * N)) for i in range(N)]


@pytest.fixture
def run(arm):
    """A run from {(shots, retriever, decoding): share right}; the vote is right on a tenth by default."""

    def make(cells, task="task", vote=0.1, **columns):
        return pd.concat(
            [
                arm(scores(share), task=task, shots=shots, retriever=retriever if shots else None, decoding=decoding,
                    vote=scores(vote) if shots else [None] * N, **columns)
                for (shots, retriever, decoding), share in cells.items()
            ],
            ignore_index=True,
        )  # fmt: skip

    return make


def only(sentences, topic):
    return [one for one in sentences if one.topic == topic]


def test_a_gain_is_reported_with_its_numbers(run):
    frame = run({(0, "", "greedy"): 0.5, (2, "random", "greedy"): 0.6, (8, "random", "greedy"): 0.9})
    (gain,) = only(findings(frame), "ICL gain")
    assert gain.verdict == "better"
    assert gain.claim == "the best of 2 arms, random at 8 shots, is above 0 shots (.900 against .500)"
    assert re.fullmatch(r"\+\.400 \[\+\.\d{3}, \+\.\d{3}\], p < \.001 \(Holm over 2, 2 topics\), n = 120", gain.numbers)


def test_no_gain_is_not_reported_as_equality(run):
    frame = run({(0, "", "greedy"): 0.5, (4, "random", "greedy"): 0.51})
    (gain,) = only(findings(frame), "ICL gain")
    assert gain.verdict == "open"
    assert "not distinguishable from 0 shots" in gain.sentence
    assert "p = 1" in gain.sentence


def test_p_of_the_best_arm_is_corrected_for_its_selection(run):
    """5 of 5 discordant pairs: p = .0625 alone is open; 7 of 7: p = .0156 alone, but not among eight arms."""
    alone = run({(0, "", "greedy"): 0.5, (1, "random", "greedy"): 0.5 + 7 / N})
    many = run({(0, "", "greedy"): 0.5, **{(k, "random", "greedy"): 0.5 + 7 / N * (k == 1) for k in range(1, 9)}})
    assert only(findings(alone), "ICL gain")[0].verdict == "better"
    assert only(findings(many), "ICL gain")[0].verdict == "open"


def test_demonstrations_that_hurt_are_named(run):
    frame = run({(0, "", "greedy"): 0.7, (2, "random", "greedy"): 0.5, (2, "knn", "greedy"): 0.9})
    (gain,) = only(findings(frame), "ICL gain")
    assert gain.verdict == "better"
    assert "Below 0 shots: random at 2 shots (−.200, p < .001)" in gain.more
    (worse,) = only(findings(run({(0, "", "greedy"): 0.7, (2, "random", "greedy"): 0.5})), "ICL gain")
    assert (worse.verdict, worse.more) == ("worse", "")
    assert worse.claim == "no gain; even random at 2 shots is below 0 shots (.500 against .700)"


def test_the_gain_under_strict_scoring_is_reported_next_to_the_gain(run):
    cells = {(0, "", "greedy"): 0.8, (4, "random", "greedy"): 0.9}
    strict = [*scores(0.2), *scores(0.9)]
    (gain,) = only(findings(run(cells).assign(strict=strict)), "ICL gain")
    assert gain.more == "By strict scoring +.700."
    (same,) = only(findings(run(cells).assign(strict=lambda f: f["lenient"])), "ICL gain")
    assert same.more == ""


def test_retrieval_is_pooled_over_the_shots_that_both_have(run):
    frame = run({(2, "random", "greedy"): 0.5, (4, "random", "greedy"): 0.5, (2, "knn", "greedy"): 0.6,
                 (4, "knn", "greedy"): 0.6, (8, "knn", "greedy"): 0.1})  # fmt: skip
    (one,) = only(findings(frame), "Retrieval")
    assert (one.claim, one.verdict) == ("knn beats random over 2 and 4 shots", "better")
    assert one.numbers.startswith("+.100")
    assert one.numbers.endswith("n = 120")


def test_a_model_is_compared_with_the_vote_at_the_most_shots(run):
    cells = {(2, "knn", "greedy"): 0.9, (4, "knn", "greedy"): 0.6}
    (above,) = only(findings(run(cells, vote=0.4)), "Vote")
    assert (above.verdict, above.claim) == (
        "better", "knn at 4 shots beats the vote of the same demonstrations (.600 against .400)",
    )  # fmt: skip
    assert only(findings(run(cells, vote=0.8)), "Vote")[0].verdict == "worse"
    same = only(findings(run(cells, vote=0.6)), "Vote")[0]
    assert (same.verdict, "always scores the same as the vote" in same.claim) == ("open", True)


CONTROLS = {"vcd": ("mask_only(vcd)", "temperature_matched(vcd)")}


def decoding(run, vcd, mask, temperature, controls=CONTROLS):
    shares = {"greedy": 0.5, "vcd": vcd, "mask_only(vcd)": mask, "temperature_matched(vcd)": temperature}
    cells = {(4, "knn", name): share for name, share in shares.items()}
    return only(findings(run(cells), controls=controls), "Decoding")


def test_a_strategy_beats_its_controls_only_if_it_beats_all_of_them(run):
    (wins,) = decoding(run, 0.7, 0.5, 0.55)
    assert wins.verdict == "better"
    assert "It beats all its controls: mask_only(vcd) (+.200, p < .001) and temperature_matched(vcd)" in wins.more
    (half,) = decoding(run, 0.7, 0.5, 0.69)
    assert (half.verdict, "it does not beat all its controls" in half.more) == ("open", True)
    assert "beats its control mask_only(vcd)" in half.more
    assert "not distinguishable from its control temperature_matched(vcd)" in half.more
    (neither,) = decoding(run, 0.51, 0.5, 0.51)
    assert neither.more.startswith(
        "It is not distinguishable from its control mask_only(vcd) (+.008, p = 1) "
        "and always scores the same as its control temperature_matched(vcd) (±.000, p = 1)"
    )
    (both,) = decoding(run, 0.51, 0.5, 0.5)
    assert "It is not distinguishable from its controls mask_only(vcd) (+.008, p = 1) and temperature_" in both.more


def test_a_strategy_below_the_reference_is_reported_as_below(run):
    (one,) = decoding(run, 0.3, 0.5, 0.5)
    assert (one.verdict, one.claim) == ("worse", "vcd is below greedy")


def test_a_gain_without_controls_reports_that_none_was_run(run):
    (one,) = only(findings(run({(0, "", "greedy"): 0.5, (0, "", "vcd"): 0.7})), "Decoding")
    assert (one.verdict, one.more) == ("better", "None of its controls was run.")


def test_p_is_corrected_over_all_comparisons_of_a_kind(run):
    """Seven of seven discordant pairs: p = .0156 is significant for one task, but not for four tasks."""
    cells = {(0, "", "greedy"): 0.5, (0, "", "vcd"): 0.5 + 7 / N}
    one = findings(run(cells))
    many = findings(pd.concat([run(cells, task=f"task {i}") for i in range(4)], ignore_index=True))
    assert [f.verdict for f in only(one, "Decoding")] == ["better"]
    assert [f.verdict for f in only(many, "Decoding")] == ["open"] * 4
    assert "Holm" not in only(one, "Decoding")[0].numbers
    assert all(" (Holm over 4), n = 120" in f.numbers for f in only(many, "Decoding"))


def test_seeds_are_not_independent_evidence(run):
    """Six of six discordant queries: p = .031, also with the same answers under three seeds."""
    cells = {(0, "", "greedy"): 0.5, (0, "", "vcd"): 0.5 + 6 / N}
    frame = run(cells)
    copied = pd.concat([frame.assign(seed=seed) for seed in range(3)], ignore_index=True)
    (alone,), (thrice,) = only(findings(frame), "Decoding"), only(findings(copied), "Decoding")
    assert "p = .031" in alone.numbers
    assert "p = .031" in thrice.numbers
    assert thrice.numbers.endswith("n = 120 x 3 seeds")


def test_groups_are_named_and_are_the_units(run):
    frame = run({(0, "", "greedy"): 0.5, (0, "", "vcd"): 0.6})
    frame["group"] = [f"g{int(q[1:]) // 4}" for q in frame["query"]]
    (one,) = only(findings(frame), "Decoding")
    assert one.numbers.endswith("n = 120 in 30 groups")
    assert "p < .001" not in one.numbers


def test_an_unfinished_arm_has_a_sentence_without_numbers(run):
    frame = run({(0, "", "greedy"): 0.5, (0, "", "vcd"): 0.7}).iloc[:-5]
    (one,) = only(findings(frame), "Decoding")
    assert (one.verdict, one.numbers) == ("unpaired", "")
    assert "not paired" in one.sentence
    assert "icl run" in one.sentence


def test_other_axes_have_their_own_sentences_and_share_zero_shots(run):
    frame = pd.concat(
        [
            run({(0, "", "greedy"): 0.5}, order=None),
            run({(4, "knn", "greedy"): 0.9}, order="reversed"),
            run({(4, "knn", "greedy"): 0.8}, order="random"),
        ],
        ignore_index=True,
    )
    gains = only(findings(frame, axes=("task", "shots", "retriever", "order", "decoding")), "ICL gain")
    assert [(g.subject, g.verdict) for g in gains] == [("reversed", "better"), ("random", "better")]
    assert np.all([".500" in g.claim for g in gains])


def lower(frame, better="lower"):
    """The same frame with another good direction of the score."""
    frame.attrs["better"] = {"lenient": better}
    return frame


def test_a_setting_without_a_reranker_has_its_own_sentences(run):
    cells = {(0, "", "greedy"): 0.1, (4, "random", "greedy"): 0.5, (4, "knn", "greedy"): 0.9}
    frame = pd.concat(
        [
            run({key: value for key, value in cells.items() if key[0]}, rerankers="none"),
            run({key: value for key, value in cells.items() if key[0]}, rerankers="label_balance"),
            run({(0, "", "greedy"): 0.1}, rerankers="none"),
        ],
        ignore_index=True,
    )
    sentences = only(findings(frame), "Retrieval")
    assert sorted(one.subject for one in sentences) == ["label_balance", "rerankers none"]
    assert all("knn beats random" in one.claim for one in sentences)


def test_the_best_arm_is_the_lowest_if_lower_is_better(run):
    cells = {(0, "", "greedy"): 0.5, (2, "random", "greedy"): 0.2, (8, "random", "greedy"): 0.9}
    (gain,) = only(findings(lower(run(cells))), "ICL gain")
    assert gain.verdict == "better"
    assert gain.claim == "the best of 2 arms, random at 2 shots, is below 0 shots (.200 against .500)"
    assert gain.numbers.startswith("−.300")
    assert gain.numbers.endswith("n = 120; lower is better")
    assert gain.more == "Above 0 shots: random at 8 shots (+.400, p < .001)."
    (none,) = only(findings(lower(run({(0, "", "greedy"): 0.5, (8, "random", "greedy"): 0.9}))), "ICL gain")
    assert (none.verdict, none.claim) == (
        "worse", "no gain; even random at 8 shots is above 0 shots (.900 against .500)",
    )  # fmt: skip


def test_arms_below_beat_their_reference_if_lower_is_better(run):
    cells = {(4, "random", "greedy"): 0.8, (4, "knn", "greedy"): 0.6}
    (retrieval,) = only(findings(lower(run(cells))), "Retrieval")
    assert (retrieval.verdict, retrieval.claim) == ("better", "knn beats random")
    votes = only(findings(lower(run(cells, vote=0.7).rename(columns={"vote": "vote:lenient"}))), "Vote")
    assert [(v.verdict, v.claim.split(" the vote")[0]) for v in votes] == [
        ("worse", "random at 4 shots is above"), ("better", "knn at 4 shots beats"),
    ]  # fmt: skip
    cells = {(4, "knn", "greedy"): 0.5, (4, "knn", "vcd"): 0.3, (4, "knn", "mask_only(vcd)"): 0.5}
    (wins,) = only(findings(lower(run(cells)), controls={"vcd": ("mask_only(vcd)",)}), "Decoding")
    assert (wins.verdict, "It beats all its controls" in wins.more) == ("better", True)


def test_findings_without_a_good_direction_have_no_verdicts(run):
    cells = {(0, "", "greedy"): 0.5, (2, "random", "greedy"): 0.2, (8, "random", "greedy"): 0.9,
             (8, "random", "vcd"): 0.5, (8, "random", "mask_only(vcd)"): 0.9}  # fmt: skip
    sentences = findings(lower(run(cells), "neither"), controls={"vcd": ("mask_only(vcd)",)})
    assert {one.verdict for one in sentences} == {"differs"}
    assert [one.claim for one in only(sentences, "ICL gain")] == [
        "random at 2 shots differs from 0 shots (.200 against .500)",
        "random at 8 shots differs from 0 shots (.900 against .500)",
    ]
    (one,) = only(sentences, "Decoding")
    assert (one.claim, one.more) == (
        "vcd differs from greedy", "It differs from its control mask_only(vcd) (−.400, p < .001).",
    )  # fmt: skip
    assert not any(word in one.sentence for one in sentences for word in ("beat", "best", "no gain", "better"))


def test_a_single_setting_has_no_findings(run):
    assert only(findings(run({(0, "", "greedy"): 0.5})), "ICL gain") == []


def test_all_sentences_of_a_page_are_one_family(run):
    """Seven of seven discordant pairs: p = .0156 alone, but among three topics with two comparisons each not."""
    cells = {(0, "", "greedy"): 0.5, (2, "random", "greedy"): 0.5, (2, "knn", "greedy"): 0.5}
    alone = run({(0, "", "greedy"): 0.5, (0, "", "vcd"): 0.5 + 7 / N})
    page = run({**cells, (0, "", "vcd"): 0.5 + 7 / N, (2, "random", "vcd"): 0.5, (2, "knn", "vcd"): 0.5}, vote=0.5)
    assert only(findings(alone), "Decoding")[0].verdict == "better"
    (one,) = only(findings(page), "Decoding")
    assert (one.verdict, "(4 topics)" in one.numbers) == ("open", True)


def test_a_topic_whose_differences_are_all_shown_passes_its_share_on(run):
    """Nine of nine discordant pairs have p = .0039, times three topics or times two."""
    cells = {(0, "", "greedy"): 0.5, (2, "random", "greedy"): 0.5 + 9 / N}
    comparisons = page_comparisons(run(cells, vote=0.1))
    assert comparisons["Vote"][0].p < 0.001
    assert comparisons["ICL gain"][0].p == pytest.approx(2 * 0.5**9)


def decided(frame, **digests):
    """The frame with the digests of what determines the answers of each decoding."""
    return frame.assign(decided_by=frame["decoding"].map(digests))


def test_arms_that_are_the_same_by_construction_are_in_no_family(run):
    frame = run({(4, "knn", name): 0.5 + 8 / N * (name == "vcd") for name in ("greedy", "vcd", "mask_only(vcd)")})
    controls = {"vcd": ("mask_only(vcd)",)}
    frame = decided(frame, greedy="g", vcd="v", **{"mask_only(vcd)": "g"})
    (one,) = page_comparisons(frame, controls=controls)["Decoding"][:1]
    assert (one.family, one.p) == (1, pytest.approx(2 * 0.5**8))  # greedy and the control are one
    (same,) = only(
        findings(decided(frame, greedy="g", vcd="g", **{"mask_only(vcd)": "g"}), controls=controls), "Decoding"
    )
    assert (same.verdict, same.numbers) == ("open", "")
    assert same.claim == "vcd answers as greedy by construction, so there is nothing to test."


def test_retrievers_without_random_are_compared_with_the_first(run):
    frame = run({(4, "knn", "greedy"): 0.5, (4, "mmr", "greedy"): 0.9})
    (one,) = only(findings(frame), "Retrieval")
    assert one.claim == "mmr beats knn"
    assert (
        one.more
        == "`random` is not among the retrievers, so they are compared with knn; add it to test them against chance."
    )
    assert only(findings(run({(0, "", "greedy"): 0.5, (4, "knn", "greedy"): 0.5})), "Retrieval") == []


def test_retrievers_are_compared_at_one_shot_and_never_at_none(run):
    cells = {(0, "", "greedy"): 0.9, (1, "random", "greedy"): 0.5, (1, "knn", "greedy"): 0.8}
    (one,) = only(findings(run(cells)), "Retrieval")
    assert (one.verdict, one.claim) == ("better", "knn beats random")
    frame = run(cells)
    frame["retriever"] = frame["retriever"].fillna("knn")  # labeled although it cannot matter
    (again,) = only(findings(frame), "Retrieval")
    assert again.numbers == one.numbers


VECTOR, RANDOM, CUT = "v(control=none)", "v(control=random)", "cut(layer=1)"
STEERED = InterventionControls({VECTOR: {RANDOM: "random"}, CUT: {"cut(layer=1, control=others)": "others"}})


def steered(arm, more=()):
    """A run of (intervention, shots) -> share right at the reference decoding."""
    cells = {("none", 0): 0.4, ("none", 8): 0.9, (VECTOR, 0): 0.8, (RANDOM, 0): 0.4, **dict(more)}
    frames = [
        arm(scores(share), task="task", shots=shots, retriever="random" if shots else None, decoding="greedy",
            intervene=label, vote=scores(0.1) if shots else [None] * N)
        for (label, shots), share in cells.items()
    ]  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def of_interventions(frame, controls=STEERED):
    return only(describe_comparisons(page_comparisons(frame, interventions=controls), "strict"), "Intervention")


def test_an_intervention_is_compared_with_none_and_with_its_controls(arm):
    (one,) = of_interventions(steered(arm))
    assert one.verdict == "better"
    assert one.claim == "v beats no intervention (.800 against .400)"
    assert one.numbers.startswith("+.400")
    assert "(Holm over 2, 3 topics)" in one.numbers
    assert one.more == "It beats its control random (+.400, p < .001)."


def test_an_intervention_that_does_no_more_than_its_control_shows_nothing(arm):
    (one,) = of_interventions(steered(arm, {(RANDOM, 0): 0.79}))
    assert one.verdict == "open"
    assert "beats no intervention" in one.claim
    assert "is not distinguishable from its control random" in one.more


def test_a_cut_that_lowers_the_score_more_than_its_control_is_worse(arm):
    cut = {(CUT, 8): 0.4, ("cut(layer=1, control=others)", 8): 0.9}
    vector, one = of_interventions(steered(arm, cut))
    assert (vector.verdict, one.verdict) == ("better", "worse")
    assert one.claim == "cut(layer=1) is below no intervention (.400 against .900)"
    assert one.more == "It is below its control others (−.500, p < .001)."


def test_gain_and_vote_are_those_of_arms_without_an_intervention(arm):
    frame = steered(arm, {(CUT, 8): 0.7})
    comparisons = page_comparisons(frame, interventions=STEERED)
    assert [(one.subject, one.mean) for one in comparisons["Vote"]] == [("task", 0.9)]
    assert [(one.subject, one.mean) for one in comparisons["ICL gain"]] == [("task", 0.9)]


def test_the_items_of_a_fit_as_demonstrations_are_a_control_and_no_strategy(arm):
    items = arm(scores(1.0), task="task", shots=1, retriever="random", decoding="more(factor=80)", intervene="none",
                vote=scores(0.1))  # fmt: skip
    frame = pd.concat([steered(arm), items], ignore_index=True)
    controls = InterventionControls(STEERED.controls, ("more(factor=80)",), (VECTOR,))
    sentences = describe_comparisons(page_comparisons(frame, interventions=controls), "strict")
    assert not only(sentences, "Decoding")
    (one,) = only(sentences, "Intervention")
    assert one.verdict == "open"
    assert one.more.endswith("is below its control more(factor=80) (−.200, p < .001).")
    assert not [one for one in sentences if "no pair" in one.sentence]


def test_the_items_of_a_fit_are_no_strategy_and_are_compared_at_zero_shots_where_more_was_run(arm):
    items = arm(scores(1.0), task="task", shots=1, retriever="random", decoding="more(factor=80)", intervene="none",
                vote=scores(0.1))  # fmt: skip
    frame = pd.concat([steered(arm, {("none", 1): 0.5, (VECTOR, 8): 0.3}), items], ignore_index=True)
    controls = InterventionControls(STEERED.controls, ("more(factor=80)",), (VECTOR,))
    comparisons = page_comparisons(frame, interventions=controls)
    assert not comparisons["Decoding"]
    (one,) = [one for one in comparisons["Intervention"] if one.against == "more(factor=80)"]
    assert (one.mean, one.reference_mean) == (0.8, 1.0)


def test_a_decoding_that_was_run_in_no_setting_of_the_reference_has_no_sentence(run):
    frame = run({(0, "", "greedy"): 0.4, (8, "random", "greedy"): 0.9, (1, "random", "vcd"): 0.9})
    assert not only(findings(frame), "Decoding")
