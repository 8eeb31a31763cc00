"""Muon for the matrices of a network, AdamW for all else, as one optimiser."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from ardiffusion.nn.cpu import has_bfloat16


class Float32Muon(torch.optim.Muon):
    """torch's Muon, with products of float32 for its bfloat16, which some CPUs do not have."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401 torch's own
        """Compute the loss if asked to, and take a step, by Nesterov's momentum."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
            parameters, gradients, averages = [], [], []
            self._init_group(group, parameters, gradients, averages)
            for p, gradient, average in zip(parameters, gradients, averages, strict=True):
                average.lerp_(gradient, 1 - momentum)
                update = orthogonalised(gradient.lerp(average, momentum))
                p.mul_(1 - lr * decay).sub_(update, alpha=0.2 * lr * max(p.shape) ** 0.5)
        return loss


def orthogonalised(matrix: Tensor) -> Tensor:
    """Bring all singular values of a matrix near 1, by five steps of Newton and Schulz."""
    x = matrix.float() if (wide := matrix.shape[0] <= matrix.shape[1]) else matrix.float().T
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = 3.4445, -4.7750, 2.0315  # of Jordan et al., as torch has them
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.T


class Muon(Optimizer):
    """Orthogonalised momentum for hidden matrices, AdamW for embeddings, biases, gains and ends.

    Updates of matrices are scaled to the size of AdamW's, so that one learning rate serves both.

    References:
        Muon: An optimizer for hidden layers in neural networks (Jordan et al., 2024); Muon is
        Scalable for LLM Training (Liu et al., 2025), for the scale of its updates.

    Args:
        params: The parameters.
        lr: Learning rate of both parts.
        weight_decay: Weight decay of both parts.
        momentum: Momentum of the matrices.
        betas: Decays of AdamW's averages.
        smallest: Short side from which on a matrix is a hidden one; smaller ones are embeddings of
            classes, or lead in and out of the network.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        smallest: int = 32,
    ) -> None:
        params = list(params)
        hidden = [p for p in params if p.ndim == 2 and min(p.shape) >= smallest]
        taken = set(map(id, hidden))
        rest = [p for p in params if id(p) not in taken]
        if not hidden or not rest:
            raise ValueError(
                f"Muon found {len(hidden)} hidden matrices and {len(rest)} other parameters, and "
                f"needs both; change smallest ({smallest}) or take torch.optim.AdamW."
            )
        software = hidden[0].device.type == "cpu" and not has_bfloat16()
        muon = Float32Muon if software else torch.optim.Muon
        parts = (
            muon(hidden, lr, weight_decay, momentum, adjust_lr_fn="match_rms_adamw"),
            AdamW(rest, lr=lr, weight_decay=weight_decay, betas=betas),
        )
        super().__init__([part.param_groups[0] for part in parts], defaults={})
        self.parts = parts
        self.share()

    def share(self) -> None:
        """Let both parts work on the groups and the state of the whole, which are saved."""
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401 torch's own
        """Compute the loss if asked to, and take a step of both parts."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        return loss
