"""Generator: all that makes videos, as one thing to train, save, share and sample.

Networks, schedule, target, solver, sampling defaults and names of classes belong together: without
any of them the others give other videos, or none.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from einops import repeat
from torch import Tensor, nn

from ardiffusion.diffusion.noise import FrameNoise, step_seed
from ardiffusion.diffusion.plans import Plan
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import DDIM, Solver
from ardiffusion.diffusion.spans import Span
from ardiffusion.diffusion.target import X0, Target
from ardiffusion.hub import load_parts, load_published
from ardiffusion.nn.autoencoder import Autoencoder, to_bytes, to_unit, together
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.sources import BUILT, PLAIN
from ardiffusion.weights.description import describe
from ardiffusion.weights.folders import Card, upload, write_model


class Generator(nn.Module):
    """Makes videos out of seeds, and is saved, shared and loaded as a whole.

    Args:
        dit: The network of stage 2.
        arvae: The frozen auto-encoder whose latents it was trained on.
        schedule: The noise schedule that it was trained with.
        target: What it predicts; x_0 if not given.
        solver: How one step is taken; DDIM if not given.
        classes: Names of the classes; their numbers if not given.
        steps: Denoising steps per frame.
        difference: Steps between neighbouring frames.
        guidance: Classifier-free guidance scale; 1 is off.
        guided_frames: Length of the longest video that is guided unless one asks for it.
    """

    def __init__(
        self,
        dit: nn.Module,
        arvae: Autoencoder,
        schedule: NoiseSchedule | None = None,
        target: Target | None = None,
        solver: Solver | None = None,
        classes: Sequence[str] = (),
        steps: int = 50,
        difference: int = 5,
        guidance: float = 1.0,
        guided_frames: int | None = None,
    ) -> None:
        super().__init__()
        if not all(hasattr(dit, name) for name in ("tokens", "channels", "classes", "window")):
            raise ValueError(f"{type(dit).__name__} is no network of stage 2: name an ARDiT.")
        if (dit.tokens, dit.channels) != (arvae.tokens, arvae.channels):
            raise ValueError(
                f"The network takes {dit.tokens} x {dit.channels} numbers a frame, the AR-VAE "
                f"makes {arvae.tokens} x {arvae.channels}; set dit.tokens and dit.channels."
            )
        self.dit: Any = dit  # any network that is a Denoiser
        self.arvae = arvae.requires_grad_(False).eval()
        self.schedule, self.target = schedule or NoiseSchedule(), target or X0()
        self.solver: Solver = solver or DDIM()
        numbers = [str(label) for label in range(int(self.dit.classes))]
        self.classes = list(classes) or numbers
        if numbers and len(self.classes) != len(numbers):
            raise ValueError(
                f"The network has {len(numbers)} classes, but {len(self.classes)} names are given."
            )
        self.steps, self.difference, self.guidance = steps, difference, guidance
        self.guided_frames = guided_frames
        self.sampler()  # or the defaults cannot be sampled with

    def train(self, mode: bool = True) -> Self:
        """Switch the network of stage 2 alone: the auto-encoder is not trained."""
        super().train(mode).arvae.eval()
        return self

    @property
    def device(self) -> torch.device:
        return next(self.dit.parameters()).device

    @property
    def batch_size(self) -> int:
        """Videos to generate at once unless one asks for others: those of 512 tokens a frame."""
        return max(512 // self.arvae.tokens, 1)

    @property
    def conditional(self) -> bool:
        return int(self.dit.classes) > 0

    @classmethod
    def from_pretrained(
        cls, source: str | Path, arvae: str | Path | None = None, classes: Sequence[str] = ()
    ) -> Self:
        """Load a generator; weights stay mapped to the file, and nothing in it is run.

        Args:
            source: A checkpoint of `ardiff-dit fit`, a folder that `save_pretrained` wrote, a file
                of weights, published ones too, user/repo or hf://user/repo[/path][@revision].
            arvae: Where to take the auto-encoder from, instead of the one in `source`.
            classes: Names of the classes, where the source has classes and does not name them.
        """
        return cls(**load_parts(source, arvae=arvae, classes=classes)).eval()

    @classmethod
    def published(cls, dataset: str, arvae: str | Path | None = None) -> Self:
        """Load what was published for sky, taichi, ucf101 or ffs, from the Hub or its cache."""
        return cls(**load_published(dataset, arvae=arvae)).eval()

    def describe(self) -> dict[str, Any]:
        """Say of what the generator is made, as data that it can be built from again."""
        said = {name: describe(getattr(self, name)) for name in ("dit", "arvae", *BUILT)}
        return {"class": "Generator", **said, **{name: getattr(self, name) for name in PLAIN}}

    def fingerprint(self) -> str:
        """Hash all that videos depend on, besides how they are sampled."""
        said = self.describe()
        kept = {name: said[name] for name in ("dit", "arvae", "schedule", "target", "classes")}
        text = json.dumps(kept, sort_keys=True) + fingerprint(self)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def save_pretrained(self, folder: str | Path, card: Card | None = None) -> None:
        """Write config.json, model.safetensors and README.md, the model card, into a folder."""
        write_model(folder, self.describe(), weights=self.state_dict(), card=card)

    def push_to_hub(self, repo: str, card: Card | None = None, private: bool = False) -> str:
        """Upload what `save_pretrained` writes to user/repo[/folder]; return it as a source."""
        write = partial(self.save_pretrained, card=card)
        return upload(write, repo, message="Upload generator", private=private)

    def sampler(
        self,
        steps: int | None = None,
        difference: int | None = None,
        guidance: float | None = None,
        solver: Solver | None = None,
        plan: Plan | None = None,
        frames: int | None = None,
        sink: int = 0,
    ) -> Sampler:
        """Return a `Sampler`; what is not given is the default, which may depend on `frames`."""
        steps = self.steps if steps is None else steps
        long = (frames or 0) > (self.guided_frames or float("inf"))
        usual = 1.0 if long else self.guidance
        return Sampler(
            self.schedule,
            target=self.target,
            solver=solver or self.solver,
            steps=steps,
            difference=min(self.difference, steps) if difference is None else difference,
            guidance=usual if guidance is None else guidance,
            plan=plan,
            sink=sink,
        )

    def label_indices(self, labels: Sequence[str | int] | Tensor | None) -> Tensor | None:
        """Return class indices (B,) of names or indices, -1 for none; None without classes."""
        if labels is None or not self.conditional:
            return None
        known: dict[str | int, int] = {name: i for i, name in enumerate(self.classes)}
        given = [label if isinstance(label, str) else int(label) for label in labels]
        numbers = [known.get(x, x if x in range(-1, len(known)) else None) for x in given]
        if None in numbers:
            wrong, names = given[numbers.index(None)], ", ".join(self.classes)
            raise ValueError(f"There is no class {wrong!r}, only {names}, counted from 0.")
        return torch.tensor(numbers, device=self.device)

    def labels_in_turn(self, indices: Sequence[int]) -> Tensor | None:
        return self.label_indices([i % max(len(self.classes), 1) for i in indices])

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Encode uint8 video (B, P, 3, H, W) to normalised latents (B, P, L, C)."""
        like = next(self.arvae.parameters())
        latents = self.arvae.encode(to_unit(video.to(like.device)).to(like.dtype))
        return self.arvae.normalise(latents.float())

    @torch.no_grad()
    def stream(
        self,
        seeds: Sequence[int],
        frames: int | None = None,
        labels: Sequence[str | int] | Tensor | None = None,
        prefix: Tensor | None = None,
        sampler: Sampler | None = None,
        progress: Callable[[Span], None] = lambda span: None,
        together: int = 1,
    ) -> Iterator[Tensor]:
        """Yield the frames of new videos as they are finished.

        Video i depends on its own seed alone, and memory not on the length. A frame that is not
        finite is a ValueError.

        Args:
            seeds: One seed per video.
            frames: Length of the videos F, given frames included; without end if None.
            labels: Class names or indices, one per video; None for "no class".
            prefix: Frames that the videos begin with, uint8 (B or 1, P, 3, H, W); what is yielded
                are their reconstructions.
            sampler: How to sample; the generator's own sampler if not given.
            progress: Called after each of the sampler's iterations with its frames and steps.
            together: Frames that are decoded in one go, and come then; more are faster on a GPU.

        Yields:
            Frames of all videos, uint8, shape (B, 3, H, W).
        """
        sampler = sampler or self.sampler(frames=frames)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = FrameNoise(generators, tokens=self.arvae.tokens, channels=self.arvae.channels)
        label = self.label_indices(labels)
        for name, each in {"labels": label, "prefixes": prefix}.items():
            if each is not None and len(each) not in (1, len(seeds)):
                raise ValueError(f"{len(seeds)} videos take as many {name} or one: {len(each)}.")
        given = None if prefix is None else self.encode(prefix)
        if given is not None:
            given = repeat(given, "b p l c -> (b n) p l c", n=len(seeds) // len(given))
        latents = sampler.stream(
            self.dit,
            lambda frame: noise(frame).to(self.device),
            label=label,
            prefix=given,
            generators=[torch.Generator().manual_seed(step_seed(seed)) for seed in seeds],
            progress=progress,
            frames=frames,
        )
        for frame in self.arvae.stream_decode((x for _, x in latents), together=together):
            yield to_bytes(frame)  # (B, 3, H, W)

    def generate(
        self,
        seeds: Sequence[int],
        frames: int,
        labels: Sequence[str | int] | Tensor | None = None,
        prefix: Tensor | None = None,
        sampler: Sampler | None = None,
    ) -> Tensor:
        """Return new videos, uint8 (B, F, 3, H, W), one per seed; see `stream`."""
        kind: dict[str, Any] = {"sampler": sampler, "together": together(self.device)}
        return torch.stack([*self.stream(seeds, frames, labels, prefix, **kind)], dim=1)
