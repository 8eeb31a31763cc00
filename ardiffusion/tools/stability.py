"""How steadily runs train (supplement, section C): `ardiff stability RUN...`.

Losses of different targets (x0, noise, v) have different scales, as have those of different
latents. Runs are compared by what has no scale alone: losses over the run's final loss in the
picture, fluctuation relative to the running median, spikes in MADs, the tail of the gradient's
norm in medians. The final loss is the one number in the table that keeps its own scale.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ardiffusion.files import write_json, write_png
from ardiffusion.tools.loss_curve import Steadiness, read_curve, steadiness
from ardiffusion.tools.loss_plot import draw_runs
from ardiffusion.training.spikes import HEIGHT, WINDOW

COLUMNS = (
    "steps",
    "final\nloss",
    "fluctu-\nation",
    "spikes\n/ 1000",
    "largest\nin MADs",
    "skipped",
    "gradient\np99 / p50",
)


def stability(
    *runs: str, output: str = "stability.png", window: int = WINDOW, height: float = HEIGHT
) -> dict[str, Any]:
    """Compare how steadily runs train: draw their losses and print a table.

    Args:
        runs: Folders of runs, or NAME=FOLDER to call them something else.
        output: The picture, PNG; the table's numbers go beside it, as stability.json.
        window: Losses that running median and MAD are taken of; the mean is that of a quarter.
        height: MADs above the running median from which on a loss is a spike.
    """
    named = [name_of(run) for run in runs]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise ValueError(f"Two runs are called the same, {names}: name them as NAME=FOLDER.")
    curves = [read_curve(folder, name=name) for name, folder in named]
    rows = [steadiness(curve, window=window, height=height) for curve in curves]
    finals = [row.final_loss for row in rows]
    write_png(output, draw_runs(curves, finals, window=window, height=height))
    show(rows)
    result = {
        "runs": [asdict(row) for row in rows],
        "window": window,
        "height": height,
        "output": output,
    }
    write_json(Path(output).with_suffix(".json"), result)
    return result


def name_of(run: str) -> tuple[str, Path]:
    """Split NAME=FOLDER; a folder alone is called as it is."""
    name, equals, folder = run.partition("=")
    if equals and not Path(run).exists():
        return name, Path(folder)
    return Path(run).resolve().name, Path(run)


def show(rows: Sequence[Steadiness]) -> None:
    """Print the table."""
    title = "All but the final loss is free of its scale"
    table = Table("run", title=title, caption=sources(rows))
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            str(row.steps),
            f"{row.final_loss:.4g}",
            "-" if row.fluctuation is None else f"{100 * row.fluctuation:.1f} %",
            f"{row.spikes_per_1000:.2f}",
            "-" if row.largest is None else f"{row.largest:.1f}",
            str(row.skipped),
            "-" if row.norm_ratio is None else f"{row.norm_ratio:.2f}",
        )
    Console().print(table)


def sources(rows: Sequence[Steadiness]) -> str | None:
    """Warn of runs whose losses were read from different sources."""
    kinds = {row.source for row in rows}
    if len(kinds) < 2:
        return None
    return f"Read from {' and '.join(sorted(kinds))}: TensorBoard holds fewer losses per step."
