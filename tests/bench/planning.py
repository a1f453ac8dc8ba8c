"""Plan a run over 100,000 archives, as `-o FOLDER/` does: seconds and memory. No archive is opened, so they are empty.

python tests/bench/planning.py
"""

import os
import resource
import tempfile
import time

from zsclip.engine.shards import Finding, plan
from zsclip.pictures.passed_over import PassedOver

SHARDS = 100_000  # of 10,000 pictures each: a billion rows


def main() -> None:
    """Make the files, and plan."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(SHARDS):
            with open(os.path.join(folder, f"shard-{number:06}.tar"), "w"):
                pass
        begun = time.perf_counter()
        planned = plan(Finding((f"{folder}/shard-{{000000..{SHARDS - 1:06}}}.tar",), 10_000), PassedOver())
        seconds = time.perf_counter() - begun
    assert len(planned.shards) == SHARDS
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"{SHARDS:,} shards planned in {seconds:.1f} s; {megabytes:,.0f} MB in all")


if __name__ == "__main__":
    main()
