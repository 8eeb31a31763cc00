"""For networks that are too large for a device: activations computed twice, weights in shares."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from ardiffusion.diffusion.weighting import LearnedVariance
from ardiffusion.nn.shares import whole


class Recompute(Callback):
    """Keeps no activations inside blocks: they are computed again in the backward pass.

    Takes much less memory and about a third more time, and changes no result.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare every block that is trained."""
        for name, blocks in pl_module.named_modules():
            if name.endswith("blocks") and any(p.requires_grad for p in blocks.parameters()):
                for block in blocks.children():
                    if not isinstance(block.forward, partial):  # by an earlier run
                        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


class Sharded(DDPStrategy):
    """Trains as DDP does, but each process keeps only a share of the network of stage 2 (FSDP2).

    That is of its weights, gradients, moments and averages; weights are gathered part by part when
    they are needed. Checkpoints are as ever, one file with everything, to go on from with any
    strategy.
    """

    def model_to_device(self) -> None:
        """Share the network out before it comes to the device, where it may be too large."""
        dit = getattr(self.lightning_module, "dit", None)
        if not isinstance(dit, nn.Module):
            raise ValueError("Sharded is for stage 2: leave --trainer.strategy out of ardiff-vae.")
        if isinstance(getattr(self.lightning_module, "weighting", None), LearnedVariance):
            raise ValueError("Sharded trains the network alone: leave out LearnedVariance.")
        if not isinstance(dit, FSDPModule):
            shard(dit, device=self.root_device, processes=self.world_size)
        super().model_to_device()

    def configure_ddp(self) -> None:
        """Wrap nothing: the parts of the network reduce their gradients."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        state = super().lightning_module_state_dict()
        return {name: whole(value) for name, value in state.items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        state: dict[str, Any] = super().optimizer_state(optimizer)
        own = {i: {n: whole(v) for n, v in kept.items()} for i, kept in state["state"].items()}
        return {**state, "state": own}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this process's share of the moments."""
        (optimizer,), (state,) = self.optimizers, checkpoint["optimizer_states"]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, kept in state["state"].items():
            kept |= {name: share(value, like=parameters[number]) for name, value in kept.items()}
        super().load_optimizer_state_dict(checkpoint)


def shard(network: nn.Module, device: torch.device, processes: int) -> None:
    """Split the weights of a network among processes, by parts that are called as a whole."""
    mesh = init_device_mesh(device.type, (processes,))
    lists = [part for part in network.children() if isinstance(part, nn.ModuleList)]
    blocks = [block for part in lists for block in part.children()]
    # Not whole blocks: a network calls their modulations before them, a sampler without them.
    for owner in (*blocks, network):
        for part in owner.children():
            if not isinstance(part, nn.ModuleList):
                fully_shard(part, mesh=mesh)
    # averages and checkpoints find shares whenever they look, not what was gathered last
    root: FSDPModule = fully_shard(network, mesh=mesh, reshard_after_forward=True)
    root._get_fsdp_state()._lazy_init()  # or parts could not be called before the network is


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """Keep all weights of a network, so that each process may call it as often as it likes."""
    parts = [part for part in network.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def share(value: Any, like: Tensor) -> Any:  # noqa: ANN401
    """Return this process's share of a tensor that is shared as another of its shape is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
