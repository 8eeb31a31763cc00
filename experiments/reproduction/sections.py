"""What `make reproduce` shows of each experiment: a text, tables, pictures and videos."""

from ardiffusion.diffusion.ad import ad_iterations
from ardiffusion.hub import load_arvae
from ardiffusion.tools.gallery import Figure, Section, Table
from experiments.reproduction.models import DIFFERENCES, MODELS, SAMPLES, TOKENIZERS, USUAL
from experiments.reproduction.results import DISTANCE, Results
from experiments.reproduction.runs import HELD_OUT, WINDOW

TOKENIZED = {"ar-vae": "ar-diffusion", "grid-vae": "grid"}  # and the generators on their tokens
TOKENIZER_COLUMNS = [
    "auto-encoder",
    "tokens per frame",
    "batches of stage 1",
    "PSNR, dB",
    f"{DISTANCE}, reconstructed",
    "batches of stage 2",
    "seconds for 16 frames",
    f"{DISTANCE}, generated",
]
METHODS = {
    "ar-diffusion": "long-ar-diffusion",
    "diffusion-forcing": "long-diffusion-forcing",
    "synchronous": "long-fifo",
}  # and their long videos
DRAWN = ("ar-diffusion", "mixture", "nondecreasing", "independent")
DIFFERENT = {s: "ar-diffusion" if s == USUAL else f"difference-{s}" for s in DIFFERENCES}
STEADINESS = {
    "steps": "steps",
    "fluctuation": "fluctuation, %",
    "spikes_per_1000": "spikes per 1000 steps",
    "largest": "largest spike, MADs",
    "norm_ratio": "gradient norm, p99 / median",
    "skipped": "skipped steps",
}


def tokenizer(results: Results) -> Section:
    """Table 1 of the supplement: the AR-VAE's few tokens against a grid of many."""
    recipe = results.recipe
    rebuilt = {f"{t.title}, rebuilt": recipe.made(f"rebuilt-{n}") for n, t in TOKENIZERS.items()}
    table = Table(
        title="Equal training times",
        columns=TOKENIZER_COLUMNS,
        rows=[tokenizer_row(results, *pair) for pair in TOKENIZED.items()],
        note=f"{recipe.vae_seconds} s of training for each auto-encoder, {recipe.dit_seconds} s "
        "for each generator; 8 clips per batch of stage 2, 2 on the grid, as the paper had 16 "
        "and 2. Reconstructions are of held-out videos and are compared with those.",
    )
    return Section(
        title="Few tokens or a grid of them (Table 1)",
        text="The paper trains its AR-VAE and a grid auto-encoder for the same time, and "
        "AR-Diffusion on the tokens of each. The grid has more tokens, so batches are smaller and "
        "sampling is slower; FVD of generated videos is 80 to 84 against 640 to 790 there.",
        tables=[table],
        columns={"held out": recipe.held_out} | rebuilt | results.made(TOKENIZED.values()),
        scores=results.scores([*(f"rebuilt-{name}" for name in TOKENIZED), *TOKENIZED.values()]),
    )


def tokenizer_row(results: Results, name: str, model: str) -> list[str | float]:
    """Measure an auto-encoder and the generator trained on its tokens."""
    return [
        TOKENIZERS[name].title,
        load_arvae(results.recipe.last(name)).tokens,
        results.batches(name),
        results.psnr(f"rebuilt-{name}"),
        results.score(f"rebuilt-{name}"),
        results.batches(model),
        results.one_video(model),
        results.score(model),
    ]


def time(results: Results) -> Section:
    """Table 2 of the supplement: time against the number of frames."""
    names = list(METHODS.values())
    seconds = {name: results.alone(name) for name in names}
    lengths = list(seconds[names[0]])
    table = Table(
        title="Seconds for one video, decoding included",
        columns=["method", *(f"{frames} frames" for frames in lengths)],
        rows=[
            [SAMPLES[name].title, *(f"{seconds[name][frames]:.2f}" for frames in lengths)]
            for name in names
        ],
        note=f"{results.recipe.steps} steps. AR-Diffusion reads finished frames from a cache; the "
        "two networks without a mask compute their whole window of 16 frames in every iteration.",
    )
    return Section(
        title="Time against frames (Table 2)",
        text="The paper's AR-Diffusion needs 3.1 s for 16 frames and 45.8 s for 128 on an A800, "
        "FIFO 595.8 s and 1639.8 s with a larger network.",
        tables=[table],
    )


