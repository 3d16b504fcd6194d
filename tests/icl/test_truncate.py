from icl.truncate import LONGEST, brief


def test_what_is_short_stays_and_what_is_long_is_told_apart_by_a_digest() -> None:
    assert brief("[0.5, 0.5]") == "[0.5, 0.5]"
    one, other = (f"[{', '.join(['0.1'] * 1000)}, {end}]" for end in (1, 2))
    assert len(brief(one)) == len(brief(other)) == LONGEST
    assert brief(one)[:40] == brief(other)[:40] == one[:40]
    assert brief(one) != brief(other)
    assert brief(one).endswith("]")
