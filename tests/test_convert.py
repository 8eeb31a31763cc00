from pathlib import Path

import pytest
import torch
from einops import rearrange
from goldens import load_golden
from safetensors.torch import save_file
from torch import Tensor

from ardiffusion.convert import from_published
from ardiffusion.hub import load_arvae, load_dit
from ardiffusion.nn.arvae import PublishedARVAE
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.published.arvae import POINTWISE, published_name

GOLDEN = Path(__file__).parent / "fixtures" / "goldens" / "dit_small_rope_qknorm.json"


def state() -> dict[str, Tensor]:
    return load_golden(GOLDEN).state_dict()


def test_a_prefix_from_many_devices_makes_no_difference() -> None:
    plain = from_published(state())
    wrapped = from_published({f"module.{name}": value for name, value in state().items()})
    assert list(plain) == list(wrapped) == ["dit"]
    torch.testing.assert_close(plain["dit"].state_dict(), wrapped["dit"].state_dict())


def test_what_shapes_cannot_tell_is_passed_on() -> None:
    net = from_published(state(), tokens=16, frames=8, causal=False, open_context=False)["dit"]
    assert isinstance(net, PublishedDiT)
    assert (net.tokens, net.frames, net.causal, net.open_context) == (16, 8, False, False)


def whole_model() -> dict[str, Tensor]:
    """Make a file of both stages, as training with the tokenizer inside leaves it."""
    torch.manual_seed(0)
    tokenizer = PublishedARVAE(resolution=32, width=64, depth=1, tokens=4, pixel_width=32)
    made = {f"vae.{published_name(n)}": v for n, v in tokenizer.state_dict().items()}
    for name in POINTWISE:
        made[f"vae.{name}"] = rearrange(made[f"vae.{name}"], "o i -> o i 1 1")
    made["vae.decoder.mask_token"] = made["vae.decoder.mask_token"][None]
    return {f"module.{name}": value for name, value in (made | state()).items()}


def test_a_file_of_both_stages_gives_both(tmp_path: Path) -> None:
    networks = from_published(whole_model())
    assert list(networks) == ["arvae", "dit"]
    assert isinstance(networks["arvae"], PublishedARVAE) and networks["arvae"].tokens == 4
    save_file(whole_model(), tmp_path / "model.safetensors")
    for load, kind in ((load_arvae, "arvae"), (load_dit, "dit")):
        found = load(tmp_path).state_dict()
        torch.testing.assert_close(found, networks[kind].state_dict(), rtol=0, atol=0)


def test_a_file_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"neither a published tokenizer .* transformer.* conv1"):
        from_published({"conv1.weight": torch.zeros(1)})
