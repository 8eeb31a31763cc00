"""What is checked before anything is trained, so that it ends in a sentence and not in a run."""


def check_at_least(least: float, **values: float) -> None:
    """Raise unless every number is `least` or more, which NaN is not."""
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
