from icl.errors import MAX_LENGTH, truncate


def test_short_texts_stay_and_long_ones_get_a_digest() -> None:
    assert truncate("[0.5, 0.5]") == "[0.5, 0.5]"
    one, other = (f"[{', '.join(['0.1'] * 1000)}, {end}]" for end in (1, 2))
    assert len(truncate(one)) == len(truncate(other)) == MAX_LENGTH
    assert truncate(one)[:40] == truncate(other)[:40] == one[:40]
    assert truncate(one) != truncate(other)
    assert truncate(one).endswith("]")
