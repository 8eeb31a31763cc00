"""Sizes that networks can have."""

LARGEST = 2**20


def check_sizes(**sizes: int) -> None:
    """Raise for the first of some named sizes that no network can have."""
    for name, size in sizes.items():
        if not 1 <= size <= LARGEST:
            bound = "at least 1" if size < 1 else f"at most {LARGEST}"
            raise ValueError(f"{name} must be {bound}, got {size}.")


def check_heads(width: int, heads: int) -> None:
    """Raise unless heads divide a width into even parts, which rotary positions turn in pairs."""
    if width % (2 * heads):
        raise ValueError(f"width {width} must be a multiple of twice the heads, {2 * heads}.")
