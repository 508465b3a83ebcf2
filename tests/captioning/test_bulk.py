"""Bulk captions without Ray: what is found, what is missing, and what an actor writes.

Slow: it captions many photos and starts processes.
"""

import errno
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from helpers import ROOT, picture

pa = pytest.importorskip("pyarrow", reason="needs requirements-cluster.txt")
import pandas  # noqa: E402

from captioning.bulk import BulkError, actor, shards, sources  # noqa: E402
from captioning.bulk.__main__ import main  # noqa: E402

pytestmark = pytest.mark.slow

MODEL = ROOT / "artifacts"
OPTIONS = {"beam_width": 2, "language": "en"}


@pytest.fixture
def folder(tmp_path):
    """Three pictures, one broken one, and a file that is none."""
    folder = tmp_path / "photos"
    for name in ("a.jpg", "b ü#1.png", "more/c.JPG"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(len(name)))
    (folder / "z.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def found(*inputs):
    return sources.find_sources(map(str, inputs))["source"].to_pylist()


def photos_of(*inputs):
    table = sources.find_sources(map(str, inputs))
    return {
        path: content if isinstance(content, bytes) else content()
        for source, kind in zip(table["source"].to_pylist(), table["kind"].to_pylist())
        for path, content in sources.read_source(source, kind)
    }


def test_folders_and_patterns(folder, monkeypatch):
    everything = [str(folder / name) for name in ("a.jpg", "b ü#1.png", "more/c.JPG", "z.jpg")]
    assert found(folder) == found(folder, folder / "a.jpg", f"{folder}/more/../a.jpg") == everything, "each once"
    assert found(f"{folder}/*.jpg") == [everything[0], everything[3]]
    assert found(f"{folder}/**/*.[jJ]*") == [everything[0], everything[2], everything[3]]
    monkeypatch.chdir(folder)
    assert found("more") == [everything[2]]
    assert photos_of(folder / "b ü#1.png") == {everything[1]: (folder / "b ü#1.png").read_bytes()}


def test_odd_entries_of_a_folder_do_not_stop_the_others(folder, caplog):
    before = found(folder)
    (folder / "more" / "._c.JPG").write_bytes(b"written by macOS")
    (folder / "more" / "loop").symlink_to(folder)
    (folder / os.fsdecode(b"m\xf6we.jpg")).write_bytes(picture())
    assert found(folder) == found(f"{folder}/**/*.*") == before
    assert {record.getMessage() for record in caplog.records} == {
        f"left out: '{folder}/m\\udcf6we.jpg' (its name is not UTF-8)"
    }


def test_a_folder_that_cannot_be_listed_is_left_out(folder, monkeypatch, caplog):
    """A test that runs as root may read all folders."""
    real = os.scandir

    def refuse(path):
        if str(path).endswith("more"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert len(found(folder)) == 3
    assert caplog.messages == [f"left out: {folder}/more (Permission denied)"]


def test_tables_of_paths(folder):
    paths = ["a.jpg", "more/c.JPG", "a.jpg", str(folder / "z.jpg"), "absent.jpg"]
    frame = pandas.DataFrame({"id": range(5), "path": paths})
    frame.to_csv(folder / "list.csv", index=False)
    frame.to_parquet(folder / "list.parquet")
    expected = [str(folder / name) for name in ("a.jpg", "absent.jpg", "more/c.JPG", "z.jpg")]
    assert found(folder / "list.csv") == found(folder / "list.parquet") == found(folder / "*.csv") == expected
    with pytest.raises(FileNotFoundError):
        photos_of(folder / "list.csv")


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: {"bytes": data, "path": None}])
def test_tables_of_bytes(folder, wrap):
    data = [picture(i) for i in range(5)]
    pandas.DataFrame({"n": range(5), "image": map(wrap, data)}).to_parquet(folder / "t.parquet", row_group_size=2)
    assert found(folder / "t.parquet") == [f"{folder}/t.parquet#{group}" for group in range(3)]
    assert list(photos_of(folder / "t.parquet").values()) == data


def test_tars(folder):
    with tarfile.open(folder / "t.tar", "w") as archive:
        archive.add(folder / "a.jpg", "x/a.jpg")
        archive.add(folder / "notes.txt", "x/a.txt")
        archive.add(folder / "more", "more")
        archive.add(folder / "notes.txt", "more/._c.JPG")  # as macOS adds them
    assert list(photos_of(folder / "t.tar")) == [f"{folder}/t.tar/x/a.jpg", f"{folder}/t.tar/more/c.JPG"]
    assert f"{folder}/t.tar" in found(folder)


@pytest.mark.parametrize(
    "wrong", ["", "absent", "absent/*.jpg", "notes.txt", "empty", "t.csv", "paths.csv", "broken.parquet", "x://y"]
)
def test_wrong_inputs_are_named(folder, wrong):
    (folder / "empty").mkdir()
    (folder / "t.csv").write_text("a,b\n1,2\n")
    (folder / "paths.csv").write_text("a.jpg\nmore/c.JPG\n")  # without a header
    (folder / "broken.parquet").write_bytes(b"PAR1 nothing")
    place = wrong if "://" in wrong else str(folder / wrong) if wrong else str(folder / "empty" / "*")
    with pytest.raises(BulkError, match=place.replace("*", r"\*")):
        sources.find_sources([place])


