"""Exponential moving average of the trained network alone.

After n updates the average follows with decay min(decay, (1 + n) / (10 + n)), as the published
weights were made, so that short runs are not dominated by the start. Averages of which one of any
length can be made later, beside it, are those of `weights/profiles.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ardiffusion.nn.shares import whole
from ardiffusion.training.memory import share
from ardiffusion.training.step_guard import step_skipped
from ardiffusion.weights.profiles import power


class EMA(Callback):
    """Averages one network's weights in float32; validation, test and checkpoints use the average.

    A checkpoint's `state_dict` holds the averaged weights under their ordinary names, so that
    whoever loads it gets them; the raw ones lie beside it for resuming. Weights that are not
    finite are neither used nor saved.

    Args:
        decay: Decay of the average per training step, as the trainer counts them, once it has
            warmed up: after about 9 / (1 - decay) steps, 90 000 for 0.9999 and 1 800 for 0.995.
        network: Name of the module's attribute that holds the trained network.
        lengths: Relative lengths of more averages, as [0.05, 0.1], out of which `ardiff export
            --ema_length` makes one of any length. Each takes the memory of the network in float32.
    """

    def __init__(
        self, decay: float = 0.9999, network: str = "dit", lengths: Sequence[float] = ()
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"The decay of the moving average must lie in [0, 1), got {decay}.")
        self.decay, self.network = decay, network
        self.powers = {length: power(length) for length in lengths}
        self.updates, self.step = 0, -1
        self.shadow: dict[str, Tensor] = {}
        self.profiles: dict[float, dict[str, Tensor]] = {}  # averages by length
        self.raw: dict[str, Tensor] = {}

    def parameters(self, pl_module: LightningModule) -> dict[str, nn.Parameter]:
        network = getattr(pl_module, self.network, None)
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"There is no {self.network!r} to average: set EMA's network to arvae in stage 1, "
                "to dit in stage 2."
            )
        return dict(network.named_parameters(prefix=self.network))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the network's weights, or move resumed averages to its device."""
        parameters = self.parameters(pl_module)

        def place(source: dict[str, Tensor] | None) -> dict[str, Tensor]:
            source = source or {name: p.detach().clone() for name, p in parameters.items()}
            return {
                name: share(source[name], like=p).to(device=p.device, dtype=torch.float32)
                for name, p in parameters.items()
            }

        self.shadow = place(self.shadow)
        self.profiles = {length: place(self.profiles.get(length)) for length in self.powers}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from here, a resumed run too."""
        self.step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: object, **__: object
    ) -> None:
        """Move the average towards the weights if the optimiser took a step."""
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        if step_skipped(trainer):
            return
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        parameters = self.parameters(pl_module)
        targets = [parameters[name].detach().float() for name in self.shadow]
        get_ema_multi_avg_fn(decay)(list(self.shadow.values()), targets, self.updates)
        for length, profile in self.profiles.items():
            decay = (1 - 1 / self.updates) ** (self.powers[length] + 1)
            get_ema_multi_avg_fn(decay)(list(profile.values()), targets, self.updates)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average; keep the raw weights."""
        if self.shadow:
            check_finite(self.shadow, step=trainer.global_step)
            parameters = self.parameters(pl_module)
            self.raw = {name: parameters[name].detach().clone() for name in self.shadow}
            self.put(self.shadow, pl_module)

    def on_validation_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: object, **__: object
    ) -> None:
        self.put(self.raw, pl_module)
        self.raw = {}

    def put(self, weights: dict[str, Tensor], pl_module: LightningModule) -> None:
        parameters = self.parameters(pl_module) if weights else {}  # there may be no network yet
        for name, weight in weights.items():
            parameters[name].data.copy_(weight)

    on_test_start = on_validation_start
    on_test_end = on_exception = on_validation_end  # raw weights stay where validation breaks off

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the averages into the state dict, the raw weights beside it."""
        if not self.shadow:
            return
        check_finite(self.shadow, step=trainer.global_step)
        state = checkpoint["state_dict"]
        raw = {n: whole(w) for n, w in self.raw.items()} or {n: state[n] for n in self.shadow}
        checkpoint["ema"] = {"updates": self.updates, "raw": raw}
        checkpoint["ema"]["profiles"] = {
            length: {name: whole(weight) for name, weight in profile.items()}
            for length, profile in self.profiles.items()
        }
        state.update({name: whole(weight) for name, weight in self.shadow.items()})

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Resume: averages from the state dict, raw weights into the network."""
        if "ema" not in checkpoint or trainer.state.fn != TrainerFn.FITTING:
            return
        self.updates = checkpoint["ema"]["updates"]
        raw = checkpoint["ema"]["raw"]
        self.shadow = {name: checkpoint["state_dict"][name].float().clone() for name in raw}
        check_finite(self.shadow, step=checkpoint["global_step"])
        self.profiles = checkpoint["ema"].get("profiles", {})
        if self.profiles.keys() != self.powers.keys():
            raise ValueError(
                f"The checkpoint has averages of the lengths {[*self.profiles]}, EMA was given "
                f"{[*self.powers]}: set EMA's lengths to those of the checkpoint."
            )
        self.put(raw, pl_module)


def check_finite(averages: dict[str, Tensor], step: int) -> None:
    """Raise if averaged weights are not finite; waits for the device once."""
    if not whole(get_total_norm(averages.values(), norm_type=torch.inf)).isfinite():
        name = next(n for n, weight in averages.items() if not whole(weight).isfinite().all())
        raise ValueError(
            f"The averaged weights are not finite at step {step}, {name} first: resume from an "
            "earlier checkpoint with a lower learning rate, and with the callback Stability."
        )
