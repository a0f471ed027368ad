"""Published tokenisations, copied as facts from the projects that published them.

The ids are those of the real vocabulary. Where a text spells out a special token, some of these projects read
it as that token; here it is text, and the tests say what differs.
"""

import pytest

# facebookresearch/fairseq (MIT): examples/xlmr/README.md @3d262bb, tests/fb_test_hub.py (test_xlmr) @12ec1a3
FAIRSEQ = [
    (
        "Hello world!",
        "0 35378 8999 38 2",
    ),
    (
        "你好，世界",
        "0 6 124084 4 3221 2",
    ),
    (
        "नमस्ते दुनिया",
        "0 68700 97883 29405 2",
    ),
    (
        "مرحبا بالعالم",
        "0 665 193478 258 1705 77796 2",
    ),
    (
        "Bonjour le monde",
        "0 84602 95 11146 2",
    ),
]

# huggingface/transformers (Apache-2.0): tests/models/xlm_roberta/test_tokenization_xlm_roberta.py @a4c57e6
TRANSFORMERS = [
    (
        "Hello World!",
        "0 35378 6661 38 2",
    ),
]

# The same file's test_tokenizer_integration: one batch, in which the shorter rows are padded to 106.
INTEGRATION = [
    (
        (
            "Transformers (formerly known as pytorch-transformers and pytorch-pretrained-bert) provides "
            "general-purpose architectures (BERT, GPT-2, RoBERTa, XLM, DistilBert, XLNet...) for Natural "
            "Language Understanding (NLU) and Natural Language Generation (NLG) with over 32+ pretrained "
            "models in 100+ languages and deep interoperability between Jax, PyTorch and TensorFlow."
        ),
        (
            "0 11062 82772 7 15 82772 538 51529 237 17198 1290 206 9 215175 1314 136 17198 1290 206 9 "
            "56359 42 122009 9 16466 16 87344 4537 9 4717 78381 6 159958 7 15 24480 618 4 527 22693 5428 "
            "4 2777 24480 9874 4 43523 594 4 803 18392 33189 18 4 43523 24447 12399 100 24955 83658 9626 "
            "144057 15 839 22335 16 136 24955 83658 83479 15 39102 724 16 678 645 2789 1328 4589 42 "
            "122009 115774 23 805 1328 46876 7 136 53894 1940 42227 41159 17721 823 425 4 27512 98722 206"
            " 136 5531 4970 919 17336 5 2"
        ),
    ),
    (
        (
            "BERT is designed to pre-train deep bidirectional representations from unlabeled text by "
            "jointly conditioning on both left and right context in all layers."
        ),
        (
            "0 20080 618 83 82775 47 479 9 1517 73 53894 333 80581 110117 18811 5256 1295 51 152526 297 "
            "7986 390 124416 538 35431 214 98 15044 25737 136 7108 43701 23 756 135355 7 5 2"
        ),
    ),
    (
        "The quick brown fox jumps over the lazy dog.",
        "0 581 63773 119455 6 147797 88203 7 645 70 21 3285 10269 5 2",
    ),
]

# huggingface/transformers (Apache-2.0): test_modeling_xlm_roberta.py @b37027b, test_modeling_tf_xlm_roberta.py
# @15ea02a
MODELS = [
    (
        "The dog is cute and lives in the garden house",
        "0 581 10269 83 99942 136 60742 23 70 80583 18276 2",
    ),
    (
        "My dog is cute",
        "0 2646 10269 83 99942 2",
    ),
]

