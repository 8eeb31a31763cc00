"""Speed, measured: `python -m ardiffusion.tools.benchmark {sample,train,decode,data,table2}`.

Every mode compares the fast way with the naive one in the same run and checks that both agree.
Numbers are medians on an otherwise idle machine; the last line is one JSON object.
"""

from jsonargparse import auto_cli

from ardiffusion.tools.benchmarks.data import data
from ardiffusion.tools.benchmarks.sample import sample
from ardiffusion.tools.benchmarks.table2 import table2

MODES = {"sample": sample, "data": data, "table2": table2}


def main(args: list[str] | None = None) -> None:
    """Run the command line."""
    auto_cli(MODES, args=args, as_positional=False, description=__doc__)


if __name__ == "__main__":
    main()
