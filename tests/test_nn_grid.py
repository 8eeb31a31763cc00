import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ardiffusion
from ardiffusion.nn.grid import MOMENTUM, PART, GridVAE

pytest.importorskip("diffusers", reason="GridVAE needs diffusers")


def make(resolution: int = 16, scaled: bool = True) -> GridVAE:
    """Make a small network in float64 with factor 4, so 16 tokens of 3 numbers."""
    torch.manual_seed(0)
    arvae = GridVAE(resolution=resolution, channels=3, widths=(4, 4, 8), layers=1, groups=2)
    for parameter in arvae.parameters():
        nn.init.normal_(parameter, std=0.3)
    if scaled:
        arvae.shift.copy_(torch.tensor([1.0, -2.0, 0.5]))
        arvae.scale.copy_(torch.tensor([0.5, 3.0, 2.0]))
    return arvae.double()


def make_video(batch: int = 2, frames: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, frames, 3, 16, 16, generator=generator, dtype=torch.float64)


def naive_moments(arvae: GridVAE, frame: Tensor) -> tuple[list[list[float]], list[list[float]]]:
    """Encode a frame (3, H, W): mean and log-variance of each token, row by row."""
    posterior = arvae.network.encode(2 * frame[None] - 1).latent_dist
    means, logvars = [], []
    for row in range(4):
        for column in range(4):
            mean, logvar = posterior.mean[0, :, row, column], posterior.logvar[0, :, row, column]
            means.append(((mean - arvae.shift) / arvae.scale).tolist())
            logvars.append((logvar.exp() / arvae.scale.square()).log().tolist())
    return means, logvars


@torch.no_grad()
def test_tokens_are_the_grid_row_by_row() -> None:
    arvae, video = make(), make_video()
    assert (arvae.tokens, arvae.channels, arvae.temporal) == (16, 3, False)
    mean, logvar = arvae.posterior(video)
    assert mean.shape == logvar.shape == (2, 3, 16, 3)
    for i in range(2):
        for f in range(3):
            means, logvars = naive_moments(arvae, frame=video[i, f])
            torch.testing.assert_close(mean[i, f], mean.new_tensor(means))
            torch.testing.assert_close(logvar[i, f], mean.new_tensor(logvars))
    assert torch.equal(arvae.encode(video), mean)


