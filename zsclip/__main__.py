"""The program: `zsclip`, or `python -m zsclip`."""


def run() -> None:
    """Run the command line, and end quietly if that is wanted while it is still being imported."""
    try:
        from zsclip.cli import run
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    run()
