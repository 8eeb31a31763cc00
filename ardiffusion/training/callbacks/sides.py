"""The sides that a callback compares, videos of the data and samples, and where scores go."""

from collections.abc import Sequence
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ardiffusion.data.storage import below
from ardiffusion.diffusion.noise import sample_seeds
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.generator import Generator
from ardiffusion.metrics.clip_features import Videos, own_chunks
from ardiffusion.metrics.protocol import Clip, Protocol
from ardiffusion.metrics.score import Score
from ardiffusion.training.data import VideoDataModule
from ardiffusion.training.step_guard import log_folder


def real_videos(data: VideoDataModule, splits: Sequence[str], protocol: Protocol) -> Videos:
    """Return the videos of splits, at the frame rate and resolution that the network learns."""
    # A video may be in two lists.
    videos = list({v.path: v for split in splits for v in data.videos[split]}.values())

    def read(clip: Clip) -> Tensor:  # by several threads, each with a reader of its own
        first, step = clip.start * data.stride, protocol.stride * data.stride
        return data.main.files.read(videos[clip.video], first, protocol.frames, step)

    root = data.root.resolve() if isinstance(data.root, Path) else data.root
    identity = {"root": str(root), "resolution": data.resolution}
    return Videos(
        name=str(data.root),
        names=[video.path for video in videos],
        lengths=[(video.frames - 1) // data.stride + 1 for video in videos],
        stamp=lambda video: data.main.files.stamp(videos[video].path),
        read=read,
        identity=identity | {"stride": data.stride},
    )


def check_there(data: VideoDataModule, splits: Sequence[str], protocol: Protocol) -> None:
    """Raise if a real video that a protocol chooses is gone, as may be where latents are kept."""
    real = real_videos(data, splits, protocol=protocol)
    for clip in protocol.real(real.lengths):
        try:
            real.stamp(clip.video)
        except (ValueError, OSError) as error:
            path = below(data.main.rule.root, real.names[clip.video])
            raise FileNotFoundError(
                f"Generated videos are to be compared with {path}, which is not there: set "
                "--data.root to the videos that the latents are of."
            ) from error


def sampled_videos(
    generator: Generator, sampler: Sampler, protocol: Protocol, seed: int, batch_size: int
) -> Videos:
    """Return the videos that a protocol asks for, made a batch at a time when they are.

    Sample i depends on `seed` and i alone, whatever the batch size and the number of processes.
    """
    lengths = [protocol.span] * protocol.videos
    names = [str(i) for i in range(len(lengths))]
    shares = own_chunks(protocol.fake(lengths)).values()
    order = list(dict.fromkeys(clip.video for share in shares for clip in share))
    batch: dict[int, Tensor] = {}

    def read(clip: Clip) -> Tensor:
        if clip.video not in batch:
            first = order.index(clip.video)
            indices = order[first : first + batch_size]
            seeds, labels = sample_seeds(seed, indices), generator.labels_in_turn(indices)
            made = generator.generate(seeds, protocol.span, labels=labels, sampler=sampler)
            batch.clear()
            batch.update(zip(indices, made.cpu(), strict=True))
        return batch[clip.video][clip.start : clip.start + protocol.span : protocol.stride]

    return Videos("samples", names, lengths, stamp=str, read=read, identity={}, made=True)


def report(score: Score, name: str, trainer: Trainer, module: LightningModule) -> None:
    """Log a score, print its line and write `scores/NAME_step_000123.json`; all processes must.

    Where nothing is trained the trainer knows no step, and the file is called after the
    fingerprint of the weights: `scores/NAME_test_0123456789abcdef.json`.
    """
    for warning in score.warnings:
        rank_zero_warn(f"{name}: {warning}")
    module.log(name, score.value, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
    folder = log_folder(trainer)
    when = f"step_{trainer.global_step:06d}"
    if trainer.state.fn is not TrainerFn.FITTING:
        when = f"{'test' if trainer.testing else 'val'}_{score.weights}"
    if trainer.is_global_zero:
        score.save(folder / "scores" / f"{name}_{when}.json")
        trainer.print(score.line())
