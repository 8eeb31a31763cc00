import json
import math
import random
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor
from torch.utils.tensorboard import SummaryWriter

from ardiffusion.tools.command import main
from ardiffusion.tools.loss_curve import LossCurve, read_curve, steadiness
from ardiffusion.tools.plot import INK, draw_runs, late_profiles, running_mean
from ardiffusion.training.spike_detector import SpikeDetector

WINDOW, HEIGHT = 20, 8.0


def noisy_losses(count: int, scale: float = 1.0, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    losses = [scale * (1 + 3 / (1 + i / 10) + 0.1 * draw.gauss(0, 1)) for i in range(count)]
    losses[count // 2] *= 5
    losses[-5] *= 4
    return losses


def write_log(folder: Path, losses: list[float], **more: list[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    lines = []
    for i, loss in enumerate(losses):
        given = {name: values[i] for name, values in more.items()}
        known = loss if math.isfinite(loss) else None
        line = {"grad_norm": 1.0, "bins": [], "frames": [], "spike": False, "skipped": False}
        lines.append(json.dumps({"step": i + 1, "loss": known, **line, **given}))
    (folder / "stability.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def curve_of(losses: list[float]) -> LossCurve:
    steps, none = np.arange(len(losses)) + 1.0, np.empty((1, 0))
    return LossCurve("a", "b", 0, steps, np.array(losses), np.array([]), none, none)


def middle(numbers: list[float]) -> float:
    ordered = sorted(numbers)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def naive_row(losses: list[float], norms: list[float]) -> dict[str, float]:
    """Measure everything the slow way."""
    heights, ratios = [], []
    for i, loss in enumerate(losses):
        before = [x for x in losses[:i] if math.isfinite(x)][-WINDOW:]
        if 4 * len(before) < WINDOW or not math.isfinite(loss):
            ratios.append(None)
            continue
        level = middle(before)
        mad = middle([abs(x - level) for x in before])
        heights.append((loss - level) / mad)
        ratios.append(loss / level)
    late = [r for r in ratios[len(losses) // 2 :] if r is not None]
    spread = middle([abs(r - middle(late)) for r in late])
    finite = sorted(n for n in norms if math.isfinite(n))
    return {
        "final_loss": middle([x for x in losses if math.isfinite(x)][-WINDOW:]),
        "fluctuation": 1.4826 * spread / middle(late),
        "spikes_per_1000": 1000 * sum(h > HEIGHT for h in heights) / len(losses),
        "largest": max(heights),
        "norm_ratio": finite[math.ceil(0.99 * len(finite)) - 1] / middle(finite),
    }


def run(*args: object, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    main(["stability", *map(str, args), "--window", str(WINDOW), "--height", str(HEIGHT)])
    printed = capsys.readouterr().out
    return json.loads(printed.splitlines()[-1]), printed


def test_numbers_equal_naive_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = noisy_losses(150)
    losses[30], losses[100] = math.nan, math.inf
    norms = [abs(random.Random(i).gauss(2, 1)) for i in range(150)]
    skipped = [not math.isfinite(x) for x in losses]
    folder = write_log(tmp_path / "one", losses, grad_norm=norms, skipped=skipped)
    result, printed = run(folder, "--output", tmp_path / "new/plot.png", capsys=capsys)
    (row,) = result["runs"]
    for name, wanted in naive_row(losses, norms).items():
        assert row[name] == pytest.approx(wanted, rel=1e-9), name
    assert (row["name"], row["steps"], row["losses"], row["skipped"]) == ("one", 150, 150, 2)
    assert row["spikes"] == 2 and f"{row['final_loss']:.4g}" in printed
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"plot.json", "plot.png"}


def test_scale_of_the_loss_changes_nothing_but_the_final_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = []
    for name, scale in (("small", 1.0), ("large", 4096.0)):
        losses = noisy_losses(90, scale=scale)
        bins = [[scale * 1.0, scale * 3.0]] * 90
        folder = write_log(tmp_path / name, losses, bins=bins, frames=bins)
        output = tmp_path / f"{name}.png"
        result, _ = run(f"run={folder}", "--output", output, capsys=capsys)
        pictures.append((result["runs"][0], output.read_bytes()))
    (small, drawn), (large, other) = pictures
    assert large.pop("final_loss") == pytest.approx(4096 * small.pop("final_loss"))
    assert large == pytest.approx(small) and drawn == other


def test_events_of_tensorboard_serve_where_there_is_no_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = [round(x * 64) / 64 for x in noisy_losses(80)]  # which 32 bits hold
    for first, last in ((0, 50), (40, 80)):  # a run that was resumed
        with SummaryWriter(tmp_path / "run", filename_suffix=f".{first}") as writer:
            for i in range(first, last):
                stale = first == 0 and i >= 40
                writer.add_scalar("train/loss", 9.0 if stale else losses[i], 50 * i + 49, first)
                writer.add_scalar("train/grad_norm", 1.0 + i, 50 * i + 49, first)
    result, printed = run(tmp_path / "run", "--output", tmp_path / "x.png", capsys=capsys)
    (row,) = result["runs"]
    wanted = naive_row(losses, norms=[1.0 + i for i in range(80)])
    assert {name: row[name] for name in wanted} == pytest.approx(wanted)
    assert (row["source"], row["steps"], row["losses"]) == ("TensorBoard", 3999, 80)
    log = write_log(tmp_path / "log", losses)
    _, printed = run(tmp_path / "run", log, "--output", tmp_path / "x.png", capsys=capsys)
    assert "TensorBoard holds fewer" in printed
    write_log(tmp_path / "run", [math.nan] * 3, skipped=[True, True, False])
    result, _ = run(tmp_path / "run", "--output", tmp_path / "x.png", capsys=capsys)
    assert result["runs"] == [row | {"skipped": 2}]


def test_picture_has_a_panel_per_run_with_the_same_axes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [[1.0, None, 2.0]] * 60
    runs = [
        f"run {i}={write_log(tmp_path / str(i), noisy_losses(60), bins=rows, frames=rows)}"
        for i in range(2)
    ]
    output = tmp_path / "x.png"
    run(*runs, "--output", output, capsys=capsys)
    with Image.open(output) as opened:
        assert opened.size == (2 * 440, 2 * 300)
    curves = [read_curve(Path(run.partition("=")[2]), name=run[:5]) for run in runs]
    first, second, by_bin, by_frame = draw_runs(curves, [np.zeros(60, dtype=bool)] * 2, 5).axes
    assert (first.get_xlim(), first.get_ylim()) == (second.get_xlim(), second.get_ylim())
    for panel, places in ((by_bin, [0.5 / 3, 2.5 / 3]), (by_frame, [0, 2])):
        points = [line.get_xydata().tolist() for line in panel.get_lines()]  # pyright: ignore
        assert points == [[[places[0], 1.0], [places[1], 2.0]]] * 2
    short = tmp_path / "short"
    write_log(short, noisy_losses(60))
    run(short, "--output", output, capsys=capsys)
    with Image.open(output) as opened:
        assert opened.size == (440, 300)  # nothing by timestep or frame is known


def test_spikes_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = noisy_losses(100)
    curve = curve_of(losses)
    _, spikes = steadiness(curve, SpikeDetector(WINDOW, height=HEIGHT))
    assert curve.steps[spikes].tolist() == [51, 96]
    marks = draw_runs([curve], [spikes], width=5).axes[0].get_lines()[-1]
    assert marks.get_xydata().tolist() == [[51, losses[50]], [96, losses[95]]]  # pyright: ignore
    dark = []
    for name, height in (("marked", HEIGHT), ("bare", 1e9)):
        output = tmp_path / f"{name}.png"
        folder = write_log(tmp_path / name, losses)
        options = [f"--height={height}", f"--window={WINDOW}", f"--output={output}"]
        main(["stability", f"x={folder}", *options])
        capsys.readouterr()
        with Image.open(output) as opened:
            inside = opened.convert("RGB").crop((60, 70, 420, 250))
        wanted = ImageColor.getrgb(INK)
        dark.append(sum(n for n, c in inside.getcolors(1 << 20) or () if c == wanted))
    assert dark[0] > 20 and dark[1] == 0


def test_running_mean_equals_a_naive_one() -> None:
    losses = noisy_losses(50)
    for width in (1, 2, 7, 200):
        means = running_mean(np.array(losses), width)
        assert len(means) == 50
        for i, mean in enumerate(means):
            start = i - width // 2
            near = [losses[j] for j in range(start, start + width) if 0 <= j < 50]
            assert mean == pytest.approx(sum(near) / len(near))


def test_one_high_loss_among_very_many_is_seen() -> None:
    pictures = []
    for high in (1.0, 9.0):
        losses = [2.0 if i % 2 else 1.0 for i in range(100_000)] + [10.0]
        losses[61_803] = high
        figure = draw_runs([curve_of(losses)], [np.zeros(100_001, dtype=bool)], width=5)
        file = BytesIO()
        figure.savefig(file)
        pictures.append(Image.open(file).convert("L").crop((230, 90, 300, 150)))
    plain, peaked = (picture.getextrema()[0] for picture in pictures)
    assert peaked < plain


def test_means_of_the_last_half_leave_out_what_is_missing() -> None:
    nan = math.nan
    rows = [[9.0, 9.0, 9.0], [9.0, 9.0, 9.0], [1.0, nan, nan], [2.0, 4.0, nan]]
    runs = {"a": np.array(rows), "b": np.full((4, 2), nan), "c": np.empty((4, 0))}
    assert late_profiles(runs, lambda i, count: i / count) == {"a": [(0, 1.5), (1 / 3, 4.0)]}


def test_a_file_of_another_kind_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path / "run", [1.0] * 20)
    (tmp_path / "x.json").write_text('{"mine": 1}')
    for output in ("x.json", "x.png", "new.json"):
        with pytest.raises(SystemExit, match="2"):
            main(["stability", str(tmp_path / "run"), f"--output={tmp_path / output}"])
        said = "name a picture" if output == "new.json" else "x.json, another kind of file: move"
        assert said in capsys.readouterr().err
    assert (tmp_path / "x.json").read_text() == '{"mine": 1}'
    assert not (tmp_path / "x.png").exists() and not (tmp_path / "new.json").exists()


def test_bad_runs_end_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    good = write_log(tmp_path / "good", noisy_losses(9))
    below = write_log(tmp_path / "below", [-1.0] * 9)
    for args, message in (
        ([tmp_path / "none"], "There is no folder"),
        ([tmp_path / "empty"], "holds no finite loss"),
        ([below], "The losses of below end at -1"),
        ([good, good], "name them as NAME=FOLDER"),
        ([good, "--window", "2"], "--window must be at least 4, got 2"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(["stability", *map(str, args), "--output", str(tmp_path / "x.png")])
        error = capsys.readouterr().err
        assert exit_.value.code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "x.png").exists()
