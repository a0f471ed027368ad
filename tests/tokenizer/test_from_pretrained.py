import json
import shutil
import subprocess
import sys

import pytest

import xlmr_np.weights.files
from tests.tokenizer.reference import reference_tokenizer
from xlmr_np.tokenizer import AutoTokenizer, XLMRobertaTokenizer
from xlmr_np.tokenizer.files import LARGEST_JSON
from xlmr_np.weights.errors import CheckpointError


@pytest.fixture
def checkpoint(tmp_path, small_vocabulary):
    """Makes a directory with the small vocabulary and the given JSON files."""

    def make(vocabulary="sentencepiece.bpe.model", **files):
        if vocabulary:
            shutil.copyfile(small_vocabulary, tmp_path / vocabulary)
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path

    return make


def test_a_directory_with_nothing_but_the_vocabulary(checkpoint, small):
    directory = checkpoint()
    for source in (directory, str(directory)):
        tokenizer = XLMRobertaTokenizer.from_pretrained(source)
        assert tokenizer("the garden") == small("the garden")
        assert (tokenizer.model_max_length, tokenizer.padding_side, tokenizer.truncation_side) == (
            None,
            "right",
            "right",
        )


def test_auto_tokenizer(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint(), model_max_length=9)
    assert type(tokenizer) is XLMRobertaTokenizer
    assert tokenizer.model_max_length == 9


def test_tokenizer_model_is_the_second_name(checkpoint, small):
    assert len(XLMRobertaTokenizer.from_pretrained(checkpoint("tokenizer.model"))) == len(small)
    checkpoint("sentencepiece.bpe.model").joinpath("tokenizer.model").write_bytes(b"not read")
    assert len(XLMRobertaTokenizer.from_pretrained(checkpoint())) == len(small)


def test_a_subfolder(checkpoint):
    directory = checkpoint(tokenizer_config={"model_max_length": 77})
    tokenizer = XLMRobertaTokenizer.from_pretrained(directory.parent, subfolder=directory.name)
    assert tokenizer.model_max_length == 77


def test_the_settings_of_tokenizer_config(checkpoint):
    config = {
        "tokenizer_class": "XLMRobertaTokenizer",
        "model_max_length": 512,
        "padding_side": "left",
        "truncation_side": "left",
        "mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True},
        "sp_model_kwargs": {},
    }
    tokenizer = XLMRobertaTokenizer.from_pretrained(checkpoint(tokenizer_config=config))
    assert (tokenizer.model_max_length, tokenizer.padding_side, tokenizer.truncation_side) == (512, "left", "left")


def test_arguments_win_over_the_file(checkpoint):
    directory = checkpoint(tokenizer_config={"model_max_length": 512, "padding_side": "left"})
    tokenizer = XLMRobertaTokenizer.from_pretrained(directory, model_max_length=128, padding_side="right")
    assert (tokenizer.model_max_length, tokenizer.padding_side) == (128, "right")


@pytest.mark.parametrize("unlimited", [None, 1e30, 1000000000000000019884624838656])
def test_no_limit(checkpoint, unlimited):
    directory = checkpoint(tokenizer_config={"model_max_length": unlimited})
    assert XLMRobertaTokenizer.from_pretrained(directory).model_max_length is None


@pytest.mark.parametrize(
    "setting",
    [{"model_max_length": "512"}, {"model_max_length": -1}, {"padding_side": "middle"}, {"truncation_side": 1}],
)
def test_settings_out_of_range(checkpoint, setting):
    with pytest.raises((CheckpointError, ValueError), match=next(iter(setting))):
        XLMRobertaTokenizer.from_pretrained(checkpoint(tokenizer_config=setting))


def test_unknown_settings(checkpoint):
    with pytest.raises(TypeError, match="do_lower_case"):
        XLMRobertaTokenizer.from_pretrained(checkpoint(), do_lower_case=True)


@pytest.mark.parametrize("content", ["", "{", "[1]" * 2, "[" * 100_000, '"a"', "[]", "null", "\udcff", "1" * 5000])
def test_a_broken_tokenizer_config(checkpoint, content):
    directory = checkpoint()
    (directory / "tokenizer_config.json").write_text(content, errors="surrogateescape")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json (is not valid JSON|holds a JSON)"):
        XLMRobertaTokenizer.from_pretrained(directory)


