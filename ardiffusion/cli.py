"""The commands `ardiff-vae` and `ardiff-dit`: one LightningCLI per stage.

Both offer fit, validate, test and predict. Bad input ends with one sentence and exit code 2;
`--debug` shows the traceback and all of Lightning's messages.
"""

import os
import sys
from argparse import ArgumentError
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)

from ardiffusion.training.arvae import ARVAEModule
from ardiffusion.training.callbacks.save_last import SaveLast
from ardiffusion.training.checkpoint import check_stage, read_checkpoint
from ardiffusion.training.checkpoint_io import WholeCheckpointIO
from ardiffusion.training.data import VideoDataModule
from ardiffusion.training.diffusion import DiffusionModule
from ardiffusion.training.messages import clear_messages
from ardiffusion.training.trainers import EncodingTrainer, SamplingTrainer

PACKAGE = Path(__file__).parent
SHIPPED = (PACKAGE / "configs", PACKAGE.parent / "configs")  # in a wheel, in a source tree
CHOSEN_BY_LIGHTNING = ("last", "best", "hpc")


class SaveFitConfig(SaveConfigCallback):
    """Keeps the configuration of a training run, which later commands must not replace."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write config.yaml into the run's folder."""
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


class StageCLI(LightningCLI):
    """LightningCLI of one stage: finds shipped configs and refuses the other stage's checkpoints.

    Attributes:
        stage: Name of the stage in checkpoints.
    """

    stage: str

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse without the warning that arguments which do not come from the shell call for."""
        assert isinstance(args, list)
        self.config = parser.parse_args(find_configs(args))

    def _parse_ckpt_path(self) -> None:
        """Refuse other checkpoints; all but resuming takes the model's settings from them."""
        settings = self.config[self.config.subcommand]
        path = settings.get("ckpt_path")
        if not path or path in CHOSEN_BY_LIGHTNING:
            return
        checkpoint = read_checkpoint(path)
        check_stage(checkpoint, stage=self.stage, source=path)
        known = checkpoint.get("hyper_parameters", {})
        model = {name: value for name, value in known.items() if name != "_instantiator"}
        if model and self.config.subcommand != "fit":
            given = {self.config.subcommand: {"model": model}}
            self.config = self.parser.parse_object(given, self.config)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 Lightning's signature
        """Build a trainer that never leaves half a checkpoint."""
        trainer = super().instantiate_trainer(**kwargs)
        trainer.strategy.checkpoint_io = WholeCheckpointIO()
        return trainer

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Name the checkpoint to the trainer beforehand, so that modules know of it in `setup`."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if self.model is not None and kwargs.get("ckpt_path") not in (None, *CHOSEN_BY_LIGHTNING):
            self.trainer.ckpt_path = kwargs.pop("ckpt_path")
        return kwargs

    def after_validate(self) -> None:
        """Refuse to have measured nothing."""
        self.check_measured(self.trainer.num_val_batches, split="val")

    def after_test(self) -> None:
        """Refuse to have measured nothing."""
        self.check_measured(self.trainer.num_test_batches, split="test")

    def check_measured(self, batches: list[int | float], split: str) -> None:
        """Raise if a split turned out to be empty."""
        if sum(batches) == 0:
            raise ValueError(
                f"The {split} split holds no video: set --data.{split}_fraction or "
                f"--data.{split}_list."
            )


class VAECLI(StageCLI):
    """The command of stage 1."""

    stage = "arvae"

    def before_fit(self) -> None:
        """Say where stage 1 has the options that Lightning refuses to it."""
        trainer = self.trainer
        for given, theirs, ours in (
            (trainer.gradient_clip_val, "gradient_clip_val", "grad_clip"),
            (trainer.accumulate_grad_batches != 1, "accumulate_grad_batches", "accumulate"),
        ):
            if given:
                raise ValueError(f"Stage 1 takes --model.{ours} instead of --trainer.{theirs}.")


class DiTCLI(StageCLI):
    """The command of stage 2; its predict needs a checkpoint and neither model nor data."""

    stage = "dit"

    def _parse_ckpt_path(self) -> None:
        if self.config.subcommand != "predict":
            super()._parse_ckpt_path()

    def instantiate_classes(self) -> None:
        """Build no network for predict: the checkpoint says which."""
        if self.subcommand != "predict":
            super().instantiate_classes()
            return
        for name in ("model", "data"):
            self.config.predict.pop(name, None)
        self.config_init = self.parser.instantiate_classes(self.config, instantiate_groups=False)
        self.model = self.datamodule = None
        self.trainer = self.instantiate_trainer()


def vae(args: list[str] | None = None) -> None:
    """Run `ardiff-vae`: train an AR-VAE, test it, or write a latent cache with it."""
    run(VAECLI, model_class=ARVAEModule, trainer_class=EncodingTrainer, args=args)


def dit(args: list[str] | None = None) -> None:
    """Run `ardiff-dit`: train AR-Diffusion, test it, or generate videos with it."""
    run(DiTCLI, model_class=DiffusionModule, trainer_class=SamplingTrainer, args=args)


def run(
    cli: type[StageCLI], model_class: type, trainer_class: type, args: list[str] | None
) -> None:
    """Run a command, turning bad input into one sentence and exit code 2."""
    given = sys.argv[1:] if args is None else args
    debug = "--debug" in given
    try:
        with nullcontext() if debug else clear_messages():
            cli(
                model_class=model_class,
                datamodule_class=VideoDataModule,
                trainer_class=trainer_class,
                trainer_defaults={"callbacks": [SaveLast()]},
                seed_everything_default=0,
                save_config_callback=SaveFitConfig,
                save_config_kwargs={"overwrite": True},
                auto_configure_optimizers=False,
                parser_kwargs={"exit_on_error": False},
                args=[a for a in given if a != "--debug"],
            )
    except (ArgumentError, ValueError, OSError, MisconfigurationException) as error:
        if debug:
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def sentence(error: Exception) -> str:
    """Say what went wrong; the parser's and the system's errors do not say what to do."""
    if isinstance(error, ArgumentError):
        return f"{' '.join(str(error).split())} (--help lists all options)."
    if isinstance(error, OSError) and str(error).startswith("[Errno"):
        place = error.filename or "a file"
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        return f"Cannot use {place} ({reason}): check the path, its permissions and the disk."
    return str(error)


def find_configs(args: list[str]) -> list[str]:
    """Replace the names of shipped configs after --config, -c or --data; own files win."""
    found = list(args)
    for i, arg in enumerate(args):
        option, _, value = arg.partition("=")
        if option in ("--config", "-c", "--data") and value:
            found[i] = f"{option}={config_file(value)}"
        elif i and args[i - 1] in ("--config", "-c", "--data"):
            found[i] = config_file(arg)
    return found


def config_file(name: str) -> str:
    """Return the path of a config: the file itself if it exists, else the shipped one."""
    if os.path.exists(name):
        return name
    shipped = [folder / name for folder in SHIPPED if os.path.isfile(folder / name)]
    return str(shipped[0]) if shipped else name
