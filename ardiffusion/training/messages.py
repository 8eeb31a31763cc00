"""What users of the command line read of errors and of Lightning's messages, and how.

An error is one sentence. Left out are advertisements and warnings about things that are meant to
be as they are.
"""

import logging
import os
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import isabstract

UNION = "Does not validate against any of the Union subtypes"
# What stands around the reasons of a refusal.
BETWEEN = (UNION, "Parser key", "Problem with", "Subtypes:", "Errors:", "Given value")
BETWEEN += ("Subclass types", "Expected a <class 'NoneType'>", "Expected a path but")
BETWEEN += ("a class path", "a dict with")
# What is said of the name of a class that is none.
NO_CLASS = (
    "dot import path|does not correspond to a sub|No module named|Not a valid sub|instantiatable"
)
# What types of numbers with bounds say, unlike all others.
NOT_A_NUMBER = r"Not of type .*(float|int)(?:\(\) with base 10)?: '(.*)'"
OUT_OF_BOUNDS = r"Not of type \w+: (.+) does not conform to restriction (.*)"
VALUE = r"(?:Given value|Got value|import path string): (?!Namespace|NestedArg)(.{,200})"
# What is said of an option that a class does not have, and of a run without any configuration.
NO_OPTION = r"given class_path '(?:\w+\.)*(\w+)':\s*(Option '\w+' is not accepted)"
NO_CONFIG = r"arguments are required: .*\bmodel\."
MEMORY = "can't allocate memory|out of memory"
INFOS = ("💡 Tip", "TPU available: False")
WARNINGS = (
    ".*LeafSpec",  # PyTorch to Lightning
    "Attribute '.*' is an instance of `nn.Module`",  # `pack` leaves them out of checkpoints
    "Found .* module.s. in eval mode at the start of training",  # the frozen AR-VAE
    "Using ModelCheckpoint with manual optimization",  # weights after the step are what we want
    "FSDP2-wrapped module .* returned a view",  # that nothing writes into
    "Mismatch dtype between input and weight",  # layer norms under autocast
    "Precision .* is not supported by the model summary",  # which counts in 32 bits
    "Detected call of `lr_scheduler.step..` before `optimizer.step..`",  # gathering batches
    "Checkpoint directory .* exists and is not empty",  # runs are resumed in their folder
    "The dirpath has changed from",  # the best model so far is no measure of ours
    "Be aware that when using .ckpt_path.*\\['Timer'\\]",  # a clock that only training needs
    "Total length of `DataLoader` across ranks is zero",  # an error where data is needed
    "predict returned None",  # it writes videos and latents
    "The 'predict_dataloader' does not have many workers",  # requests need no reading
)


@contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Print bad input as the sentence that its error is, and leave with exit code 2.

    That is errors of parsers, values, files and memory, and those of other kinds that are named.
    """
    try:
        with clear_messages():
            yield
    except (ArgumentError, ValueError, OSError, MemoryError, RuntimeError, *kinds) as error:
        if isinstance(error, RuntimeError) and not re.search(MEMORY, str(error)):
            raise
        print(f"error: {user_message(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def user_message(error: Exception) -> str:
    """Say what went wrong; the parser's and the system's errors do not say what to do."""
    if isinstance(error, ArgumentError):
        text = parser_message(str(error)).rstrip(".")
        advice = "; begin with a configuration, as --config vae.yaml"
        text += advice if re.search(NO_CONFIG, text) else ""
        return f"{text} (--help lists all options)."
    if isinstance(error, MemoryError | RuntimeError):
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else "none is left"
        return f"There is not enough memory ({reason}): ask for smaller batches or sizes."
    if isinstance(error, OSError) and str(error).startswith("[Errno"):
        place = error.filename or "a file"
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        return f"Cannot use {place} ({reason}): check the path, its permissions and the disk."
    return parser_message(str(error)) if UNION in str(error) else str(error)


def parser_message(text: str) -> str:
    """Say which option has which value and what it may be, where the parser lists all it tried."""
    text = re.sub(NOT_A_NUMBER, r"Expected a \1. Got value: \2", text)
    text = re.sub(OUT_OF_BOUNDS, r"Expected a \2. Got value: \1", text)
    lines = [line.strip().removeprefix("- ") for line in text.splitlines()]
    reasons = [line for line in lines if line and not line.startswith(BETWEEN)]
    option = ".".join(dict.fromkeys(re.findall(r'key "([^"]+)"', text)))
    if not (reasons and (option or UNION in text)):
        return " ".join(text.split())
    if option and (unknown := re.search(NO_OPTION, text)):
        return f"--{option}: {unknown[2]} by {unknown[1]}, leave it out"
    value = re.search(VALUE, text)
    if not (option and value):
        return f"--{option}: {reasons[0]}" if option else reasons[0]
    noise = r".*restriction |\bv(?=[<>])|^Expected a |\. Got value.*|typing\.|<class '|'>|"
    noise += "^Type .* to be "
    expected = [
        class_choices(text) if re.search(NO_CLASS, reason) else re.sub(noise, "", reason)
        for reason in reasons
    ]
    return f"--{option} is {value[1]}, expected: {' or '.join(dict.fromkeys(expected))}"


def class_choices(text: str) -> str:
    """Name our classes of the last kind that a refusal speaks of."""
    kinds = re.findall(r"<class '(ardiffusion[\w.]*)\.(\w+)'>", text)
    if not kinds:
        return "the import path of a class"
    found = [getattr(sys.modules[kinds[-1][0]], kinds[-1][1])]
    for kind in found:
        found += kind.__subclasses__()
    names = {c.__name__ for c in found if c.__module__.startswith("ardif") and not isabstract(c)}
    return ", ".join(sorted(names))


@contextmanager
def clear_messages() -> Iterator[None]:
    """Show what concerns our users, each warning as one line, while the context lasts."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addFilter(wanted)
    before, warnings.formatwarning = warnings.formatwarning, one_line
    try:
        with warnings.catch_warnings():
            for message in WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        warnings.formatwarning = before
        logger.removeFilter(wanted)


def wanted(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(INFOS)


def one_line(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {message}\n"
