"""What GPUs compute at most, from NVIDIA's data sheets."""

import torch

# Operations per second: 16-bit, TF32 and float32 products, without sparsity. Lightning's
# `get_available_flops` has the rates with sparsity for some of these, which no training reaches.
PEAKS = {
    "H200 NVL": (835e12, 418e12, 60e12),
    "H200": (989e12, 495e12, 67e12),
    "H100 NVL": (835e12, 418e12, 60e12),
    "H100 PCIE": (756e12, 378e12, 51e12),
    "H100": (989e12, 495e12, 67e12),
    "H800 PCIE": (756e12, 378e12, 51e12),
    "H800": (989e12, 495e12, 67e12),
    "A100": (312e12, 156e12, 19.5e12),
    "A800": (312e12, 156e12, 19.5e12),
    "L40S": (362e12, 183e12, 91.6e12),
    "L4": (121e12, 60e12, 30.3e12),
    "A10": (125e12, 62.5e12, 31.2e12),
}
MIXED = ("bf16-mixed", "bf16-true", "16-mixed", "16-true")


def peak_flops(name: str, precision: str) -> float | None:
    """Return the most operations per second of a device, or None if they are not known.

    Args:
        name: Name of the device, as torch.cuda.get_device_name gives it.
        precision: Precision of the training, as Lightning spells it.
    """
    words = set(name.upper().replace("-", " ").split())
    found = [PEAKS[chip] for chip in PEAKS if words.issuperset(chip.split())]
    if not found or "MIG" in words:
        return None
    half, tf32, single = found[0]
    if precision in MIXED:
        return half
    if precision != "32-true":
        return None
    return single if torch.get_float32_matmul_precision() == "highest" else tf32


def device_peak(device: torch.device, precision: str) -> float | None:
    """Do as `peak_flops` for a device of this machine."""
    if device.type != "cuda":
        return None
    return peak_flops(torch.cuda.get_device_name(device), precision=precision)
