"""Every layout becomes a `Dataset`; faulty lines are skipped and reported; an unusable folder is a `DatasetError`."""

import codecs
import functools
import gzip
import json
import operator
import pickle
from pathlib import Path

import pytest
from PIL import Image
from scenes import draw_dataset

from captioning.artifacts import write_pickle
from captioning.training.datasets import SPLITS, DatasetError, load_dataset, trained_splits, translated_splits

TOKENS = "Flickr8k_text/Flickr8k.token.txt"
KAGGLE = ["image,caption"]


def draw(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (2, 2)).save(folder / name)


def write(path: Path, content) -> None:
    """Bytes as they are, lines with line ends, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = "".join(f"{line}\n" for line in content).encode()
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def write_flickr8k(folder: Path, text_folder: str = "Flickr8k_text") -> Path:
    """Four images, two captions each: a and b for training, c for validation, d for test."""
    draw(folder / "Flicker8k_Dataset", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    write(
        folder / text_folder / "Flickr8k.token.txt",
        [f"{image}.jpg#{number}\tCaption {number} of {image} ." for image in "abcd" for number in (0, 1)],
    )
    for part, names in (("train", ["a.jpg", "b.jpg"]), ("dev", ["c.jpg"]), ("test", ["d.jpg"])):
        write(folder / text_folder / f"Flickr_8k.{part}Images.txt", names)
    return folder


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def images(dataset) -> dict[str, list[str]]:
    return {split: list(dataset.captions[split]) for split in SPLITS}


def the_problem(dataset) -> str:
    (problem,) = dataset.problems
    return problem


# Layouts


@pytest.mark.parametrize("text_folder", ["Flickr8k_text", "."])
def test_flickr8k_as_distributed(tmp_path, text_folder):
    dataset = load_dataset(write_flickr8k(tmp_path, text_folder))
    assert dataset.name == "flickr8k"
    assert images(dataset) == {"train": ["a.jpg", "b.jpg"], "validation": ["c.jpg"], "test": ["d.jpg"]}
    assert dataset.captions["train"]["b.jpg"] == ["Caption 0 of b .", "Caption 1 of b ."]
    assert dataset.image_paths["b.jpg"] == tmp_path / "Flicker8k_Dataset" / "b.jpg"
    assert dataset.problems == ()
    assert "2 images, 4 captions" in dataset.summary() and "no problems" in dataset.summary()


def test_captions_pkl_holds_plain_dicts(tmp_path):
    captions = load_dataset(write_flickr8k(tmp_path)).captions
    assert pickle.loads(pickle.dumps(captions)) == captions
    assert type(captions) is dict and {type(split) for split in captions.values()} == {dict}


def test_captions_in_other_languages(tmp_path):
    write_flickr8k(tmp_path)
    write(
        tmp_path / "Flickr8k_text/Flickr8k.de.token.txt",
        ["a.jpg#0\tEin Hund .", "a.jpg#1\tZwei Hunde .", "c.jpg#0\tEin Kind .", "x.jpg#0\tKein Foto .", "b.jpg#0\t "],
    )
    write(tmp_path / "captions.fr.txt", ["image,caption", 'b.jpg,"Un chien , assis ."'])
    dataset = load_dataset(tmp_path)
    assert dataset.translations == {
        "de": {"train": {"a.jpg": ["Ein Hund .", "Zwei Hunde ."]}, "validation": {"c.jpg": ["Ein Kind ."]}, "test": {}},
        "fr": {"train": {"b.jpg": ["Un chien , assis ."]}, "validation": {}, "test": {}},
    }
    assert dataset.captions == load_dataset(write_flickr8k(tmp_path / "english")).captions
    assert "Deutsch: 2 train, 1 validation, 0 test captions" in dataset.summary()
    assert "caption without a word skipped: 1" in dataset.problems[0]
    assert dataset.problems[1:] == ("captions in 'de' of a photo that is not used skipped: 1 (x.jpg)",)


def test_multi30k(tmp_path):
    draw(tmp_path / "flickr30k_images", "a.jpg", "b.jpg", "c.jpg")
    one, five = tmp_path / "data/task1", tmp_path / "data/task2"
    for task, suffix in ((one, ""), (five, "_images")):
        write(task / f"image_splits/train{suffix}.txt", ["a.jpg", "b.jpg"])
        write(task / f"image_splits/val{suffix}.txt", ["c.jpg"])
    for number in (1, 2):
        write(five / f"raw/train.{number}.en", [f"Dog {number} .", f"Cat {number} ."])
        write(five / f"raw/val.{number}.en", [f"Cow {number} ."])
    write(five / "raw/train.1.de", ["Ein Hund .", "Eine Katze ."])
    write(five / "raw/train.2.de", ["Nur eine Zeile ."])
    write(one / "raw/train.en", ["A dog .", "A cat ."])
    write(one / "raw/train.fr.gz", gzip.compress(b"Un chien .\nUn chat .\n"))
    write(one / "raw/train.cs.gz", gzip.compress(b"Pes .\nKo\xc4\x8dka .\n"))
    write(one / "raw/train.cs", ["Pes .", "Kočka ."])
    write(one / "raw/val.fr.gz", b"not packed")
    dataset = load_dataset(tmp_path)
    assert dataset.name == "multi30k"
    assert dataset.captions == {
        "train": {"a.jpg": ["Dog 1 .", "Dog 2 ."], "b.jpg": ["Cat 1 .", "Cat 2 ."]},
        "validation": {"c.jpg": ["Cow 1 .", "Cow 2 ."]},
        "test": {},
    }
    assert dataset.translations["de"]["train"] == {"a.jpg": ["Ein Hund ."], "b.jpg": ["Eine Katze ."]}
    assert dataset.translations["fr"]["train"] == {"a.jpg": ["Un chien ."], "b.jpg": ["Un chat ."]}
    assert dataset.translations["cs"]["train"] == {"a.jpg": ["Pes ."], "b.jpg": ["Kočka ."]}, "each file once"
    problems = "\n".join(dataset.problems)
    assert "train.2.de" in problems and "val.fr.gz" in problems


def test_multi30k_translates_flickr8k(tmp_path):
    """Flickr30k contains most photos of Flickr8k, under shorter names."""
    captions = ["image,caption", *(f"{i}_0a1b2c.jpg,A dog ." for i in range(10))]
    draw(tmp_path / "Images", *(line.split(",")[0] for line in captions[1:]))
    write(tmp_path / "captions.txt", captions)
    write(tmp_path / "data/task2/image_splits/train_images.txt", ["3.jpg", "999.jpg", "7.jpg"])
    write(tmp_path / "data/task2/raw/train.1.de", ["Drei .", "Andere .", "Sieben ."])
    by_split = load_dataset(tmp_path).translations["de"]
    found = {name: texts for images in by_split.values() for name, texts in images.items()}
    assert found == {"3_0a1b2c.jpg": ["Drei ."], "7_0a1b2c.jpg": ["Sieben ."]}


def test_a_missing_split_file_leaves_that_split_empty(tmp_path):
    write_flickr8k(tmp_path)
    (tmp_path / "Flickr8k_text/Flickr_8k.testImages.txt").unlink()
    dataset = load_dataset(tmp_path)
    assert images(dataset) == {"train": ["a.jpg", "b.jpg"], "validation": ["c.jpg"], "test": []}
    missing, in_no_split = dataset.problems
    assert "Flickr_8k.testImages.txt" in missing and "d.jpg" in in_no_split
    assert "test       empty" in dataset.summary() and missing in dataset.summary()


def write_kaggle_flickr8k(folder: Path, count: int = 40) -> list[str]:
    names = [f"{index:03d}.jpg" for index in range(count)]
    draw(folder / "Images", *names)
    write(
        folder / "captions.txt",
        KAGGLE + [f'{name},"A dog , number {number} , of ""{name}"" ."' for name in names for number in range(5)],
    )
    return names


def test_kaggle_flickr8k_is_split_by_image_with_a_seed(tmp_path):
    names = write_kaggle_flickr8k(tmp_path)
    dataset = load_dataset(tmp_path)
    assert (dataset.name, dataset.problems) == (tmp_path.name, ())
    assert {split: len(of_split) for split, of_split in images(dataset).items()} == {
        "train": 32,
        "validation": 4,
        "test": 4,
    }
    assert sorted(functools.reduce(operator.iadd, images(dataset).values(), [])) == names == sorted(dataset.image_paths)
    for split in SPLITS:
        for name, captions in dataset.captions[split].items():
            assert captions == [f'A dog , number {number} , of "{name}" .' for number in range(5)]
    assert load_dataset(tmp_path) == dataset
    assert load_dataset(tmp_path, seed=0) == dataset
    assert images(load_dataset(tmp_path, seed=1)) != images(dataset)


def test_the_drawn_split_does_not_depend_on_the_order_of_lines(tmp_path):
    write_kaggle_flickr8k(tmp_path)
    before = images(load_dataset(tmp_path))
    header, *lines = (tmp_path / "captions.txt").read_text().splitlines()
    write(tmp_path / "captions.txt", [header, *reversed(lines)])
    assert images(load_dataset(tmp_path)) == before


def test_a_photo_that_comes_later_moves_hardly_any_other_into_another_split(tmp_path):
    """And none if the model knows its photos."""
    write_kaggle_flickr8k(tmp_path)
    before = load_dataset(tmp_path)
    write_pickle(tmp_path / "artifacts" / "captions.pkl", before.captions)
    write_kaggle_flickr8k(tmp_path, 41)
    after = load_dataset(tmp_path)
    assert images(after) != images(before)
    split = {name: split for split, names in images(before).items() for name in names}
    moved = [name for s, names in images(after).items() for name in names if split.get(name, s) != s]
    assert len(moved) <= 2
    assert trained_splits(after, tmp_path / "artifacts", after.name) == before.captions
    other = load_dataset(draw_dataset(tmp_path / "other", images=24))
    assert trained_splits(other, tmp_path / "artifacts", after.name) == other.captions


def test_photos_that_the_model_may_have_been_trained_on_are_no_test_photos(tmp_path):
    """Kaggle's copy of Flickr8k has no splits, and the model that ships has no ``captions.pkl``."""
    write_kaggle_flickr8k(tmp_path / "flickr8k")
    drawn = load_dataset(tmp_path / "flickr8k")
    with pytest.raises(DatasetError, match="official splits"):
        trained_splits(drawn, tmp_path, "flickr8k")
    assert trained_splits(drawn, tmp_path, "flickr30k") == drawn.captions
    write_flickr8k(tmp_path / "official")
    official = load_dataset(tmp_path / "official")
    assert trained_splits(official, tmp_path, "flickr8k") == official.captions


