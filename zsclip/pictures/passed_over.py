"""What a search for pictures leaves out, counted, so that a run can report it. No file is opened here."""

from collections import Counter
from dataclasses import dataclass, field

_LONGEST_ENDING = 20  # characters; what follows the last dot of "Mr. Smith and his dog" is not an extension


@dataclass
class PassedOver:
    """What was left out so far; complete once all pictures have been found.

    endings: files of folders and archives that are not tried, by extension in lower case, "" for those without one.
    unlabelled: the same for files beside the label folders of a data set. about: the same for text and number files
    that accompany pictures in archives. links, videos, archives: those in archives; devices are among the links. tails:
    archives with data after their end. hidden, excluded: files and folders. folders: those that were walked, and
    archives. others: further reasons why there may be no picture, in words. can_read_videos: whether the command would
    read videos in folders if it were asked to.
    """

    endings: Counter[str] = field(default_factory=Counter)
    unlabelled: Counter[str] = field(default_factory=Counter)
    about: Counter[str] = field(default_factory=Counter)
    links: int = 0
    videos: int = 0
    archives: int = 0
    tails: int = 0
    hidden: int = 0
    excluded: int = 0
    folders: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    can_read_videos: bool = False


def ending_of(name: str) -> str:
    """Give the ending of a file's name with its dot, in lower case; "" if it has none."""
    dot = name.rfind(".")
    ending = name[dot:].lower()
    is_ending = dot > 0 and 1 < len(ending) <= _LONGEST_ENDING and " " not in ending
    return ending if is_ending and not ending[1:].isdigit() else ""  # digits are not an extension, as in 1.2.840.113619
