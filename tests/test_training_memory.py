from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from stages import make_arvae, make_data, make_dit, make_first_stage, make_trainer
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW
from torch.testing import assert_close

from ardiffusion.metrics.features import Random3D
from ardiffusion.metrics.protocol import EveryClip
from ardiffusion.nn.shares import whole
from ardiffusion.training.callbacks.ema import EMA
from ardiffusion.training.callbacks.fvd import FVDGen
from ardiffusion.training.callbacks.save_last import SaveLast
from ardiffusion.training.callbacks.stability import Stability
from ardiffusion.training.callbacks.videos import VideoLogger
from ardiffusion.training.diffusion import DiffusionModule
from ardiffusion.training.memory import Recompute, Sharded

pytestmark = pytest.mark.filterwarnings(
    "ignore:Attribute|You defined a|Found .*|.*fork|Checkpoint|FSDP2|Using|The number"
)


def gradients(network: nn.Module, *inputs: torch.Tensor) -> dict[str, torch.Tensor | None]:
    network.zero_grad()
    outputs = network(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def kept(network: nn.Module, *inputs: torch.Tensor) -> int:
    """Count the numbers that are kept for the backward pass."""
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: sizes.append(x.numel()) or x, lambda x: x
    ):
        network(*inputs)
    return sum(sizes)


@pytest.mark.parametrize("name", ["dit", "arvae"])
def test_recomputing_keeps_less_and_changes_no_gradient(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    networks = {"dit": partial(make_dit, depth=3), "arvae": partial(make_arvae, depth=3)}
    inputs = {
        "dit": (torch.randn(2, 3, 2, 4, generator=generator), torch.tensor([[1, 5, 9]] * 2)),
        "arvae": (torch.rand(1, 2, 3, 16, 16, generator=generator),),
    }[name]
    network = networks[name]()
    expected, before = gradients(network, *inputs), kept(network, *inputs)
    module = LightningModule()
    module.network = network
    Recompute().on_fit_start(make_trainer(), module)
    assert_close(gradients(network, *inputs), expected, rtol=1e-5, atol=1e-7)
    assert kept(network, *inputs) < 0.6 * before


def test_a_second_run_finds_its_blocks_prepared() -> None:
    module = LightningModule()
    module.network = make_dit()
    block = module.network.get_submodule("blocks.0")
    Recompute().on_fit_start(make_trainer(), module)
    prepared = block.forward
    Recompute().on_fit_start(make_trainer(), module)
    assert block.forward is prepared


class Gathered(DiffusionModule):
    """Has whole weights for the launcher of forks, which looks at them in the end."""

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        return {n: whole(value) for n, value in super().state_dict(*args, **kwargs).items()}

    def on_before_zero_grad(self, optimizer: object) -> None:
        shared = isinstance(self.dit.get_parameter("out.weight"), DTensor)
        assert shared == isinstance(self.trainer.strategy, Sharded)


def fit(
    tokenizer: Path,
    skies: Path,
    folder: Path,
    **options: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Train stage 2 in two processes with all that looks at weights; return the checkpoint."""
    torch.manual_seed(0)
    optimizer = partial(AdamW, lr=1e-3)
    module = Gathered(dit=make_dit(), arvae=str(tokenizer), optimizer=optimizer)
    keep = ModelCheckpoint(folder, every_n_train_steps=100, save_last=True, save_top_k=0)
    protocol = EveryClip(extractor=Random3D(), frames=4, videos=5)
    looking = [EMA(decay=0.5), Stability(window=4), VideoLogger(), SaveLast(), keep]
    looking += [FVDGen(protocol, batch_size=1)]
    looking += options.pop("callbacks", [])
    settings = {"devices": 2, "enable_checkpointing": True, "default_root_dir": folder}
    settings |= {"num_sanity_val_steps": 1, "gradient_clip_val": 0.1, "callbacks": looking}
    trainer = make_trainer(**settings, **options)
    trainer.fit(module, datamodule=make_data(skies), ckpt_path="last")
    return torch.load(folder / "last.ckpt", weights_only=True)


def test_shares_of_weights_train_go_on_and_are_saved_as_whole_weights_are(
    tokenizer: Path, skies: Path, tmp_path: Path
) -> None:
    once = fit(tokenizer, skies, tmp_path / "once", max_steps=7, strategy="ddp_fork")
    for steps, callbacks in ((4, []), (7, [Recompute()])):  # an epoch has 3 steps
        options = {"strategy": Sharded(start_method="fork"), "callbacks": callbacks}
        legs = fit(tokenizer, skies, tmp_path / "legs", max_steps=steps, **options)
    assert legs["parts"] == once["parts"]
    for name in ("state_dict", "ema", "optimizer_states"):
        assert_close(legs[name], once[name], rtol=1e-3, atol=1e-5)


def test_sharing_is_refused_to_stage_1(skies: Path) -> None:
    trainer = make_trainer(strategy=Sharded())
    with pytest.raises(ValueError, match="Sharded is for stage 2"):
        trainer.fit(make_first_stage(), datamodule=make_data(skies))
