"""Answers -> data frames: the columns of the JSON lines, one row per picture."""

from typing import Any

from zsclip.answers.answers import Answers, Candidate, Prediction
from zsclip.errors import InputError
from zsclip.out.parquet import Layout, check_pyarrow, record_batch
from zsclip.out.text import decoded, without_surrogates


def to_pandas(answers: Answers) -> Any:
    """Give a pandas.DataFrame."""
    try:
        import pandas as pd
    except ImportError as e:
        raise InputError("to_pandas: needs pandas: pip install pandas") from e
    return pd.DataFrame(columns_of(answers))


def to_arrow(answers: Answers) -> Any:
    """Give a pyarrow.Table."""
    check_pyarrow("to_arrow")
    import pyarrow as pa

    layout = Layout(first=answers.first_answered is not None)
    table = pa.Table.from_batches([record_batch(answers, layout, layout.schema())])
    return table.drop_columns("file_name_bytes")


def columns_of(answers: Answers) -> dict[str, list[Any]]:
    """Give the columns of the JSON lines by name."""
    rows = list(answers.rows())
    bests = [row.best if isinstance(row, Prediction) else None for row in rows]
    firsts: dict[str, list[Any]] = {}
    if answers.first_answered is not None:
        read = [row if isinstance(row, Prediction) else None for row in rows]
        firsts["first_label"] = [row and row.first_label for row in read]
        firsts["first_score"] = [row and row.first_score for row in read]
    return {
        "file_name": [str(decoded(row.file_name)) for row in rows],
        "label": answers.labels,
        "score": [best and best.score for best in bests],
        "cosine": [best and best.cosine for best in bests],
        "score_kind": [best and answers.score_kind for best in bests],
        "predictions": [[_candidate(each) for each in row.predictions] for row in rows],
        "beaten_by": [row.beaten_by if isinstance(row, Prediction) else None for row in rows],
        **firsts,
        "error": [row.error for row in rows],
        "message": [row.message and without_surrogates(row.message) for row in rows],
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {"label": candidate.label, "score": candidate.score, "cosine": candidate.cosine}
