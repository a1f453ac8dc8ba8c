"""`python -m zsclip` is the command `zsclip`."""

from zsclip.cli import run

run()
