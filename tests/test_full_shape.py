"""XLM-R base's full shape, once: parity in float32, and what opening and running it costs."""

import re
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.benchmarks.start_up import OPEN, OURS, run
from tests.reference_models import random_ids
from xlmr_np import XLMRobertaForMaskedLM

pytestmark = pytest.mark.xdist_group("base shape")  # one worker makes the checkpoint of 1.1 GB, once


def test_parity(base_checkpoint: Path) -> None:
    ids = random_ids([24, 9], vocab_size=250002)
    mask = ids != 1
    reference = transformers.XLMRobertaForMaskedLM.from_pretrained(base_checkpoint).eval()
    with torch.no_grad():
        theirs = reference(torch.asarray(ids), torch.asarray(mask.astype(int)), output_hidden_states=True)
    model = XLMRobertaForMaskedLM.from_pretrained(base_checkpoint)
    ours = model(ids, output_hidden_states=True)
    assert model.num_parameters() == 278_295_186
    for our_state, their_state in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert np.abs(our_state[mask] - their_state.numpy()[mask]).max() <= 2e-5
    expected = theirs.logits.numpy()[mask]
    assert np.abs(ours.logits[mask] - expected).max() <= 2e-5 * max(1, np.abs(expected).max())
    where = np.zeros(ids.shape, bool)
    where[0, 5] = where[1, 2] = True
    top = torch.topk(theirs.logits[torch.asarray(where)], 5).indices.numpy()
    np.testing.assert_array_equal(model.predict(ids, where=where, k=5).ids, top)


def test_opening_reads_headers_only(base_checkpoint: Path) -> None:
    seconds = min(float(run(OPEN, base_checkpoint).output) for _ in range(3))
    assert seconds <= 0.1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = XLMRobertaForMaskedLM.from_pretrained(base_checkpoint)
    assert not model.params.encoder.embeddings.token.flags.writeable
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_the_first_answer_fits_in_memory(base_checkpoint: Path) -> None:
    assert run(OURS, base_checkpoint).peak <= 1.3e9


def test_an_encoder_alone_leaves_the_vocabulary_on_disk(base_checkpoint: Path) -> None:
    program = (
        "import sys; from xlmr_np import AutoModel; AutoModel.from_pretrained(sys.argv[1])([[0, 5, 6, 2]]); print()"
    )
    peak = run(program, base_checkpoint).peak
    assert peak < 0.55e9  # 340 MB of layers, and the libraries; the table of 768 MB is not read


def test_the_readmes_lines_of_python(base_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    program = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    exec(program.replace("FacebookAI/xlm-roberta-base", str(base_checkpoint)), {})
    *answers, shape = capsys.readouterr().out.splitlines()
    assert len(answers) == 5
    assert all(line.startswith("0.000  Bonjour, je suis un modèle") for line in answers)  # random weights
    assert shape == program.rsplit("# ", 1)[1].strip()
