"""What a tokenizer returns."""

from typing import Any, Self


class BatchEncoding(dict[str, Any]):
    """A dict whose entries are attributes too, so that `model(**batch)` and `batch.input_ids` both work.

    The entries are lists of ids (one text), lists of such lists (a batch), or, with `return_tensors="np"`,
    int64 arrays of shape [B, T].
    """

    __slots__ = ()  # assigning an attribute is an error: it would not reach the dict

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            held = ", ".join(self) or "nothing"
            raise AttributeError(f"This BatchEncoding has no {name!r}: it holds {held}.") from None

    def to(self, device: Any) -> Self:
        """The same arrays on `device`, in a new BatchEncoding.

        Args:
            device: "cpu", "cuda", "cuda:1", or the number of a GPU.

        Raises:
            TypeError: the entries are lists, which are on no device.
            RuntimeError: there is no such device.
        """
        from xlmr_np.arrays import resolve_device, to_device

        for name, value in self.items():
            if isinstance(value, list):
                raise TypeError(
                    f"{name} is a list, and only arrays move to a device: call the tokenizer with "
                    "return_tensors='np' before .to(...)."
                )
        where = resolve_device(device)
        return type(self)({name: to_device(value, where) for name, value in self.items()})
