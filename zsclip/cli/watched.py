"""Runs a command and notes what it opens, for `zsclip bench --start`: `python -m zsclip.cli.watched NOTES classify`."""

import sys
import threading
import time
from typing import Any

_CODE = (".py", ".pyc", ".so")
_EVENTS = {
    "import": "",  # timed by Python itself
    "open": "read",
    "os.listdir": "list",
    "os.scandir": "list",
    "sqlite3.connect": "use",
    "zsclip.load": "load",
}


def run() -> None:
    """Run the command; write a line for each event: its thread, its time, and what was opened, or nothing."""
    target, *arguments = sys.argv[1:]
    notes: list[tuple[int, float, str]] = []

    def note(event: str, given: tuple[Any, ...]) -> None:
        if (verb := _EVENTS.get(event)) is not None:
            name = str(given[0]) if given else ""
            is_listed = verb and name and not name.isdecimal() and not name.endswith(_CODE)
            notes.append((threading.get_ident(), time.monotonic(), f"{verb} {name}" if is_listed else ""))

    sys.addaudithook(note)
    from zsclip.cli.main import main

    code = main(arguments)
    ended = [*notes, (0, time.monotonic(), "")]
    with open(target, "w", encoding="utf-8") as file:
        file.writelines(f"{thread}\t{at:.6f}\t{what!a}\n" for thread, at, what in ended)
    sys.exit(code)


if __name__ == "__main__":
    run()