def test_translations_of_other_photos_are_a_problem(tmp_path):
    write_flickr8k(tmp_path)
    write(tmp_path / "captions.de.txt", ["image,caption", "1000268201.jpg,Ein Hund ."])
    dataset = load_dataset(tmp_path)
    assert not dataset.translations
    assert the_problem(dataset) == "captions in 'de' of a photo that is not used skipped: 1 (1000268201.jpg)"


def test_other_photos_of_the_same_names_were_not_trained_on(tmp_path):
    write_flickr8k(tmp_path)
    dataset = load_dataset(tmp_path)
    trained = {"train": {"a.jpg": ["A car ."]}, "validation": {"c.jpg": ["Caption 1 of c."]}, "test": {}}
    write_pickle(tmp_path / "captions.pkl", trained)
    splits = trained_splits(dataset, tmp_path, "other")
    assert splits == {"train": {}, "validation": trained["validation"], "test": {}}


def test_a_translation_belongs_to_the_photo_of_its_name(tmp_path):
    draw(tmp_path / "Images", "12.jpg", "12_1.jpg", *(f"{n}.jpg" for n in range(8)))
    names = ["12.jpg", "12_1.jpg", *(f"{n}.jpg" for n in range(8))]
    write(tmp_path / "captions.txt", KAGGLE + [f"{name},A dog ." for name in names])
    write(tmp_path / "captions.de.txt", [*KAGGLE, "12.jpg,Ein Hund .", "12_1.jpg,Eine Katze ."])
    by_split = load_dataset(tmp_path).translations["de"]
    found = {name: texts for images in by_split.values() for name, texts in images.items()}
    assert found == {"12.jpg": ["Ein Hund ."], "12_1.jpg": ["Eine Katze ."]}


