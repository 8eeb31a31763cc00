"""The auto-encoders, generators and sets of videos that `make reproduce` compares."""

from typing import NamedTuple


class Tokenizer(NamedTuple):
    """An auto-encoder: its name for people, and what differs from vae_tiny.yaml."""

    title: str
    options: str = ""


class Model(NamedTuple):
    """A generator.

    Attributes:
        title: Its name for people.
        options: What differs from dit_tiny.yaml.
        sampling: What differs from the usual way to sample.
        tokenizer: The auto-encoder whose tokens it generates.
    """

    title: str
    options: str
    sampling: str = ""
    tokenizer: str = "ar-vae"


class Samples(NamedTuple):
    """A set of generated videos: the model, their length, and options that come last."""

    model: str
    title: str
    long: bool = False
    sampling: str = ""


TOKENIZERS = {
    "ar-vae": Tokenizer("AR-VAE"),
    "grid-vae": Tokenizer("grid VAE", "--config experiments/grid_vae_tiny.yaml"),
}
MODELS = {
    "ar-diffusion": Model("AR-Diffusion", "--config experiments/ar_diffusion.yaml"),
    "diffusion-forcing": Model("Diffusion Forcing", "--config experiments/diffusion_forcing.yaml"),
    "synchronous": Model(
        "synchronous", "--config experiments/synchronous.yaml", sampling="--difference 0"
    ),
    "nondecreasing": Model("uniform non-decreasing", "--config experiments/nondecreasing.yaml"),
    "independent": Model("independent", "--config experiments/independent.yaml"),
    "mixture": Model("FoPP and rows of plans", "--config experiments/plan_rows.yaml"),
    "grid": Model(
        "AR-Diffusion on the grid",
        "--config experiments/ar_diffusion.yaml --config experiments/grid_dit.yaml "
        "--model.dit.init_args.tokens 64",
        tokenizer="grid-vae",
    ),
}
DIFFERENCES = (0, 5, 10, 25, 50)
USUAL = 5  # the difference of all other videos, which predict takes when none is given
SAMPLES = {
    **{name: Samples(name, model.title) for name, model in MODELS.items()},
    **{
        f"difference-{s}": Samples("ar-diffusion", f"s = {s}", sampling=f"--difference {s}")
        for s in DIFFERENCES
        if s != USUAL
    },
    **{
        f"long-{name}": Samples(name, model.title, long=True)
        for name, model in MODELS.items()
        if name not in ("synchronous", "grid")
    },
    "long-fifo": Samples("synchronous", "synchronous, FIFO", long=True, sampling="--plan FIFO"),
}