# huggingface/transformers (Apache-2.0): test_tokenization_xlm_roberta.py @a4c57e6, which gives both readings
LITERAL_UNK = (
    'This is a very long text with a lot of weird characters, such as: . , ~ ? ( ) " [ ] ! : - . Also we '
    "will add words that should not exsist and be tokenized to <unk>, such as saoneuhaoesuth"
)
LITERAL_UNK_AS_TEXT = (
    "0 3293 83 10 4552 4989 7986 678 10 5915 111 179459 124850 4 6044 237 12 6 5 6 4 6780 705 15 1388 44 "
    "378 10114 711 152 20 6 5 22376 642 1221 15190 34153 450 5608 959 1119 57702 136 186 47 1098 29367 47"
    " 4426 3678 2740 4 6044 237 6284 50901 528 31 90 34 927 2"
)
LITERAL_UNK_AS_TOKEN = (
    "0 3293 83 10 4552 4989 7986 678 10 5915 111 179459 124850 4 6044 237 12 6 5 6 4 6780 705 15 1388 44 "
    "378 10114 711 152 20 6 5 22376 642 1221 15190 34153 450 5608 959 1119 57702 136 186 47 1098 29367 47"
    " 3 6 4 6044 237 6284 50901 528 31 90 34 927 2"
)

# huggingface/transformers (Apache-2.0): the same file in version 5
LITERAL_BOS = (
    "This is a test 😊\n"
    "I was born in 92000, and this is falsé.\n"
    "生活的真谛是\n"
    "Hi  Hello\n"
    "Hi   Hello\n"
    "\n"
    " \n"
    "  \n"
    " Hello\n"
    "<s>\n"
    "hi<s>there\n"
    "The following string should be properly encoded: Hello.\n"
    "But ird and ปี   ird   ด\n"
    "Hey how are you doing"
)
LITERAL_BOS_AS_TOKEN = (
    "3293 83 10 3034 6 82803 87 509 103122 23 483 13821 4 136 903 83 84047 446 5 6 62668 5364 245875 354 "
    "2673 35378 2673 35378 35378 0 1274 0 2685 581 25632 79315 5608 186 155965 22 40899 71 12 35378 5 "
    "4966 193 71 136 10249 193 71 48229 28240 3642 621 398 20594"
)
LITERAL_BOS_DECODED = (
    "This is a test 😊 I was born in 92000, and this is falsé. 生活的真谛是 Hi Hello Hi Hello Hello<s> hi<s> "
    "there The following string should be properly encoded: Hello. But ird and ปี ird ด Hey how are you "
    "doing"
)


def numbers(ids: str) -> list[int]:
    return [int(token_id) for token_id in ids.split()]


@pytest.mark.parametrize(("text", "ids"), FAIRSEQ + TRANSFORMERS + INTEGRATION + MODELS)
def test_published_ids(real, text, ids):
    assert real(text)["input_ids"] == numbers(ids)


def test_published_batch(real):
    rows = [numbers(ids) for _, ids in INTEGRATION]
    batch = real([text for text, _ in INTEGRATION], padding=True)
    assert batch["input_ids"] == [row + [1] * (106 - len(row)) for row in rows]
    assert batch["attention_mask"] == [[1] * len(row) + [0] * (106 - len(row)) for row in rows]


def test_a_literal_unk_is_text(real):
    assert real.encode(LITERAL_UNK) == numbers(LITERAL_UNK_AS_TEXT)


def test_reading_a_literal_unk_as_the_token_differs_only_there(real):
    before, after = LITERAL_UNK.split("<unk>")
    ids = [*real.encode(before)[:-1], 3, *real.encode(after)[1:]]
    assert ids == numbers(LITERAL_UNK_AS_TOKEN) != numbers(LITERAL_UNK_AS_TEXT)


def test_a_literal_bos_is_text(real):
    assert 0 not in real.encode(LITERAL_BOS, add_special_tokens=False)


def test_reading_a_literal_bos_as_the_token_differs_only_there(real):
    first, second, third = (real.encode(part, add_special_tokens=False) for part in LITERAL_BOS.split("<s>"))
    assert [*first, 0, *second, 0, *third] == numbers(LITERAL_BOS_AS_TOKEN)


def test_published_decoding(real):
    assert real.decode(numbers(LITERAL_BOS_AS_TOKEN)) == LITERAL_BOS_DECODED