class Output:
    """An output folder, and an actor that works on it."""

    def __init__(self, folder):
        self.shards = shards.Shards(str(folder))
        mark = self.shards.open()
        self.options = {"model": actor.model_id(MODEL), **OPTIONS}
        self.actor = actor.Captioner(str(MODEL), self.options["model"], str(folder), mark, OPTIONS)

    def plan(self, *inputs):
        return shards.plan(sources.find_sources(map(str, inputs)), self.shards, self.options, actors=1)

    def run(self, *inputs):
        """Caption what is missing; returns its sources."""
        parts = self.plan(*inputs)
        for part in parts:
            self.actor(part)
        return [source for part in parts for source in part["source"].to_pylist()]

    @property
    def rows(self):
        rows = pandas.read_parquet(self.shards.folder)
        assert rows["path"].is_unique
        return rows.set_index("path")


@pytest.fixture
def loaded(generator, monkeypatch):
    """Actors take the model that the tests have loaded."""
    monkeypatch.setattr(actor.CaptionGenerator, "load", lambda folder: generator)


@pytest.fixture
def output(loaded, tmp_path):
    output = Output(tmp_path / "out")
    yield output
    output.actor.workers.close()


def test_rows_are_those_of_the_generator(output, folder, generator):
    output.run(folder)
    rows = output.rows
    plain = generator.caption(folder / "a.jpg", beam_width=2, alternatives=2)
    row = rows.loc[str(folder / "a.jpg")]
    assert (row["caption"], row["width"], row["height"], row["beam_width"]) == (plain.text, 120, 90, 2)
    assert row["probability"] == pytest.approx(plain.probability, rel=1e-4)
    assert [alternative["caption"] for alternative in row["alternatives"]] == [a.text for a in plain.alternatives]
    assert "not a photo" in rows.loc[str(folder / "z.jpg")]["error"]
    assert rows["error"].notna().sum() == rows["caption"].isna().sum() == 1


def test_only_what_is_missing_is_done(output, folder):
    assert len(output.run(folder)) == 4
    assert output.run(folder, folder) == []
    (folder / "new.jpg").write_bytes(picture(7))
    (folder / "a.jpg").write_bytes(picture(8, (50, 60)))
    (folder / "z.jpg").unlink()
    before = output.rows
    assert output.run(folder) == [str(folder / "a.jpg"), str(folder / "new.jpg")]
    assert output.rows.loc[str(folder / "a.jpg")]["width"] == 50, "the row of a photo that changed is replaced"
    same = [str(folder / name) for name in ("b ü#1.png", "more/c.JPG", "z.jpg")]
    assert output.rows.loc[same].equals(before.loc[same]), "also of a photo that is gone"
    assert output.run(folder) == []


def test_photos_of_a_folder_that_a_table_names_too_are_done(output, folder):
    (folder / "list.csv").write_text("image\na.jpg\nmore/c.JPG\n")
    assert len(output.run(folder)) == 4
    assert output.run(folder / "list.csv") == output.run(folder, folder / "list.csv") == output.run(folder) == []


def test_what_cannot_be_opened_is_tried_again(output, folder):
    (folder / "list.csv").write_text("image\na.jpg\nlate.jpg\n")
    output.run(folder / "list.csv")
    assert "does not exist" in output.rows.loc[str(folder / "late.jpg")]["error"]
    (folder / "late.jpg").write_bytes(picture())
    assert output.run(folder / "list.csv") == [str(folder / "late.jpg")]
    assert output.rows["error"].isna().all() and len(output.rows) == 2


def test_damaged_tars_have_a_row_with_the_error(output, folder):
    cut, no, none = (folder / f"{name}.tar" for name in ("cut", "no", "none"))
    with tarfile.open(cut, "w") as archive:
        archive.add(folder / "a.jpg", "a.jpg")
        archive.add(folder / "more/c.JPG", "c.jpg")
    with tarfile.open(cut) as archive:
        os.truncate(cut, archive.getmember("c.jpg").offset_data + 100)
    no.write_bytes(b"x" * 2000)
    none.write_bytes(bytes(10240))
    output.run(cut, no, none)
    errors = output.rows["error"]
    assert "damaged" in errors[str(cut)] and "damaged" in errors[str(no)] and "no photos" in errors[str(none)]
    assert pandas.isna(errors[f"{cut}/a.jpg"])
    assert output.run(cut, no, none) == [], "trying again would not help"


def test_shards_of_two_runs_at_once_are_repaired(output, folder):
    output.run(folder)
    (twin,) = Path(output.shards.folder).glob("*.parquet")
    twin.with_name("zzz.parquet").write_bytes(twin.read_bytes())
    assert output.run(folder) == []
    assert len(output.rows) == 4


def test_another_model_or_beam_width_needs_another_output(output, folder):
    output.run(folder)
    for name, value in {"beam_width": 5, "language": "de", "model": "other"}.items():
        output.options[name] = value
        with pytest.raises(BulkError, match="choose another output"):
            output.plan(folder)


