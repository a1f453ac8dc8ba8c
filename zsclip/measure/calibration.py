"""What calibration learnt, as a file from which later runs can repeat exactly what was measured."""

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from zsclip.errors import InputError
from zsclip.words.labels import Label
from zsclip.words.prompts import PromptSet
from zsclip.words.textfiles import LARGEST

VERSION = 1


@dataclass(frozen=True)
class Calibration:
    """What calibration learnt: how to turn scores into probabilities, and when to answer.

    made_with: what it is valid for, in words for messages: model, labels, prompts. temperature: cosines are divided by
    it, besides the model's own scale; None leaves the scores as they are. threshold: a best score below it is not an
    answer. thresholds: one per label instead; infinite if no score is sure enough. distractors: the prompts of words
    that compete with the labels, by name. words, sentences, model: what it was made with, so that a run can repeat it;
    missing in files of older versions.
    """

    made_with: Mapping[str, str]
    temperature: float | None
    threshold: float
    thresholds: Mapping[str, float]
    distractors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    words: tuple[Label, ...] = ()
    sentences: PromptSet | None = None
    model: str | None = None


def to_json(calibration: Calibration) -> str:
    """Write a calibration as JSON; an infinite threshold is null."""
    values = asdict(calibration) | {"version": VERSION}
    values["threshold"] = finite(calibration.threshold)
    values["thresholds"] = {label: finite(value) for label, value in calibration.thresholds.items()}
    return json.dumps(values, ensure_ascii=False, indent=1)


def finite(value: float) -> float | None:
    """Give None for infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def read_calibration(file: str) -> Calibration:
    """Read a calibration; `check_made_with` checks what it is valid for.

    Raises:
        InputError: it cannot be read, or is not a calibration.
    """
    try:
        if stat.S_ISCHR(os.stat(file).st_mode):  # /dev/zero has no end
            raise InputError(f"{file}: a device, not a calibration; check the path")
        with open(file, "rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise InputError(f"{file}: larger than {LARGEST >> 20} MB, so not a calibration; check the path")
        values = json.loads(content)
        if values["version"] != VERSION:
            raise InputError(f"{file}: written by another version of zsclip; calibrate again")
        temperature, sentences, model = values["temperature"], values.get("sentences"), values.get("model")
        found = Calibration(
            made_with={str(key): str(value) for key, value in values["made_with"].items()},
            temperature=None if temperature is None else float(temperature),
            threshold=_threshold(file, "", values["threshold"]),
            thresholds={
                str(label): _threshold(file, f" of {label!r}", value) for label, value in values["thresholds"].items()
            },
            distractors=_distractors(values["distractors"]),
            words=tuple(label_of(**value) for value in values.get("words", ())),
            sentences=None if sentences is None else prompts_of(**sentences),
            model=None if model is None else str(model),
        )
    except OSError as e:
        raise InputError(f"{file}: cannot be read: {(e.strerror or str(e)).lower()}; check the path") from e
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        raise InputError(f"{file}: not a calibration; `zsclip calibrate -o {file}` makes one") from e
    if found.temperature is not None and not 0 < found.temperature < math.inf:
        raise InputError(f"{file}: not a calibration: its temperature is {found.temperature}")
    return found


def check_made_with(calibration: Calibration, file: str, made_with: Mapping[str, str]) -> None:
    """Refuse a calibration that would give wrong numbers.

    Raises:
        InputError: it was made with another model, another head, other labels or other prompts.
    """
    keys = {*made_with, "head"}  # a run without a head has none
    differing = {key for key in keys if calibration.made_with.get(key) != made_with.get(key)}
    if not differing:
        return
    if "head" in differing:
        other = "another head" if "head" in calibration.made_with and "head" in made_with else "answers without a head"
        other = "a head" if "head" not in made_with else other
        raise InputError(f"{file}: was made for {other}; give the one that it was made for, or calibrate again")
    brings_them = True  # so that leaving out what was given is a cure
    others, given = [], []
    if "model" in differing:
        was, now = (_before_comma(each.get("model", "")) for each in (calibration.made_with, made_with))
        brings_them = calibration.model is not None and was != now
        given.append("--model")
        others.append(f"another model ({was})" if was != now else f"other weights or settings of the model {was}")
    if "label list" in differing:
        brings_them = brings_them and bool(calibration.words)
        count = _before_comma(calibration.made_with.get("label list", "")).removesuffix(" labels")
        given.append("your labels")
        others.append(f"other labels ({count} of them)")
    elif "prompts" in differing:  # with other labels they always differ
        brings_them = brings_them and calibration.sentences is not None
        given.append("your prompts")
        others.append("other prompts")
    use = f"leave out {' and '.join(given)} to use the file's, or " if brings_them else ""
    raise InputError(f"{file}: was made for {' and '.join(others)}; {use}calibrate again")


def _before_comma(value: str) -> str:
    """Give what a person can read of a value that ends in a fingerprint."""
    return value.rpartition(", ")[0] or value


def label_of(*, name: str, synonyms: list[str], prompts: list[str], found_as: str, group: str) -> Label:
    """Make a label of its fields in a file."""
    return Label(str(name), tuple(map(str, synonyms)), tuple(map(str, prompts)), str(found_as), str(group))


def prompts_of(
    *, name: str, about: str, source: str, templates: list[str], prompts: Mapping[str, list[str]]
) -> PromptSet:
    """Make a prompt set of its fields in a file."""
    own = {str(label): tuple(map(str, some)) for label, some in prompts.items()}
    return PromptSet(str(name), str(about), str(source), tuple(map(str, templates)), own)


def _distractors(value: Any) -> dict[str, tuple[str, ...]]:
    """Read prompts by name; in files of older versions, which have no names, the first prompt serves as the name."""
    named = value.items() if isinstance(value, dict) else [(prompts[0], prompts) for prompts in value if prompts]
    return {str(name): tuple(map(str, prompts)) for name, prompts in named}


def _threshold(file: str, of: str, value: Any) -> float:
    """Read a threshold; null is infinite."""
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{file}: not a calibration: its threshold{of} is {value!r}, not a number from 0 to 1")
    return float(value)
