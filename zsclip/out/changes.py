"""Which settings of two runs differ, in words."""

from collections.abc import Iterator, Mapping
from typing import Any

_FEW = 8  # list values that are shown in full


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Say which settings differ, as in `labels: cat, dog -> cat, dog, fox`.

    Args:
        before, now: values by name. `{"is": VALUE, "digest": DIGEST}` is shown as the value; the digests decide.
    """
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if _essence(old) != _essence(new):
            yield f"{name}: {_difference(_shown(old), _shown(new))}"


def _essence(value: Any) -> Any:
    return value["digest"] if isinstance(value, dict) else value


def _shown(value: Any) -> Any:
    return value["is"] if isinstance(value, dict) else value


def _difference(old: Any, new: Any) -> str:
    if old == new:
        return f"{_text(new)} (content changed)"
    if not isinstance(old, list) or not isinstance(new, list) or max(len(old), len(new)) <= _FEW:
        return f"{_text(old)} -> {_text(new)}"
    added, gone = ([each for each in one if each not in other] for one, other in ((new, set(old)), (old, set(new))))
    parts = [f"{word}: {_text(some)}" for word, some in (("new", added), ("gone", gone)) if some]
    return f"{len(old):,} -> {len(new):,} ({'; '.join(parts) or 'in another order'})"


def _text(value: Any) -> str:
    if isinstance(value, list):
        rest = f" and {len(value) - _FEW:,} more" if len(value) > _FEW else ""
        return ", ".join(map(str, value[:_FEW])) + rest or "none"
    return "none" if value is None else ("no", "yes")[value] if isinstance(value, bool) else str(value)