def test_translations_follow_the_splits_of_training(tmp_path):
    write_flickr8k(tmp_path)
    write(tmp_path / "captions.de.txt", ["image,caption", "a.jpg,Ein Hund", "b.jpg,Zwei Hunde", "c.jpg,Ein Kind"])
    splits = {"train": {"c.jpg": []}, "validation": {"a.jpg": [], "d.jpg": []}}
    assert translated_splits(load_dataset(tmp_path), splits) == {
        "de": {"train": {"c.jpg": ["Ein Kind"]}, "validation": {"a.jpg": ["Ein Hund"]}}
    }


def test_a_faulty_line_of_a_translation(tmp_path):
    write_flickr8k(tmp_path)
    write(
        tmp_path / "Flickr8k_text/Flickr8k.de.token.txt", ["a.jpg#0\tEin Hund .", "a.jpg#1 Zwei Hunde .", "b.jpg#0\t."]
    )
    assert load_dataset(tmp_path).problems == (
        "malformed line skipped: 1 (Flickr8k.de.token.txt line 2)",
        "caption without a word skipped: 1 (Flickr8k.de.token.txt line 3)",
    )


@pytest.mark.parametrize(("count", "sizes"), [(1, [1, 0, 0]), (3, [1, 1, 1]), (10, [8, 1, 1]), (25, [21, 2, 2])])
def test_small_data_sets_are_split_too(tmp_path, count, sizes):
    write_kaggle_flickr8k(tmp_path, count)
    assert [len(of_split) for of_split in images(load_dataset(tmp_path)).values()] == sizes


