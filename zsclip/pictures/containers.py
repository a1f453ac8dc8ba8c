"""Files that hold or list many pictures, known by their endings: archives, Parquet files and lists.

What reads each kind is imported when there is one: most runs have none, and tarfile and zipfile take 10 ms.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec

from zsclip.errors import InputError
from zsclip.pictures.animations import is_animation
from zsclip.pictures.clips import Unread, find_in_clip
from zsclip.pictures.endings import ARCHIVES, LISTS, TARS
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.pictures import Member, Pictures
from zsclip.pictures.remote import Network
from zsclip.pictures.sampling import ANIMATION_ENDINGS, DEFAULT_SAMPLING, VIDEO_ENDINGS, Sampling
from zsclip.pictures.shards import Takes
from zsclip.pictures.stdin import PICTURE_OF_THE_WEB
from zsclip.pictures.urls import is_remote, name_in

_MOST_BRACES = 100_000  # inputs that one brace range may stand for


def archive_of(name: str) -> str:
    """Give the archive that a name says it is in, as `shard.tar#dir/a.jpg` does, or the video; "" if there is none.

    A file that is literally called so comes first.
    """
    archive, member = split_member(name)
    is_there = member and (os.path.isfile(archive) or is_remote(archive)) and not os.path.lexists(name)
    return archive if is_there else ""


def split_member(name: str) -> tuple[str, str]:
    """Split a name into those of an archive and of a member, or of a video and of a frame, such as `t=12.500`.

    Folders and archives may have a hash in their names, so an archive that is there comes first.

    Returns:
        "" as the second if it names neither.
    """
    ways = [(name[: each.start()], name[each.end() :]) for each in re.finditer("#", name)]
    ways = [way for way in ways if _may_hold(*way)]
    there = (way for way in reversed(ways) if os.path.isfile(way[0]))
    return next(there, ways[0] if ways else (name, ""))


def is_clip(path: str) -> bool:
    """Whether a file is a video or an animation by its extension, if it holds pictures at all."""
    return _name(path).endswith((*VIDEO_ENDINGS, *ANIMATION_ENDINGS))


def _may_hold(path: str, member: str) -> bool:
    """Whether a file may hold a picture of this name, by its extension."""
    return bool(member) and (_name(path).endswith(ARCHIVES) or (member.startswith("t=") and is_clip(path)))


def is_container(path: str, sampling: Sampling = DEFAULT_SAMPLING) -> bool:
    """Whether a file is an archive, a video or a list by its extension, and does not begin like a picture."""
    name = _name(path)
    if is_remote(path):
        if archive_of(path):
            return False
        if sampling.animations and name.endswith((*ANIMATION_ENDINGS,)):  # which shows once it is fetched
            return True
        return name.endswith((*ARCHIVES, *LISTS)) or (name.endswith((*VIDEO_ENDINGS,)) and find_spec("av") is not None)
    if sampling.animations and name.endswith((*ANIMATION_ENDINGS,)):
        return os.path.isfile(path) and is_animation(path)
    if not name.endswith((*ARCHIVES, *LISTS, *VIDEO_ENDINGS)) or not os.path.isfile(path):
        return False
    if name.endswith((*VIDEO_ENDINGS,)) and not find_spec("av"):  # its row will say so
        return False
    try:
        with open(path, "rb") as file:
            return PICTURE_OF_THE_WEB.match(file.read(16)) is None
    except OSError:  # its row will say why
        return True


def check_container(path: str, column: str | None, network: Network) -> None:
    """Check what can be checked before anything slow.

    Raises:
        InputError: pyarrow is missing, or there is no column with pictures, or several.
    """
    if _name(path).endswith(".parquet"):
        from zsclip.pictures.columns import check_parquet

        check_parquet(path, column, network)
    elif is_list(path):
        from zsclip.pictures.lists import check_list

        check_list(path, column, network)


def find_in_container(
    path: str,
    column: str | None,
    takes: Takes,
    is_left_out: Callable[[str], bool],
    out: PassedOver,
    network: Network,
    sampling: Sampling = DEFAULT_SAMPLING,
    unread: Unread | None = None,
) -> Iterator[Pictures]:
    """Yield the pictures that a file holds or lists.

    Args:
        column: of a Parquet file or list; None finds it.
        takes: whether a member of this name in an archive is a picture of the run; counts those that are not.
        is_left_out: whether --exclude leaves out a row or a listed file, which have no extension to check.
        out: where to count links in archives.
        network: fetches what is on a server.
        sampling: which frames of a video are taken. unread: where they wait to be read.
    """
    name = _name(path)
    if name.endswith((*VIDEO_ENDINGS, *ANIMATION_ENDINGS)):
        may_be_still = name.endswith((*ANIMATION_ENDINGS,))
        return find_in_clip(path, sampling, unread or Unread(), network, may_be_still=may_be_still)
    if name.endswith(TARS):
        from zsclip.pictures.tars import find_in_tar

        return find_in_tar(path, takes, out, network)
    if name.endswith(".zip"):
        from zsclip.pictures.zips import find_in_zip

        return find_in_zip(path, takes, out, network)
    from zsclip.pictures.columns import find_in_parquet
    from zsclip.pictures.lists import find_in_list

    find = find_in_list if is_list(path) else find_in_parquet
    return find(path, column, lambda name: not is_left_out(name), network)


def stands_for_many(name: str) -> bool:
    """Whether a row of this name, if it failed, is about a file that holds many pictures, and not about one of them."""
    if isinstance(name, Member):
        holder = name.pictures.holder
        return holder is not None and holder.path == name
    return _name(name).endswith((*ARCHIVES, *LISTS, *VIDEO_ENDINGS))


def is_list(path: str) -> bool:
    """Whether a file's name is that of a list of pictures."""
    return _name(path).endswith(LISTS)


