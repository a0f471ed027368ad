"""Parts of `tests.benchmarks.gpu` that train: attention's backward pass, and whole steps in mixed precision."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import xlmr_np
from tests.benchmarks.gpu_timing import HEADS, WIDTH, seconds, spans_on_card
from xlmr_np.arrays import to_device
from xlmr_np.layers.attention import PackedMask
from xlmr_np.ops.cuda.attention import attention
from xlmr_np.ops.cuda.attention_backward import attention_backward
from xlmr_np.ops.cuda.cupy_gpu import CupyGpu
from xlmr_np.training import AdamWSetting, Trainer, TrainingSetting

BATCH, LENGTH = 32, 128
STEP_CLASSES = {"fine-tuning step": "XLMRobertaForSequenceClassification", "MLM step": "XLMRobertaForMaskedLM"}
DECAY, RATE = 0.01, 1e-5


def attention_gradients_alone(dtype: str, lengths: list[int]) -> dict[str, Any]:
    """Ours and torch's flash kernels on sentences of equal length: seconds, and operations a second."""
    import cupy
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    packed = [torch.randn(sum(lengths), HEADS, WIDTH, device="cuda", dtype=getattr(torch, dtype)) for _ in range(4)]
    query, key, value, d_context = (cupy.from_dlpack(x) for x in packed)
    spans = spans_on_card(lengths)
    gpu, mask = CupyGpu(), PackedMask(spans, spans)
    context, log_sum_exp = attention(gpu, query, key, value, mask, with_log_sum_exp=True)
    *inputs, d_padded = (x.view(len(lengths), -1, HEADS, WIDTH).transpose(1, 2) for x in packed)
    leaves = [x.detach().requires_grad_() for x in inputs]
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        output = scaled_dot_product_attention(*leaves)
    times = seconds(
        {
            "xlmr-np": lambda: attention_backward(gpu, d_context, query, key, value, context, log_sum_exp, mask),
            "torch flash": lambda: torch.autograd.grad(output, leaves, d_padded, retain_graph=True),
        }
    )
    operations = 10 * HEADS * WIDTH * sum(length**2 for length in lengths)  # five products, as is usual to count
    return {name: {"seconds": time, "rate": operations / time} for name, time in times.items()}


def training_steps(checkpoint: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Whole steps of base in bfloat16, dropout, clipping and AdamW included: seconds, and memory of all that it takes.

    Theirs is transformers' model with SDPA in torch's autocast, torch's clipping and its fused AdamW.
    """
    import cupy
    import torch

    random = np.random.default_rng(0)
    ids = random.integers(5, 250_000, (BATCH, LENGTH))
    ids[:, 0], ids[:, -1] = 0, 2
    for what, class_name in STEP_CLASSES.items():
        is_masked = class_name.endswith("MaskedLM")
        labels = np.where(random.random(ids.shape) < 0.15, ids, -100) if is_masked else random.integers(0, 2, BATCH)
        pool = cupy.get_default_memory_pool()
        pool.free_all_blocks()
        before = pool.used_bytes()
        our_step = _ours(class_name, checkpoint, ids, labels)
        our_step()
        pool.free_all_blocks()
        our_step()
        our_bytes = pool.total_bytes() - before
        before = torch.cuda.memory_allocated()
        their_step = _theirs(class_name, checkpoint, ids, labels)
        their_step()
        torch.cuda.reset_peak_memory_stats()
        their_step()
        their_bytes = torch.cuda.max_memory_allocated() - before
        times = seconds({"xlmr-np": our_step, "transformers": their_step})
        peaks = {"xlmr-np": our_bytes, "transformers": their_bytes}
        del our_step, their_step  # or the next one's memory would be counted from above them
        gc.collect()
        torch.cuda.empty_cache()
        yield what, {name: {"seconds": time, "peak bytes": peaks[name]} for name, time in times.items()}


def _ours(class_name: str, checkpoint: Path, ids: np.ndarray, labels: np.ndarray) -> Callable[[], Any]:
    model = getattr(xlmr_np, class_name).from_pretrained(checkpoint, device="cuda", dtype="float32")
    setting = TrainingSetting(10**6, RATE, "constant", adamw=AdamWSetting(weight_decay=DECAY), precision="bfloat16")
    trainer = Trainer(model, setting, np.random.default_rng(0))
    batch = {"input_ids": to_device(ids, "cuda:0"), "labels": labels}
    return lambda: trainer.step(batch)


def _theirs(class_name: str, checkpoint: Path, ids: np.ndarray, labels: np.ndarray) -> Callable[[], Any]:
    import torch
    import transformers

    model = getattr(transformers, class_name).from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="sdpa"
    )
    model.cuda().train()
    decayed = [each for name, each in model.named_parameters() if "LayerNorm" not in name and "bias" not in name]
    chosen = {id(each) for each in decayed}
    others = [each for each in model.parameters() if id(each) not in chosen]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, fused=True)
    batch = {"input_ids": torch.asarray(ids, device="cuda"), "labels": torch.asarray(labels, device="cuda")}

    def step() -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step
