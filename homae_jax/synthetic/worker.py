"""One render process: reads a chunk per line, answers its name when it is done.

Started by `production.Crew` with the world folder as its only argument.
"""

import contextlib
import json
import sys
from pathlib import Path

from homae_jax.synthetic.production import Chunk, Workshop, use_one_thread


def main(folder: Path) -> None:
    """Works until the standard input ends."""
    use_one_thread()
    workshop = Workshop(folder)
    for line in sys.stdin:
        chunk = Chunk(*json.loads(line))
        workshop.make(chunk)
        print(chunk.name, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # the parent reports it
        main(Path(sys.argv[1]))
