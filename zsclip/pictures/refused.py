"""Why a picture cannot be read, in a word for programs and a sentence for people."""

from typing import Literal

ErrorKind = Literal[
    "missing", "not-a-file", "permission", "unreadable", "too-large", "timeout", "out-of-memory", "unsupported"
]


class Refused(Exception):
    """Raised for a picture that cannot be read, or is not decoded."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message
