"""What the trainers of both stages share: verbs that say in --help what they do here."""

from collections.abc import Mapping
from pathlib import Path

from lightning import LightningDataModule, LightningModule, Trainer


class StageTrainer(Trainer):
    """Lightning's trainer, whose models always come with a data module."""

    def fit(  # pyright: ignore[reportIncompatibleMethodOverride] no loaders
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train, with checkpoints and logs in the folder of the run.

        Args:
            model: What is trained.
            datamodule: What it is trained on.
            ckpt_path: Checkpoint of a run to go on with. `last` is the newest last.ckpt in the
                folder of the run; where there is none, a new run begins.
            weights_only: Whether to load nothing but tensors and plain data, which is what `fit`
                writes; PyTorch's default if not given.
        """
        super().fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only)

    def validate(  # pyright: ignore[reportIncompatibleMethodOverride] no loaders
        self,
        model: LightningModule | None = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        weights_only: bool | None = None,
    ) -> list[Mapping[str, float]]:
        """Measure a checkpoint on the videos held out for validation.

        Args:
            model: What is measured.
            datamodule: The videos.
            ckpt_path: The checkpoint; `last` is the newest last.ckpt in the folder of the run.
            verbose: Whether to print what was measured.
            weights_only: Whether to load nothing but tensors and plain data, which is what `fit`
                writes; PyTorch's default if not given.
        """
        return super().validate(
            model,
            ckpt_path=ckpt_path,
            verbose=verbose,
            datamodule=datamodule,
            weights_only=weights_only,
        )

    def test(  # pyright: ignore[reportIncompatibleMethodOverride] no loaders
        self,
        model: LightningModule | None = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        weights_only: bool | None = None,
    ) -> list[Mapping[str, float]]:
        """Measure a checkpoint on the videos held out for the test.

        Args:
            model: What is measured.
            datamodule: The videos.
            ckpt_path: The checkpoint; `last` is the newest last.ckpt in the folder of the run.
            verbose: Whether to print what was measured.
            weights_only: Whether to load nothing but tensors and plain data, which is what `fit`
                writes; PyTorch's default if not given.
        """
        return super().test(
            model,
            ckpt_path=ckpt_path,
            verbose=verbose,
            datamodule=datamodule,
            weights_only=weights_only,
        )
