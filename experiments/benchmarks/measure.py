"""What all benchmarks share: timing, peak memory, and how results are shown."""

import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class Result(NamedTuple):
    """One measured number."""

    what: str
    value: float
    unit: str


def randomize_zero_weights(network: Network) -> Network:
    """Let the parts that start at zero have a say, so that the output depends on everything."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network


def seconds_of(
    call: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 3
) -> float:
    """Return the median seconds of a call, after some to warm up."""
    for _ in range(warm_up):
        call()
    seconds = []
    for _ in range(repeats):
        wait_for(device)
        start = time.perf_counter()
        call()
        wait_for(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> float:
    """Return the most memory held so far, in GB: of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e9
    # Elsewhere, which may count what the parent held when it started this process.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the operations per second of a large matrix product."""
    size = 4096 if device.type == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    return 2 * size**3 / seconds_of(lambda: a @ b, device, repeats=10)


def name_device(device: torch.device) -> str:
    """Name the device and what runs on it."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    machine = platform.processor() or platform.machine()
    return f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def print_results(results: Iterable[Result], device: torch.device) -> None:
    """Print a table, and one JSON object as the last line."""
    table = Table("what", "value", "unit", title=name_device(device))
    numbers: dict[str, float | str] = {"device": name_device(device)}
    for what, value, unit in results:
        table.add_row(what, f"{value:.4g}", unit)
        numbers[f"{what}, {unit}".removesuffix(", ")] = float(f"{value:.6g}")
    Console().print(table)
    print(json.dumps(numbers))