@pytest.mark.parametrize(
    ("csv", "photos"),
    [
        ("results.csv", "flickr30k_images"),
        ("flickr30k_images/results.csv", "flickr30k_images/flickr30k_images/flickr30k_images"),
    ],
)
def test_kaggle_flickr30k_with_its_broken_row(tmp_path, csv, photos):
    names = [f"{index}.jpg" for index in range(9)] + ["2199200615.jpg"]
    draw(tmp_path / photos, *names)
    rows = [f"{name}| {number}| Two men , a | and a dog ." for name in names for number in range(5)]
    rows[-1] = "2199200615.jpg   | 4   A dog runs across the grass ."
    write(tmp_path / csv, ["image_name| comment_number| comment", *rows])
    dataset = load_dataset(tmp_path)
    assert dataset.name == "flickr30k"
    assert [len(of_split) for of_split in images(dataset).values()] == [8, 1, 1]
    captions = {name: texts for split in SPLITS for name, texts in dataset.captions[split].items()}
    assert captions.pop("2199200615.jpg") == ["Two men , a | and a dog ."] * 4
    assert set(map(tuple, captions.values())) == {("Two men , a | and a dog .",) * 5}
    assert the_problem(dataset) == "malformed line skipped: 1 (results.csv line 51)"


def write_coco(folder: Path, year: str, photos: str) -> Path:
    for split, image_ids in (("train", (1, 2)), ("val", (3,))):
        prefix = "" if year == "2017" else f"COCO_{split}{year}_"
        names = {key: f"{prefix}{key:012d}.jpg" for key in image_ids}
        draw(folder / photos / f"{split}{year}", *names.values())
        write(
            folder / "annotations" / f"captions_{split}{year}.json",
            {
                "images": [{"id": key, "file_name": name} for key, name in names.items()],
                "annotations": [
                    {"id": 10 * key + number, "image_id": key, "caption": f"A cat near {key}.\n"}
                    for number in (0, 1)
                    for key in names
                ],
            },
        )
    return folder


@pytest.mark.parametrize(("year", "photos"), [("2014", "."), ("2017", "images")])
def test_coco(tmp_path, year, photos):
    dataset = load_dataset(write_coco(tmp_path, year, photos))
    prefix = "" if year == "2017" else "COCO_train2014_"
    assert dataset.name == "coco"
    assert [len(of_split) for of_split in images(dataset).values()] == [2, 1, 0]
    assert dataset.captions["train"][f"{prefix}000000000002.jpg"] == ["A cat near 2."] * 2
    assert dataset.image_paths[f"{prefix}000000000002.jpg"].parent == tmp_path / photos / f"train{year}"
    assert dataset.problems == ()
    assert "test       empty" in dataset.summary()


def test_coco_of_both_years_keeps_each_photo_once(tmp_path):
    write_coco(write_coco(tmp_path, "2014", "."), "2017", ".")
    dataset = load_dataset(tmp_path)
    assert [len(of_split) for of_split in images(dataset).values()] == [2, 1, 0]
    assert "twice" in the_problem(dataset)


