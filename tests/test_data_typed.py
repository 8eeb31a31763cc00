from typing import TypedDict

import pytest

from ardiffusion.files import has_type


class Inner(TypedDict):
    size: int


class Outer(TypedDict):
    names: list[str]
    inner: dict[str, Inner]


GOOD = {"names": ["a"], "inner": {"b": {"size": 1}}, "more": None}


def test_json_of_the_type_is_recognised() -> None:
    assert has_type(GOOD, Outer) and has_type({"names": [], "inner": {}}, Outer)


@pytest.mark.parametrize(
    "value",
    [
        *(5, None, [], {}, "names"),
        {**GOOD, "names": "a"},
        {**GOOD, "names": [1]},
        {**GOOD, "inner": []},
        {**GOOD, "inner": {"b": {"size": True}}},
        {**GOOD, "inner": {"b": {"size": 1.0}}},
        {**GOOD, "inner": {"b": {}}},
    ],
)
def test_json_of_another_type_is_not(value: object) -> None:
    assert not has_type(value, Outer)
