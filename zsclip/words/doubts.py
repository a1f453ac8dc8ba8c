"""Notes about labels that may not be what the user meant; the labels are used unchanged."""

import re
from collections.abc import Iterator, Sequence

from zsclip.words.labels import Label
from zsclip.words.lines import PICTURE
from zsclip.words.textfiles import is_id

_HEADERS = frozenset({"label", "labels", "class", "classes", "class_name", "class name", "category", "categories"})
_BETWEEN = re.compile(r"[,;|\t]")


def doubts(labels: Sequence[Label]) -> Iterator[str]:
    """Yield a note about each thing that seems wrong with a list of labels as a whole."""
    first, names = labels[0].name, [label.name for label in labels]
    if len(labels) == 1:
        if len(words := [word for each in _BETWEEN.split(first) if (word := each.strip())]) > 1:
            yield f"{first!r} is one label; if you meant {len(words)}, write each on its own line, or use --labels A,B"
        return
    if all(map(is_id, names)) and not any(label.prompts or label.synonyms for label in labels):
        what = "numbers" if all(map(str.isdigit, names)) else "ids"
        yield (
            f"all labels are {what}, such as {first!r}, and the model reads them as words; write what each stands for "
            f"in a .yaml file, as in `{first}: goldfish`, and use --labels-file"
        )
    elif all(re.match(r"\d+\s+[^\W\d_]", name) for name in names) and _differ(names):
        yield f"all labels begin with a number, such as {first!r}; leave the numbers out if they are only line numbers"
    elif all(map(PICTURE.fullmatch, names)):
        yield f"all labels look like image file names, such as {first!r}"
    if first.lower() in _HEADERS:
        yield f"the first label is {first!r}; leave it out if it is a header"


def _differ(names: Sequence[str]) -> bool:
    """Return whether names differ in more than the number that they begin with."""
    return len({name.lower().lstrip("0123456789").strip().removesuffix("s") for name in names}) == len(names)