def test_coco_of_both_years_never_puts_one_photo_in_two_splits(tmp_path):
    write_coco(tmp_path, "2014", ".")
    draw(tmp_path / "val2017", "000000000001.jpg")
    write(
        tmp_path / "annotations/captions_val2017.json",
        {
            "images": [{"id": 1, "file_name": "000000000001.jpg"}],
            "annotations": [{"id": 10, "image_id": 1, "caption": "A cat near 1."}],
        },
    )
    dataset = load_dataset(tmp_path)
    assert images(dataset)["validation"] == ["COCO_val2014_000000000003.jpg"]
    assert "two split files" in the_problem(dataset)


def test_coco_images_of_one_name_are_not_mixed_up(tmp_path):
    path = write_coco(tmp_path, "2017", ".") / "annotations/captions_train2017.json"
    change(path, "000000000002.jpg", "other/000000000001.jpg")
    dataset = load_dataset(tmp_path)
    assert dataset.captions["train"] == {"000000000001.jpg": ["A cat near 1."] * 2}
    assert the_problem(dataset) == "two images of one name, the second skipped: 1 (captions_train2017.json image 1)"


def test_coco_folders_that_use_the_same_names_are_not_mixed_up(tmp_path):
    for split in ("train", "val"):
        draw(tmp_path / split, "1.jpg", f"{split}.jpg")
        write(
            tmp_path / "annotations" / f"captions_{split}.json",
            {
                "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": f"{split}.jpg"}],
                "annotations": [{"id": key, "image_id": key, "caption": f"From {split}."} for key in (1, 2)],
            },
        )
    dataset = load_dataset(tmp_path)
    assert dataset.captions["train"] == {"1.jpg": ["From train."], "train.jpg": ["From train."]}
    assert dataset.captions["validation"] == {"val.jpg": ["From val."]}
    assert dataset.image_paths["1.jpg"] == tmp_path / "train" / "1.jpg"
    assert any("two split files" in problem and "1.jpg" in problem for problem in dataset.problems)


def karpathy(name: str, *entries: tuple) -> dict:
    return {
        "dataset": name,
        "images": [
            {
                "filename": image,
                "split": split,
                "sentences": [{"raw": f" A bird, on {image}. ", "sentid": number}],
                **more,
            }
            for number, (image, split, more) in enumerate(entries)
        ],
    }


def test_karpathy_splits_come_before_the_layout_around_them(tmp_path):
    write_flickr8k(tmp_path)
    write(
        tmp_path / "dataset_flickr8k.json",
        karpathy("flickr8k", ("a.jpg", "test", {}), ("b.jpg", "val", {}), ("c.jpg", "train", {})),
    )
    dataset = load_dataset(tmp_path)
    assert images(dataset) == {"train": ["c.jpg"], "validation": ["b.jpg"], "test": ["a.jpg"]}
    assert dataset.captions["train"]["c.jpg"] == ["A bird, on c.jpg."]
    assert (dataset.name, dataset.problems) == ("flickr8k", ())


@pytest.mark.parametrize("photos", [".", "images"])
def test_karpathy_coco(tmp_path, photos):
    draw(tmp_path / photos / "train2014", "1.jpg")
    draw(tmp_path / photos / "val2014", "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    write(
        tmp_path / "annotations/dataset_coco.json",
        karpathy(
            "coco",
            ("1.jpg", "train", {"filepath": "train2014"}),
            ("2.jpg", "restval", {"filepath": "val2014"}),
            ("3.jpg", "val", {"filepath": "val2014"}),
            ("4.jpg", "test", {"filepath": "val2014"}),
        ),
    )
    dataset = load_dataset(tmp_path)
    assert dataset.name == "coco"
    assert images(dataset) == {"train": ["1.jpg", "2.jpg"], "validation": ["3.jpg"], "test": ["4.jpg"]}
    assert dataset.image_paths["1.jpg"].parent.name == "train2014"
    assert dataset.problems == ()


def test_the_karpathy_file_whose_images_are_here_is_read(tmp_path):
    draw(tmp_path / "flickr30k-images", "3.jpg")
    for name, image in (("flickr8k", "8.jpg"), ("flickr30k", "3.jpg"), ("coco", "c.jpg")):
        write(tmp_path / f"dataset_{name}.json", karpathy(name, (image, "train", {})))
    dataset = load_dataset(tmp_path)
    assert (dataset.name, images(dataset)["train"]) == ("flickr30k", ["3.jpg"])
    assert the_problem(dataset) == "dataset_flickr8k.json passed over: no usable image"


# Faulty lines and files: each kind is reported once, and only its line or image is lost


