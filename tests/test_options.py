"""Options as fields of dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from edgerl.errors import ConfigError
from edgerl.options import Checked, option, options_of


@dataclass(frozen=True)
class Example(Checked):
    colour: Literal["red", "blue"] | None = option(None, "Of the paint.", shown="as it is")
    count: int = option(3, "Of coats.", range="[0, 9]", unit="coats")
    share: float | None = option(None, "Of water.", range="[0, 1)", unit="share")
    widths: tuple[int, ...] = option((2, 3), "Of brushes.", range="[1, 9]", unit="cm")
    dry: bool = option(False, "Wait.")
    name: str = option("wall", "What is painted.")


def test_an_option_knows_what_it_takes() -> None:
    known = options_of(Example)
    assert list(known) == ["colour", "count", "share", "widths", "dry", "name"]
    assert [each.kind for each in known.values()] == [str, int, float, tuple, bool, str]
    assert known["colour"].choices == ("red", "blue")
    assert known["name"].choices == ()
    assert [known[name].shown_default for name in ("colour", "count", "widths")] == ["as it is", "3", "2,3"]


def test_values_in_range_are_taken() -> None:
    made = Example(colour="red", count=9, share=0.0, widths=(1, 9), dry=True, name="door")
    assert (made.colour, made.share) == ("red", 0)
    assert Example() == Example(None, 3, None, (2, 3), False, "wall")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"colour": "green"}, "`colour` is 'green'; expected red, blue"),
        ({"count": 10}, r"`count` is 10; expected a whole number in \[0, 9\] \(coats\)"),
        ({"count": -1}, "`count` is -1; expected a whole number"),
        ({"count": 1.0}, "`count` is 1.0; expected a whole number"),
        ({"count": True}, "`count` is True; expected a whole number"),
        ({"count": None}, "`count` is None; expected a whole number"),
        ({"share": 1}, r"`share` is 1; expected a number in \[0, 1\) \(share\)"),
        ({"share": float("nan")}, "`share` is nan; expected a number"),
        ({"widths": 4}, "`widths` is 4; expected whole numbers"),
        ({"widths": (1, 10)}, "`widths` is 10; expected a whole number"),
        ({"dry": 1}, "`dry` is 1; expected bool"),
        ({"name": 5}, "`name` is 5; expected str"),
        ({"name": None}, "`name` is None; expected str"),
    ],
)
def test_other_values_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        Example(**given)


def test_what_was_given_is_cut() -> None:
    with pytest.raises(ConfigError) as refused:
        Example(colour="x" * 1000)  # type: ignore[arg-type]
    assert len(str(refused.value)) < 100
