import pytest
import torch
from lightning import Trainer

from ardiffusion.nn.packed import has_onednn
from ardiffusion.training.products import fast_products, say_of_compile


@pytest.mark.parametrize("amx", [False, True])
def test_products_stay_exact_and_the_setting_is_put_back(
    amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    before = torch.get_float32_matmul_precision()
    x, weight = torch.randn(64, 96), torch.randn(80, 96)
    with fast_products():
        chosen = "medium" if has_onednn() and not amx else before
        assert torch.get_float32_matmul_precision() == chosen
        found = torch.nn.functional.linear(x, weight).double()
    assert (found - x.double() @ weight.double().T).norm() <= 2e-6 * found.norm()
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.skipif(torch.cpu._is_amx_tile_supported(), reason="this CPU has AMX")
def test_other_devices_keep_their_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    before = torch.get_float32_matmul_precision()
    with fast_products():
        assert torch.get_float32_matmul_precision() == before


def test_compiling_for_a_cpu_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        say_of_compile(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False))
    assert "makes it slower" in caplog.text
