"""What the trainers of both stages share: verbs that say in --help what they do here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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

    def validate(self, *given: Any, **options: Any) -> list[Mapping[str, float]]:  # noqa: ANN401
        """Measure a checkpoint on the videos held out for validation."""
        return self.measure(super().validate, *given, **options)

    def test(self, *given: Any, **options: Any) -> list[Mapping[str, float]]:  # noqa: ANN401
        """Measure a checkpoint on the videos held out for the test."""
        return self.measure(super().test, *given, **options)

    def measure(
        self,
        verb: Callable[..., list[Mapping[str, float]]],
        model: LightningModule | None = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        weights_only: bool | None = None,
    ) -> list[Mapping[str, float]]:
        """Run a verb that trains nothing.

        Args:
            verb: The method of Lightning's trainer.
            model: What is measured.
            datamodule: The videos.
            ckpt_path: The checkpoint; `last` is the newest last.ckpt in the folder of the run.
            verbose: Whether to print what was measured.
            weights_only: Whether to load nothing but tensors and plain data, which is what `fit`
                writes; PyTorch's default if not given.
        """
        told = {"verbose": verbose, "weights_only": weights_only}
        return verb(model, datamodule=datamodule, ckpt_path=ckpt_path, **told)
