"""Checks of a submission against the answers that several graders share."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..grade_helpers import InvalidSubmissionError
from ..utils import get_logger as get_logger  # graders import it from here as well


def is_one_hot_encoded(xs: np.ndarray) -> bool:
    """Return whether each row of a table holds a single 1 and zeros.

    Example:
        >>> is_one_hot_encoded(np.array([[0, 1], [1, 0]])), is_one_hot_encoded(np.array([[0.5, 0.5]]))
        (True, False)
    """
    return bool(np.isin(xs, (0, 1)).all() and np.allclose(xs.sum(axis=-1), 1))


def one_hot_dfs_to_log_loss_inputs(
    submission_one_hot: pd.DataFrame,
    answers_one_hot: pd.DataFrame,
    id_column: str = "id",
    apply_softmax: bool = True,
) -> dict:
    """Return ``y_true`` and ``y_pred`` for a logarithmic loss, in the order of the ids.

    Columns that the answers lack are left out; ``apply_softmax`` turns arbitrary numbers into probabilities.

    Raises:
        InvalidSubmissionError: A column is missing.
        AssertionError: The ids differ.
    """
    missing = [name for name in answers_one_hot if name not in submission_one_hot]
    if missing:
        raise InvalidSubmissionError(f"the submission lacks the columns {missing}")
    columns = list(answers_one_hot)
    truth = answers_one_hot.sort_values(id_column)
    guess = submission_one_hot[columns].sort_values(id_column)
    assert guess[id_column].tolist() == truth[id_column].tolist(), f"the values of {id_column} differ"
    y_true, y_pred = (table.drop(columns=id_column).to_numpy() for table in (truth, guess))
    if apply_softmax and not is_one_hot_encoded(y_pred):
        powers = np.exp(y_pred - y_pred.max(axis=-1, keepdims=True))
        y_pred = powers / powers.sum(axis=-1, keepdims=True)
    return {"y_true": y_true, "y_pred": y_pred}


def _aligned(
    submission: pd.DataFrame, answers: pd.DataFrame, id_column: str, target: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return true and given values in the order of the ids, or refuse the submission."""
    for name in (target, id_column):
        assert name in answers, f"the answers have no column {name}"
        if name not in submission:
            raise InvalidSubmissionError(f"the submission has no column {name}")
    if len(submission) != len(answers):
        raise InvalidSubmissionError(f"{len(submission)} rows were submitted, {len(answers)} are needed")
    submission, answers = submission.sort_values(id_column), answers.sort_values(id_column)
    if (submission[id_column].to_numpy() != answers[id_column].to_numpy()).any():
        raise InvalidSubmissionError(f"the values of {id_column} differ from those of the answers")
    return answers[target].to_numpy(), submission[target].to_numpy()


def prepare_for_accuracy_metric(
    submission: pd.DataFrame, answers: pd.DataFrame, target_column: str, id_column: str
) -> dict:
    """Return ``y_true`` and ``y_pred`` in the order of the ids.

    Raises:
        InvalidSubmissionError: Rows, columns or ids are not those of the answers.
    """
    truth, guess = _aligned(submission, answers, id_column, target_column)
    return {"y_true": truth, "y_pred": guess}


def prepare_for_auroc_metric(
    submission: pd.DataFrame, answers: pd.DataFrame, id_col: str, target_col: str
) -> dict:
    """Return ``y_true`` and ``y_score`` in the order of the ids.

    Raises:
        InvalidSubmissionError: As for accuracy, or a value is no number from 0 to 1.
    """
    truth, guess = _aligned(submission, answers, id_col, target_col)
    try:
        numbers = pd.to_numeric(pd.Series(guess))
    except ValueError:
        raise InvalidSubmissionError(f"{target_col} must hold numbers") from None
    if numbers.min() < 0 or numbers.max() > 1:
        raise InvalidSubmissionError(f"{target_col} must hold probabilities from 0 to 1")
    return {"y_true": truth, "y_score": guess}


def rle_decode(rle_string: str, height: int, width: int) -> np.ndarray:
    """Return the mask of run lengths, an array of booleans of shape (height, width).

    The text holds pairs "first pixel, number of pixels", in the order of their first pixels; blank for an
    empty mask. Pixels are counted from 1 down the columns, the leftmost column first. What reaches beyond the
    last pixel is cut off.

    Raises:
        AssertionError: It is no text, a number is missing or below 1, or pairs are not in order or overlap.

    Example:
        Pixel 1 is the upper left one, 2 the one below; 3 starts the second column of two rows.

        >>> rle_decode("1 1 3 2", 2, 3).astype(int).tolist()
        [[1, 1, 0], [0, 1, 0]]
    """
    assert isinstance(rle_string, str), f"run lengths must be a text, not {rle_string!r}"
    numbers = np.array(rle_string.split(), dtype=object).astype(int)
    assert len(numbers) % 2 == 0, f"run lengths come in pairs, found {len(numbers)} numbers"
    assert (numbers > 0).all(), "run lengths are positive"
    starts = numbers[::2] - 1
    assert (np.diff(starts) > 0).all(), "run lengths must be in order"
    mask = np.zeros(height * width, dtype=bool)
    for start, end in zip(starts, starts + numbers[1::2], strict=True):
        assert not mask[start:end].any(), "run lengths may not overlap"
        mask[start:end] = True
    return mask.reshape((height, width), order="F")


def rles_to_masks(
    rl_encodings: Sequence[str], image_heights: Sequence[int], image_widths: Sequence[int]
) -> list[np.ndarray]:
    """Return the mask of each text of run lengths, see `rle_decode`.

    Example:
        >>> [int(mask.sum()) for mask in rles_to_masks(["1 3", ""], [2, 2], [2, 3])]
        [3, 0]
    """
    triples = zip(rl_encodings, image_heights, image_widths, strict=False)  # as in MLE-bench
    return [rle_decode(*triple) for triple in triples]
