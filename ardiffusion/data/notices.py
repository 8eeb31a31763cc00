"""How the reading of data speaks: names that can be printed, warnings that are given once."""

import functools
import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def shown(name: str | Path) -> str:
    """Spell a name for a sentence; one with control characters or no UTF-8 is quoted as code."""
    text = str(name)
    return text if text.isprintable() else repr(text)


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning unless this process has given the same one already."""
    logger.warning("%s", message)
