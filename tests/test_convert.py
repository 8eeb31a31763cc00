import json
from pathlib import Path

import pytest
import torch
from einops import rearrange
from goldens import load_golden
from safetensors.torch import save_file
from torch import Tensor

from ardiffusion.convert import from_published, main
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
    main([str(tmp_path / "model.safetensors"), str(tmp_path / "ours")])
    for load, kind in ((load_arvae, "arvae"), (load_dit, "dit")):
        for source in (tmp_path / "ours", tmp_path / "ours" / kind, tmp_path):
            found = load(source).state_dict()
            torch.testing.assert_close(found, networks[kind].state_dict(), rtol=0, atol=0)


def test_a_file_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"neither a published tokenizer .* transformer.* conv1"):
        from_published({"conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_the_command_converts_once_and_for_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    path = tmp_path / f"published{suffix}"
    weights = {name: value.clone() for name, value in state().items()}
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    main([str(path), str(tmp_path / "ours"), "--frames=8", "--causal=false"])
    done = json.loads(capsys.readouterr().out)
    assert done == {"dit": str(tmp_path / "ours"), "beta_start": 1e-4, "beta_end": 0.02}
    ours = load_dit(tmp_path / "ours")
    assert isinstance(ours, PublishedDiT) and ours.frames == 8 and not ours.causal
    torch.testing.assert_close(ours.state_dict(), load_dit(path).state_dict(), rtol=0, atol=0)
    assert path.name in (tmp_path / "ours" / "README.md").read_text()


def test_the_command_ends_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "absent.safetensors"), str(tmp_path)])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: There is no file {tmp_path}/absent.safetensors.\n"
