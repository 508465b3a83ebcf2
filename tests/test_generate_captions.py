import csv
import io
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
import pytest
from clips import animation, clip
from helpers import wait_until
from PIL import Image

from captioning.descriptions import to_srt, to_vtt
from captioning.text import sentence
from generate_captions import Caption, CaptionGenerator, find_photos, main, write_captions

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two readable pictures, one broken one."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (300, 200, 3), "uint8")).save(folder / "a noise.png")
    Image.new("RGB", (640, 480), "skyblue").save(folder / "b.jpg")
    (folder / "c.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_folders_are_searched_in_order(photos):
    assert [p.name for p in find_photos([str(photos)])[0]] == ["a noise.png", "b.jpg", "c.jpg"]


def test_what_is_no_photo_in_a_folder_is_left_out(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    for name in ("a.jpg", "._a.jpg", "folder.jpg/b.png"):
        (tmp_path / name).write_bytes(b"")
    assert find_photos([str(tmp_path)]) == ([tmp_path / "a.jpg", tmp_path / "folder.jpg" / "b.png"], [])


def test_links_to_folders_are_not_followed(tmp_path):
    """What --in-place changes is in the folder that was named."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.jpg").write_bytes(b"")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "more").symlink_to(tmp_path / "one")
    assert find_photos([str(tmp_path / "two")]) == ([], [])


def test_a_folder_that_cannot_be_searched_is_an_error(in_process, tmp_path, monkeypatch, capsys):
    """A test that runs as root may read all folders."""
    (tmp_path / "more").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "b.jpg")
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("more") and may(path, mode))
    assert in_process([str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert f"error: {tmp_path / 'more'}: Permission denied" in printed.err and "b.jpg" in printed.out


def command(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "generate_captions.py", *map(str, arguments)], cwd="/", capture_output=True, text=True
    )


@pytest.mark.slow
def test_command_line_captions_the_good_and_reports_the_bad(photos):
    """Slow: it starts a program."""
    result = command(photos)
    assert result.returncode == 1
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [path for path, _ in lines] == [str(photos / "a noise.png"), str(photos / "b.jpg")]
    assert all(caption for _, caption in lines)
    printed = [line for line in re.split(r"[\r\n]+", result.stderr) if not re.search(r"photo(/s)?\]|^\s*$", line)]
    assert [line for line in printed if not line.startswith(f"error: {photos / 'c.jpg'}: This is not a photo")] == []


@pytest.fixture
def in_process(generator, monkeypatch):
    """`main` with the model that is loaded already."""
    monkeypatch.setattr("generate_captions.CaptionGenerator.load", lambda folder: generator)
    return main


def test_json_holds_alternatives_and_errors(in_process, photos, capsys):
    assert in_process([str(photos), "--format", "json", "--alternatives", "2"]) == 1
    good, _, bad = json.loads(capsys.readouterr().out)
    assert [len(good["alternatives"]), good["alternatives"][0]["caption"]] == [2, good["caption"]]
    assert set(good) == {"image", "caption", "probability", "confidence", "language", "alternatives"}
    assert set(good["alternatives"][0]) == {"caption", "probability", "confidence"}
    assert set(bad) == {"image", "error"} and bad["image"] == str(photos / "c.jpg")


def test_csv_and_coco_files(in_process, photos, tmp_path):
    good = [str(photos / "a noise.png"), str(photos / "b.jpg")]
    assert in_process([*good, "--format", "csv", "--output", str(tmp_path / "x.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))
    assert [row["image"] for row in rows] == good and {row["language"] for row in rows} == {"en"}
    assert in_process([*good, "--format", "coco", "--output", str(tmp_path / "x.json")]) == 0
    assert [set(row) for row in json.loads((tmp_path / "x.json").read_text())] == [{"image_id", "caption"}] * 2


def test_output_that_cannot_be_written(in_process, photos, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for output in ("file/x.txt", "folder"):
        with patch.object(CaptionGenerator, "load", side_effect=AssertionError("asked before the work, not after it")):
            assert in_process([str(photos / "b.jpg"), "--output", str(tmp_path / output)]) == 2
        assert "cannot write" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "csv", "json"])
def test_a_full_disk_behind_standard_output(photos, kind):
    """Slow: it starts the program."""
    line = [sys.executable, ROOT / "generate_captions.py", photos / "b.jpg", "--format", kind]
    with open("/dev/full", "w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "cannot write to standard output: No space left" in done.stderr


@pytest.mark.slow
def test_terminated(photos, tmp_path):
    """Slow: it starts the program."""
    line = [sys.executable, ROOT / "generate_captions.py", *[photos / "a noise.png"] * 5000, "--output", tmp_path / "a"]
    with subprocess.Popen(line, stderr=subprocess.PIPE) as process:
        wait_until(lambda: list(tmp_path.iterdir()))
        process.terminate()
        assert process.wait(30) == 143
    assert not list(tmp_path.iterdir())


def test_output_through_a_link(in_process, photos, tmp_path):
    (tmp_path / "captions.txt").write_text("old")
    (tmp_path / "link").symlink_to("captions.txt")
    assert in_process([str(photos / "b.jpg"), "--output", str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink() and "b.jpg" in (tmp_path / "captions.txt").read_text()
    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    read = []
    reader.start()
    assert in_process([str(photos / "b.jpg"), "--output", str(tmp_path / "pipe")]) == 0
    reader.join()
    assert "b.jpg" in "".join(read)


@pytest.mark.slow
def test_captions_are_written_into_metadata(in_process, tmp_path, capsys):
    """Slow: it starts processes three times."""
    for name in ("a.jpg", "b.gif"):
        Image.new("RGB", (64, 48), "skyblue").save(tmp_path / name)
    jpeg, gif = (tmp_path / name for name in ("a.jpg", "b.gif"))
    before = jpeg.read_bytes()
    assert in_process([str(jpeg), str(gif), "--write-metadata"]) == 0
    caption = capsys.readouterr().out.splitlines()[0].split("\t")[1]
    sentence = f"{caption.capitalize()}."
    assert sorted(os.listdir(tmp_path)) == ["a.jpg", "a.jpg.xmp", "b.gif", "b.gif.xmp"]
    assert sentence in (tmp_path / "a.jpg.xmp").read_text() and jpeg.read_bytes() == before

    assert in_process([str(jpeg), str(gif), "--write-metadata", "--in-place"]) == 1
    output = capsys.readouterr()
    assert f"error: {gif}: Only JPEG, PNG, WebP and TIFF files can hold the text." in output.err
    assert "b.gif\t" in output.out, "its caption is there all the same"
    assert sentence.encode() in jpeg.read_bytes()

    (tmp_path / "a.jpg.xmp").write_text((tmp_path / "a.jpg.xmp").read_text().replace(sentence, "By a person."))
    assert in_process([str(jpeg), "--write-metadata"]) == 0
    assert f"kept: {jpeg}: alt text, description (--overwrite replaces it)" in capsys.readouterr().err
    assert in_process([str(jpeg), "--write-metadata", "--overwrite"]) == 0
    assert sentence in (tmp_path / "a.jpg.xmp").read_text()


@pytest.mark.parametrize("kind", ["text", "csv", "json", "coco"])
def test_file_names_that_are_not_utf_8(in_process, tmp_path, kind):
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Image.new("RGB", (64, 48)).save(os.fsdecode(path), "PNG")
    output = tmp_path / "captions"
    assert in_process([os.fsdecode(path), "--format", kind, "--output", str(output)]) == 0
    assert (b"caf\xe9" if kind in ("text", "csv") else "caf\ufffd".encode()) in output.read_bytes()


def test_an_empty_caption_replaces_no_text(in_process, generator, monkeypatch, tmp_path, capsys):
    without_text = [replace(generator.caption(Image.new("RGB", (64, 48))), text="")]
    monkeypatch.setattr(CaptionGenerator, "caption_batch", lambda *_, **__: without_text)
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    before = (tmp_path / "a.jpg").read_bytes()
    assert in_process([str(tmp_path / "a.jpg"), "--write-metadata", "--in-place", "--overwrite"]) == 1
    assert "the model found no caption" in capsys.readouterr().err
    assert (tmp_path / "a.jpg").read_bytes() == before
    assert in_process([str(tmp_path / "a.jpg")]) == 1
    assert capsys.readouterr().out == ""


def test_a_worker_that_cannot_start(in_process, photos, monkeypatch, capsys):
    def no_process(*_, **__):
        raise RuntimeError("can't start new process")

    monkeypatch.setattr(CaptionGenerator, "caption_batch", no_process)
    assert in_process([str(photos / "b.jpg")]) == 2
    assert "error: can't start new process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--html", "a.html", "--output", "b.html", "--format", "csv"], "--html takes neither"),
        (["--html", "a.html", "--output", "b.html", "--write-metadata"], "--html takes neither"),
        (["a.mp4", "--write-metadata"], "not for clips"),
        ([""], "is empty"),
    ],
)
def test_options_that_do_not_go_together(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_metadata_that_cannot_be_written(in_process, tmp_path, capsys):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg.xmp").write_text("not XMP")
    assert in_process([str(tmp_path / "a.jpg"), "--write-metadata"]) == 1
    assert "a.jpg: a.jpg.xmp is damaged" in capsys.readouterr().err
    (tmp_path / "a.jpg.xmp").unlink()
    (tmp_path / "a.jpg.xmp").mkdir()
    assert in_process([str(tmp_path / "a.jpg"), "--write-metadata"]) == 1
    assert "The metadata cannot be written (Is a directory)." in capsys.readouterr().err


def test_drafts_are_written_into_a_page(in_process, photos, tmp_path, capsys, generator):
    site = tmp_path / "site"
    (site / "pics").mkdir(parents=True)
    (site / "pics" / "my dog.png").write_bytes((photos / "a noise.png").read_bytes())
    (site / "notes.jpg").write_bytes(b"no picture")
    draft = f'<img alt="{sentence(generator.caption(photos / "a noise.png").text)}" data-alt-draft="" src='
    page = (
        b"<h1>\xe4</h1>\r\n<img src='pics/my%20dog.png'><img src=pics/../pics/my%20dog.png alt=''>\r\n"
        b"<img src=https://example.org/a.jpg>\n<img src=notes.jpg><img src=absent.jpg><img src='/pics/my dog.png'>"
    )
    (site / "page.html").write_bytes(page)
    assert in_process(["--html", str(site / "page.html"), "--output", str(tmp_path / "out.html")]) == 1
    expected = page.replace(b"<img src='", draft.encode() + b"'")
    assert (tmp_path / "out.html").read_bytes() == expected and (site / "page.html").read_bytes() == page
    report = [line for line in capsys.readouterr().err.splitlines() if line.startswith((str(site), "Drafts"))]
    assert report[0] == f"{site}/page.html:3: https://example.org/a.jpg: no local file; write its text by hand"
    assert report[1].startswith(f"{site}/page.html:4: notes.jpg: This is not a photo")
    assert report[2].startswith(f"{site}/page.html:4: absent.jpg: The file cannot be opened (No such file")
    assert report[3:] == ["Drafts to check: 2. Images without a draft: 3."]

    assert in_process(["--html", str(tmp_path / "out.html"), "--output", str(tmp_path / "out.html")]) == 1
    assert (tmp_path / "out.html").read_bytes() == expected


def test_page_without_missing_texts(in_process, tmp_path, capsys):
    (tmp_path / "page.html").write_bytes(b"<img alt=x src=a.jpg>")
    with patch.object(CaptionGenerator, "load", side_effect=AssertionError("not needed")):
        assert in_process(["--html", str(tmp_path / "page.html"), "--output", str(tmp_path / "out.html")]) == 0
    assert (tmp_path / "out.html").read_bytes() == b"<img alt=x src=a.jpg>"


def test_page_that_cannot_be_read(in_process, tmp_path, capsys):
    assert in_process(["--html", str(tmp_path / "absent"), "--output", str(tmp_path / "out.html")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/absent: No such file or directory\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x.jpg", "--beam-width", "0"],
        ["x.jpg", "--format", "xml"],
        ["x.jpg", "--in-place"],
        ["x.jpg", "--overwrite"],
        ["x.jpg", "--alternatives", "2"],
        ["one/x.jpg", "two/x.png", "--format", "coco"],
        ["x.mp4", "--format", "json", "--alternatives", "2"],
        ["--html", "a"],
        ["x.jpg", "--html", "a", "--output", "b"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2


@pytest.mark.slow
def test_output_is_utf_8_whatever_the_locale():
    """Slow: it starts a program."""
    code = (
        "import generate_captions as g; output = g.open_output(None).__enter__(); print('Hnědý pes, cœur', file=output)"
    )
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True)
    assert result.stdout.decode() == "Hnědý pes, cœur\n", result.stderr


@pytest.mark.slow
def test_language(in_process, photos, generator, capsys):
    """Slow: it loads a search of each language."""
    for language in generator.languages:
        assert in_process([str(photos / "b.jpg"), "--language", language]) == 0
        expected = generator.caption(photos / "b.jpg", language=language).text
        assert capsys.readouterr().out == f"{photos / 'b.jpg'}\t{expected}\n"


def test_a_language_that_the_model_does_not_have(in_process, photos, generator, capsys):
    assert in_process([str(photos / "b.jpg"), "--language", "tlh"]) == 2
    assert f"the model has captions in: {', '.join(generator.languages)}" in capsys.readouterr().err


def test_a_name_that_is_too_long(in_process, capsys):
    name = "x" * 300 + ".jpg"
    assert in_process([name]) == 1
    assert f"error: {name}: " in capsys.readouterr().err


def test_ctrl_c(photos, monkeypatch, tmp_path):
    monkeypatch.setattr("generate_captions.load_generator", Mock(side_effect=KeyboardInterrupt))
    assert main([str(photos / "b.jpg"), "--output", str(tmp_path / "a.txt")]) == 130
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_wrong_usage(tmp_path):
    with pytest.raises(SystemExit) as exit:
        main([str(tmp_path)])
    assert exit.value.code == 2


def test_bad_artifacts_are_exit_code_2(tmp_path, photos, monkeypatch, capsys):
    monkeypatch.setenv("ARTIFACTS_DIR", str(tmp_path / "nowhere"))
    assert main([str(photos / "b.jpg")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_awkward_names_survive(tmp_path):
    path = tmp_path / 'a, "b".jpg'
    text = io.StringIO()
    write_captions([(path, Caption("a dog", 0.5, 0.7, []), None)], "csv", text)
    assert list(csv.reader(io.StringIO(text.getvalue())))[1] == [str(path), "a dog", "0.5", "0.7", "en"]


SHOTS = ((1, 1.0), (2, 1.0))


@pytest.mark.slow
def test_a_clip_gives_a_timeline(in_process, generator, tmp_path, capsys):
    """Slow: it reads a clip."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip(SHOTS))
    expected = generator.caption_video(path)
    assert in_process([str(path)]) == 0
    assert capsys.readouterr().out == to_vtt(expected)
    assert in_process([str(path), "--format", "srt", "--output", str(tmp_path / "clip.srt")]) == 0
    assert (tmp_path / "clip.srt").read_text() == to_srt(expected)
    assert in_process([str(path), "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"video": str(path), "segments": [s.to_dict() for s in expected]}
    assert "s of the clip" in captured.err


def test_an_animation_is_a_clip_where_a_timeline_is_asked_for(in_process, tmp_path, capsys):
    path = tmp_path / "moving.gif"
    path.write_bytes(animation(SHOTS, "GIF", 0.5))
    assert in_process([str(path), "--format", "vtt"]) == 0
    assert capsys.readouterr().out.startswith("WEBVTT\n\n00:00:00.000 --> ")
    assert in_process([str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}\t")


def test_a_bad_clip_is_exit_code_1_and_leaves_no_file(in_process, tmp_path, capsys):
    for name, content in (("broken.mp4", clip(SHOTS)[:3000]), ("text.mp4", b"no clip"), ("absent.mp4", None)):
        if content:
            (tmp_path / name).write_bytes(content)
        assert in_process([str(tmp_path / name), "--output", str(tmp_path / "out.vtt")]) == 1
        assert f"error: {tmp_path / name}: The" in capsys.readouterr().err.replace("This is not", "The")
        assert not (tmp_path / "out.vtt").exists()


@pytest.mark.parametrize(
    "arguments",
    [["a.mp4", "b.mp4"], ["a.mp4", "b.jpg"], ["a.mp4", "--format", "csv"], ["a.jpg", "b.jpg", "--format", "vtt"]],
)
def test_a_clip_with_anything_else_is_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2 and "name one clip and nothing else" in capsys.readouterr().err
