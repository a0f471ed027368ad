"""Make `small.model`, a vocabulary of a few hundred pieces in XLM-R's layout, for tests in any clone.

    python tests/data/make_small_vocabulary.py

The sentences below were written for this purpose. Unigram pieces, XLM-R's normalisation (nmt_nfkc), and
its control symbols: `<unk>` 0, `<s>` 1, `</s>` 2, no padding. The same sentencepiece release gives the same
bytes each time; another release may bring another normalisation table, so regenerate only on purpose.
"""

from __future__ import annotations

import io
from pathlib import Path

SENTENCES = """
The weather is lovely today, and the children are playing in the garden.
A small library with good tests is worth more than a large one without.
My dog is cute, but the cat next door is cuter and much louder.
She opened the window, looked at the sea, and closed the book again.
There are 12 apples, 30 pears and 456 plums in the basket (all of them red).
Where did you put the key? I had it in my hand this morning!
Bonjour, je suis un petit modèle de langue et j'apprends à lire.
Le chat dort sur la table pendant que la pluie tombe sur le toit.
Où est la gare ? Elle est derrière l'église, à côté du marché.
Nous avons mangé du pain, du fromage et des fraises au bord de la rivière.
Das Wetter ist heute schön, und die Kinder spielen im Garten.
Der alte Mann liest jeden Morgen die Zeitung und trinkt dazu Kaffee.
Übermorgen fahren wir mit dem Zug über die Brücke nach Süden.
Können Sie mir bitte sagen, wo die nächste Straße zum Bahnhof ist?
Leo hali ya hewa ni nzuri na watoto wanacheza bustanini.
Mwalimu anasoma kitabu kizuri karibu na dirisha la nyumba yake.
Tunapenda kula matunda na kunywa maji baridi wakati wa mchana.
Сегодня хорошая погода, и дети играют в саду.
Старый учитель читает книгу у окна и пьёт горячий чай.
Где находится вокзал? Он за рынком, рядом с большой рекой.
Мы купили хлеб, сыр и молоко, а потом пошли домой пешком.
Ο καιρός είναι ωραίος σήμερα και τα παιδιά παίζουν στον κήπο.
Η γάτα κοιμάται πάνω στο τραπέζι, κοντά στο παράθυρο.
Πού είναι ο σταθμός; Είναι πίσω από την αγορά.
الطقس جميل اليوم والأطفال يلعبون في الحديقة.
يقرأ المعلم كتابا قديما قرب النافذة ويشرب الشاي.
أين المحطة؟ إنها خلف السوق بجانب النهر الكبير.
आज मौसम अच्छा है और बच्चे बगीचे में खेल रहे हैं।
शिक्षक खिड़की के पास बैठकर एक पुरानी किताब पढ़ते हैं।
स्टेशन कहाँ है? वह बाज़ार के पीछे नदी के पास है।
今天天气很好，孩子们在花园里玩。
老师坐在窗边看一本旧书，喝一杯茶。
车站在哪里？在市场后面，离大河很近。
今日は天気がよくて、子どもたちは庭で遊んでいます。
先生は窓のそばで古い本を読みながらお茶を飲みます。
駅はどこですか。市場のうしろ、大きな川の近くです。
오늘은 날씨가 좋아서 아이들이 마당에서 놀고 있어요.
선생님은 창가에서 오래된 책을 읽고 차를 마십니다.
วันนี้อากาศดี และเด็ก ๆ กำลังเล่นอยู่ในสวน
ครูนั่งอ่านหนังสือเก่าริมหน้าต่างและดื่มชา
""".strip().splitlines()


def small_vocabulary() -> bytes:
    """Returns the serialised sentencepiece model trained on `SENTENCES`."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        model_type="unigram",
        vocab_size=480,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        shuffle_input_sentence=False,
        minloglevel=1,
    )
    return model.getvalue()


if __name__ == "__main__":
    path = Path(__file__).with_name("small.model")
    path.write_bytes(small_vocabulary())
    print(f"{path}: {path.stat().st_size:,} bytes")
