"""Generating frame by frame: what is drawn, kept and handed out when."""

import gc
from itertools import islice
from pathlib import Path

import pytest
import torch
from recorder import assert_alike
from stages import make_arvae, make_dit
from torch import Tensor
from torch.testing import assert_close

from ardiffusion.diffusion.noise import FrameNoise, StepNoise, latent_noise, step_seed
from ardiffusion.diffusion.solver import DDIM
from ardiffusion.generator import Generator
from ardiffusion.nn.autoencoder import to_bytes

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


def test_a_frame_s_steps_draw_from_its_own_generator_until_it_is_dropped() -> None:
    drawn = StepNoise([torch.Generator().manual_seed(seed) for seed in (1, 2)])
    order, found = (0, 2, 0, 1, 2, 0, 2), {0: [], 1: [], 2: []}
    for frame in order:  # 1 begins late
        found[frame].append(drawn(frame, like=torch.empty(2, 3, 2, dtype=torch.float64)))
    for sample, seed in enumerate((1, 2)):
        generator = torch.Generator().manual_seed(seed)
        for steps in found.values():
            own = torch.Generator().manual_seed(int(torch.randint(2**32, (), generator=generator)))
            for z in steps:
                expected = torch.randn(3, 2, generator=own, dtype=torch.float64)
                assert_close(z[sample], expected, rtol=0, atol=0)
    drawn.drop(before=2)
    assert list(drawn.own) == [2]


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_stream_equals_sampling_and_decoding_everything(generator: Path, eta: float) -> None:
    made = Generator.from_pretrained(generator)
    sampler = made.sampler(steps=4, difference=2, solver=DDIM(eta=eta))
    label = torch.tensor([1, 2])
    streamed = made.generate([7, 8], frames=20, labels=label, sampler=sampler)
    first = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    steps = [torch.Generator().manual_seed(step_seed(seed)) for seed in (7, 8)]
    noise = latent_noise(first, frames=20, tokens=made.arvae.tokens, channels=4)
    latents = sampler.sample(made.dit, noise, label=label, generators=steps)
    assert_alike(streamed, to_bytes(made.arvae.decode(latents)))


def test_steps_of_a_solver_leave_the_noise_of_frames_alone(generator: Path) -> None:
    made = Generator.from_pretrained(generator)
    noisy = made.sampler(steps=4, difference=2, solver=DDIM(eta=1))
    plain = made.sampler(steps=4, difference=2)
    short, long = (made.generate([7], f, labels=["day"], sampler=noisy)[0] for f in (4, 8))
    assert_alike(long[:4], short)
    other = made.generate([7], 4, labels=["day"], sampler=plain)[0]
    assert (short.int() - other.int()).abs().max() > 10


def test_video_without_end_begins_like_any_other(generator: Path) -> None:
    made = Generator.from_pretrained(generator)
    sampler = made.sampler(steps=4, difference=2)
    endless = made.stream([3], labels=[3], sampler=sampler)
    video = torch.stack(list(islice(endless, 12)), dim=1)
    assert_alike(video, made.generate([3], frames=12, labels=[3], sampler=sampler))


def bytes_alive() -> int:
    """Return how much memory all tensors keep alive, but for packed weights, which do not say."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if issubclass(type(x), Tensor)]
    storages = [x.untyped_storage() for x in tensors if not x.is_mkldnn]
    return sum({x.data_ptr(): x.nbytes() for x in storages}.values())


@torch.inference_mode()
def test_memory_depends_neither_on_the_length_nor_on_what_is_done() -> None:
    dit, arvae = make_dit(), make_arvae(temporal=True, window=3)
    made = Generator(dit, arvae, steps=4, difference=2)
    before, found = bytes_alive(), []
    for frames, stops in ((15, [10]), (105, [10, 100]), (None, [10])):
        video = made.stream([1, 2], frames=frames)
        for done, _ in enumerate(video, 1):
            if done in stops:
                found.append(bytes_alive() - before)
            if done == stops[-1]:
                break
        del video
    assert found == 4 * found[:1] and found[0] > 0
