"""Paths on other storage, on a real S3 server."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import numpy as np
import pandas as pd
import pydicom.data
import pytest
import s3fs
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from medlens.data import remote_path
from medlens.data.dataset import image_files, read_dataset
from medlens.data.images import (
    UnreadableImage,
    is_image_name,
    read_image,
    read_longer_side,
    read_size,
)
from medlens.data.phantom import write_phantoms
from medlens.data.remote import is_remote, join_path, join_texts, local_side, open_path
from medlens.data.scan import scan
from medlens.data.store import Store, write_shard
from medlens.errors import MedlensError
from medlens.files import remove, write_bytes


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4)).save(stream, "PNG")
    return stream.getvalue()


PNG = _png()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few phantoms of three classes, and what is none of the images, on this machine."""
    path = tmp_path_factory.mktemp("data") / "data"
    write_phantoms(path, images=24, seed=3)
    (path / "labels.csv").unlink()
    classes = sorted(entry for entry in path.iterdir() if entry.is_dir())
    sample = pydicom.data.get_testdata_file("MR_small.dcm", download=False)
    (classes[0] / "study").mkdir()
    (classes[0] / ".hidden").mkdir()
    shutil.copy(sample, classes[0] / "study" / "IM000001")
    shutil.copy(sample, classes[0] / "1.2.840.113619")
    shutil.copy(sample, classes[0] / ".hidden" / "IM000002")
    (classes[1] / "notes.txt").write_text("read me", encoding="utf-8")
    (classes[1] / "README").write_text("no image", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def there(bucket: str, folder: Path) -> Path:
    """The same folder on the server."""
    client = boto3.client("s3")
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "images", f"data/{path.relative_to(folder)}")
    return open_path(f"{bucket}/data")


def test_a_text_is_a_path_of_this_machine_or_an_address(bucket: str) -> None:
    assert open_path("a/b.png") == Path("a/b.png")
    assert open_path(Path("a")) == Path("a")
    assert open_path("file:///tmp/a%20b") == Path("/tmp/a b")  # noqa: S108
    assert open_path("C:\\images") == Path("C:\\images")
    address = f"{bucket}/data/a b#1?.png"
    assert is_remote(open_path(address))
    assert str(open_path(address)) == address
    assert join_path(Path("/data"), address) == open_path(address)
    assert join_path(open_path(bucket), "a/b.png") == open_path(f"{bucket}/a/b.png")
    assert join_path(Path("/data"), "a/b.png") == Path("/data/a/b.png")


def test_joined_texts_are_those_of_joined_paths(bucket: str) -> None:
    names = ["a.png", "b/c d.png", "./a.png", "b/../a.png", "/a.png", "b//c.png", "a#1?.png"]
    names.append(f"{bucket}/other.png")
    for folder in (open_path(bucket), open_path(f"{bucket}/data/deep"), Path("/data")):
        joined = [str(join_path(folder, name)) for name in names]
        assert list(join_texts(folder, names)) == joined


def test_what_cannot_be_opened_says_what_is_missing() -> None:
    with pytest.raises(MedlensError) as missing:
        open_path("gs://bucket/a.png")
    assert "pip install 'medlens[ray]' gcsfs" in str(missing.value)
    with pytest.raises(MedlensError, match="kind of storage is not known"):
        open_path("unheard://bucket/a.png")
    with pytest.raises(MedlensError, match="holds a password") as password:
        open_path("sftp://me:secret@host/a.png")
    assert "secret" not in f"{password.value}{password.value.names}"


def test_files_are_written_read_and_removed(bucket: str) -> None:
    path = open_path(f"{bucket}/written/deep/a.bin")
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        path.read_bytes()
    write_bytes(path, b"first")
    write_bytes(path, memoryview(b"second"))
    assert path.read_bytes() == b"second"
    assert (path.is_file(), path.is_dir()) == (True, False)
    assert (path.parent.is_file(), path.parent.is_dir()) == (False, True)
    assert [one.name for one in path.parent.iterdir()] == ["a.bin"]
    assert list(path.parent.parent.glob("**/*.bin")) == [path]
    remove(path.parent)
    remove(path.parent)
    path.unlink(missing_ok=True)
    assert not path.exists()


def test_where_files_do_not_appear_whole_they_are_moved_to_their_place() -> None:
    path = open_path("memory://store/a.bin")
    write_bytes(path, b"first")
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert [one.name for one in path.parent.iterdir()] == ["a.bin"]


