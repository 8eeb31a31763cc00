"""Loading a trained model of stage 2 for generation: ours from a checkpoint, or published ones."""

from pathlib import Path

from torch import nn

from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import PublishedDDIM
from ardiffusion.diffusion.target import X0, Epsilon, Target, Velocity
from ardiffusion.hub import from_checkpoint, load_networks, published_files
from ardiffusion.nn.arvae import ARVAE
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.presets import preset
from ardiffusion.training.checkpoint import check_stage, read_checkpoint
from ardiffusion.training.diffusion import DiffusionModule

TARGETS: dict[str, type[Target]] = {t.__name__: t for t in (X0, Epsilon, Velocity)}


def load_generator(source: str) -> DiffusionModule:
    """Load a model with its AR-VAE, ready to generate; memory-mapped, without a second copy.

    Args:
        source: A checkpoint of `ardiff-dit fit`, or a file, folder or hf://user/repo of weights
            that hold both networks.
    """
    if not source.endswith(".ckpt") and (Path(source).exists() or source.startswith("hf://")):
        networks = load_networks(source)
        return assemble(networks, source=source)
    checkpoint = read_checkpoint(source)
    check_stage(checkpoint, stage="dit", source=source)
    settings = checkpoint["diffusion"]
    schedule = {name: settings[name] for name in ("beta_start", "beta_end", "timesteps")}
    return assemble(
        from_checkpoint(checkpoint, source=source),
        source=source,
        schedule=NoiseSchedule(**schedule),
        target=TARGETS[settings["target"]](),
        classes=settings["classes"],
    )


def load_preset(dataset: str) -> DiffusionModule:
    """Load the weights that were published for a data set, from the Hub or its cache.

    Args:
        dataset: One of sky, taichi, ucf101 and ffs.
    """
    chosen = preset(dataset)
    networks: dict[str, nn.Module] = {}
    for kind, source in published_files(chosen.repository, dataset).items():
        networks[kind] = load_networks(source)[kind]
    return assemble(networks, source=chosen.repository, classes=list(chosen.classes))


def assemble(
    networks: dict[str, nn.Module],
    source: str,
    schedule: NoiseSchedule | None = None,
    target: Target | None = None,
    classes: list[str] | None = None,
) -> DiffusionModule:
    """Put loaded networks together; published ones are sampled by the published solver.

    Raises:
        ValueError: If one of the two networks is missing.
    """
    missing = [name for name in ("dit", "arvae") if name not in networks]
    if missing:
        raise ValueError(f"{source} holds no {missing[0]}; both dit and arvae are needed.")
    dit, arvae = networks["dit"], networks["arvae"]
    assert isinstance(arvae, ARVAE)
    # Lightning keeps a copy of all arguments, so the network itself comes after them.
    module = DiffusionModule(dit=nn.Module(), arvae=source, schedule=schedule, target=target)
    module.dit = dit
    module.adopt(arvae)
    if isinstance(dit, PublishedDiT):
        module.solver = PublishedDDIM()
    numbers = [str(label) for label in range(int(dit.classes))]  # pyright: ignore[reportArgumentType]
    module.classes = (classes or numbers) if numbers else []
    return module.eval()
