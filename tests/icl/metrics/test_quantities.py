"""One spelling for quantities, dates and clock times."""

import pytest

from icl.metrics.answer_matching import gives_answer
from icl.metrics.quantities import canonical_quantities


@pytest.mark.parametrize(
    "spellings",
    [
        ("50 m", "50m", "50 meters", "50-metre", "fifty meters"),
        ("30 pounds", "£30", "£30.00", "30 lbs"),
        ("$1,200.50", "1200.5 dollars", "USD 1200.50"),
        ("45%", "45 percent", "45 per cent"),
        ("60 km/h", "60 kph", "60 kilometers per hour"),
        ("20 °C", "20°C", "20 degrees Celsius"),
        ("two hours", "2 h", "2 hrs"),
        ("July 4, 2021", "4 July 2021", "the 4th of July, 2021", "2021-07-04", "Jul. 4 2021"),
        ("May 5", "5th May", "the 5th of May"),
        ("3:30 PM", "3:30pm", "15:30", "3.30 p.m."),
        ("3:00", "three o'clock", "3 o'clock"),
        ("half past three", "3:30"),
        ("quarter to one", "12:45", "15 minutes to 1", "fifteen to one"),
        ("3/4", "0.75", "three quarters", "three-fourths"),
    ],
)
def test_all_spellings_of_a_quantity_are_one(spellings: tuple[str, ...]) -> None:
    assert len({canonical_quantities(spelling) for spelling in spellings}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("50 m", "50 km"),
        ("-5 °C", "5 °C"),
        ("3:30 AM", "3:30 PM"),
        ("July 4", "April 7"),
        ("1 km", "1000 m"),
        ("$5", "€5"),
        ("10 to 12", "11:50"),
        ("2 to 1", "12:58"),
    ],
)
def test_other_quantities_stay_apart(one: str, other: str) -> None:
    assert canonical_quantities(one) != canonical_quantities(other)
    assert not gives_answer(one, (other,))


def test_other_words_stay() -> None:
    text = "may i see 2 cats in the second row, 7/4/2021, at 5 in the morning"
    assert canonical_quantities(text) == text


def test_a_quantity_is_read_in_a_sentence() -> None:
    assert gives_answer("The event takes place on 4 July 2021", ("July 4, 2021",))
    assert gives_answer("Approximately 45 percent of respondents chose tea", ("45%",))
    assert not gives_answer("more than 50 meters", ("50 m",))
    assert gives_answer("one quarter", ("0.25",))
