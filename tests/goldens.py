"""The reference implementation's numbers, the rule that made the weights, and comparisons."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Golden:
    """One file of numbers.

    Attributes:
        name: Its name.
        manifest: How they were made.
        tensors: The numbers.
    """

    name: str
    manifest: dict[str, Any]
    tensors: dict[str, Tensor]

    def state_dict(self) -> dict[str, Tensor]:
        """Make the weights anew, by their published names."""
        m = self.manifest
        weights = golden_weights(m["shapes"], m["kept"], scale=m["scale"], salt=m["salt"])
        return weights | kept_weights(m["shapes"], m["kept"], betas=self.betas)

    @property
    def betas(self) -> tuple[float, float]:
        """First and last beta of the noise schedule."""
        found = self.manifest["config"].get("diffusion_cfg", {}).get("params", {})
        return found.get("linear_start", 1e-4), found.get("linear_end", 0.02)

    def noise(self, quantity: str) -> float:
        """Return the reference's own rounding error, that of `y` or 0 where it is not known."""
        cases, checked = self.manifest.get("info", {}), self.manifest.get("fp64_check", {})
        known = [value for name, value in checked.items() if quantity.startswith(name)]
        found = cases.get(quantity, {}).get("fp64") or (known or [checked.get("y", 0.0)])[0]
        return found["max_abs"] if isinstance(found, dict) else found


def load_golden(path: Path) -> Golden:
    """Read NAME.json and NAME.safetensors."""
    manifest = json.loads(path.read_text())
    return Golden(path.stem, manifest, load_file(path.with_suffix(".safetensors")))


@dataclass(frozen=True)
class Row:
    """One comparison: the largest difference over the largest value, and its bound."""

    name: str
    quantity: str
    error: float
    bound: float

    @property
    def passes(self) -> bool:
        return self.error <= self.bound


def compare(golden: Golden, quantity: str, ours: Tensor, limit: float) -> Row:
    """Compare with the stored tensor, allowing twenty times the reference's own rounding."""
    theirs = golden.tensors[quantity]
    assert ours.shape == theirs.shape, (golden.name, quantity, ours.shape, theirs.shape)
    size = theirs.double().abs().max().clamp(min=1e-30).item()
    error = (ours.double() - theirs.double()).abs().max().item()
    bound = max(limit, 20 * golden.noise(quantity) / size)
    return Row(golden.name, quantity, error=error / size, bound=bound)


def golden_weights(
    shapes: Mapping[str, Sequence[int]], kept: Sequence[str], scale: float, salt: str
) -> dict[str, Tensor]:
    """Make every entry of a state dict that is not `kept`, by its published name."""
    made = {}
    for name in shapes.keys() - set(kept):
        seed = zlib.crc32((salt + name).encode()) & 0xFFFFFFFF
        noise = np.random.RandomState(seed).standard_normal(shapes[name]).astype(np.float32)
        if len(shapes[name]) >= 2:
            noise *= np.float32(scale)
        else:
            noise = np.float32(name.endswith("weight")) + np.float32(0.02) * noise
        made[name] = torch.from_numpy(noise)
    return made


def kept_weights(
    shapes: Mapping[str, Sequence[int]], kept: Sequence[str], betas: tuple[float, float]
) -> dict[str, Tensor]:
    """Make the entries that were kept at their computed values; of the schedule, two tables."""
    beta = np.linspace(betas[0] ** 0.5, betas[1] ** 0.5, 1000) ** 2
    tables = {"betas": beta, "alphas_cumprod": np.cumprod(1 - beta)}
    made: dict[str, np.ndarray] = {}
    for name in kept:
        if name.endswith("pos_embed"):
            made[name] = sincos(places=shapes[name][1], width=shapes[name][2])[None]
        elif name.endswith("freqs"):
            made[name] = 1 / 10000 ** (np.arange(shapes[name][0]) / shapes[name][0])
        else:
            made[name] = tables.get(name.split(".")[1], np.zeros(1000))
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in made.items()}


def sincos(places: int, width: int) -> np.ndarray:
    """Make the position table, sines first."""
    angles = np.arange(places)[:, None] / 10000 ** (np.arange(width // 2) / (width / 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
