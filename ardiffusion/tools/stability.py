"""How steadily runs train (supplement, section C): `ardiff stability RUN...`.

Losses of different targets (x0, noise, v) have different scales, as have those of different
latents. Runs are compared by what has no scale alone: losses over the run's final loss in the
picture, fluctuation relative to the running median, spikes in MADs, the tail of the gradient's
norm in medians. The final loss is the one number in the table that keeps its own scale.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ardiffusion.files import write_json
from ardiffusion.nn.sizes import check_range
from ardiffusion.tools.loss_curve import read_curve, steadiness
from ardiffusion.tools.options import output_file
from ardiffusion.tools.plot import draw_runs, save_figure
from ardiffusion.training.spike_detector import HEIGHT, WINDOW, SpikeDetector

COLUMNS = {
    "run": ("name", "{}"),
    "steps": ("steps", "{}"),
    "final\nloss": ("final_loss", "{:.4g}"),
    "fluctu-\nation": ("fluctuation", "{:.1%}"),
    "spikes\n/ 1000": ("spikes_per_1000", "{:.2f}"),
    "largest\nin MADs": ("largest", "{:.1f}"),
    "skipped": ("skipped", "{}"),
    "gradient\np99 / p50": ("norm_ratio", "{:.2f}"),
}


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
    check_range("--{}", 4, 10**6, window=window)
    file = output_file(output, b"PNG")
    numbers = output_file(file.with_suffix(".json"), b'"runs"')
    if file == numbers:
        raise ValueError(f"--output is {output!r}, where numbers go: name a picture, as x.png.")
    named = [name_of(run) for run in runs]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise ValueError(f"Two runs are called the same, {names}: name them as NAME=FOLDER.")
    curves = [read_curve(folder, name=name) for name, folder in named]
    found = [steadiness(curve, SpikeDetector(window, height=height)) for curve in curves]
    relative = [c.over(row["final_loss"]) for c, (row, _) in zip(curves, found, strict=True)]
    figure = draw_runs(relative, [spikes for _, spikes in found], width=max(window // 4, 1))
    save_figure(figure, file)
    rows = [row for row, _ in found]
    print_table(rows)
    result = {"runs": rows, "window": window, "height": height, "output": output}
    write_json(numbers, result)
    return result


def name_of(run: str) -> tuple[str, Path]:
    """Split NAME=FOLDER; a folder alone is called as it is."""
    name, equals, folder = run.partition("=")
    if equals and not Path(run).exists():
        return name, Path(folder)
    return Path(run).resolve().name, Path(run)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    kinds = sorted({row["source"] for row in rows})
    mixed = f"Read from {' and '.join(kinds)}: TensorBoard holds fewer losses per step."
    title = "All but the final loss is free of its scale"
    table = Table(title=title, caption=mixed if len(kinds) > 1 else None)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "run" else "right")
    for row in rows:
        values = [(row[name], style) for name, style in COLUMNS.values()]
        table.add_row(*("-" if v is None else style.format(v) for v, style in values))
    Console(markup=False).print(table)
