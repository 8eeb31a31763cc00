"""Frame by frame similarity of videos of the same name in two folders, as for reconstructions."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ardiffusion.metrics.bootstrap import ONE_VIDEO, Bootstrap, mean_interval
from ardiffusion.metrics.clip_features import check_size
from ardiffusion.metrics.image import psnr, ssim
from ardiffusion.metrics.parallel import gather_parts, rank_and_world
from ardiffusion.metrics.score import Score
from ardiffusion.nn.autoencoder import to_unit
from ardiffusion.nn.perceptual import LPIPS, VGG_FILE
from ardiffusion.tools.video_folder import VideoFolder

AT_ONCE = 16  # frames that go through VGG16 together
PART = 64  # frames of a pair in memory
# Compares two uint8 videos (F, 3, H, W), giving one number per frame (F,).
Similarity = Callable[[Tensor, Tensor], Tensor]


class Pairs:
    """Videos of two folders that have the same path but for its suffix.

    Of videos of different lengths the frames that both have are compared. Everything that may be
    missing is found so when this is made.

    Args:
        real: Folder of real videos.
        fake: Folder of their reconstructions.
        lpips: Whether LPIPS is measured besides PSNR and SSIM.
    """

    def __init__(self, real: VideoFolder, fake: VideoFolder, lpips: bool) -> None:
        self.real, self.fake = real, fake
        self.matched = pair_videos(real, fake)
        self.frames = [min(real.lengths[i], fake.lengths[j]) for i, j in self.matched]
        real_part, fake_part = next(self.parts(0))
        ssim(real_part[:1], fake_part[:1])  # which asks for a size
        self.size = real_part.shape[-2:]
        self.similarities: dict[str, Similarity] = {"psnr": psnr, "ssim": ssim}
        if lpips:
            self.similarities["lpips"] = load_lpips()

    def in_step(self) -> bool:
        """Whether both folders hold these pairs alone, so that a pair has one place in both."""
        sizes = {len(self.matched), len(self.real.paths), len(self.fake.paths)}
        return len(sizes) == 1 and all(i == j for i, j in self.matched)

    def parts(self, pair: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Read the frames that both videos of a pair have, part by part."""
        (one, other), frames = self.matched[pair], self.frames[pair]
        sides = self.real.parts(one, frames, PART), self.fake.parts(other, frames, PART)
        for x, y in zip(*sides, strict=True):
            sizes = [(video.shape[-2], video.shape[-1]) for video in (x, y)]
            check_size(str(self.real.root), sizes[0], str(self.fake.root), sizes[1])
            yield x, y

    @torch.no_grad()
    def compare(self, device: torch.device, advance: Callable[[int], object]) -> Tensor:
        """Average each similarity over the frames of each pair, (N, K); processes share it."""
        rank, world = rank_and_world()
        values: dict[int, Tensor] = {}
        for pair in range(rank, len(self.matched), world):
            sums = torch.zeros(len(self.similarities), dtype=torch.float64)
            for part in self.parts(pair):
                x, y = (video.to(device) for video in part)
                found = [like(x, y).cpu().double().sum() for like in self.similarities.values()]
                sums += torch.stack(found)
            values[pair] = sums / self.frames[pair]
            if not values[pair].isfinite().all():
                path = self.real.root / self.real.paths[self.matched[pair][0]]
                named = dict(zip(self.similarities, values[pair].tolist(), strict=True))
                raise ValueError(f"{path} and its pair compare as {named}: check the weights.")
            advance(1)
        return torch.stack(gather_parts(values))

    def scores(self, values: Tensor, split: str, bootstrap: Bootstrap | None) -> list[Score]:
        """Return the score of each similarity, averaged over the pairs' values (N, K)."""
        alone = [ONE_VIDEO] if bootstrap and len(values) < 2 else []
        return [
            Score(
                metric=name,
                value=column.mean().item(),
                interval=mean_interval(column, bootstrap) if bootstrap else None,
                protocol={
                    "name": "Paired",
                    "frames": self.frames[0] if len(set(self.frames)) == 1 else "all",
                    "average": "over frames, then over videos",
                },
                real=len(values),
                fake=len(values),
                split=split,
                stride=1,
                resolution=min(self.size),
                seeds={"bootstrap": bootstrap.seed if bootstrap else 0},
                network={"name": "vgg16", "hash": VGG_FILE} if name == "lpips" else {},
                data={
                    "real": self.real.root.name,
                    "fake": self.fake.root.name,
                    "size": list(self.size),
                },
                warnings=self.warnings() + alone,
            )
            for name, column in zip(self.similarities, values.unbind(dim=1), strict=True)
        ]

    def warnings(self) -> list[str]:
        found = []
        readable = len(self.real.readable) + len(self.fake.readable)
        if alone := readable - 2 * len(self.matched):
            found.append(f"{alone} videos have none of the same path on the other side.")
        if any(self.real.lengths[i] != self.fake.lengths[j] for i, j in self.matched):
            found.append("Some pairs differ in length: only frames that both have are compared.")
        return found


def pair_videos(real: VideoFolder, fake: VideoFolder) -> list[tuple[int, int]]:
    """Number the videos that have the same path in both folders but for its suffix."""
    first, second = real.stems(), fake.stems()
    pairs = [
        (first[name], second[name])
        for name in first
        if name in second and real.lengths[first[name]] and fake.lengths[second[name]]
    ]
    if not pairs:
        raise ValueError(
            f"No video of {real.root} and {fake.root} has the same path but for its suffix: name "
            "them alike, or leave out --paired."
        )
    return pairs


def load_lpips() -> Similarity:
    network = LPIPS()
    network.load()

    def distances(real: Tensor, fake: Tensor) -> Tensor:
        parts = zip(real.split(AT_ONCE), fake.split(AT_ONCE), strict=True)
        return torch.cat([network(to_unit(x), to_unit(y)) for x, y in parts])

    return distances
