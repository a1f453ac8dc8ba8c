"""What a search for pictures left out, in words."""

import os
from collections import Counter

from zsclip.pictures.endings import ARCHIVES, ENDINGS, HEIC_ENDINGS, LISTS, RAW_ENDINGS, TARS
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.sampling import VIDEO_ENDINGS
from zsclip.pixels.reasons import DRAWING_ENDINGS

_MOST = 8  # endings that are named
_KINDS = {
    RAW_ENDINGS: "camera RAW",
    VIDEO_ENDINGS: "video",
    DRAWING_ENDINGS: "drawing or document",
    HEIC_ENDINGS: "needs pip install 'zsclip[heic]'",
}


def passed_over_line(found: PassedOver, *, can_try: bool = True) -> str:
    """Say which files of folders were passed over and why, as in `passed over: 12 .nef (camera RAW)`; "" if none.

    Those that --all-files would not help have a reason and come first; the hint is for the others.

    Args:
        can_try: whether the command has --all-files.
    """
    counts = Counter({(ending, _kind(ending, count, found)): count for ending, count in found.endings.items()})
    unlabelled = Counter({(ending, _stray(ending, count, found)): count for ending, count in found.unlabelled.items()})
    ordered = sorted((counts + unlabelled).items(), key=lambda item: (-item[1], not item[0][0], item[0]))
    parts = [(bool(about), f"{ending or 'without an extension'}{about}", count) for (ending, about), count in ordered]
    if rest := parts[_MOST:]:
        has_reason = any(has_reason for has_reason, _, _ in rest)
        parts[_MOST:] = [(has_reason, "of other types", sum(count for *_, count in rest))]
    for what, count in (("link", found.links), ("video", found.videos), ("archive", found.archives)):
        if count:
            parts.append((True, f"{what}{'' if count == 1 else 's'} in archives", count))
    if found.tails:
        parts.append((True, f"block{'' if found.tails == 1 else 's'} of data after the end of an archive", found.tails))
    if not parts:
        return ""
    parts.sort(key=lambda part: not part[0])
    untried = sum(count for has_reason, _, count in parts if not has_reason)
    hint = f" (--all-files tries {'it' if untried == 1 else 'them'})" if untried and can_try else ""
    return f"passed over: {', '.join(f'{count:,} {what}' for _, what, count in parts)}{hint}"


def why_no_images(found: PassedOver) -> str:
    """Say that a search found no image, and why."""
    parts = [passed_over_line(found)]
    if found.excluded:
        parts.append(f"--exclude left out {found.excluded:,}")
    if found.hidden:
        parts.append(f"{found.hidden:,} hidden or generated")
    parts += found.others
    if about := found.about.total():
        parts.append("1 text or data file in archives" if about == 1 else f"{about:,} text and data files in archives")
    said = "; ".join(filter(None, parts))
    if said:
        return f"no images{';' if parts[0] else ':'} {said}"
    folders = found.folders
    if not folders:
        return "no images: nothing was found; check the path"
    if len(folders) == 1:
        lacks = _lacks(folders[0])
        return f"no images: {folders[0]!r} has no {lacks}{'; check the path' if lacks == 'files' else ''}"
    return f"no images: the {len(folders):,} folders have no files; check the paths"


def _lacks(path: str) -> str:
    """Give what an input without anything in it has none of."""
    if os.path.isdir(path) or not path.lower().endswith((*ARCHIVES, *LISTS)):
        return "files"
    return "members" if path.lower().endswith((*TARS, ".zip")) else "rows"


def _kind(ending: str, count: int, found: PassedOver) -> str:
    if ending in VIDEO_ENDINGS and found.can_read_videos:
        return " (video; add --every 1s)"
    if ending in ARCHIVES:
        return " (an archive; name it to read it)" if count == 1 else " (archives; name them to read them)"
    return next((f" ({kind})" for endings, kind in _KINDS.items() if ending in endings), "")


def _stray(ending: str, count: int, found: PassedOver) -> str:
    return " (not in a label's folder)" if ending in ENDINGS | HEIC_ENDINGS else _kind(ending, count, found)
