"""Speed, measured: `python -m ardiffusion.tools.benchmark MODE`.

Where there is a fast way and a naive one, both run in the same process and must agree. Numbers are
medians, to be taken on an otherwise idle machine; the last line is one JSON object.
"""

from jsonargparse import auto_cli

from ardiffusion.tools.benchmarks.data import data
from ardiffusion.tools.benchmarks.decode import decode
from ardiffusion.tools.benchmarks.generate import generate
from ardiffusion.tools.benchmarks.memory import memory
from ardiffusion.tools.benchmarks.sample import sample
from ardiffusion.tools.benchmarks.table2 import table2
from ardiffusion.tools.benchmarks.train import train
from ardiffusion.tools.command import told_in_one_sentence

MODES = [generate, sample, train, decode, memory, data, table2]


def main(args: list[str] | None = None) -> None:
    """Run the command line."""
    with told_in_one_sentence():
        auto_cli(MODES, args=args, as_positional=False, description=__doc__)


if __name__ == "__main__":
    main()