def test_a_file_is_replaced_or_an_error_says_that_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some storages do not move onto a file that is there, or not at all, and say nothing."""
    move = MemoryFileSystem.mv

    def move_only_to_free_places(storage: MemoryFileSystem, old: str, new: str) -> None:
        if not storage.exists(new):
            move(storage, old, new)

    monkeypatch.setattr(remote_path, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(MemoryFileSystem, "mv", move_only_to_free_places)
    for address in ("memory://replaced/a", f"local://{tmp_path}/a"):
        path = open_path(address)
        for content in (b"first", b"other", b"longer than before"):
            write_bytes(path, content)
            assert path.read_bytes() == content
        assert [one.name for one in path.parent.iterdir()] == ["a"]
    monkeypatch.setattr(MemoryFileSystem, "mv", lambda *_: None)
    with pytest.raises(MedlensError, match="cannot be used"):
        write_bytes(open_path("memory://replaced/a"), b"of the same length")
    with pytest.raises(MedlensError, match="Nothing can be written to https"):
        write_bytes(open_path("https://localhost/a"), b"")


def test_a_mistake_in_a_program_is_not_tried_again() -> None:
    path, calls = open_path("memory://a"), []

    def act() -> None:
        calls.append(0)
        raise TypeError

    assert is_remote(path)
    with pytest.raises(TypeError):
        path.try_to(act)
    assert len(calls) == 1


def test_a_missing_bucket_is_named_and_not_made(bucket: str) -> None:
    path = open_path("s3://no-such-bucket/a.bin")
    assert not path.exists()
    with pytest.raises(MedlensError, match="place to write to is not there") as error:
        write_bytes(path, b"content")
    assert error.value.names == ("s3://no-such-bucket/a.bin",)
    assert [one["Name"] for one in boto3.client("s3").list_buckets()["Buckets"]] == ["images"]
    with pytest.raises(UnreadableImage) as refused:
        read_image(path)
    assert refused.value.reason == "It cannot be opened: No such file or directory."


@pytest.fixture
def strict(bucket: str) -> Iterator[str]:
    """The bucket while its server looks at the keys."""

    def look(after: str) -> None:
        address = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        said = httpx.post(address, content=after, headers={"Content-Type": "text/plain"})
        assert said.status_code == 200

    look("0")
    yield bucket
    look("inf")


def test_wrong_keys_stop_the_work_and_are_not_shown(strict: str) -> None:
    path = open_path(f"{strict}/a.png")
    for act in (path.read_bytes, path.exists, lambda: path.write_bytes(b""), path.is_dir):
        with pytest.raises(MedlensError, match="refuses access") as error:
            act()
        assert "nobody" not in f"{error.value}{error.value.names}"
        assert "no-secret" not in f"{error.value}{error.value.names}"


@pytest.fixture
def few_rights(
    bucket: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """A folder of the bucket for keys that may read what is in `open` of it, and list nothing."""
    for name in ("open/a.png", "open/b.png", "closed.png"):
        boto3.client("s3").put_object(Bucket="images", Key=f"rights/{name}", Body=PNG)
    allow = {"Effect": "Allow", "Action": "s3:GetObject"}
    rights = [{**allow, "Resource": "arn:aws:s3:::images/rights/open/*"}]
    person = boto3.client("iam")
    person.create_user(UserName="few")
    document = json.dumps({"Version": "2012-10-17", "Statement": rights})
    person.put_user_policy(UserName="few", PolicyName="few", PolicyDocument=document)
    keys = person.create_access_key(UserName="few")["AccessKey"]
    request.getfixturevalue("strict")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
    s3fs.S3FileSystem.clear_instance_cache()
    yield open_path(f"{bucket}/rights")
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_file_that_is_refused_alone_does_not_stop_the_work(
    few_rights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storage that lists nothing refuses what is missing, too."""
    refused = [few_rights / "closed.png", few_rights / "missing.png", few_rights / "IM0001"]
    for path in refused:  # nothing was read yet: the keys may be wrong
        with pytest.raises(MedlensError, match="refuses access"):
            read_image(path)
    assert read_image(few_rights / "open" / "a.png").pixels.shape == (4, 6, 3)
    for path in refused:
        for read in (read_image, read_longer_side):
            with pytest.raises(UnreadableImage) as alone:
                read(path)
            assert alone.value.reason == "It cannot be opened: the storage refuses this file."
    assert is_image_name(refused[-1])
    # A key that expires is no matter of one file, whatever was read before.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "expired")
    s3fs.S3FileSystem.clear_instance_cache()
    for path in (*refused, few_rights / "open" / "a.png"):
        with pytest.raises(MedlensError, match="refuses access"):
            read_image(open_path(str(path)))  # whose client has the new keys


