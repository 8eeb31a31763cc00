"""Compare everything with the reference implementation's numbers: a table and one JSON line.

    python tests/parity.py GOLDENS_FOLDER [NAME ...]

Every NAME.json there describes the tensors in NAME.safetensors; without names all are compared.
The exit code is 1 where a difference exceeds its tolerance.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from goldens import Golden, Row, load_golden
from parity_arvae import temporal_tokenizer, tokenizer
from parity_dit import dit_forward, sampler, train_loss
from parity_tables import fopp, schedule, steps
from rich.console import Console
from rich.table import Table

KINDS: dict[str, Callable[[Golden], Iterator[Row]]] = {
    "vae": tokenizer,
    "vae_temporal": temporal_tokenizer,
    "dit_forward": dit_forward,
    "train_loss": train_loss,
    "sampler": sampler,
    "sampler integer tables": steps,
    "schedule": schedule,
    "FoPP": fopp,
}


def measure(path: Path) -> list[Row]:
    """Compare everything in one file."""
    golden = load_golden(path)
    return list(KINDS[golden.manifest["kind"]](golden))


def main(folder: str, *names: str) -> None:
    """Print all comparisons; exit with 1 if one of them fails."""
    paths = [p for p in sorted(Path(folder).glob("*.json")) if not names or p.stem in names]
    if not paths:
        sys.exit(f"{folder} holds no golden tensors; give the folder with NAME.json files.")
    table = Table("file", "quantity", "error", "bound", "")
    rows: list[Row] = []
    for path in paths:
        for row in measure(path):
            rows.append(row)
            verdict = "[green]pass" if row.passes else "[red]FAIL"
            table.add_row(row.name, row.quantity, f"{row.error:.1e}", f"{row.bound:.1e}", verdict)
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    failed = [row for row in rows if not row.passes]
    print(json.dumps({"compared": len(rows), "failed": [asdict(row) for row in failed]}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