def test_missing_images_are_counted_and_only_three_are_listed(tmp_path):
    write_flickr8k(tmp_path)
    gone = [f"gone{index}.jpg" for index in range(2000)]
    write(tmp_path / TOKENS, [f"{name}#{n}\tA dog ." for name in ["a.jpg", *gone] for n in range(5)])
    write(tmp_path / "Flickr8k_text/Flickr_8k.trainImages.txt", ["a.jpg", *gone])
    dataset = load_dataset(tmp_path)
    assert images(dataset)["train"] == ["a.jpg"]
    assert "image file missing: 2000 (gone0.jpg, gone1.jpg, gone2.jpg, …)" in dataset.problems
    assert len(dataset.summary()) < 1000


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("a.jpg#2\t", "caption without a word"),
        ("a.jpg#2\t   ", "caption without a word"),
        ("a.jpg#0\tCaption 0 of a .", "duplicate line"),
        ("a.jpg#2 A dog without a tab .", "malformed line"),
        ("a.jpg\tA dog without a number .", "malformed line"),
        ("a.jpg#x\tA dog .", "malformed line"),
    ],
)
def test_a_faulty_line_in_flickr8k(tmp_path, line, kind):
    write_flickr8k(tmp_path)
    clean = load_dataset(tmp_path)
    with open(tmp_path / TOKENS, "a") as file:
        file.write(line + "\n")
    dataset = load_dataset(tmp_path)
    assert dataset.captions == clean.captions
    assert the_problem(dataset) == f"{kind} skipped: 1 (Flickr8k.token.txt line 9)"


def test_two_people_may_write_the_same_caption(tmp_path):
    write_flickr8k(tmp_path)
    change(tmp_path / TOKENS, "Caption 1 of a", "Caption 0 of a")
    dataset = load_dataset(tmp_path)
    assert dataset.captions["train"]["a.jpg"] == ["Caption 0 of a ."] * 2
    assert dataset.problems == ()


def test_a_stray_extension(tmp_path):
    write_flickr8k(tmp_path)
    draw(tmp_path / "Flicker8k_Dataset", "e.jpg")
    (tmp_path / "Flicker8k_Dataset/e.jpg").rename(tmp_path / "Flicker8k_Dataset/e.jpg.1")
    clean = load_dataset(tmp_path)
    with open(tmp_path / TOKENS, "a") as file:
        file.writelines(f"e.jpg.1#{number}\tA dog {number} .\n" for number in range(5))
    dataset = load_dataset(tmp_path)
    assert dataset.captions == clean.captions
    assert the_problem(dataset) == "image name with a stray extension skipped: 1 (e.jpg.1)"


@pytest.mark.parametrize("layout", ["flickr8k", "kaggle"])
def test_windows_line_ends_and_byte_order_marks(tmp_path, layout):
    write_flickr8k(tmp_path) if layout == "flickr8k" else write_kaggle_flickr8k(tmp_path)
    clean = load_dataset(tmp_path)
    for path in tmp_path.rglob("*.txt"):
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b"\n", b"\r\n"))
    dataset = load_dataset(tmp_path)
    assert (dataset.captions, dataset.image_paths) == (clean.captions, clean.image_paths)
    assert len(dataset.problems) == 2 and "BOM" in dataset.problems[0] and "CRLF" in dataset.problems[1]


def test_a_line_with_undecodable_bytes_is_skipped(tmp_path):
    write_flickr8k(tmp_path)
    tokens = tmp_path / TOKENS
    tokens.write_bytes(tokens.read_bytes().replace(b"Caption 0 of a", "Un café".encode("latin-1")))
    dataset = load_dataset(tmp_path)
    assert dataset.captions["train"]["a.jpg"] == ["Caption 1 of a ."]
    assert the_problem(dataset) == "undecodable bytes, line skipped: 1 (Flickr8k.token.txt line 1)"


def test_captions_of_any_language_stay_as_they_are(tmp_path):
    write_flickr8k(tmp_path)
    text = "Zwei Jungen\u2028spielen, 2 «Hunde»\x85 … 狗 🐕 !"
    tokens = tmp_path / TOKENS
    tokens.write_bytes(tokens.read_bytes().replace(b"Caption 0 of a .", f"  {text}  ".encode()))
    dataset = load_dataset(tmp_path)
    assert dataset.captions["train"]["a.jpg"][0] == text
    assert dataset.problems == ()


