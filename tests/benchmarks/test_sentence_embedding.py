"""The parts of `tests.benchmarks.sentence_embedding`, on a tiny model."""

import json
from pathlib import Path

import pytest

from tests.benchmarks import sentence_embedding
from tests.benchmarks.sentence_embedding import compare, sample, save_model, stream
from tests.reference_models import TINY
from xlmr_np import XLMRobertaConfig, XLMRobertaTokenizer


def test_the_sample_is_always_the_same(shared_data: Path) -> None:
    sentences = sample(shared_data, 200)
    assert sentences == sample(shared_data, 200)
    assert len(set(sentences)) > 190
    with pytest.raises(SystemExit, match="1000000 sentences were asked for"):
        sample(shared_data, 1_000_000)


@pytest.mark.exhaustive  # six processes, two of which import torch
def test_both_engines_run_and_agree(
    tmp_path: Path, small_vocabulary: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {**TINY, "vocab_size": len(XLMRobertaTokenizer(small_vocabulary)), "max_position_embeddings": 514}
    save_model(tmp_path / "model", small_vocabulary, XLMRobertaConfig(**shape))
    sentences = tmp_path / "sentences.json"
    sentences.write_text(json.dumps(["Paris is the capital.", "hm", "Столица Франции"]))
    compare(tmp_path / "model", sentences, 1)
    stream(tmp_path / "model", sentences)
    printed = capsys.readouterr().out
    assert "| 3 sentences, 1 rounds" in printed
    assert "a stream of 12 sentences" in printed
    monkeypatch.setattr(sentence_embedding, "TOLERANCE", -1.0)
    with pytest.raises(SystemExit, match=r"The embeddings of sentences \[0, 1, 2\] differ"):
        compare(tmp_path / "model", sentences, 1)
