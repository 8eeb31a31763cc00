"""Sizes of networks must be at least 1."""


def check_sizes(**sizes: int) -> None:
    """Raise for the first of some named sizes that no network can have."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}.")
