"""The commands `ardiff-vae` and `ardiff-dit`: one LightningCLI per stage.

Both offer fit, validate, test and predict. Bad input ends with one sentence and exit code 2;
`--debug` shows the traceback as well.
"""

import sys
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from ardiffusion.training.arvae import ARVAEModule
from ardiffusion.training.checkpoint import check_stage, read_checkpoint
from ardiffusion.training.data import VideoDataModule
from ardiffusion.training.diffusion import DiffusionModule
from ardiffusion.training.trainers import EncodingTrainer, SamplingTrainer

PACKAGE = Path(__file__).parent
SHIPPED = (PACKAGE / "configs", PACKAGE.parent / "configs")  # in a wheel, in a source tree


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
        """Refuse other checkpoints; resuming keeps to the configuration, not the checkpoint's."""
        path = self.config[self.config.subcommand].get("ckpt_path")
        if path and Path(path).is_file():
            check_stage(read_checkpoint(path), stage=self.stage)
        if self.config.subcommand != "fit":
            super()._parse_ckpt_path()


class VAECLI(StageCLI):
    """The command of stage 1."""

    stage = "arvae"


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
        cli(
            model_class=model_class,
            datamodule_class=VideoDataModule,
            trainer_class=trainer_class,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            args=[a for a in given if a != "--debug"],
        )
    except (ValueError, OSError, MisconfigurationException) as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


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
    if Path(name).exists():
        return name
    shipped = [folder / name for folder in SHIPPED if (folder / name).is_file()]
    return str(shipped[0]) if shipped else name
