"""The one reader of JSON, in files or from other programs: none of it is trusted.

Of two equal names Python's own reader takes the last, others the first: the text would mean different things to them.
"""

from __future__ import annotations

import json
from typing import Any

from edgerl.errors import quoted


def parse_json(text: str | bytes, *, may_go_on: bool = False) -> Any:
    """The value of a JSON text, in UTF-8 where it is bytes; where it `may_go_on`, of what it begins with.

    Raises ValueError where it is not JSON, nests too deeply to be read, has an object with one name twice, or a number
    that is not finite.
    """
    text = text.decode() if isinstance(text, bytes) else text
    try:
        return _DECODER.raw_decode(text)[0] if may_go_on else _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"it has the name {quoted(name)} twice")
        values[name] = value
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)
