"""Published weights at their full size on a CPU: memory, loading time, and a video.

    python tests/full_size.py GOLDENS_FOLDER [FOLDER]

GOLDENS_FOLDER holds dit_large.json and vae_large.json, whose rule makes 5.3 GB of random weights.
They are written to FOLDER (a temporary one if not given) as published files, and deleted in the
end. A fresh process reads these once into a small buffer, to see how fast the machine can, then
loads them as `ardiff-dit predict --ckpt_path TRANSFORMER --arvae TOKENIZER` does and generates one
video of 16 frames in 4 steps. One JSON line comes out; the exit code is 1 where the peak exceeds
1.25 times the weights and 1 GB, or loading takes longer than reading.

The peak counts the pages mapped from the files, which the system takes back when it runs short;
`private` is what it cannot take back.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from goldens import load_golden
from safetensors.torch import save_file

from ardiffusion.generator import Generator
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.training.trainers import SamplingTrainer

FILES = {"dit_large": "transformer.safetensors", "vae_large": "tokenizer.safetensors"}
GB = 1e9


def write(goldens: Path, folder: Path) -> None:
    """Make the weights and write them by their published names."""
    for name, file in FILES.items():
        golden = load_golden(goldens / f"{name}.json")
        save_file(golden.state_dict(), folder / file)


def read(path: Path) -> None:
    """Read a file and forget it."""
    buffer = memoryview(bytearray(1 << 24))
    with open(path, "rb", buffering=0) as content:
        while content.readinto(buffer):
            pass


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def private() -> float:
    """Return the memory of this process that is not mapped from files, in GB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    (found,) = [line.split()[1] for line in lines if line.startswith("Anonymous:")]
    return int(found) * 1024 / GB


def peak() -> float:
    """Return the largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB


@contextmanager
def watched(seen: list[float]) -> Iterator[None]:
    """Note private memory all the while."""
    done = Event()

    def watch() -> None:
        while not done.wait(0.2):
            seen.append(private())

    thread = Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def generate(trainer: SamplingTrainer, model: Generator, output: Path) -> None:
    """Generate one short video."""
    trainer.predict(model, samples=1, frames=16, steps=4, difference=1, output=str(output))


def measure(folder: Path) -> dict[str, float]:
    """Read, load and generate; return what it took."""
    paths = [folder / file for file in FILES.values()]
    found = {"weights_gb": sum(path.stat().st_size for path in paths) / GB}
    found |= {"start_gb": peak()}
    found |= {"read_s": seconds(lambda: [read(path) for path in paths])}
    models: list[Generator] = []
    seen = [private()]
    transformer, tokenizer = map(str, paths)
    with watched(seen):
        load = seconds(
            lambda: models.append(Generator.from_pretrained(transformer, arvae=tokenizer))
        )
        found |= {"load_s": load, "private_after_load_gb": private(), "peak_after_load_gb": peak()}
        found |= {"fingerprint_s": seconds(lambda: fingerprint(models[0]))}
        print(found, file=sys.stderr)  # what follows takes minutes
        trainer = SamplingTrainer(accelerator="cpu", devices=1, logger=False)
        run = seconds(lambda: generate(trainer, models[0], output=folder / "samples"))
    found |= {"predict_s": run, "private_peak_gb": max(seen), "peak_gb": peak()}
    found |= {"video_bytes": (folder / "samples" / "000000.mp4").stat().st_size}
    return {name: round(value, 2) for name, value in found.items()}


def main(goldens: str, folder: str | None = None) -> None:
    """Write the weights and measure in a fresh process."""
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write(Path(goldens), Path(place))
        command = [sys.executable, __file__, "--measure", place]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    found["limit_gb"] = round(1.25 * found["weights_gb"] + 1, 2)
    print(json.dumps(found))
    sys.exit(found["peak_gb"] > found["limit_gb"] or found["load_s"] > found["read_s"])


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        print(json.dumps(measure(Path(sys.argv[2]))))
    else:
        main(*sys.argv[1:])
