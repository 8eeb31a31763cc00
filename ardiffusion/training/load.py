"""Loading a trained model of stage 2 for generation: ours from a checkpoint, or published ones."""

from pathlib import Path

from torch import nn

from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import PublishedDDIM
from ardiffusion.diffusion.target import X0, Epsilon, Target, Velocity
from ardiffusion.hub import from_checkpoint, load_arvae, load_networks, published_files
from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.published.presets import preset
from ardiffusion.training.checkpoint import check_stage, read_checkpoint
from ardiffusion.training.diffusion import DiffusionModule
from ardiffusion.training.match import check_latents

TARGETS: dict[str, type[Target]] = {t.__name__: t for t in (X0, Epsilon, Velocity)}


def load_generator(source: str, arvae: str | None = None, dataset: str = "sky") -> DiffusionModule:
    """Load a model with its AR-VAE, ready to generate; memory-mapped, without a second copy.

    Args:
        source: A checkpoint of `ardiff-dit fit`, or a file, folder or hf://user/repo of weights.
        arvae: Where to take the AR-VAE from, instead of the one in `source`.
        dataset: Whose class names published weights have.
    """
    if not source.endswith(".ckpt") and (Path(source).exists() or source.startswith("hf://")):
        networks = load_networks(source)
        published = isinstance(networks.get("dit"), PublishedDiT)
        names = list(preset(dataset).classes) if published else None
        return assemble(networks, source=source, arvae=arvae, classes=names)
    checkpoint = read_checkpoint(source)
    check_stage(checkpoint, stage="dit", source=source)
    settings = checkpoint["diffusion"]
    schedule = {name: settings[name] for name in ("beta_start", "beta_end", "timesteps")}
    return assemble(
        from_checkpoint(checkpoint, source=source),
        source=source,
        arvae=arvae,
        schedule=NoiseSchedule(**schedule),
        target=TARGETS[settings["target"]](),
        classes=settings["classes"],
    )


def load_preset(dataset: str, arvae: str | None = None) -> DiffusionModule:
    """Load the weights that were published for a data set, from the Hub or its cache.

    Args:
        dataset: One of sky, taichi, ucf101 and ffs.
        arvae: Where to take the AR-VAE from, instead of the published one.
    """
    chosen = preset(dataset)
    found = published_files(chosen.repository, dataset)
    wanted = {kind: source for kind, source in found.items() if kind == "dit" or arvae is None}
    return assemble(
        {kind: load_networks(source)[kind] for kind, source in wanted.items()},
        source=f"hf://{chosen.repository} (or what the cache has of it)",
        arvae=arvae,
        classes=list(chosen.classes),
    )


def assemble(
    networks: dict[str, nn.Module],
    source: str,
    arvae: str | None = None,
    schedule: NoiseSchedule | None = None,
    target: Target | None = None,
    classes: list[str] | None = None,
) -> DiffusionModule:
    """Put loaded networks together; published ones are sampled by the published solver.

    Raises:
        ValueError: If one of the two networks is missing, or they do not fit each other.
    """
    if "dit" not in networks:
        raise ValueError(f"{source} holds no transformer of stage 2; correct --ckpt_path.")
    if arvae is None and "arvae" not in networks:
        raise ValueError(f"{source} holds no AR-VAE; name one with --arvae.")
    dit, decoder = networks["dit"], load_arvae(arvae) if arvae else networks["arvae"]
    assert isinstance(decoder, Autoencoder)
    check_latents(None, arvae=decoder, dit=dit)
    # Lightning keeps a copy of all arguments, so the network itself comes after them.
    module = DiffusionModule(
        dit=nn.Module(), arvae=arvae or source, schedule=schedule, target=target
    )
    module.dit = dit
    module.adopt(decoder)
    if isinstance(dit, PublishedDiT):
        module.solver = PublishedDDIM()
    numbers = [str(label) for label in range(int(dit.classes))]  # pyright: ignore[reportArgumentType]
    module.classes = classes if classes and len(classes) == len(numbers) else numbers
    return module.eval()