@torch.no_grad()
def test_decoding_fills_the_grid_row_by_row() -> None:
    arvae = make()
    latents = torch.randn(2, 3, 16, 3, dtype=torch.float64)
    video = arvae.decode(latents)
    assert video.shape == (2, 3, 3, 16, 16)
    for i in range(2):
        for f in range(3):
            grid = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
            for token in range(16):
                raw = latents[i, f, token] * arvae.scale + arvae.shift
                grid[0, :, token // 4, token % 4] = raw
            frame = arvae.network.decode(grid).sample[0]
            torch.testing.assert_close(video[i, f], (frame + 1) / 2)


@torch.no_grad()
def test_what_stage_2_learns_decodes_like_what_was_encoded() -> None:
    arvae, video = make(), make_video()
    latents = arvae.encode(video)
    once = arvae.normalise(latents)
    assert torch.equal(arvae.normalise(once), once)
    assert torch.equal(arvae.decode(once), arvae.decode(latents))
    assert torch.equal(arvae(video)[0], arvae.decode(latents))


@torch.no_grad()
def test_shift_and_scale_leave_reconstructions_as_they_are() -> None:
    video, noise = make_video(), torch.randn(2, 3, 16, 3, dtype=torch.float64)
    scaled, plain = make(), make(scaled=False)
    for draw in (None, noise):
        torch.testing.assert_close(scaled(video, noise=draw)[0], plain(video, noise=draw)[0])
    assert not torch.allclose(scaled.encode(video), plain.encode(video))


def test_stream_equals_whole() -> None:
    arvae = make()
    latents = torch.randn(2, 20, 16, 3, dtype=torch.float64)
    asked: list[int] = []

    def frames() -> Iterator[Tensor]:
        for frame in range(20):
            asked.append(frame)
            yield latents[:, frame]

    whole = arvae.decode(latents)
    for frame, video in enumerate(arvae.stream_decode(frames())):
        assert asked == list(range(frame + 1)) and not video.requires_grad
        torch.testing.assert_close(video, whole[:, frame])
    together = torch.stack(list(arvae.stream_decode(latents.unbind(1), together=3)), dim=1)
    torch.testing.assert_close(together, whole)


@torch.no_grad()
def test_long_videos_pass_in_parts() -> None:
    arvae, seen = make(), []
    for part in (arvae.network.encoder, arvae.network.decoder):
        part.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    arvae(make_video(batch=2, frames=PART + 1))
    assert seen == 2 * [PART, PART, 2]


def test_training_follows_mean_and_deviation_of_each_channel() -> None:
    arvae = make(scaled=False)
    means, variances = [0.0] * 3, [1.0] * 3
    for step in range(4):
        video = make_video() / (step + 1)
        with torch.no_grad():
            raw = [arvae.network.encode(2 * clip - 1).latent_dist.mean for clip in video]
            arvae.update_statistics(arvae(video)[1])
        for c in range(3):
            numbers = torch.cat([x[:, c].reshape(-1) for x in raw])
            mean = sum(numbers.tolist()) / len(numbers)
            variance = sum((x - mean) ** 2 for x in numbers.tolist()) / len(numbers)
            means[c] += MOMENTUM * (mean - means[c])
            variances[c] += MOMENTUM * (variance - variances[c])
        expected = arvae.scale.new_tensor([v**0.5 for v in variances])
        torch.testing.assert_close(arvae.shift, arvae.shift.new_tensor(means), rtol=1e-6, atol=0)
        torch.testing.assert_close(arvae.scale, expected, rtol=1e-6, atol=0)


@torch.no_grad()
def test_latents_end_up_with_mean_0_and_deviation_1() -> None:
    arvae, video = make(), make_video()
    before = arvae.encode(video)
    raw = before * arvae.scale + arvae.shift
    assert (before.mean((0, 1, 2)).abs() > 0.01).any()
    for _ in range(2000):
        arvae.update_statistics((raw - arvae.shift) / arvae.scale)
    after = arvae.encode(video)
    torch.testing.assert_close(after.mean((0, 1, 2)), torch.zeros(3).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        after.std((0, 1, 2), correction=0), torch.ones(3).double(), rtol=0, atol=1e-5
    )


def test_nothing_else_moves_shift_and_scale() -> None:
    arvae, video = make().train(), make_video()
    before = {name: value.clone() for name, value in arvae.state_dict().items()}
    arvae.decode(arvae.encode(video))
    list(arvae.stream_decode(iter(arvae.encode(video).unbind(1))))
    arvae(video)[0].square().mean().backward()
    torch.testing.assert_close(arvae.state_dict(), before, rtol=0, atol=0)
    assert arvae.last_layer.grad is not None and arvae.last_layer.shape[0] == 3


@torch.no_grad()
def test_reduced_precision_stays_near() -> None:
    arvae, video = make(), make_video()
    exact = arvae.decode(arvae.encode(video))
    rough = arvae.bfloat16().decode(arvae.encode(video.bfloat16()).float())
    assert rough.dtype == torch.bfloat16
    assert (rough.double() - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"resolution": 18}, "resolution 18 is not a multiple of 4"),
        ({"groups": 8}, r"multiples of groups 8, got \[16, 16, 20\]"),
        ({"widths": ()}, r"got \[\]"),
    ],
)
def test_bad_sizes_are_named(options: dict[str, object], sentence: str) -> None:
    sizes: dict[str, object] = {"resolution": 16, "widths": (16, 16, 20), "groups": 4}
    with pytest.raises(ValueError, match=sentence):
        GridVAE(**{**sizes, **options})  # pyright: ignore[reportArgumentType]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders.autoencoder_kl", None)
    with pytest.raises(ValueError, match=r"pip install 'ardiffusion\[grid\]'"):
        make()


def test_nobody_waits_for_diffusers_who_does_not_use_it() -> None:
    files = list(Path(str(ardiffusion.__file__)).parent.rglob("*.py"))
    assert len(files) > 50
    for file in files:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "diffusers"], file
