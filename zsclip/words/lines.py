"""Lines of a text file -> labels; lines of a file of another kind are refused."""

import re
from collections.abc import Sequence

from zsclip.errors import InputError
from zsclip.words.textfiles import WORDNET, Text, checked, comparable, count_placeholders

_BULLETS = ("- ", "* ", "• ", "-\t", "*\t", "•\t")
_LETTER = r"[^\W\d_]"
_NUMBER_FIRST = re.compile(rf"(\d+)(\s*[.)\]](?!\d)\s*|\s*[,:;=|\t]\s*|\s+-?\s*)(.*{_LETTER}.*)")
_NUMBER_LAST = re.compile(rf"(.*{_LETTER}.*?)(\s*[,:;=|\t]\s*|\s+)(\d+)")
_OF_CVAT = re.compile(r".+:\d+,\d+,\d+:.*:.*")  # label:colour:parts:actions
_OF_LS = re.compile(r"[-dlbcps][-rwxsStT]{9}[.+@]?\s+\d+\s.*|[│├└].*")  # `ls -l` or `tree`
_OF_YAML = re.compile(r"(synonyms|prompts|group|name):(\s.*)?")
PICTURE = re.compile(r".*\S\.(jpe?g|png|webp|gif|tiff?|bmp)", re.IGNORECASE)


def labels_of_lines(lines: list[Text]) -> list[Text]:
    """Give the label on each line.

    Raises:
        InputError: the lines are not labels, but a file of another kind.
    """
    _check_kind(lines)
    bare = _without_bullets(lines)
    _check_all(bare)
    return bare


def _check_kind(lines: Sequence[Text]) -> None:
    """Refuse a file of another kind, by how it begins."""
    if not lines:
        return
    place, first = lines[0]
    found = None
    if all(count_placeholders(line) for _, line in lines):
        found = "every line is a prompt with a placeholder, not a label; use --prompts for this file"
    elif re.match(r"\[[ xX]?\]\s", first):
        found = "begins with a checkbox; leave the checkboxes out"
    elif first.startswith(("{", "[")):
        found = "begins like JSON; rename it to .json or .jsonl"
    elif first.startswith(("<", "version https://git-lfs")):
        found = "a web page, or a file that git did not fetch; check the path"
    elif len(lines) > 1 and all(line.startswith("|") and line.endswith("|") for _, line in lines):
        found = "a Markdown table; write one label per line"
    elif {"label", "name"} & {cell.strip().lower() for cell in re.split(r"[,;\t]", first)[: 1 << 10]} - {first.lower()}:
        found = "begins like a table; rename it to .csv or .tsv"
    if found is not None:
        raise InputError(f"{place}: {found}")


def _without_bullets(lines: list[Text]) -> list[Text]:
    """Strip the dash before every line; refuse a dash before only some."""
    plain = [line for line in lines if not line.text.startswith(_BULLETS)]
    if plain and len(plain) < len(lines):
        place, text = next(line for line in lines if line.text.startswith(_BULLETS))
        raise InputError(
            f"{place}: {text!r} begins with {text[0]!r}, and {plain[0].text!r} does not; add it to all lines or none"
        )
    return plain or [Text(place, checked(place, text[2:])) for place, text in lines]


def _check_all(lines: Sequence[Text]) -> None:
    """Refuse lines that all have something around the label, and lines of YAML."""
    texts = [line for _, line in lines]
    found = None
    if len(texts) > 1 and all(_OF_CVAT.fullmatch(text) for text in texts):
        found = "a label map of CVAT; leave out the first : of each line and what comes after it"
    elif texts and all(re.match(r"\[[ xX]?\]\s", text) for text in texts):
        found = "every line begins with a checkbox; leave the checkboxes out"
    elif texts and all(re.fullmatch(r"""(["']).*\1,?""", text) for text in texts):
        found = "every line is in quotes; leave them out"
    elif len(texts) > 1 and all(text.endswith((",", ";")) for text in texts[:-1]):
        found = f"every line ends with {texts[0][-1]!r}; leave it out"
    elif len(texts) > 1 and all(map(PICTURE.fullmatch, texts)):
        found = "every line is an image file name; write labels, one per line"
    elif any(map(_OF_LS.fullmatch, texts)):
        found = "looks like a listing of files by ls or tree; write labels, one per line"
    elif any(map(_OF_YAML.fullmatch, texts)) and any(text.endswith(":") for text in texts):
        found = "looks like YAML; rename it to .yaml"
    elif len(texts) > 1 and (side := _numbered(texts)):
        cure = "leave the numbers out, or write a .json list if they are part of the labels"
        found = f"every line {side} with a number; {cure}"
    if found is not None:
        raise InputError(f"{lines[0].place}: {found}")


def _numbered(texts: Sequence[str]) -> str:
    """Say on which side all texts have a number that only counts them; empty if that is not certain.

    It is certain if a mark stands between number and words, or if numbers that only a space separates count from 0, or
    from 1 to 3 or more. If some have the same words, as in "1 cat" and "2 cats", the number is what tells them apart.
    """
    if all(re.match(rf"{WORDNET.pattern}\s", text) for text in texts):
        return "begins"
    for pattern, number, side in ((_NUMBER_FIRST, 1, "begins"), (_NUMBER_LAST, 3, "ends")):
        parts = [match for text in texts if (match := pattern.fullmatch(text))]
        if len(parts) < len(texts):
            continue
        words = {comparable(match[4 - number]).lower().removesuffix("s") for match in parts}
        if len(words) < len(texts):
            continue
        if all(re.search(r"[^\s-]|\t", match[2]) for match in parts):
            return side
        numbers = [int(match[number]) for match in parts]
        if numbers == list(range(numbers[0], numbers[0] + len(texts))) and numbers[0] < min(2, len(texts) - 1):
            return side
    return ""
