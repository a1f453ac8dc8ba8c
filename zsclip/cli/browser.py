"""Open a page in the user's browser, if there is one here."""

import os
import sys
from pathlib import Path

from zsclip.cli.terminal import say


def open_page(file: str) -> None:
    """Open a page, or say where it is: over ssh, and where nothing is displayed, a browser would not help."""
    if not open_address(Path(file).absolute().as_uri()):
        say(f"zsclip: no browser here; open {os.path.abspath(file)} in yours")


def open_address(address: str) -> bool:
    """Open an address, and give whether a browser took it; this may wait until the browser has started."""
    import webbrowser

    sys.stdout.flush()  # what starts now may write, too
    return _has_browser() and webbrowser.open(address)


def _has_browser() -> bool:
    """Whether a browser on this machine would be seen; webbrowser also starts those for terminals."""
    given = os.environ.get
    if given("BROWSER"):
        return True
    is_displayed = sys.platform in ("darwin", "win32") or bool(given("DISPLAY") or given("WAYLAND_DISPLAY"))
    return is_displayed and not given("SSH_CONNECTION")