def note_of(paths: Sequence[str], network: Network) -> str:
    """Give what to note of some containers before a run, going by the first Parquet file; "" if there is nothing."""
    path = next((path for path in paths if _name(path).endswith(".parquet")), "")
    if not path:
        return ""
    from zsclip.pictures.columns import further_columns

    said = further_columns(path, network)
    return said and f"{path}: {said}"


def has_column(path: str) -> bool:
    """Whether `--column` means something for a file."""
    return is_list(path) or _name(path).endswith(".parquet")


def _name(path: str) -> str:
    """Give what says by its ending what kind of file a path or URL is of, in lower case."""
    return name_in(path).lower()


def expand_braces(text: str) -> list[str]:
    """Give the texts that a brace expression stands for, as in bash: `{000..127}` counts, `{a,b}` lists; may nest.

    Raises:
        InputError: they are too many.
    """
    begin = -1
    while (begin := text.find("{", begin + 1)) >= 0:
        parts = _parts(text, begin)
        options = [each for part in parts for each in expand_braces(part)] if len(parts) > 1 else _counted(parts)
        if options:
            end = begin + len(",".join(parts)) + 2
            ends = expand_braces(text[end:])
            if len(options) * len(ends) > _MOST_BRACES:
                raise InputError(f"{text!r} stands for more than {_MOST_BRACES:,} files; use a smaller range")
            return [text[:begin] + each + rest for each in options for rest in ends]
    return [text]


def _parts(text: str, begin: int) -> list[str]:
    """Give what stands between the commas of the brace at a place; nothing if it is not closed."""
    depth, parts, start = 0, [], begin + 1
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0 or (depth == 1 and text[place] == ","):
            parts.append(text[start:place])
            start = place + 1
        if depth == 0:
            return parts
    return []


def _counted(parts: list[str]) -> list[str]:
    """Count from one number to another, with the zeros of the longer one; nothing if that is not what is asked."""
    match = re.fullmatch(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?", "".join(parts))
    if match is None:
        return []
    first, last, step = match.groups()
    begin, end, by = int(first), int(last), max(1, abs(int(step or 1)))
    if abs(end - begin) // by >= _MOST_BRACES:
        raise InputError(f"'{{{match[0]}}}' stands for more than {_MOST_BRACES:,} files; use a smaller range")
    is_padded = any(re.match(r"-?0\d", each) for each in (first, last))
    width = max(len(first), len(last)) if is_padded else 0
    numbers = range(begin, end + 1, by) if begin <= end else range(begin, end - 1, -by)
    return [f"{number:0{width}d}" for number in numbers]