def test_an_image_in_two_split_files_stays_in_the_first(tmp_path):
    write_flickr8k(tmp_path)
    write(tmp_path / "Flickr8k_text/Flickr_8k.testImages.txt", ["a.jpg", "d.jpg", "d.jpg"])
    dataset = load_dataset(tmp_path)
    assert images(dataset) == {"train": ["a.jpg", "b.jpg"], "validation": ["c.jpg"], "test": ["d.jpg"]}
    in_two, twice = dataset.problems
    assert "two split files" in in_two and "a.jpg" in in_two
    assert "twice" in twice and "d.jpg" in twice


def test_images_without_captions_and_captions_without_split_are_reported(tmp_path):
    write_flickr8k(tmp_path)
    change(tmp_path / "Flickr8k_text/Flickr_8k.devImages.txt", "c.jpg", "z.jpg")
    dataset = load_dataset(tmp_path)
    assert images(dataset) == {"train": ["a.jpg", "b.jpg"], "validation": [], "test": ["d.jpg"]}
    without_caption, without_split = dataset.problems
    assert "z.jpg" in without_caption and "caption" in without_caption
    assert "c.jpg" in without_split and "no split" in without_split


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('000.jpg,"A quote left open .', "malformed line"),
        ("000.jpg", "malformed line"),
        ("000.jpg,A dog , unquoted .", "malformed line"),
        ("000.jpg,", "caption without a word"),
        ('000.jpg,"A dog , number 0 , of ""000.jpg"" ."', "duplicate line"),
    ],
)
def test_a_faulty_line_in_kaggle_flickr8k(tmp_path, line, kind):
    write_kaggle_flickr8k(tmp_path, count=3)
    clean = load_dataset(tmp_path)
    lines = (tmp_path / "captions.txt").read_text().splitlines()
    write(tmp_path / "captions.txt", [*lines[:6], line, *lines[6:]])
    dataset = load_dataset(tmp_path)
    assert dataset.captions == clean.captions
    problem = the_problem(dataset)
    assert problem.startswith(f"{kind} skipped") and problem.endswith(": 1 (captions.txt line 7)")
    assert ("double quotes" in problem) == (kind == "malformed line")


def test_faults_in_coco(tmp_path):
    path = write_coco(tmp_path, "2017", ".") / "annotations/captions_train2017.json"
    clean = load_dataset(tmp_path)
    content = json.loads(path.read_text())
    content["images"] += [{"id": 7}, None, {"id": 8, "file_name": "8.jpg"}]
    content["annotations"] += [
        {"id": 90, "image_id": 77, "caption": "Of nothing."},
        {"id": 91, "image_id": 1},
        "what",
        {"image_id": [1]},
        {"id": 92, "image_id": 1, "caption": None},
        {"id": 93, "image_id": 1, "caption": " "},
        content["annotations"][0],
        {"id": 94, "image_id": 1, "caption": "Half a pair \ud83d."},
    ]
    write(path, content)
    write(path.with_name("captions_other.json"), content)
    dataset = load_dataset(tmp_path)
    assert dataset.captions == clean.captions
    assert [problem.split(":")[0] for problem in dataset.problems] == [
        "annotation file of no known split skipped",
        "malformed entry skipped",
        "malformed caption skipped",
        "caption without a word skipped",
        "duplicate line skipped",
        "undecodable bytes, line skipped",
        "image in a split but without a usable caption skipped",
    ]
    dataset.summary().encode()  # can be printed


def test_faults_in_karpathy(tmp_path):
    draw(tmp_path, "a.jpg", "b.jpg")
    content = karpathy("flickr8k", ("a.jpg", "train", {}), ("b.jpg", "holiday", {}))
    content["images"] += [
        None,
        {"filename": "b.jpg", "split": "val"},
        {"filename": 3, "split": "val", "sentences": []},
        {"filename": "b.jpg", "split": "val", "sentences": [{"tokens": ["a"]}]},
    ]
    write(tmp_path / "dataset_flickr8k.json", content)
    dataset = load_dataset(tmp_path)
    assert images(dataset) == {"train": ["a.jpg"], "validation": [], "test": []}
    assert the_problem(dataset).startswith("malformed entry skipped: 5 (dataset_flickr8k.json image 1, ")


# Errors


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"images": 3}', b"\xff\xfe\x00"])
def test_a_cut_json_file_is_named(tmp_path, content):
    draw(tmp_path, "a.jpg")
    write(tmp_path / "dataset_coco.json", content)
    with pytest.raises(DatasetError, match="dataset_coco.json"):
        load_dataset(tmp_path)


