"""What users pass as the right answers, checked once here, on the host, in NumPy arrays.

Decided here and nowhere else:
- Where labels are classes or places, -100 leaves a token, a sentence or a question out of the loss.
- A label at padding, or for a sentence without a real token, is an error.
- If every label is left out, the loss is 0, with a warning.
"""

import logging
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Bool, Float, Int

from xlmr_np.arrays import Array
from xlmr_np.inputs import check_shape, read_array, rectangle
from xlmr_np.losses.cross_entropy import IGNORED_LABEL

logger = logging.getLogger("xlmr_np")

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


def token_labels(
    labels: Any, is_real: Bool[Array, "B T"], number_of_classes: int, name: str = "labels"
) -> Int[Array, "B T"]:
    """One class for every token, or -100, as it must be at padding.

    Raises:
        ValueError: the shape is not that of the tokens, a label is no class, or stands at padding.
        TypeError: labels are not integers.
    """
    given = read_array(name, labels, "iu", ("batch", "tokens"))
    array = _classes(name, given, is_real.shape, number_of_classes, "number of classes")
    for row, column in np.argwhere((array != IGNORED_LABEL) & ~is_real)[:1]:
        raise ValueError(
            f"{name}[{row}, {column}] is {array[row, column]}, but there is padding; write {IGNORED_LABEL} there."
        )
    return array


def counted_items(labels: Int[Array, "*places"], number_of_items: Any = None) -> tuple[Bool[Array, "*places"], float]:
    """Which labels count, and what makes their mean loss a sum divided by another number of items.

    Raises:
        ValueError: that number is not above 0.
    """
    warn_if_nothing_counts(labels)
    is_counted = labels != IGNORED_LABEL
    if number_of_items is None:
        return is_counted, 1.0
    number = rectangle("num_items_in_batch", number_of_items)
    if number.ndim or number.dtype.kind not in "iuf" or not 0 < number < np.inf:
        raise ValueError(f"num_items_in_batch must be a number above 0; it is {number_of_items!r}.")
    return is_counted, float(is_counted.sum() / number)


def check_smoothing(label_smoothing: Any) -> float:
    """The share of the loss that belongs to all classes alike, if it is one.

    Raises:
        ValueError: it is no number from 0 to below 1.
    """
    if not isinstance(label_smoothing, int | float | np.integer | np.floating) or not 0 <= label_smoothing < 1:
        raise ValueError(
            f"label_smoothing must be a number from 0 (none) to below 1, such as 0.1; it is {label_smoothing!r}."
        )
    return float(label_smoothing)


def sequence_labels(
    labels: Any, problem_type: str | None, has_token: Bool[Array, " B"], number_of_labels: int
) -> tuple[ProblemType, Int[Array, " B"] | Float[Array, "B C"]]:
    """One answer for every sentence, and what kind of problem it belongs to.

    Args:
        labels: [B] classes or -100 (single label); [B, C] numbers from 0 to 1 (multi label); [B, C] numbers, or [B]
            for one label (regression).
        problem_type: what the config says; None infers it as the reference does: one label is regression, integers are
            classes, and anything else is multi label.
        has_token: which sentences have a real token.
        number_of_labels: C.

    Returns:
        The problem type, and classes [B] or numbers [B, C].

    Raises:
        ValueError: the shape is not the problem's, a value is out of its range, or a sentence with a label is empty.
        TypeError: classes are not integers.
    """
    array = _labels_array(labels)
    if problem_type is None:
        if number_of_labels == 1:
            problem_type = "regression"
        else:
            problem_type = "single_label_classification" if array.dtype.kind in "iu" else "multi_label_classification"
            if array.dtype.kind not in "iu" and array.ndim == 1:
                raise TypeError(
                    f"labels [batch] are classes and must be integers; these are {array.dtype}. For several labels a "
                    f"sentence their shape is [batch, {number_of_labels}]."
                )
            if array.dtype.kind in "iu" and array.shape == (len(has_token), number_of_labels):
                raise ValueError(
                    f"labels of shape {array.shape} hold integers: for several labels a sentence, pass floats or set "
                    'problem_type="multi_label_classification" in the config.'
                )
    if problem_type == "single_label_classification":
        answers = class_labels(array, has_token, number_of_labels)
    else:
        answers = _numbers(array, (len(has_token), number_of_labels))
        if problem_type == "multi_label_classification":
            for row, column in np.argwhere((answers < 0) | (answers > 1))[:1]:
                raise ValueError(
                    f"labels[{row}, {column}] is {answers[row, column]}; whether a label applies goes from 0 to 1."
                )
        _check_has_token(np.ones(len(has_token), bool), has_token)
    return cast(ProblemType, problem_type), answers


