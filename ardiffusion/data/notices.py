"""How the reading of data speaks: warnings that are given once."""

import functools
import logging

logger = logging.getLogger(__name__)


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning unless this process has given the same one already."""
    logger.warning("%s", message)
