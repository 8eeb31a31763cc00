import pytest
import torch

from ardiffusion.tools.options import device_of


def test_a_device_that_is_not_there_is_named() -> None:
    assert device_of("cpu") == torch.device("cpu")
    for name in ("cuda:77", "meta", "gpu", ""):
        with pytest.raises(ValueError, match=f"--device is '{name}', which is not here: use cpu"):
            device_of(name)
