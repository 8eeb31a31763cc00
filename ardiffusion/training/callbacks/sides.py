"""The sides that a callback compares: real videos of the data, samples of the network."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ardiffusion.data.clips import resize_crop
from ardiffusion.data.index import cache_file
from ardiffusion.data.stamp import stamp
from ardiffusion.data.video import VideoReader
from ardiffusion.diffusion.noise import sample_seeds
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.generator import Generator
from ardiffusion.metrics.clip_features import Videos, own_chunks
from ardiffusion.metrics.protocol import Clip, Protocol
from ardiffusion.training.data import VideoDataModule


def real_videos(data: VideoDataModule, splits: Sequence[str], protocol: Protocol) -> Videos:
    """Return the videos of splits, at the frame rate and resolution that the network learns.

    Args:
        data: The data module; of its frames only every `stride`th counts.
        splits: Names of the splits, in their order.
        protocol: How many frames a clip has, and their step.
    """
    # A video may be in two lists.
    videos = list({v.path: v for split in splits for v in data.videos[split]}.values())

    def read(clip: Clip) -> Tensor:
        frames = VideoReader(data.root / videos[clip.video].path).read(
            start=clip.start * data.stride,
            frames=protocol.frames,
            stride=protocol.stride * data.stride,
        )
        return resize_crop(frames, data.resolution)

    identity = {"root": str(data.root.resolve()), "resolution": data.resolution}
    return Videos(
        name=str(data.root),
        keys=[f"{video.path}:{stamp(data.root / video.path)}" for video in videos],
        lengths=[(video.frames - 1) // data.stride + 1 for video in videos],
        names=[video.path for video in videos],
        read=read,
        identity=identity | {"stride": data.stride},
    )


def feature_cache(data: VideoDataModule) -> Path:
    """Name the folder for features of real clips, beside the data module's index."""
    return cache_file(data.root, data.cache).parent / "features"


class Samples:
    """Videos that a network makes when they are asked for, a batch at a time.

    Sample i depends on `seed` and i alone, whatever the batch size and the number of processes.

    Args:
        generator: What generates.
        sampler: Its sampler.
        protocol: How many samples are asked for, and of how many frames.
        seed: Seed of the samples.
        batch_size: Videos generated at once.
    """

    def __init__(
        self,
        generator: Generator,
        sampler: Sampler,
        protocol: Protocol,
        seed: int,
        batch_size: int,
    ) -> None:
        self.generator, self.sampler, self.protocol = generator, sampler, protocol
        self.seed, self.batch_size = seed, batch_size
        self.lengths = [protocol.span] * protocol.videos
        shares = own_chunks(protocol.fake(self.lengths)).values()
        self.order = list(dict.fromkeys(clip.video for share in shares for clip in share))
        self.batch: dict[int, Tensor] = {}

    def videos(self) -> Videos:
        """Return the samples as one side of a comparison."""
        keys = [str(i) for i in range(len(self.lengths))]
        return Videos(
            "samples", keys, self.lengths, names=keys, read=self.read, identity={}, made=True
        )

    def read(self, clip: Clip) -> Tensor:
        """Return a clip of a sample, which is made unless it was with those before it."""
        if clip.video not in self.batch:
            first = self.order.index(clip.video)
            self.make(self.order[first : first + self.batch_size])
        video = self.batch[clip.video]
        return video[clip.start : clip.start + self.protocol.span : self.protocol.stride]

    def make(self, indices: list[int]) -> None:
        """Make samples in the place of the last ones."""
        made = self.generator.generate(
            sample_seeds(self.seed, indices),
            frames=self.protocol.span,
            labels=self.generator.labels_in_turn(indices),
            sampler=self.sampler,
        )
        self.batch = dict(zip(indices, made.cpu(), strict=True))
