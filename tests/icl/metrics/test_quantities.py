"""One spelling for quantities, dates and clock times."""

import pytest

from icl.metrics.accuracy import Lenient
from icl.metrics.machinery.answer_matching import gives_answer
from icl.metrics.machinery.quantities import canonical_quantities, multiples_in_digits, stated_number
from icl.types import Example, Generation


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


@pytest.mark.parametrize(
    "output",
    [
        *("There are 7 apples.", "Image 5 shows 7 apples.", "In image 5, there are 7 apples.", "Image 5: 7"),
        *("The 5th image contains 7", "Query image (5): 7", "image #5 has 7", "In Figure 5 I count seven apples"),
        *("Example 5: 7 apples", "Picture no. 5 shows 7", "In images 1 to 5, the last has 7", "For query 5 it is 7"),
        *("There are 7 apples in image 5.", "Image five shows 7 apples", "option 5 has 7"),
        *("Image-5: 7", "Image_5: 7", "img 5: 7", "Q5: 7", "Step 5: there are 7 apples", "Demo 5: 7"),
        *("Images 4 and 5 show 7 apples each", "In images 1-5 there are 7"),
    ],
)
def test_the_number_of_an_image_is_a_name_and_no_count(output: str) -> None:
    def score(answer: str) -> float | None:
        return Lenient().score(Generation(output), Example("q", (), "How many apples?", (answer,)))

    assert (score("7"), score("5")) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Image 5", 5),
        ("It is image 5.", 5),
        ("In this picture 5 apples are visible", 5),
        ("8th floor", 8),
        ("Image 5 shows no apples.", 0),
        ("In image 5 I see some apples.", None),
        ("the 1st row has 3", 3),
        ("2 or 3", None),
        ("There are 5: 2 red and 3 green", 5),
        ("12:30", 12),
        ("more than 4", None),
        ("between 3 and 5", None),
        ("2 + 3 = 5", 5),
        ("a dozen", 12),
        ("3.5 million", 3.5e6),
        ("nothing like it", 0),
        ("4 dogs between the tree and the car: 4 dogs", 4),
        ("some", None),
    ],
)
def test_a_text_states_its_result_or_first_number(text: str, number: float | None) -> None:
    assert stated_number(text) == number


def test_multiples_are_written_in_digits() -> None:
    assert multiples_in_digits("a hundred and 2.5 thousand") == "100 and 2500"
