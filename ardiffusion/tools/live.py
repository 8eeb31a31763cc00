"""Videos that appear in a browser while they are made: `ardiff live SOURCE`."""

import os
import shutil
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator as Stream
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ardiffusion.data.prefixes import read_prefixes
from ardiffusion.data.writer import FPS, VideoWriter
from ardiffusion.diffusion.noise import LAST_SEED, sample_seed
from ardiffusion.diffusion.plans import Plan
from ardiffusion.diffusion.spans import Span
from ardiffusion.generator import Generator
from ardiffusion.nn.sizes import check_range
from ardiffusion.tools.options import device_of
from ardiffusion.training.messages import user_message
from ardiffusion.training.trainers import load_generator

RECENT = 5  # finished frames that stay in sight
PEOPLE = 8  # whose videos are made at once


class Stopped(Exception):
    """Leaves the sampler between two iterations."""


@dataclass(frozen=True)
class Wish:
    """What somebody asks for on the page; nothing of it is checked yet."""

    label: str | int | None  # -1: none of the classes
    seed: int | None
    steps: int | None
    difference: int | None
    guidance: float | None
    start: str | None = None


@dataclass
class Studio:
    """What all sessions share: the frozen generator, and the turns they take with it.

    Who holds the turn computes, for one iteration: CUDA graphs cannot be captured while somebody
    else computes.
    """

    generator: Generator
    folder: Path  # where videos grow
    plan: Plan | None = None  # the AD schedule by default
    fps: float = 25  # of the files; frames come no faster
    turn: threading.Lock = field(default_factory=threading.Lock)
    videos: dict[str, "LiveVideo"] = field(default_factory=dict)  # the newest of each session

    def begin(self, session: str, wish: Wish) -> "LiveVideo":
        """Begin a session's next video; the one before is gone."""
        self.end(session)
        video = self.videos[session] = LiveVideo(self, wish)
        video.thread.start()
        return video

    def end(self, session: str) -> None:
        video = self.videos.pop(session, None)
        if video is not None:
            video.stop()
            shutil.rmtree(video.file.parent)


