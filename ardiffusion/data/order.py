"""The order in time of pictures whose names hold numbers.

All numbers of a name count, from left to right, each as a number: `frame2_cam1` comes before
`frame10_cam1`. Names do not tell the order where letters decide it, where two names hold the same
numbers, or where numbers at random stand before one that counts.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

_WHOLE = re.compile(r"(\d+)")
_DECIMAL = re.compile(r"((?<![\d.])\d+\.\d+(?!\.?\d)|\d+)")
_SIGNED = re.compile(r"((?:(?<![^\W_])-)?\d+)")


def time_order(names: Sequence[str]) -> tuple[list[int], bool]:
    """Order names, without their suffixes, by time.

    Returns:
        The numbers of the names in their order, and whether the names tell it.
    """
    order, decided, read = list(range(len(names))), len(names) < 2, []
    decimals = (_DECIMAL, Fraction) if _hold_decimals(names) else (_WHOLE, int)
    for pattern, number in (decimals, (_SIGNED, int)):
        if not decided:
            read = [_split(name, pattern, number) for name in names]
            order = sorted(range(len(names)), key=lambda i, read=read: (read[i], names[i]))
            decided = all(_numbers_decide(read[a], read[b]) for a, b in pairwise(order))
    columns = _columns(read) if read else []
    leading = next((set(column) for column in columns if len(set(column)) > 1), set())
    counters = [count for column in columns if (count := _count_order(column))]
    if decided and (not counters or order in counters or len(leading) < len(names)):
        return order, True
    if not decided:
        counters = counters or _hexadecimal(names)
    alike = bool(counters) and all(count == counters[0] for count in counters)
    return (counters[0], not decided) if alike else (order, False)


def _split(name: str, pattern: re.Pattern[str], number: Callable[[str], Any]) -> list[Any]:
    """Split a name into text, number, text, ..., number, text."""
    return [number(p) if i % 2 else p for i, p in enumerate(pattern.split(name))]


def _hold_decimals(names: Sequence[str]) -> bool:
    """Say whether `1.25` stands for a number between 1 and 2, and not for two numbers.

    Decimals of one length are in order either way. Else a zero behind the point speaks for
    decimals (1.05 beside 1.5), one at the end for two numbers (1.10 beside 1.9).
    """
    numbers = {n for name in names if "." in name for n in _DECIMAL.findall(name)}
    ends = {number.split(".")[1] for number in numbers if "." in number}
    long = [end for end in ends if len(end) > 1]
    zero_first, zero_last = (any(end[i] == "0" for end in long) for i in (0, -1))
    return len({len(end) for end in ends}) > 1 and (zero_first or not zero_last)


def _numbers_decide(one: list[Any], other: list[Any]) -> bool:
    """Say whether a number decides between two names, or that only the later one has it."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index % 2 == 1 or (index == len(one) - 1 and not a and len(other) > len(one))
    return len(other) > len(one)


def _columns(read: list[list[Any]]) -> list[list[Any]]:
    """List the numbers at each place of the names, or the first and the last ones of each."""
    shortest, longest = (f(len(parts) for parts in read) for f in (min, max))
    places = range(1, shortest, 2) if shortest == longest else (1, -2)[: shortest - 1]
    return [[parts[place] for parts in read] for place in places]


def _count_order(values: list[Any]) -> list[int] | None:
    """Return the order of values that go on in steps of one size; two always do."""
    order = sorted(range(len(values)), key=values.__getitem__)
    steps = {values[b] - values[a] for a, b in pairwise(order)}
    return order if len(order) > 2 and len(steps) == 1 and 0 not in steps else None


def _hexadecimal(names: Sequence[str]) -> list[list[int]]:
    """List the order by the hexadecimal number that alone tells the names apart, if it counts."""
    if len({len(name) for name in names}) > 1:
        return []
    places = [i for i, c in enumerate(zip(*names, strict=True)) if len(set(c)) > 1]
    digits = [name[places[0] : places[-1] + 1] for name in names] if places else ["-"]
    hexadecimal = all(re.fullmatch("[0-9a-fA-F]+", part) for part in digits)
    order = _count_order([int(part, 16) for part in digits]) if hexadecimal else None
    return [order] if order else []
