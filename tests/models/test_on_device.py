"""What a lack of memory on a GPU is explained by, with a model on the CPU whose operations fail as CuPy's would."""

from typing import Any

import numpy as np
import pytest

from tests.reference_models import TINY
from xlmr_np import XLMRobertaConfig, XLMRobertaForSequenceClassification, XLMRobertaModel
from xlmr_np.ops import Op

OutOfMemoryError = type("OutOfMemoryError", (MemoryError,), {"__module__": "cupy.cuda.memory"})


def failing(error: Exception) -> XLMRobertaForSequenceClassification:
    """A model whose first operation raises the error."""

    def embed(*_: Any) -> Any:
        raise error

    model = XLMRobertaForSequenceClassification(XLMRobertaConfig(**TINY), generator=np.random.default_rng(0))
    inference = model.engine.inference._replace(embed=Op(embed))
    model.engine = model.engine._replace(inference=inference, sharding=None)
    return model


@pytest.mark.parametrize(
    "error", [OutOfMemoryError("Out of memory allocating 1,024 bytes"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")]
)
@pytest.mark.parametrize(
    ("sentences", "advice"), [(64, "a batch of 64 of these; try batches of 32."), (1, "cut the text into shorter ones")]
)
def test_a_lack_of_memory_names_the_batch_size_to_try(error: Exception, sentences: int, advice: str) -> None:
    with pytest.raises(MemoryError, match=advice) as raised:
        failing(error)(input_ids=np.full((sentences, 3), 5))
    assert raised.value.__cause__ is error


def test_embeddings_are_a_batch_too() -> None:
    embeddings = np.zeros((8, 3, TINY["hidden_size"]), np.float32)
    with pytest.raises(MemoryError, match="try batches of 4"):
        failing(OutOfMemoryError("no"))(inputs_embeds=embeddings)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="CUBLAS_STATUS_EXECUTION_FAILED"):
        failing(RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"))(input_ids=np.full((2, 3), 5))


def test_a_method_keeps_its_name_and_its_words() -> None:
    assert XLMRobertaModel.forward.__name__ == "forward"
    assert "hidden states" in (XLMRobertaModel.forward.__doc__ or "")