def test_parts_are_cut_for_the_actors(output, folder):
    table = pa.Table.from_pylist(
        [{"source": f"{i:05}.jpg", "kind": "photo", "version": "1", "photos": 1} for i in range(3000)]
        + [{"source": f"{i}.tar", "kind": "tar", "version": "1"} for i in range(3)],
        sources.SCHEMA,
    )

    def sizes(photos, actors):
        return [part.num_rows for part in shards.plan(table[:photos], output.shards, output.options, actors)]

    assert sizes(3000, 1) == [500] * 6
    assert sizes(3000, 10) == [75] * 40
    assert sizes(30, 10) == [20, 10]
    assert len(sizes(3003, 1)) == 9 and sum(sizes(3003, 1)) == 3003


def test_jsonl_and_coco(output, folder):
    output.run(folder)
    rows = [json.loads(line) for line in Path(output.shards.export("jsonl")).read_text().splitlines()]
    assert {row["path"]: row["caption"] for row in rows if not row["error"]} == output.rows[
        "caption"
    ].dropna().to_dict()
    results = json.loads(Path(output.shards.export("coco")).read_text())
    assert sorted(result["image_id"] for result in results) == ["a", "b ü#1", "c"]


def test_coco_ids_that_are_the_same_are_refused(output, folder):
    (folder / "more" / "a.jpg").write_bytes(picture(7))
    output.run(folder)
    with pytest.raises(BulkError, match="would have the same id"):
        output.shards.export("coco")


def test_coco_ids_of_the_rows_of_tables_differ(output, folder):
    photo = (folder / "a.jpg").read_bytes()
    for name in ("one", "two"):
        pandas.DataFrame({"image": [photo] * 2}).to_parquet(folder / f"{name}.parquet", row_group_size=1)
        output.run(folder / f"{name}.parquet")
    results = json.loads(Path(output.shards.export("coco")).read_text())
    expected = [f"{name}.parquet#{group}/0" for name in ("one", "two") for group in (0, 1)]
    assert sorted(result["image_id"] for result in results) == expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("input", "there is no"),
        ("output", "cannot write"),
        ("model", "manifest.json"),
        ("cluster", "does not answer"),
        ("language", "the model has captions in: en"),
    ],
)
def test_the_command_line_says_what_is_wrong_before_any_work(folder, tmp_path, wrong, message, monkeypatch, capsys):
    pytest.importorskip("ray", reason="needs requirements-cluster.txt")
    monkeypatch.setenv("ARTIFACTS_DIR", str(tmp_path if wrong == "model" else MODEL))
    (tmp_path / "file").write_text("in the way")
    output = tmp_path / ("file/x" if wrong == "output" else "out")
    arguments = [str(folder / ("absent" if wrong == "input" else "")), "--output", str(output)]
    extra = {"cluster": ["--address", "127.0.0.1:9"], "language": ["--language", "tlh"]}
    assert main([*arguments, *extra.get(wrong, [])]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.parquet/*.parquet"))


def test_without_ray_the_command_line_says_how_to_install_it(folder, tmp_path):
    script = "import sys; sys.modules['ray'] = None; from captioning.bulk.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", script, folder, "--output", tmp_path / "out"]
    result = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ") and "pip install -r requirements-cluster.txt" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def s3(monkeypatch):
    """A server on this machine that speaks S3, with a bucket ``photos``."""
    server = pytest.importorskip("moto.server", reason="needs requirements-dev.txt")
    import boto3

    server = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    settings = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "eu-west-1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    sources._bucket.cache_clear()
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    yield client
    sources._bucket.cache_clear()
    server.stop()


def test_s3(s3, loaded, folder, tmp_path):
    for path in filter(Path.is_file, folder.rglob("*")):
        s3.upload_file(path, "photos", f"in/{path.relative_to(folder)}")
    names = [f"s3://photos/in/{name}" for name in ("a.jpg", "b ü#1.png", "more/c.JPG", "z.jpg")]
    assert found("s3://photos/in") == found("s3://photos/in/") == found("s3://photos/i*/**") == names
    output = Output("s3://photos/out")
    try:
        assert output.run("s3://photos/in") == names
        s3.upload_file(folder / "a.jpg", "photos", "in/new.jpg")
        assert output.run("s3://photos/in") == ["s3://photos/in/new.jpg"]
    finally:
        output.actor.workers.close()
    output.shards.export("jsonl")
    lines = s3.get_object(Bucket="photos", Key="out/captions.jsonl")["Body"].read().decode().splitlines()
    assert sorted(json.loads(line)["path"] for line in lines) == sorted([*names, "s3://photos/in/new.jpg"])
    with pytest.raises(BulkError, match="s3://absent/x"):
        found("s3://absent/x")
    with pytest.raises(BulkError, match="cannot write to s3://absent/out"):
        shards.Shards("s3://absent/out").open()


@pytest.mark.parametrize("arguments", [[], ["x"], ["x", "--output", "y", "--beam-width", "0"]])
def test_wrong_usage_is_exit_code_2(arguments):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
