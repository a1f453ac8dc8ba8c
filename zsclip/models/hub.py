"""Files of the Hugging Face hub: local ones first, the rest fetched; every failure is one line."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zsclip.errors import ModelError, first_line

_PLAIN = re.compile(r"\w+([.-]\w+)*/\w+([.-]\w+)*", re.ASCII)  # surely a name that a repository can have


@dataclass(frozen=True)
class HubFiles:
    """A file of a hub repository, under the first of these names that exists."""

    repository: str
    filenames: tuple[str, ...]


def find_file(model: str, wanted: HubFiles, offline: bool) -> str:
    """Give the path of a file that is on this machine, or else fetch it.

    Args:
        model: the name that the user gave, for errors.
        offline: never touch the network; `HF_HUB_OFFLINE=1` does the same.

    Raises:
        ModelError: it is not here and cannot be fetched; one line says why, and what works now.
    """
    try:
        path = cached_file(wanted)
    except ValueError as e:  # not a valid repository name
        raise ModelError(f"{model}: {first_line(e)}; write it as hf-hub:ORG/REPO") from e
    if path is not None:
        return path
    from huggingface_hub import constants, hf_hub_download

    if offline or constants.HF_HUB_OFFLINE:
        missing = f"{wanted.repository} is not on this machine, and this run is offline"
        raise not_available(model, f"{missing}; run `zsclip models fetch {model}` when online")
    found = _find_on_hub(model, wanted)
    if found is None:
        raise not_available(model, f"{wanted.repository} has none of {', '.join(wanted.filenames)}")
    try:
        return hf_hub_download(wanted.repository, found[0], cache_dir=constants.HF_HUB_CACHE)
    except Exception as e:  # the hub's client raises anything
        raise not_available(model, f"cannot fetch {wanted.repository}/{found[0]}: {first_line(e)}") from e


def cached_file(wanted: HubFiles) -> str | None:
    """Give the path of a file if it is complete on this machine, without asking the hub.

    Raises:
        ValueError: the repository's name is not of the form ORG/REPO.
    """
    if (found := _quickly_found(wanted)) is not None:
        return found
    from huggingface_hub import constants, try_to_load_from_cache

    for filename in wanted.filenames:
        path = try_to_load_from_cache(wanted.repository, filename, cache_dir=constants.HF_HUB_CACHE)
        if isinstance(path, str):  # it may also return a marker that the repository has no such file
            return path
    return None


def _quickly_found(wanted: HubFiles) -> str | None:
    """Give the path of a cached file as huggingface_hub does, whose import takes 0.2 s; None leaves it to decide.

    Source: huggingface_hub/constants.py and file_download.py, `try_to_load_from_cache`.
    """
    if (known := sys.modules.get("huggingface_hub.constants")) is not None:  # what it read from the environment
        cache = str(known.HF_HUB_CACHE)
    else:
        ours = os.environ.get("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
        home = _expanded(os.environ.get("HF_HOME", os.path.join(ours, "huggingface")))
        older = os.environ.get("HUGGINGFACE_HUB_CACHE", os.path.join(home, "hub"))
        cache = _expanded(os.environ.get("HF_HUB_CACHE", older))
    if _PLAIN.fullmatch(wanted.repository) is None:
        return None
    folder = os.path.join(cache, "models--" + wanted.repository.replace("/", "--"))
    try:
        with open(os.path.join(folder, "refs", "main"), encoding="utf-8") as file:
            snapshot = os.path.join(folder, "snapshots", file.read())
    except (OSError, ValueError):
        return None
    files = (os.path.join(snapshot, filename) for filename in wanted.filenames)
    return next(filter(os.path.isfile, files), None)


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))


def fetch(model: str, wanted: Sequence[HubFiles], announce: Callable[[str], None]) -> None:
    """Fetch the files that are not here yet; a file that its repository does not have is skipped.

    Args:
        announce: called with the total size and the source, before the first download.

    Raises:
        ModelError: the hub cannot be asked, or a download fails.
    """
    missing = [one for one in wanted if cached_file(one) is None]
    found = [(one, about) for one in missing if (about := _find_on_hub(model, one)) is not None]
    if found:
        repositories = dict.fromkeys(one.repository for one, _ in found)
        announce(f"{model}: {sum(size for _, (_, size) in found) / 1e6:,.1f} MB from {', '.join(repositories)}")
    for one, _ in found:
        find_file(model, one, offline=False)


def _find_on_hub(model: str, wanted: HubFiles) -> tuple[str, int] | None:
    """Give the name and bytes of the first file the hub has.

    Asked before a download, which without a network would retry for 25 seconds per name.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    for filename in wanted.filenames:
        try:
            return filename, get_hf_file_metadata(hf_hub_url(wanted.repository, filename)).size or 0
        except GatedRepoError as e:
            raise not_available(model, f"{wanted.repository} is gated; accept its terms and set HF_TOKEN") from e
        except RepositoryNotFoundError as e:
            raise not_available(model, f"the hub has no {wanted.repository}, or it is private: set HF_TOKEN") from e
        except EntryNotFoundError:
            continue
        except Exception as e:  # the hub's client raises anything
            raise not_available(model, f"the hub cannot be reached: {first_line(e)}") from e
    return None


def not_available(model: str, reason: str) -> ModelError:
    """Make the error for weights that are out of reach; it names a model that is always here."""
    return ModelError(f"model {model!r} is not available: {reason}; the model 'tiny' needs no download")
