"""What `make reproduce` does with its models, as the commands that a user would type."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.command import ARDIFF, DIT, PYTHON, VAE, command_line
from experiments.reproduction.models import MODELS, SAMPLES, TOKENIZERS, USUAL
from experiments.stages import Stage

WINDOW = 16  # frames of a training clip
RESOLUTION = 64  # of the small configurations
FOREVER = 1_000_000  # steps of the learning rate's fall: time ends the trainings, at full rate
HELD_OUT = "held-out"  # the set of real videos that no training sees
NETWORK = "ardiffusion.metrics.features.Random3D"


@dataclass(frozen=True)
class Recipe:
    """Places and sizes of a reproduction, and its commands.

    Attributes:
        out: Folder of everything.
        vae_seconds: Training time of each auto-encoder.
        dit_seconds: Training time of each generator.
        samples: Videos of 16 frames in each set.
        long_samples: Videos in each set of long ones.
        long_frames: Frames of those.
        steps: Denoising steps.
        classes: Classes of the videos, 0 for none.
    """

    out: Path
    vae_seconds: int
    dit_seconds: int
    samples: int
    long_samples: int
    long_frames: int
    steps: int
    classes: int = 4

    @property
    def train(self) -> Path:
        """Folder of the videos to train on."""
        return self.out / "videos" / "train"

    @property
    def held_out(self) -> Path:
        """Folder of the videos that no training sees."""
        return self.out / "videos" / "held_out"

    def run(self, name: str) -> Path:
        """Folder of a training run."""
        return self.out / "runs" / name

    def last(self, name: str) -> Path:
        """Last checkpoint of a training run."""
        return self.run(name) / "checkpoints" / "last.ckpt"

    def made(self, name: str) -> Path:
        """Folder of a set of generated or reconstructed videos."""
        return self.out / "made" / name

    def latents(self, name: str) -> Path:
        """Latent cache of an auto-encoder."""
        return self.out / "latents" / name

    def score(self, name: str) -> Path:
        """File of the score of a set."""
        return self.out / "scores" / f"{name}.json"

    def time(self, name: str) -> Path:
        """File of the seconds that single videos like those of a set take."""
        return self.out / "times" / f"{name}.json"

    def tokenizer(self, name: str) -> list[Stage]:
        """Train an auto-encoder, encode the videos, reconstruct those held out and score that."""
        rebuilt, last = f"rebuilt-{name}", self.last(name)
        options = f"--config vae_tiny.yaml {TOKENIZERS[name].options}"
        return [
            self.fit(VAE, name, self.vae_seconds, options),
            Stage(
                f"latents of {name}",
                command_line(
                    *(VAE, "predict", options, *self.data),
                    f"--data.frames {WINDOW} --data.batch_size 4 --ckpt_path",
                    *(last, "--output", self.latents(name)),
                ),
                readers=1,
            ),
            Stage(
                f"reconstructions by {name}",
                command_line(ARDIFF, "reconstruct", last, self.held_out, self.made(rebuilt)),
            ),
            self.distance(rebuilt, real=self.held_out, options="--paired true --lpips false"),
        ]

    def model(self, name: str) -> Stage:
        """Train a generator."""
        model = MODELS[name]
        options = f"--config dit_tiny.yaml {model.options}"
        options += f" --model.dit.init_args.classes {self.classes} --data.latents"
        arvae = "--model.arvae", self.last(model.tokenizer)
        return self.fit(
            DIT, name, self.dit_seconds, options, self.latents(model.tokenizer), *arvae
        )

    @property
    def data(self) -> tuple[str | Path, ...]:
        """Options for the training videos, all of them."""
        return "--data.val_fraction 0 --data.root", self.train

    def fit(self, program: Path, name: str, seconds: int, *options: str | Path) -> Stage:
        """Train for so long; a run that was cut short goes on from its last checkpoint."""
        command = command_line(
            *(program, "fit", *options, *self.data),
            f"--trainer.max_time {clock(seconds)} --trainer.max_steps -1",
            f"--trainer.limit_val_batches 0 --model.lr_scheduler.init_args.steps {FOREVER}",
            *("--ckpt_path last --trainer.logger.init_args.save_dir", self.run(name)),
        )
        return Stage(f"training of {name}", command, readers=1)

    def videos(self, name: str) -> list[Stage]:
        """Generate a set of videos and score it."""
        model = SAMPLES[name].model
        count, frames = self.samples, WINDOW
        if SAMPLES[name].long:
            count, frames = self.long_samples, self.long_frames
        command = command_line(
            *(DIT, "predict --ckpt_path", self.last(model), f"--solver DDIM --difference {USUAL}"),
            f"{sampling(name)} --samples {count} --frames {frames} --batch_size 16",
            *(f"--steps {self.steps} --output", self.made(name)),
        )
        return [Stage(f"videos of {name}", command), self.distance(name, real=self.train)]

    def timed(self, name: str) -> Stage:
        """Time the generation of single videos like those of a set."""
        lengths = "[16,32,64,128]" if SAMPLES[name].long else f"[{WINDOW}]"
        last = self.last(SAMPLES[name].model)
        command = command_line(
            *(PYTHON, "-m experiments.benchmark generate --checkpoint", last),
            f"--frames {lengths} --steps {self.steps} {sampling(name)}",
            *("--output", self.time(name)),
        )
        return Stage(f"time of {name}", command)

    def curves(self, names: Sequence[str]) -> Stage:
        """Draw and compare the losses of trainings."""
        runs = (Path(f"{MODELS[name].title}={self.run(name)}") for name in names)
        output = "--output", self.out / "stability.png"
        return Stage("curves of the losses", command_line(ARDIFF, "stability", *runs, *output))

    def distance(self, name: str, real: Path, options: str = "") -> Stage:
        """Score a set of videos by its Fréchet distance to real ones."""
        fake = self.held_out if name == HELD_OUT else self.made(name)
        split = "train" if real == self.train else HELD_OUT
        command = command_line(
            *(ARDIFF, "fvd", real, fake, "--protocol EveryClip --protocol.extractor", NETWORK),
            *(f"--resolution {RESOLUTION} --split {split} {options}",),
            *("--cache", self.out / "features", "--output", self.score(name)),
        )
        return Stage(f"score of {name}", command)


def sampling(name: str) -> str:
    """Return how a set differs from the usual way to sample."""
    return f"{MODELS[SAMPLES[name].model].sampling} {SAMPLES[name].sampling}"


def clock(seconds: int) -> str:
    """Spell a duration as Lightning reads it: days, hours, minutes, seconds."""
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 1440:02d}:{minutes // 60 % 24:02d}:{minutes % 60:02d}:{seconds:02d}"
