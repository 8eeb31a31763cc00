"""Generating frame by frame: what is drawn, kept and handed out when."""

import gc
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from recorder import assert_alike
from stages import make_arvae, make_dit
from torch import Tensor
from torch.testing import assert_close

from ardiffusion.diffusion.noise import FrameNoise, latent_noise, step_seed
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import DDIM
from ardiffusion.generator import generate
from ardiffusion.nn.arvae import ARVAE
from ardiffusion.nn.autoencoder import to_bytes
from ardiffusion.training.load import load_generator

pytestmark = pytest.mark.filterwarnings("ignore:Attribute")


def test_noise_is_drawn_when_a_frame_is_due() -> None:
    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (1, 2)]

    whole = latent_noise(generators(), frames=4, tokens=3, channels=2)
    drawn, expected = generators(), generators()
    noise = FrameNoise(drawn, tokens=3, channels=2)
    for frame in (0, 0, 1, 2, 3):  # the first is asked for twice
        assert_close(noise(frame), whole[:, frame], rtol=0, atol=0)
    for g in expected:
        for _ in range(4):
            torch.randn(3, 2, generator=g)
    assert all(
        torch.equal(a.get_state(), b.get_state()) for a, b in zip(drawn, expected, strict=True)
    )


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_stream_equals_sampling_and_decoding_everything(generator: Path, eta: float) -> None:
    module = load_generator(str(generator))
    assert module.arvae is not None
    sampler = module.sampler(steps=4, difference=2, solver=DDIM(eta=eta))
    label = torch.tensor([1, 2])
    streamed = module.generate(sampler, seeds=[7, 8], frames=20, label=label)
    first = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    steps = [torch.Generator().manual_seed(step_seed(seed)) for seed in (7, 8)]
    noise = latent_noise(first, frames=20, tokens=module.arvae.tokens, channels=4)
    dit: Any = module.dit
    latents = sampler.sample(dit, noise, label=label, generators=steps)
    assert_alike(streamed, to_bytes(module.arvae.decode(latents)))


def test_steps_of_a_solver_leave_the_noise_of_frames_alone(generator: Path) -> None:
    module = load_generator(str(generator))
    sampler = module.sampler(steps=4, difference=2, solver=DDIM(eta=1))
    label = torch.tensor([1])
    short, long = (module.generate(sampler, [7], frames, label)[0] for frames in (4, 8))
    assert_alike(long[:3], short[:3])  # finished while the same frames were in flight
    plain = module.generate(module.sampler(steps=4, difference=2), [7], 4, label)[0]
    assert (short.int() - plain.int()).abs().max() > 10


def test_video_without_end_begins_like_any_other(generator: Path) -> None:
    module = load_generator(str(generator))
    sampler = module.sampler(steps=4, difference=2)
    label = torch.tensor([3])
    dit, arvae = cast("Any", module.dit), cast("ARVAE", module.arvae)
    endless = generate(dit, arvae, sampler, seeds=[3], frames=None, label=label)
    video = torch.stack(list(islice(endless, 12)), dim=1)
    assert_alike(video, module.generate(sampler, [3], frames=12, label=label))


def bytes_alive() -> int:
    """Return how much memory all tensors keep alive."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if issubclass(type(x), Tensor)]
    storages = [x.untyped_storage() for x in tensors]
    return sum({x.data_ptr(): x.nbytes() for x in storages}.values())


@torch.inference_mode()
def test_memory_depends_neither_on_the_length_nor_on_what_is_done() -> None:
    dit, arvae = make_dit(), make_arvae(temporal=True, window=3)
    sampler = Sampler(NoiseSchedule(), steps=4, difference=2)
    before, found = bytes_alive(), []
    for frames, stops in ((15, [10]), (105, [10, 100]), (None, [10])):
        video = generate(dit, arvae, sampler, seeds=[1, 2], frames=frames)
        for done, _ in enumerate(video, 1):
            if done in stops:
                found.append(bytes_alive() - before)
            if done == stops[-1]:
                break
        del video
    assert found == 4 * found[:1] and found[0] > 0
