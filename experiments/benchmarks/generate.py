"""How long a trained model takes for single videos of several lengths, decoding included."""

import time

from ardiffusion.diffusion.plans import Plan
from ardiffusion.files import write_json
from ardiffusion.generator import Generator
from ardiffusion.tools.options import device_of
from experiments.benchmarks.measure import Result, name_device, print_results, wait_for

WARM_UP = 2  # frames


def generate(
    checkpoint: str,
    frames: list[int] = [16, 128],  # noqa: B006 jsonargparse shows the default
    steps: int = 50,
    difference: int = 5,
    plan: Plan | None = None,
    device: str = "cpu",
    output: str | None = None,
) -> None:
    """Time the generation of one video of each length.

    Args:
        checkpoint: What to generate with: a checkpoint of `ardiff-dit fit` or published weights.
        frames: Lengths of the videos.
        steps: Denoising steps per frame.
        difference: Steps between neighbouring frames.
        plan: How frames take their steps, instead of the AD schedule with `difference`.
        device: Where to generate.
        output: File for the seconds, as JSON.
    """
    place = device_of(device)
    generator = Generator.from_pretrained(checkpoint).to(place)
    sampler = generator.sampler(steps=steps, difference=difference, plan=plan)

    def seconds(length: int) -> float:
        start = time.perf_counter()
        for _ in generator.stream([0], frames=length, labels=[0], sampler=sampler):
            pass
        wait_for(place)
        return time.perf_counter() - start

    seconds(WARM_UP)
    found = {length: seconds(length) for length in frames}
    if output is not None:
        write_json(output, {"seconds": found, "device": name_device(place)})
    results = [Result(f"{length} frames", value, "s") for length, value in found.items()]
    print_results(results, device=place)