def stability(results: Results) -> Section:
    """Figures 1 and 2 of the supplement: the losses while training."""
    table = Table(
        title="Loss curves in numbers",
        columns=["training", *STEADINESS.values()],
        rows=[
            [run["name"], *(plain(name, run[name]) for name in STEADINESS)]
            for run in results.steadiness()
        ],
        note="Fluctuation is the spread of the loss about its running median over the last half; "
        "a spike lies 10 median absolute deviations above that median or more.",
    )
    caption = "Loss against steps of each training, by timestep and by frame"
    return Section(
        title="Training stability (Figures 1 and 2)",
        text="The supplement shows the loss of Diffusion Forcing with fluctuations and spikes, "
        "that of AR-Diffusion with fewer. Losses of different predictions have different scales, "
        "so all figures here are relative.",
        tables=[table],
        figures=[Figure(results.recipe.out / "stability.png", caption)],
    )


def plain(name: str, value: float | None) -> str:
    """Write a figure of a loss curve."""
    if value is None:
        return "-"
    if name == "fluctuation":
        return f"{100 * value:.1f}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def difference(results: Results) -> Section:
    """The paper's experiment on s, the distance between neighbouring frames."""
    steps = results.recipe.steps
    rows = [
        [s, ad_iterations(WINDOW, steps, s), results.one_video(name), results.score(name)]
        for s, name in DIFFERENT.items()
    ]
    table = Table(
        title="One AR-Diffusion model",
        columns=["s", "iterations", "seconds for one video", DISTANCE],
        rows=rows,
        note=f"{results.recipe.samples} videos of {WINDOW} frames, {steps} steps.",
    )
    return Section(
        title="The difference s between neighbouring frames",
        text="One network, sampled in five ways: s = 0 denoises all frames together, s = 50 one "
        "after the other.",
        tables=[table],
        columns={f"s = {s}": results.recipe.made(name) for s, name in DIFFERENT.items()},
        scores=results.scores(DIFFERENT.values()),
    )


def timesteps(results: Results) -> Section:
    """The paper's experiment on FoPP: how training timesteps are drawn."""
    titles = {f"long-{name}": MODELS[name].title for name in DRAWN} | {"long-ar-diffusion": "FoPP"}
    table = Table(
        title=f"{results.recipe.dit_seconds} s of training each",
        columns=["timesteps", "batches", f"{DISTANCE}, {results.recipe.long_frames} frames"],
        rows=[
            [title, results.batches(SAMPLES[name].model), results.score(name)]
            for name, title in titles.items()
        ],
        note=f"{results.recipe.long_samples} videos, cut into clips of {WINDOW} frames; 95 % "
        "intervals in brackets.",
    )
    return Section(
        title="How training timesteps are drawn",
        text="The same causal network, x_0 prediction and sampling; only the timesteps of "
        "training differ. Uniform non-decreasing takes every non-decreasing sequence equally "
        "likely, independent ones are those of Diffusion Forcing.",
        tables=[table],
        columns={title: results.recipe.made(name) for name, title in titles.items()},
        scores=results.scores(titles),
    )


def methods(results: Results) -> Section:
    """AR-Diffusion against Diffusion Forcing and synchronous diffusion."""
    recipe, short, long = results.recipe, list(METHODS), list(METHODS.values())
    rows = [
        [MODELS[n].title, results.batches(n), results.score(n), results.score(m)]
        for n, m in METHODS.items()
    ]
    table = Table(
        title=f"{recipe.dit_seconds} s of training each",
        columns=[
            "model",
            "batches",
            f"{DISTANCE}, {WINDOW} frames",
            f"{DISTANCE}, {recipe.long_frames} frames",
        ],
        rows=[*rows, ["real videos held out", "", results.score(HELD_OUT), ""]],
        note=f"{recipe.samples} videos of {WINDOW} frames and {recipe.long_samples} of "
        f"{recipe.long_frames}, which are cut into clips of {WINDOW}; 95 % intervals in brackets.",
    )
    return Section(
        title="AR-Diffusion, Diffusion Forcing and synchronous diffusion",
        text="Networks of one size, trained for the same time on the same latents. Diffusion "
        "Forcing: independent timesteps, v-prediction, no mask. Synchronous: one timestep for all "
        "frames, no mask; its long videos are made by FIFO's diagonal.",
        tables=[table],
        columns={"real, held out": recipe.held_out}
        | results.made(short)
        | {f"{title}, long": folder for title, folder in results.made(long).items()},
        scores=results.scores([HELD_OUT, *short, *long]),
    )
