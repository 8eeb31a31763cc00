"""A command as users start it, in a process of its own that signals may end.

python tests/interrupted.py FOLDER VIDEOS vae fit --trainer.max_steps=1000
"""

import sys
from pathlib import Path

from cli_runs import COMMANDS, Runs, spell

if __name__ == "__main__":
    folder, root, stage, verb, *more = sys.argv[1:]
    settings = Runs(Path(folder), root=Path(root)).settings(stage, verb)
    COMMANDS[stage]([verb, *spell(settings), *more])
