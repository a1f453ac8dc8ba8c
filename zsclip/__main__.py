"""The program: `zsclip`, or `python -m zsclip`."""

import os


def run() -> None:
    """Run the command line, and exit quietly on Ctrl-C during the imports."""
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
