"""What can go wrong between us and the Hub, each as one sentence that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

# The errors of the HTTP library, which huggingface_hub has exchanged between its versions.
TRANSPORT_ERRORS = cast(type[Exception], HfHubHTTPError.__bases__[0])


@contextmanager
def readable_hub_errors(wanted: object) -> Iterator[None]:
    """Turn what huggingface_hub raises while we want something into one sentence."""
    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise out_of_reach(wanted, offline=constants.HF_HUB_OFFLINE) from error
    except HfHubHTTPError as error:
        raise refused(wanted, status=error.response.status_code) from error
    except TRANSPORT_ERRORS as error:
        raise out_of_reach(wanted, offline=False) from error


def refused(wanted: object, status: int) -> OSError:
    """Say that the Hub did not hand something out; 401 is also its answer to wrong names."""
    login = "log in with `hf auth login` or set HF_TOKEN"
    if status in (401, 403):
        return ConnectionError(
            f"{constants.ENDPOINT} refuses access to {wanted} ({status}): check its name; if the "
            f"repository is private or gated, {login}."
        )
    if status == 404:
        return FileNotFoundError(
            f"There is no {wanted} on {constants.ENDPOINT} (404): check its name and revision; if "
            f"the repository is private, {login}."
        )
    return ConnectionError(
        f"{constants.ENDPOINT} answered {status} when asked for {wanted}: try again later."
    )


def out_of_reach(wanted: object, offline: bool) -> OSError:
    """Say that something is neither in the cache nor to be had now."""
    by_hand = "or download it by hand and give its path instead"
    if offline:
        return FileNotFoundError(
            f"{wanted} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids "
            f"to fetch it from {constants.ENDPOINT}: go online once, {by_hand}."
        )
    return ConnectionError(
        f"{constants.ENDPOINT} cannot be reached, and {wanted} is not in the cache "
        f"{constants.HF_HUB_CACHE}: check the connection, {by_hand}."
    )
