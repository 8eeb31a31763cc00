"""Numbers that options and sizes of networks may be."""

LARGEST = 2**20  # of what a network or a clip has


def check_range(name: str, low: float, high: float = 2**63 - 1, /, **values: float | None) -> None:
    """Raise for the first number out of bounds, as NaN is; None is no number.

    The sentence calls it by its name put into `name`, such as "--{}".
    """
    for key, value in values.items():
        if value is not None and not low <= value <= high:
            bound = f"at most {high}" if value > high else f"at least {low}"
            raise ValueError(f"{name.format(key)} must be {bound}, got {value}.")


def check_heads(width: int, heads: int) -> None:
    """Raise unless heads divide a width into even parts, which rotary positions turn in pairs."""
    if width % (2 * heads):
        raise ValueError(f"width {width} must be a multiple of twice the heads, {2 * heads}.")
