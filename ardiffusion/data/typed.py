"""Whether JSON from disk is what its reader takes it for, however it came there."""

from typing import Any, get_args, get_origin, get_type_hints, is_typeddict


def has_type(value: object, kind: Any) -> bool:  # noqa: ANN401 any type
    """Say whether parsed JSON has a type that is made of dicts, lists and plain types."""
    inner = get_args(kind)
    if is_typeddict(kind):
        entries = get_type_hints(kind).items()
        return type(value) is dict and all(has_type(value.get(n), wanted) for n, wanted in entries)
    if get_origin(kind) is dict:
        return type(value) is dict and all(
            has_type(name, inner[0]) and has_type(entry, inner[1]) for name, entry in value.items()
        )
    if get_origin(kind) is list:
        return type(value) is list and all(has_type(entry, inner[0]) for entry in value)
    return type(value) is kind
