"""The admission test admits a task whose gain the images of demonstrations carry, and no other."""

from typing import Any

import pytest

from experiments.analyses import admission
from icl.errors import ConfigError

FORMS = [[], [{"name": "images", "how": "blank", "where": "demos"}]]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("needs_the_demonstrations_images", (1.0, 0.0, "yes")),
        ("needs_demonstrations", (1.0, 1.0, "no")),
        ("needs_the_image", (0.0, 0.0, "unclear")),
    ],
)
def test_a_task_is_admitted_if_the_images_carry_the_gain(ran: Any, scripted: Any, answers: str, expected: Any) -> None:
    gain, blanked, admitted = expected
    view = ran(model=scripted(answers), grid={"shots": [0, 2], "transforms": FORMS})
    (row,) = admission.analyze(view).to_dict("records")
    assert (row["gain"], row["blanked"], row["admitted"]) == (gain, blanked, admitted)
    assert row["shots"] == 2
    assert row["share"] == pytest.approx(gain - blanked) if gain else True


def test_a_run_without_blank_images_is_refused_with_the_keys_to_set(ran: Any) -> None:
    with pytest.raises(ConfigError, match=r"transforms: \[\[\], \[\{name: images, how: blank"):
        admission.analyze(ran(model="fake-vote", grid={"shots": [0, 2]}))
