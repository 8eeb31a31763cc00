"""The commands `ardiff-vae` and `ardiff-dit`: one LightningCLI per stage.

Both offer fit, validate, test and predict; `ardiff` is in `tools/command.py`. Bad input ends with
one sentence and exit code 2; `--debug` shows the traceback and all of Lightning's messages.
"""

import inspect
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ardiffusion import __version__
from ardiffusion.files import naming
from ardiffusion.training.arvae import ARVAEModule
from ardiffusion.training.callbacks.save_last import SaveLast, newest_last, refuse_second_run
from ardiffusion.training.checkpoint import spell
from ardiffusion.training.checkpoint_io import WholeCheckpointIO, restoring
from ardiffusion.training.checks import check_trainer_options, say_of_compile, suit_machine
from ardiffusion.training.configs import find_configs
from ardiffusion.training.data import VideoDataModule
from ardiffusion.training.diffusion import DiffusionModule
from ardiffusion.training.messages import user_errors
from ardiffusion.training.options import import_object, makes
from ardiffusion.training.signals import StopSignals
from ardiffusion.training.trainers import EncodingTrainer, SamplingTrainer
from ardiffusion.weights.checkpoint import check_stage, read_checkpoint, read_parts

CHOSEN_LATER = ("best", "hpc")  # by Lightning
GENERATING: set[str | int] = set(  # options of a trainer that does not train
    "accelerator strategy devices num_nodes precision callbacks enable_progress_bar deterministic "
    "benchmark inference_mode profiler plugins default_root_dir".split()
)


