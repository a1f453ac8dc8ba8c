"""The program: `zsclip`, or `python -m zsclip`."""

import gc
import os


def run() -> None:
    """Run the command line, and exit quietly on Ctrl-C during the imports."""
    gc.set_threshold(50_000)  # what a start makes stays; looking through it every 700 objects took a tenth of the start
    if os.uname().machine == "x86_64":  # elsewhere torch may multiply with OpenBLAS too
        # numpy's threads spin while they wait for the next batch, on the processors that look up and decode it.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from zsclip.cli.main import run
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    run()