def test_a_cut_karpathy_file_is_reported_when_another_layout_is_read(tmp_path):
    write_flickr8k(tmp_path)
    write(tmp_path / "dataset_flickr8k.json", b'{"images": [')
    assert the_problem(load_dataset(tmp_path)) == "dataset_flickr8k.json passed over: no usable image"


@pytest.mark.parametrize("folder", ["empty", "absent", "file.txt"])
def test_no_known_layout(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    with pytest.raises(DatasetError) as error:
        load_dataset(str(tmp_path / folder))
    message = str(error.value)
    assert str(tmp_path / folder) in message
    for looked_for in (
        "Flicker8k_Dataset",
        "Flickr8k.token.txt",
        "captions.txt",
        "results.csv",
        "captions_*.json",
        "dataset_flickr8k.json",
        "get Flickr8k",
    ):
        assert looked_for in message


def test_an_error_says_what_the_folder_holds(tmp_path):
    write(tmp_path / "texts.csv", ["image,caption"])
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DatasetError, match="It holds: pictures, texts.csv."):
        load_dataset(tmp_path)


def test_captions_csv(tmp_path):
    write_kaggle_flickr8k(tmp_path)
    expected = load_dataset(tmp_path)
    (tmp_path / "captions.txt").rename(tmp_path / "captions.csv")
    assert load_dataset(tmp_path) == expected


def test_a_name_with_a_folder_is_explained(tmp_path):
    write_kaggle_flickr8k(tmp_path)
    text = (tmp_path / "captions.txt").read_text()
    (tmp_path / "captions.txt").write_text(text.replace("000.jpg,", "Images/000.jpg,"))
    assert (
        the_problem(load_dataset(tmp_path)) == "image file missing (names must be without folders): 1 (Images/000.jpg)"
    )


def test_captions_without_their_photos(tmp_path):
    write_flickr8k(tmp_path)
    for photo in (tmp_path / "Flicker8k_Dataset").iterdir():
        photo.unlink()
    with pytest.raises(DatasetError) as error:
        load_dataset(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "image file missing: 4 (a.jpg, b.jpg, c.jpg, …)" in str(error.value)


# Whole data sets


def test_drawn_scenes(tmp_path):
    dataset = load_dataset(draw_dataset(tmp_path / "one", images=50, size=32))
    assert [len(of_split) for of_split in images(dataset).values()] == [40, 5, 5]
    assert dataset.problems == ()
    for split in SPLITS:
        for name, captions in dataset.captions[split].items():
            assert len(set(captions)) == 5
            assert Image.open(dataset.image_paths[name]).size == (32, 32)
    again = load_dataset(draw_dataset(tmp_path / "two", images=50, size=32))
    assert again.captions == dataset.captions
    assert all(path.read_bytes() == again.image_paths[name].read_bytes() for name, path in dataset.image_paths.items())
    other = load_dataset(draw_dataset(tmp_path / "three", images=50, size=32, seed=1))
    assert other.captions != dataset.captions


def test_scenes_show_what_their_captions_say(tmp_path):
    dataset = load_dataset(draw_dataset(tmp_path, images=24))
    nearest = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
    for name, path in dataset.image_paths.items():
        image = Image.open(path)
        centre, corner = image.getpixel((32, 32)), image.getpixel((1, 1))
        colour = min(nearest, key=lambda key: sum((a - b) ** 2 for a, b in zip(nearest[key], centre)))
        background = "white" if sum(corner) > 380 else "black"
        (captions,) = [dataset.captions[split][name] for split in SPLITS if name in dataset.captions[split]]
        assert all(f" {colour} " in caption and f" {background} " in caption for caption in captions)


@pytest.mark.slow
def test_flickr8k_itself(flickr8k):
    """Slow: the real data set."""
    dataset = load_dataset(flickr8k)
    has_test_split = any(flickr8k.rglob("Flickr_8k.testImages.txt"))
    assert [len(of_split) for of_split in images(dataset).values()] == [6000, 1000, 1000 if has_test_split else 0]
    assert {len(captions) for split in SPLITS for captions in dataset.captions[split].values()} == {5}
    assert any("Flickr_8k.testImages.txt" in problem for problem in dataset.problems) != has_test_split