def test_a_file_of_a_folder_that_may_be_listed_is_refused_alone(bucket: str) -> None:
    client = boto3.client("s3")
    client.create_bucket(Bucket="listed")
    client.put_object(Bucket="listed", Key="deep/closed.png", Body=PNG)
    resource = "arn:aws:s3:::listed/deep/closed.png"
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": resource}
    document = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    client.put_bucket_policy(Bucket="listed", Policy=document)
    with pytest.raises(UnreadableImage, match="the storage refuses this file"):
        read_image(open_path("s3://listed/deep/closed.png"))
    client.delete_object(Bucket="listed", Key="deep/closed.png")
    client.delete_bucket(Bucket="listed")


def test_a_storage_that_does_not_answer_is_given_up(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(remote_path, "PAUSES", (0.01, 0.01))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(MedlensError, match="cannot be used") as error:
        read_image(open_path("s3://images/a.png"))
    assert "3 attempts" in error.value.got
    s3fs.S3FileSystem.clear_instance_cache()


def test_images_are_found_and_read_as_on_this_machine(folder: Path, there: Path) -> None:
    passed_over: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    here = [list(image_files(one, passed_over[0])) for one in sorted(folder.iterdir())]
    found = [list(image_files(one, passed_over[1])) for one in sorted(there.iterdir(), key=str)]
    assert found == here
    assert passed_over[0] == passed_over[1]
    assert passed_over[1]["not an image"] == 2
    for path in [path for some in here for path in some]:
        assert np.array_equal(read_image(there / path).pixels, read_image(folder / path).pixels)
        assert read_size(there / path) == read_size(folder / path)
    assert not is_image_name(there / "no such file")


def test_of_a_large_image_only_the_first_bytes_are_asked_for_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 900)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    Image.fromarray(noise).save(tmp_path / "a.tif")
    asked: list[int | None] = []
    ask = MemoryFileSystem.cat_file

    def noted(storage: MemoryFileSystem, path: str, **part: int | None) -> bytes:
        asked.append(part.get("end"))
        return ask(storage, path, **part)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", noted)
    for name in ("a.png", "a.tif"):
        path = open_path(f"memory://sizes/{name}")
        write_bytes(path, (tmp_path / name).read_bytes())
        asked.clear()
        assert read_longer_side(path) == 900
        assert asked[0] == 1 << 16
        assert None not in asked
    write_bytes(path, b"no image")
    with pytest.raises(UnreadableImage):
        read_longer_side(path)


def test_a_data_set_on_a_server_is_scanned_as_on_this_machine(
    folder: Path, there: Path, bucket: str, tmp_path: Path
) -> None:
    ignore = {"cache": tmp_path / "cache", "frame": None, "progress": lambda _: None}
    here = scan(read_dataset(folder, cache=tmp_path), **ignore)
    ignore["cache"] = open_path(f"{bucket}/cache")
    pd.testing.assert_frame_equal(scan(read_dataset(there, cache=tmp_path), **ignore), here)
    assert local_side(ignore["cache"]).is_relative_to(os.environ["XDG_CACHE_HOME"])
    assert any(local_side(ignore["cache"]).rglob("*.sqlite"))


def test_a_manifest_may_name_images_anywhere(
    folder: Path, there: Path, bucket: str, tmp_path: Path
) -> None:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    places = [there, folder]
    rows = [f"{places[n % 2] / name},{Path(name).parts[0]}" for n, name in enumerate(names)]
    manifest = open_path(f"{bucket}/lists/labels.csv")
    write_bytes(manifest, "\n".join(["path,label", *rows, ""]).encode())
    dataset = read_dataset(manifest, cache=tmp_path)
    table = scan(dataset, cache=tmp_path / "cache", frame=None, progress=lambda _: None)
    assert len(table) == len(names)
    assert set(table["unreadable"]) == {""}


def test_a_store_on_a_server_gives_the_same_rows(bucket: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((300, 7)).astype(np.float32)
    keys = [f"key{number}" for number in range(300)]
    store = Store(open_path(f"{bucket}/features"))
    store.add(keys[:200], rows[:200])
    write_shard(store.folder, keys[200:], rows[200:])  # by another process
    again = Store(store.folder)
    assert len(again) == 300
    wanted = [keys[number] for number in (299, 0, 150, 0, 201)]
    assert np.array_equal(again.read(wanted), rows[[299, 0, 150, 0, 201]])
    gathered = again.gather(keys, tmp_path / "all.npy")
    assert np.array_equal(gathered, rows)
    # Rows without keys, and keys without rows, do not count.
    shards = sorted({path.stem for path in store.folder.glob("*")})
    (store.folder / f"{shards[0]}.npy").unlink()
    write_bytes(store.folder / f"{shards[1]}.keys", b"others")
    assert len(Store(store.folder)) == 0
    again.remove()
    assert not store.folder.exists()
