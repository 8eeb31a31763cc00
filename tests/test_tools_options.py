import pytest
import torch

from ardiffusion.tools.options import device_of


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="--device is cuda:1, but PyTorch finds no GPU here"):
        device_of("cuda:1")
    with pytest.raises(ValueError, match="--device is 'gpu', which is no device: use cpu or cuda"):
        device_of("gpu")
