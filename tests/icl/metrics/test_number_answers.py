"""The number that an answer states."""

import pytest

from icl.metrics.lenient import Lenient
from icl.metrics.number_answers import multiples_in_digits, stated_number
from icl.types import Example, Generation


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
