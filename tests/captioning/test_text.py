import pytest

from captioning.artifacts import read_pickle, write_pickle
from captioning.languages import LANGUAGES
from captioning.text import Tokenizer, coco_image_id, tokenizers_from_dict, tokenizers_to_dict

CAPTIONS = ["A dog runs .", "The dog's 2 puppies run !", "a tri-colored dog", "Un été à la plage"]


def test_vocabulary_has_frequent_words_in_a_stable_order():
    tokenizer = Tokenizer.fit(CAPTIONS, minimum_count=2)
    assert list(tokenizer.word_index) == ["<pad>", "<start>", "<end>", "<unk>", "a", "dog"]
    assert Tokenizer.fit(reversed(CAPTIONS), minimum_count=2).word_index == tokenizer.word_index
    assert tokenizer.encode("A dog sleeps") == [tokenizer.start, 4, 5, tokenizer.unknown, tokenizer.end]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_round_trip_is_exact(caption, tmp_path):
    tokenizer = Tokenizer.fit(CAPTIONS, minimum_count=1)
    write_pickle(tmp_path / "tokenizer.pkl", tokenizer.to_dict())
    again = Tokenizer.from_dict(read_pickle(tmp_path / "tokenizer.pkl"))
    assert again.encode(caption) == tokenizer.encode(caption)
    assert again.decode(again.encode(caption)) == " ".join(LANGUAGES["en"].words(caption))


def test_batch_is_padded_and_cut():
    tokenizer = Tokenizer.fit(CAPTIONS, minimum_count=1)
    batch = tokenizer.encode_batch(["a dog", "a dog runs the dog's 2"], 5)
    assert batch.shape == (2, 5) and batch.dtype == "int32"
    assert batch[0].tolist() == [*tokenizer.encode("a dog"), tokenizer.pad]
    assert batch[1, -1] not in (tokenizer.pad, tokenizer.end)


def test_decoding_stops_at_the_end_and_leaves_out_special_tokens():
    t = Tokenizer.fit(CAPTIONS, minimum_count=1)
    dog = t.word_index["dog"]
    assert t.decode([t.start, dog, t.unknown, dog, t.end, dog, t.pad]) == "dog dog"


def test_broken_dicts_are_refused():
    for broken in (
        {},
        None,
        {"word_index": 3, "language": "en"},
    ):
        with pytest.raises(ValueError, match="not a tokenizer"):
            Tokenizer.from_dict(broken)
    with pytest.raises(ValueError, match="no pad, end, unknown"):
        Tokenizer.from_dict({"word_index": {"<start>": 1}, "language": "en"})
    words = Tokenizer.fit(CAPTIONS, 1).word_index
    with pytest.raises(ValueError, match="share an id"):
        Tokenizer.from_dict({"word_index": words | {"dog": 4}, "language": "en"})


def test_an_unknown_language():
    with pytest.raises(ValueError, match="unknown language 'xx'; known: en, de"):
        Tokenizer.fit(CAPTIONS, 1).from_dict(Tokenizer.fit(CAPTIONS, 1).to_dict() | {"language": "xx"})


GERMAN = [
    "Ein Mann läuft .",
    "Zwei Männer sehen einen Mann .",
    "zwei hunde laufen",
    "Männer sehen zwei Hunde",
]


def test_german_words_get_their_usual_capitals():
    tokenizer = Tokenizer.fit(GERMAN, 1, "de")
    assert tokenizer.decode(tokenizer.encode("Zwei Hunde laufen .")) == "zwei Hunde laufen"
    assert tokenizer.decode(tokenizer.encode("zwei hunde")) == "zwei Hunde"  # a caption without capitals
    assert tokenizer.decode(tokenizer.encode("Männer sehen einen Mann")) == "Männer sehen einen Mann"
    assert "hunde" not in tokenizer.word_index and "Zwei" not in tokenizer.word_index


def test_the_tokenizers_of_several_languages_in_one_dict(tmp_path):
    tokenizers = {"en": Tokenizer.fit(CAPTIONS, 1), "de": Tokenizer.fit(GERMAN, 1, "de")}
    write_pickle(tmp_path / "tokenizer.pkl", tokenizers_to_dict(tokenizers))
    again = tokenizers_from_dict(read_pickle(tmp_path / "tokenizer.pkl"))
    assert {language: t.to_dict() for language, t in again.items()} == {
        language: t.to_dict() for language, t in tokenizers.items()
    }
    alone = tokenizers_from_dict(tokenizers["en"].to_dict())
    assert list(alone) == ["en"] and alone["en"].word_index == tokenizers["en"].word_index


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("val2014/COCO_val2014_000000000139.jpg", 139),
        ("000000000139.jpg", 139),
        ("holiday/beach.jpg", "holiday/beach"),
        ("a.b.png", "a.b"),
        ("1000268201_693b08cb0e.jpg", "1000268201_693b08cb0e"),
        ("table.parquet#0/7", "table.parquet#0/7"),
    ],
)
def test_ids_in_coco_results(name, expected):
    assert coco_image_id(name) == expected
