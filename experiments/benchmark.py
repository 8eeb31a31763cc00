"""Speed, measured: `python -m experiments.benchmark MODE`.

Where there is a fast way and a naive one, both run in the same process and must agree. Numbers are
medians, to be taken on an otherwise idle machine; the last line is one JSON object.
"""

from experiments.benchmarks.data import data
from experiments.benchmarks.decode import decode
from experiments.benchmarks.generate import generate
from experiments.benchmarks.index import index
from experiments.benchmarks.memory import memory
from experiments.benchmarks.sample import sample
from experiments.benchmarks.table2 import table2
from experiments.benchmarks.train import train
from experiments.command import run_script

MODES = [generate, sample, train, decode, memory, data, index, table2]


def main(args: list[str] | None = None) -> None:
    """Run the command line."""
    run_script(MODES, args, as_positional=False, description=__doc__)


if __name__ == "__main__":
    main()
