"""What surrounds every computation of a model: its GPU is the current one, and a lack of memory is explained."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, TypeVar, cast

from xlmr_np.arrays import device_context, is_out_of_memory

Method = TypeVar("Method", bound=Callable[..., Any])


def on_device(method: Method) -> Method:
    """Run a method of a model, whose arguments are arrays with an axis of sentences first, on the model's device.

    Raises:
        MemoryError: the GPU has not enough memory; says which batch size to try.
    """

    @wraps(method)
    def run(self: Any, *arguments: Any, **named_arguments: Any) -> Any:
        with device_context(self.device):
            try:
                return method(self, *arguments, **named_arguments)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                bound = signature(method).bind(self, *arguments, **named_arguments).arguments
                bound = {**bound, **bound.get("batch", {})}
                sentences = next(bound[name] for name in ("input_ids", "inputs_embeds") if bound.get(name) is not None)
                raise MemoryError(_explanation(self.device, len(sentences))) from error

    return cast(Method, run)


def _explanation(device: str, sentences: int) -> str:
    advice = f"try batches of {sentences // 2}" if sentences > 1 else "cut the text into shorter ones"
    return f"The memory of {device} is too small for a batch of {sentences} of these; {advice}."
