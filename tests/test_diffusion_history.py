import pytest
import torch
from torch import Generator, Tensor

from ardiffusion.diffusion.history import OwnHistory
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.target import X0


def guess(x_t: Tensor, t: Tensor) -> Tensor:
    return torch.full_like(x_t, 7.0).requires_grad_()


def replace(share: float, batch: int = 64, frames: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    x, t = torch.zeros(batch, frames, 2, 3), torch.full((batch, frames), 500)
    generator = Generator().manual_seed(0)
    parts = NoiseSchedule(), X0()
    return x, *OwnHistory(share)(guess, x, t, *parts, generator=generator)


def test_first_frames_are_the_network_s_own_and_only_the_others_count() -> None:
    _, seen, counted = replace(share=1.0)
    assert torch.equal(seen[:, :, 0, 0] == 7, ~counted)
    assert torch.equal(counted.sort(dim=1).values, counted)  # a prefix is replaced
    assert not counted[:, 0].any() and counted[:, -1].all()
    assert set((~counted).sum(dim=1).tolist()) == {1, 2, 3, 4, 5}
    assert not seen.requires_grad


def test_a_share_of_the_clips_has_a_history_of_its_own() -> None:
    x, seen, counted = replace(share=0.25, batch=4000)
    assert float((~counted[:, 0]).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(seen[counted[:, 0]], x[counted[:, 0]])


def test_a_single_frame_has_no_past() -> None:
    assert replace(share=1.0, frames=1)[2].all()


def test_the_network_sees_levels_of_another_clip() -> None:
    told: list[Tensor] = []

    def listen(x_t: Tensor, t: Tensor) -> Tensor:
        told.append(t)
        return x_t

    t = torch.tensor([[1, 2], [3, 4], [5, 6]])
    parts = NoiseSchedule(), X0(), Generator().manual_seed(0)
    OwnHistory(1.0)(listen, torch.zeros(3, 2, 1, 1), t, *parts)
    assert told[0].tolist() == [[5, 6], [1, 2], [3, 4]]


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"{share}"):
        OwnHistory(share)