def test_a_tokenizer_config_beyond_any_size(checkpoint):
    directory = checkpoint()
    with (directory / "tokenizer_config.json").open("wb") as file:
        file.truncate(LARGEST_JSON + 1)  # a hole: it takes no space
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json has more than 67108864 bytes"):
        XLMRobertaTokenizer.from_pretrained(directory)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"tokenizer_class": "XLMRobertaTokenizer"}},
        {"tokenizer_config": {"tokenizer_class": "XLMRobertaTokenizerFast"}, "config": {"model_type": "bert"}},
        {"tokenizer_config": {"tokenizer_class": None}, "config": {"model_type": "xlm-roberta"}},
        {"tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast"}, "config": {"model_type": "xlm-roberta"}},
        {"tokenizer_config": {"tokenizer_class": "TokenizersBackend"}},
        {"config": {"model_type": "xlm-roberta"}},
        {"config": {"model_type": "bert", "tokenizer_class": "XLMRobertaTokenizer"}},
        {"config": {"hidden_size": 768}},
    ],
)
def test_xlm_r_tokenizers(checkpoint, small, files):
    assert len(XLMRobertaTokenizer.from_pretrained(checkpoint(**files))) == len(small)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"tokenizer_config": {"tokenizer_class": "RobertaTokenizer"}}, "class 'RobertaTokenizer'"),
        ({"tokenizer_config": {"tokenizer_class": "CamembertTokenizer"}}, "class 'CamembertTokenizer'"),
        ({"tokenizer_config": {"tokenizer_class": "BertTokenizerFast"}}, "class 'BertTokenizerFast'"),
        ({"tokenizer_config": {"tokenizer_class": ["XLMRobertaTokenizer"]}}, "class"),
        ({"config": {"tokenizer_class": "MBartTokenizer", "model_type": "xlm-roberta"}}, "class 'MBartTokenizer'"),
        ({"config": {"model_type": "camembert"}}, "model_type 'camembert'"),
        (
            {"tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast"}, "config": {"model_type": "roberta"}},
            "model_type 'roberta'",
        ),
    ],
)
def test_tokenizers_of_other_models_are_refused(checkpoint, files, named):
    with pytest.raises(CheckpointError, match=f"{named}.* ids are not XLM-R's"):
        XLMRobertaTokenizer.from_pretrained(checkpoint(**files))


def test_no_vocabulary(checkpoint):
    directory = checkpoint(vocabulary=None, tokenizer_config={"model_max_length": 512})
    looked_for = r"sentencepiece\.bpe\.model, tokenizer\.model, tokenizer\.json"
    with pytest.raises(CheckpointError, match=f"no vocabulary; looked for {looked_for}"):
        XLMRobertaTokenizer.from_pretrained(directory)


def test_tokenizer_json_alone(small_vocabulary, small, tmp_path):
    """What transformers 5 saves: no sentencepiece model, and the ids are the same."""
    reference_tokenizer(small_vocabulary, model_max_length=512).save_pretrained(tmp_path)
    tokenizer = XLMRobertaTokenizer.from_pretrained(tmp_path)
    assert tokenizer.model_max_length == 512
    assert tokenizer.get_vocab() == small.get_vocab()
    texts = ["the <mask> of the world", "Ça  va?", "ﬁ ½ ｶﾞ", "", "</s>"]
    assert tokenizer(texts) == small(texts)
    assert XLMRobertaTokenizer(tmp_path / "tokenizer.json")(texts) == small(texts)


def test_a_tokenizer_json_with_tokens_of_its_own(small_vocabulary, tmp_path):
    reference = reference_tokenizer(small_vocabulary)
    reference.add_tokens(["newtok"])
    reference.save_pretrained(tmp_path)
    for tokenizer in (
        XLMRobertaTokenizer.from_pretrained(tmp_path),
        XLMRobertaTokenizer(tmp_path / "tokenizer.json"),
    ):
        assert len(tokenizer) == len(reference) == 483
        assert tokenizer.encode("the newtok") == reference.encode("the newtok")
        assert tokenizer.convert_ids_to_tokens(482) == "newtok"


@pytest.mark.parametrize("content", [{"version": "1.0"}, {"model": {"type": "BPE"}}, []], ids=str)
def test_a_damaged_tokenizer_json(checkpoint, content):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: "):
        XLMRobertaTokenizer.from_pretrained(checkpoint(vocabulary=None, tokenizer=content))


def test_no_such_directory(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        XLMRobertaTokenizer.from_pretrained(tmp_path / "nowhere")


def test_a_hub_repository(small_vocabulary, tmp_path, monkeypatch):
    """Each file is asked for by name with the caller's arguments, and only what is needed is asked for."""
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512}')
    available = {"tokenizer_config.json": config, "sentencepiece.bpe.model": small_vocabulary}
    requests = []

    def locate(source, filename, **where):
        requests.append((source, filename, where))
        return available.get(filename)

    monkeypatch.setattr(xlmr_np.weights.files, "locate", locate)
    where = {"revision": "v1", "cache_dir": tmp_path, "token": "secret", "local_files_only": True, "subfolder": "a"}
    tokenizer = XLMRobertaTokenizer.from_pretrained("owner/name", **where)
    assert tokenizer.model_max_length == 512
    asked_for = [*available, "tokenizer.json", "special_tokens_map.json", "added_tokens.json"]
    assert sorted(name for _, name, _ in requests) == sorted(asked_for)
    assert all(request == ("owner/name", request[1], where) for request in requests)


def test_importing_is_light():
    """Neither the import nor the class loads what is only needed later."""
    program = (
        "import sys, xlmr_np.tokenizer\n"
        "print(*{name.split('.')[0] for name in sys.modules} & {'sentencepiece', 'huggingface_hub', 'torch'})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
