"""No kernel goes outside of its arrays: models and attention under AddressSanitizer, in processes of their own."""

import pytest

from tests.cuda_emulator import run_sanitized, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

WHOLE_MODELS = """
import numpy as np
from tests.cuda_emulator import EmulatedGpu
from tests.ops.calls import DTYPES
from tests.reference_models import TINY
from xlmr_np import XLMRobertaConfig, XLMRobertaForMaskedLM, trees
from xlmr_np.inputs_on_gpu import prepare_inputs_on_gpu
from xlmr_np.ops.engines import gpu_engine

gpu = EmulatedGpu(sanitize=True)
ids = np.random.default_rng(0).integers(0, 61, (4, 23))
for dtype, width in (("float16", 64), ("float32", 60)):
    config = XLMRobertaConfig(**{**TINY, "hidden_size": width, "num_attention_heads": 2})
    model = XLMRobertaForMaskedLM(config, generator=np.random.default_rng(0))
    model.params = trees.map_leaves(lambda leaf: leaf.astype(DTYPES[dtype]), model.params)
    model.engine = gpu_engine(gpu)
    model.predict(ids, where=ids != 1, k=3)
prepare_inputs_on_gpu(gpu, config, ids, ids > 5)
print("launched", sorted({kernel.file for kernel in gpu.launches}))
"""

TRAINING = """
import numpy as np
from tests.cuda_emulator import EmulatedGpu
from tests.training.gpu_runs import SETTING, model_of
from tests.training.test_trainer import batch_of
from xlmr_np.ops.engines import gpu_engine
from xlmr_np.training.trainer import Trainer

gpu = EmulatedGpu(sanitize=True)
for class_name in ("XLMRobertaForMaskedLM", "XLMRobertaForSequenceClassification"):
    for dtype in ("float16", "float32"):
        model = model_of(class_name, dtype)
        model.engine = gpu_engine(gpu)
        trainer = Trainer(model, SETTING, np.random.default_rng(0))
        for step in range(2):
            trainer.step(batch_of(class_name, step))
print("launched", sorted({kernel.file for kernel in gpu.launches}))
"""

ATTENTION = """
from tests.cuda_emulator import EmulatedGpu
from tests.ops.cuda.test_attention import case
from xlmr_np.ops.cuda.attention import attention

for dtype in ("float16", "float32"):
    for lengths, is_causal in (
        ([(130, 130)], False),
        ([(17, 40), (3, 0), (64, 65)], True),
        ([(1, 40), (0, 5), (1, 65)], True),
    ):
        attention(EmulatedGpu(sanitize=True), *case(lengths, 2, 64, dtype, is_causal), with_log_sum_exp=True)
print("done")
"""

FAULT = """
from tests.cuda_emulator import EmulatedGpu, without
from tests.ops.cuda.test_attention import case
from xlmr_np.ops.cuda.attention import attention

edit = without(r"{pattern}", 0, "{instead}")
attention(EmulatedGpu(sanitize=True, edit=edit), *case([(130, 130)], 2, 64, "{dtype}"))
print("done")
"""
FAULTS = {
    "rows read beyond the last": ("float16", r"row < real_rows", "true", "READ"),
    "rows written beyond the last": (
        "float16",
        r"if \(tile.first_query \+ own_query >= queries\) continue;",
        "",
        "WRITE",
    ),
    "keys read beyond the last": ("float32", r"min\(KEYS, keys - first_key\)", "KEYS", "READ"),
}


@pytest.mark.exhaustive
def test_training_stays_within_its_arrays() -> None:
    done = run_sanitized(TRAINING)
    files = """
        activations.cu adamw.cu attention.cu attention_backward.cu attention_decode.cu attention_plain.cu
        attention_plain_backward.cu embeddings.cu embeddings_backward.cu norms.cu norms_backward.cu sums.cu
        vocabulary_loss.cu
    """
    assert (done.returncode, done.stdout) == (0, f"launched {files.split()}\n"), done.stderr[-3000:]


@pytest.mark.exhaustive
def test_models_stay_within_their_arrays() -> None:
    done = run_sanitized(WHOLE_MODELS)
    files = "activations.cu attention.cu attention_plain.cu embeddings.cu norms.cu unpadding.cu vocabulary.cu"
    assert (done.returncode, done.stdout) == (0, f"launched {files.split()}\n"), done.stderr[-3000:]


def test_attention_stays_within_its_arrays() -> None:
    done = run_sanitized(ATTENTION)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-3000:]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_access_outside_is_found(fault: str) -> None:
    """With its direction and its line."""
    dtype, pattern, instead, direction = FAULTS[fault]
    done = run_sanitized(FAULT.format(dtype=dtype, pattern=pattern, instead=instead))
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert f"{direction} of size" in done.stderr
    assert "attention" in done.stderr
