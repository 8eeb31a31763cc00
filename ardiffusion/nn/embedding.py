"""Embeddings of the diffusion timestep and of the class label (Peebles and Xie, DiT, 2023)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimestepEmbedding(nn.Module):
    """Sinusoids of the timestep, phi(t) = [cos(t u_i) | sin(t u_i)], and an MLP over them.

    Args:
        width: Number of channels D of the result.
        frequencies: Number of sinusoids, even; u_i = 10000^(-2 i / frequencies).
    """

    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.hidden = nn.Linear(frequencies, width)
        self.out = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """Embed timesteps.

        Args:
            t: Timesteps, shape (B, F).

        Returns:
            Embeddings, shape (B, F, D).
        """
        half = self.frequencies // 2
        exponent = torch.arange(half, dtype=torch.float32, device=t.device) / half
        angles = t[..., None] * torch.exp(-math.log(1e4) * exponent)  # (B, F, half)
        phases = torch.cat([angles.cos(), angles.sin()], dim=-1)  # (B, F, frequencies)
        return self.out(F.silu(self.hidden(phases.to(self.hidden.weight.dtype))))


class LabelEmbedding(nn.Module):
    """One vector per class and one of its own for "no class".

    Args:
        classes: Number of classes.
        width: Number of channels D.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, label: Tensor, null: Tensor | None = None) -> Tensor:
        """Embed labels.

        Args:
            label: Class indices, shape (B,); a negative index means "no class".
            null: Rows to be embedded as "no class", bool, shape (B,).

        Returns:
            Embeddings, shape (B, D).
        """
        none = label < 0 if null is None else null | (label < 0)
        return self.table(torch.where(none, self.classes, label))
