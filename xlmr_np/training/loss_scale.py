"""Dynamic loss scaling (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2).

The smallest positive float16 is 6e-8, and many gradients are below it. They are therefore computed of a loss that is
multiplied with a power of two, which is as large as it can be without gradients that become infinite, and divided by it
again in float32.
"""

FIRST_SCALE = 2.0**16
LARGEST_SCALE = 2.0**24  # whose product with a gradient of 1 is far from the end of float32
PATIENCE = 2000  # steps without an overflow after which a larger scale is tried


class LossScale:
    """What the loss is multiplied with in the next step.

    Attributes:
        value: the factor, a power of two.
        steps_since: how many steps there have been since it was last changed.
    """

    def __init__(self, value: float | None = None, steps_since: int = 0) -> None:
        """Begin with the first scale, or go on with one.

        Raises:
            ValueError: it is no scale that a run can have come to.
        """
        value = FIRST_SCALE if value is None else value
        if not 1.0 <= value <= LARGEST_SCALE or not 0 <= steps_since < PATIENCE:
            raise ValueError(f"A loss scale of {value!r} after {steps_since!r} steps is none that training comes to.")
        self.value = float(value)
        self.steps_since = int(steps_since)

    def succeeded(self) -> None:
        """Tell that all gradients of a step were finite."""
        self.steps_since += 1
        if self.steps_since == PATIENCE:
            self.value, self.steps_since = min(2.0 * self.value, LARGEST_SCALE), 0

    def overflowed(self) -> bool:
        """Tell that one was not; False if no smaller scale is left to try."""
        self.steps_since = 0
        if self.value == 1.0:
            return False
        self.value /= 2.0
        return True