def class_labels(labels: Any, has_token: Bool[Array, " B"], number_of_classes: int) -> Int[Array, " B"]:
    """One class, or -100, for every sentence: [B], or [B, 1].

    Raises:
        ValueError: the shape does not fit, a label is no class, or a labelled sentence has no real token.
        TypeError: labels are not integers.
    """
    classes = _one_class_a_row(labels, has_token.shape[0], number_of_classes, "number of classes")
    _check_has_token(classes != IGNORED_LABEL, has_token)
    warn_if_nothing_counts(classes)
    return classes


def choice_labels(labels: Any, has_token: Bool[Array, "B C"]) -> Int[Array, " B"]:
    """The number of the right choice, or -100, for every question: [B], or [B, 1].

    Raises:
        ValueError: the shape does not fit, or a label is no choice, or one without a real token.
        TypeError: labels are not integers.
    """
    questions, choices = has_token.shape
    right = _one_class_a_row(labels, questions, choices, "number of choices")
    is_counted = right != IGNORED_LABEL
    is_possible = has_token[np.arange(questions), np.where(is_counted, right, 0)]
    for row in np.flatnonzero(is_counted & ~is_possible)[:1]:
        raise ValueError(f"labels[{row}] is {right[row]}, but that choice of question {row} has no real token.")
    warn_if_nothing_counts(right)
    return right


def span_labels(
    start_positions: Any, end_positions: Any, is_real: Bool[Array, "B T"]
) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """Where each answer starts and where it ends, [B] or [B, 1] each, as places in the row.

    A place before the row means its classification token (a question without an answer), and one behind it leaves
    the question out (an answer that was cut off): the reference's rule.

    Raises:
        ValueError: the shape does not fit, or a place is padding.
        TypeError: places are not integers.
    """
    labels = tuple(
        _places(name, places, is_real)
        for name, places in (("start_positions", start_positions), ("end_positions", end_positions))
    )
    warn_if_nothing_counts(*labels)
    return labels[0], labels[1]


def _labels_array(labels: Any) -> np.ndarray:
    array = rectangle("labels", labels)
    if array.dtype.name == "bfloat16":  # which NumPy's own functions do not know
        array = array.astype(np.float32)
    if array.dtype.kind not in "iufb":
        raise TypeError(f"labels must be numbers; these are {array.dtype}.")
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"labels must have the shape [batch] or [batch, labels]; theirs is {array.shape}.")
    return array


def _one_class_a_row(labels: Any, rows: int, number_of_classes: int, what: str) -> np.ndarray:
    array = _labels_array(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, one for each row; they are {array.dtype}.")
    return _classes("labels", array, (rows,), number_of_classes, what)


def _classes(name: str, array: np.ndarray, shape: tuple[int, ...], number: int, what: str) -> np.ndarray:
    check_shape(name, array, shape)
    for place in np.argwhere((array != IGNORED_LABEL) & ((array < 0) | (array >= number)))[:1]:
        raise ValueError(
            f"{name}[{', '.join(map(str, place))}] is {array[tuple(place)]}; the {what} of {number} allows 0 to "
            f"{number - 1}, and {IGNORED_LABEL} leaves it out."
        )
    return array.astype(np.int64)


def _numbers(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    numbers = array.astype(np.float64)
    if numbers.ndim == 1 and shape[1] == 1:
        numbers = numbers[:, None]
    check_shape("labels", numbers, shape)
    for row, column in np.argwhere(~np.isfinite(numbers))[:1]:
        raise ValueError(f"labels[{row}, {column}] is {numbers[row, column]}; labels must be finite numbers.")
    return numbers


def _places(name: str, places: Any, is_real: np.ndarray) -> np.ndarray:
    array = rectangle(name, places)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, a place in each row; they are {array.dtype}.")
    batch, length = is_real.shape
    check_shape(name, array, (batch,))
    is_behind = array >= length
    within = np.where(is_behind, 0, array).astype(np.int64)  # before anything negative meets an unsigned type
    chosen = np.where(within < 0, is_real.argmax(axis=1), within)
    for row in np.flatnonzero(~is_behind & ~is_real[np.arange(batch), chosen])[:1]:
        raise ValueError(f"{name}[{row}] is {array[row]}, but there is padding; {length} leaves a question out.")
    return np.where(is_behind, IGNORED_LABEL, chosen)


def _check_has_token(is_labelled: np.ndarray, has_token: np.ndarray) -> None:
    for row in np.flatnonzero(is_labelled & ~has_token)[:1]:
        raise ValueError(f"labels[{row}] is given, but row {row} has no real token.")


def warn_if_nothing_counts(*labels: np.ndarray) -> None:
    """Say that the loss is 0 because nothing is left in it, which is rarely what was meant."""
    if all((array == IGNORED_LABEL).all() for array in labels):
        logger.warning("Every label is left out, so that the loss is 0.")
