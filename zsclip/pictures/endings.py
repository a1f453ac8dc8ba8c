"""Which names are those of pictures, in folders and in archives, and which those of files that hold many."""

from collections.abc import Callable, Collection
from importlib.util import find_spec

from zsclip.pictures.passed_over import PassedOver, ending_of
from zsclip.pictures.sampling import VIDEO_ENDINGS

ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"}
    | {".jp2", ".ppm", ".pgm", ".pbm", ".pnm"}
)
HEIC_ENDINGS = frozenset({".heic", ".heif"})  # read only with zsclip[heic]
RAW_ENDINGS = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw"}
    | {".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)
TARS = (".tar", ".tar.gz", ".tgz")
ARCHIVES = (*TARS, ".zip", ".parquet")
LISTS = (".csv", ".tsv", ".jsonl", ".ndjson")
SKIPPED_NAMES = frozenset({"@eaDir", "node_modules"})  # thumbnails of a Synology NAS; logos in npm packages
_SKIPPED_IN_ARCHIVES = SKIPPED_NAMES | {"__MACOSX"}
# What belongs to the pictures of an archive, by webdataset's convention; not reported if it has pictures.
_ABOUT_PICTURES = frozenset({".json", ".txt", ".cls", ".npy"})


def is_taken(
    endings: Collection[str],
    excluded: Callable[[str], bool] | None,
    all_files: bool,
    passed_over: PassedOver,
    name: str,
) -> bool:
    """Whether a member of an archive is a picture of the run, as if it were in a folder; else it is counted."""
    parts = name.split("/")
    if name[:1] in "./" or "/." in name or "//" in name or not _SKIPPED_IN_ARCHIVES.isdisjoint(parts):  # few are
        parts = [part for part in parts if part not in ("", ".", "..")]
        if any(part[0] == "." or part in _SKIPPED_IN_ARCHIVES for part in parts):
            passed_over.hidden += 1
            return False
    if excluded and any(excluded("/".join(parts[: depth + 1])) for depth in range(len(parts))):
        return False
    if all_files or name[name.rfind(".") :].lower() in endings:
        return True
    ending = ending_of(parts[-1] if parts else "")
    if ending in VIDEO_ENDINGS:
        passed_over.videos += 1
        return False
    if name.lower().endswith(ARCHIVES):
        passed_over.archives += 1
        return False
    counts = passed_over.about if ending in _ABOUT_PICTURES else passed_over.endings
    counts[ending] += 1
    return False


def picture_endings() -> frozenset[str]:
    """Give the endings of the pictures that can be read with what is installed."""
    return ENDINGS | HEIC_ENDINGS if find_spec("pillow_heif") else ENDINGS
