"""What this CPU computes at its best, and what in software, many times slower."""

import torch


def has_onednn() -> bool:
    """Say whether oneDNN is there, and at its best on this CPU."""
    vectors = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return vectors and bool(torch.backends.mkldnn.enabled)


def has_bfloat16() -> bool:
    """Say whether products of bfloat16 are fast; else they take 10 to 40 x those of float32."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