class LiveVideo:
    """A video that grows in a thread of its own until it is stopped."""

    def __init__(self, studio: Studio, wish: Wish) -> None:
        self.studio, self.wish = studio, wish
        self.file = Path(tempfile.mkdtemp(dir=studio.folder), f"seed-{wish.seed}.mp4")
        self.pictures: deque[Tensor] = deque(maxlen=RECENT)  # finished frames, uint8 (3, H, W)
        self.times: deque[float] = deque(maxlen=9)
        self.frames = self.given = 0  # finished, and given ones among them
        self.span: Span | None = None  # what the last iteration did
        self.problem = ""  # why it ended, unless it was stopped
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    @property
    def rate(self) -> float:
        """Frames per second of late."""
        times = list(self.times)
        return (len(times) - 1) / max(times[-1] - times[0], 1e-3) if times else 0.0

    def stop(self) -> None:
        """End the computation after the iteration that is under way, and wait for its file."""
        self.stopping.set()
        self.thread.join()

    def run(self) -> None:
        """Make the video; whatever goes wrong becomes a sentence."""
        try:
            with suppress(Stopped), closing(self.stream()) as stream:
                self.write(stream)
        except (ValueError, OSError) as error:
            upload = Path(self.wish.start or "")
            self.problem = user_message(error).replace(str(upload), upload.name or ".")
        except Exception as error:  # nobody can read a traceback on the page
            traceback.print_exc()
            self.problem = f"The computation broke off ({error}); the terminal says where."

    def write(self, stream: Iterator[Tensor]) -> None:
        """Write each frame as soon as it is there, until stopped; what is there stays."""
        writer = VideoWriter(self.file, fps=self.studio.fps)
        try:
            while (picture := self.next_frame(stream)) is not None:
                writer.write(picture)
                self.pictures.append(picture)
                self.frames += 1
                if self.times:
                    due = self.times[-1] + 1 / self.studio.fps
                    self.stopping.wait(due - time.monotonic())
                self.times.append(time.monotonic())
                self.leave_if_stopped()
        finally:
            if writer.frames:
                writer.close()

    def next_frame(self, stream: Iterator[Tensor]) -> Tensor | None:
        with self.studio.turn:
            return next((frames[0].cpu() for frames in stream), None)

    def stream(self) -> Stream[Tensor, None, None]:
        """Sample what is wished for; a seed gives the first video that `predict` makes of it."""
        wish, generator = self.wish, self.studio.generator
        if sum(video.thread.is_alive() for video in list(self.studio.videos.values())) > PEOPLE:
            raise ValueError(f"{PEOPLE} people have a video made already: wait for one to stop.")
        for name in ("seed", "steps", "difference", "guidance"):
            if (value := getattr(wish, name)) is None:
                raise ValueError(f"{name.capitalize()} is empty: give a number.")
            if name != "guidance" and value % 1:
                raise ValueError(f"{name.capitalize()} must be a whole number, got {value}.")
        seed = int(wish.seed or 0)
        if not 0 <= seed <= LAST_SEED:
            raise ValueError(f"The seed must be from 0 to {LAST_SEED}, got {seed}.")
        prefix = None
        if wish.start:
            size, window = generator.arvae.resolution, int(generator.dit.window)
            prefix = read_prefixes(wish.start, resolution=size, frames=window)[0].video[None]
            self.given = prefix.shape[1]
        sampler = generator.sampler(
            steps=wish.steps,
            difference=wish.difference,
            guidance=wish.guidance,
            plan=self.studio.plan,
        )
        yield from generator.stream(
            [sample_seed(seed, 0)],
            labels=None if wish.label is None else [wish.label],
            prefix=prefix,
            sampler=sampler,
            progress=self.hand_on,
        )

    def hand_on(self, span: Span) -> None:
        """Note what an iteration did, and let the other sessions make theirs."""
        self.span = span
        self.studio.turn.release()
        self.stopping.wait(0.001)  # or this thread takes the lock again before others wake up
        self.studio.turn.acquire()
        self.leave_if_stopped()

    def leave_if_stopped(self) -> None:
        if self.stopping.is_set():
            raise Stopped


def live(
    source: str | None = None,
    /,
    arvae: str | None = None,
    dataset: Literal["sky", "taichi", "ucf101", "ffs"] = "sky",
    plan: Plan | None = None,
    fps: float = 25,
    device: str | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
) -> dict[str, Any]:
    """Open a page on which videos appear while they are made, until Ctrl-C.

    Only this machine reaches it, and it asks nothing of any other.

    Args:
        source: A checkpoint, file, folder or hf://user/repo; the published weights by default.
        arvae: Where to take the auto-encoder from, instead of the source.
        dataset: Dataset of published weights, which names their classes.
        plan: Which frame takes which step when: the AD schedule by default; FIFO for a network
            that sees all frames of its window, where more of them are in flight.
        fps: Frames per second of the files; frames come no faster.
        device: Where to compute; a GPU if there is one.
        host: Address to listen at: 0.0.0.0 lets other machines in, without a password.
        port: Port to listen at; the first free one from 7860 on if not given.
    """
    check_range("--{}", 1, 65535, port=port)
    low, high = FPS
    if not low <= fps <= high:
        raise ValueError(f"--fps must be from {low:g} to {high:g}, got {fps}.")
    where = device_of(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with tempfile.TemporaryDirectory() as folder:
        # Gradio reads both when it is imported.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            from ardiffusion.tools.live_page import serve
        except ModuleNotFoundError as error:
            raise ValueError(
                f"The page needs {error.name}, which is missing: pip install 'ardiffusion[live]'."
            ) from None
        generator = load_generator(source, arvae=arvae, dataset=dataset)
        generator.requires_grad_(False).eval().to(where)
        studio = Studio(generator, folder=Path(folder), plan=plan, fps=fps)
        with serve(studio, host=host, port=port) as url:
            print(f"Open {url} in a browser; Ctrl-C ends it.", flush=True)
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
    return {"url": url}