class SaveFitConfig(SaveConfigCallback):
    """Keeps the configuration of a training run, which later commands must not replace."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


class StageCLI(LightningCLI):
    """LightningCLI of one stage; finds shipped configs, refuses the other stage's checkpoints."""

    stage: str  # its name in checkpoints
    described: tuple[str, ...]  # what a checkpoint says, not the configuration
    # options that name what is called later, and what that must make
    factories: ClassVar[dict[str, type]] = {"optimizer": Optimizer, "lr_scheduler": LRScheduler}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse without the warning that arguments which do not come from the shell call for."""
        assert isinstance(args, list)
        self.config = parser.parse_args(find_configs(args))

    def _parse_ckpt_path(self) -> None:
        """Refuse other checkpoints; all but resuming takes the networks from them.

        What a checkpoint says is data: descriptions of parts, of which only those in our own
        table are built, never the class names of hyper-parameters.
        """
        settings = self.config[self.config.subcommand]
        path = settings.get("ckpt_path")
        if path is None or path in ("last", *CHOSEN_LATER):
            return
        checkpoint = read_checkpoint(path)
        check_stage(checkpoint, stage=self.stage, source=path)
        if self.config.subcommand != "fit":
            with naming(path):
                found = read_parts(checkpoint)
                parts = {name: spell(found[name]) for name in self.described if name in found}
            parts |= {"start": None} if "start" in settings.model else {}  # this is where it went
            parts |= {"arvae": path, "distillation": None} if "dit" in parts else {}  # and these
            given = {self.config.subcommand: {"model": parts}}
            self.config = self.parser.parse_object(given, self.config)

    def before_instantiate_classes(self) -> None:
        """Refuse factories that make something else before anything calls them."""
        settings = self.config[self.config.subcommand]
        suit_machine(settings.trainer)
        model = settings.get("model") or {}
        for name, made in self.factories.items():
            given = model.get(name)
            path = given.get("class_path") if isinstance(given, Namespace) else None
            if path and not makes(import_object(path), made):
                raise ValueError(
                    f"--model.{name} is {path}, which makes no {made.__name__}: name one of "
                    f"{made.__module__} or a class or function of your own that says it does."
                )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 Lightning's signature
        """Build a trainer that never leaves half a checkpoint, nor logs of a prediction."""
        if self.subcommand == "predict":
            kwargs["logger"] = False
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (TypeError, OverflowError) as error:  # of an option whose type is not said
            raise ValueError(f"{error} Correct an option of --trainer.") from error
        trainer.strategy.checkpoint_io = WholeCheckpointIO()
        return trainer

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Name the checkpoint to the trainer beforehand, so that modules know of it in `setup`."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        path = kwargs.get("ckpt_path")
        if self.model is not None and path not in (None, *CHOSEN_LATER):
            del kwargs["ckpt_path"]
            self.trainer.ckpt_path = newest_last(self.trainer) if path == "last" else path
            if subcommand != "fit" and not self.trainer.ckpt_path:
                raise ValueError("This run has no last.ckpt yet: name one with --ckpt_path.")
        return kwargs

    def _run_subcommand(self, subcommand: str) -> None:
        with restoring(self.trainer):
            super()._run_subcommand(subcommand)

    def before_fit(self) -> None:
        """Refuse what would train nothing, or write over what was trained."""
        check_trainer_options(self.trainer)
        if self.model.compiled:
            say_of_compile(self.trainer)
        refuse_second_run(self.trainer, ckpt_path=self.config.fit.get("ckpt_path"))

    def after_validate(self) -> None:
        """Refuse to have measured nothing."""
        split = {"validate": "val", "test": "test"}[str(self.subcommand)]
        if sum(getattr(self.trainer, f"num_{split}_batches")) == 0:
            raise ValueError(
                f"The {split} split holds no video: set --data.{split}_fraction or "
                f"--data.{split}_list."
            )

    after_test = after_validate


class VAECLI(StageCLI):
    """The command of stage 1."""

    stage = "arvae"
    described = ("arvae",)
    factories = StageCLI.factories | {"discriminator_optimizer": Optimizer}

    def before_fit(self) -> None:
        """Say where stage 1 has the options that Lightning refuses to it."""
        trainer = self.trainer
        for given, theirs, ours in (
            (trainer.gradient_clip_val, "gradient_clip_val", "grad_clip"),
            (trainer.accumulate_grad_batches != 1, "accumulate_grad_batches", "accumulate"),
        ):
            if given:
                raise ValueError(f"Stage 1 takes --model.{ours} instead of --trainer.{theirs}.")
        super().before_fit()


class DiTCLI(StageCLI):
    """The command of stage 2; its predict needs a generator and neither model nor data."""

    stage = "dit"
    described = ("dit", "schedule", "timesteps", "target", "solver")
    generating = False

    def _prepare_subcommand_parser(
        self,
        klass: type,
        subcommand: str,
        **kwargs: Any,  # noqa: ANN401 Lightning's signature
    ) -> LightningArgumentParser:
        self.generating = subcommand == "predict"
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Offer no options of model and data where a generator brings all there is to say."""
        if self.generating:
            options: set[str | int] = {*inspect.signature(Trainer).parameters}
            parser.add_class_arguments(
                SamplingTrainer,
                "trainer",
                fail_untyped=False,
                instantiate=False,
                skip=options - GENERATING,
            )
        else:
            super().add_core_arguments_to_parser(parser)

    def _parse_ckpt_path(self) -> None:
        if self.config.subcommand != "predict":
            super()._parse_ckpt_path()

    def instantiate_classes(self) -> None:
        """Build no network for predict: the generator comes with what is loaded."""
        if self.subcommand != "predict":
            super().instantiate_classes()
            return
        self.config_init = self.parser.instantiate_classes(self.config, instantiate_groups=False)
        self.model = self.datamodule = None
        self.trainer = self.instantiate_trainer()


def vae(args: list[str] | None = None) -> None:
    """Stage 1 of AR-Diffusion: train an AR-VAE, test it, or write a latent cache with it."""
    run(vae, VAECLI, model_class=ARVAEModule, trainer_class=EncodingTrainer, args=args)


def dit(args: list[str] | None = None) -> None:
    """Stage 2 of AR-Diffusion: train a generator, test it, or generate videos with it."""
    run(dit, DiTCLI, model_class=DiffusionModule, trainer_class=SamplingTrainer, args=args)


def run(
    command: Callable[..., None],
    cli: type[StageCLI],
    model_class: type,
    trainer_class: type,
    args: list[str] | None,
) -> None:
    """Run a command, turning bad input into one sentence and exit code 2."""
    given = sys.argv[1:] if args is None else args
    told = nullcontext() if "--debug" in given else user_errors(MisconfigurationException)
    with told, StopSignals() as signals:
        cli(
            model_class=model_class,
            datamodule_class=VideoDataModule,
            trainer_class=trainer_class,
            trainer_defaults={"callbacks": [SaveLast(signals)]},
            seed_everything_default=0,
            save_config_callback=SaveFitConfig,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            parser_kwargs={
                "exit_on_error": False,
                "prog": f"ardiff-{command.__name__}",
                "description": command.__doc__,
                "version": __version__,
            },
            args=[arg for arg in given if arg != "--debug"],
        )
