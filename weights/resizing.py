"""Token tables of another size (Hewitt 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html).

A new row drawn as in a new model has a logit near 0, while trained logits are mostly far below 0: the new token would
be the likeliest of all. Rows near the mean of the old ones give it about the average logit instead.
"""

from typing import Any

import numpy as np

SPREAD = 1e-9  # of the new rows about the mean: their covariance is this times that of the old ones


def rounded_up(number: Any, multiple: Any) -> int:
    """The number of rows, rounded up to a multiple if one is given.

    Raises:
        ValueError: one of them is not a positive integer.
    """
    for name, value in (("new_num_tokens", number), ("pad_to_multiple_of", 1 if multiple is None else multiple)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be a positive integer; it is {value!r}.")
    return int(number) if multiple is None else int(-(-number // multiple) * multiple)


def resized_table(
    table: np.ndarray, number_of_rows: int, generator: np.random.Generator, standard_deviation: float | None
) -> np.ndarray:
    """The first rows of a table [V, D], or all of them and new ones.

    Args:
        table: [V, D].
        number_of_rows: the new V.
        generator: draws the new rows.
        standard_deviation: of new rows with mean 0; None draws them from the normal distribution with the mean of the
            old rows and `SPREAD` times their covariance, or sets them to the mean where that is not positive definite.
    """
    added = number_of_rows - len(table)
    if added <= 0:
        return table[:number_of_rows].copy()
    noise = generator.standard_normal((added, table.shape[1]))
    if standard_deviation is not None:
        rows = standard_deviation * noise
    else:
        old = table.astype(np.promote_types(table.dtype, np.float32), copy=False)
        mean = old.mean(axis=0, dtype=np.float64)
        centred = old - mean.astype(old.dtype)
        covariance = (centred.T @ centred).astype(np.float64) / len(old)
        try:
            rows = mean + noise @ np.linalg.cholesky(SPREAD * covariance).T
        except np.linalg.LinAlgError:  # fewer old rows than columns, for example
            rows = np.broadcast_to(mean, noise.shape)
    return np.concatenate([table, rows.astype(table.dtype)])


def resized_bias(
    bias: np.ndarray, number_of_rows: int, generator: np.random.Generator, standard_deviation: float | None
) -> np.ndarray:
    """As `resized_table`, for a bias [V]: new elements are near the mean of the old ones, or 0 in a new model's way."""
    added = number_of_rows - len(bias)
    if added <= 0:
        return bias[:number_of_rows].copy()
    if standard_deviation is not None:
        return np.concatenate([bias, np.zeros(added, bias.dtype)])
    old = bias.astype(np.float64)
    new = old.mean() + SPREAD * old.std() * generator.standard_normal(added)
    return np.concatenate([bias, new.astype(bias.dtype)])
