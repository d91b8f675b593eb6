"""Containers: what is in a folder or archive is found, and nothing in it can lead elsewhere."""

import io
import os
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from normbench.data.library import containers, importing
from normbench.data.library.importing import import_images
from tests.data_helpers import (
    WRITERS,
    flat_files,
    picture,
    refused,
    tar_info,
    write_folder,
    write_tar,
    write_zip,
)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "library"
    monkeypatch.setenv("NORMBENCH_DATA", str(folder))
    return folder


def test_names_that_are_not_utf8_are_kept_apart_and_printable(tmp_path: Path) -> None:
    path = tmp_path / "mine.tar"
    with tarfile.open(path, "w:", encoding="latin-1", format=tarfile.GNU_FORMAT) as archive:
        for label in ("café", "cafè", "thé"):
            for i in range(2):
                content = picture(i)
                info = tar_info(f"{label}/{i}.png", len(content))
                archive.addfile(info, io.BytesIO(content))
    entry = import_images(path, None).entry
    assert entry.classes == ("caf\\xe8", "caf\\xe9", "th\\xe9")


def test_progress_runs_from_the_start_to_the_whole_in_bytes(tmp_path: Path) -> None:
    for suffix, write in WRITERS.items():
        path = write(tmp_path / f"p{suffix}", flat_files(200))
        seen: list[tuple[str, int, int | None]] = []
        import_images(path, "p", progress=lambda *args, to=seen: to.append(args), replace=True)
        assert len(seen) > 3
        assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
        assert {what for what, _, _ in seen} == {f"reading p{suffix}"}
        size = path.stat().st_size if suffix else sum(map(len, flat_files(200).values()))
        assert {total for _, _, total in seen} == {size}
        assert seen[-1][1] == size


def test_a_path_that_is_missing_or_no_archive_is_refused(tmp_path: Path, root: Path) -> None:
    assert f"{tmp_path / 'nowhere'} does not exist" in refused(tmp_path / "nowhere", root)
    text = tmp_path / "notes.txt"
    text.write_text("x")
    message = refused(text, root)
    assert str(text) in message
    assert ".tar.gz" in message


@pytest.mark.parametrize("suffix", [suffix for suffix in WRITERS if suffix])
@pytest.mark.parametrize("harm", ["half", "tail", "empty", "noise"])
def test_a_damaged_archive_is_refused(harm: str, suffix: str, tmp_path: Path, root: Path) -> None:
    path = WRITERS[suffix](tmp_path / f"mine{suffix}", flat_files())
    content = path.read_bytes()
    if suffix == ".tar" and harm == "tail":
        content = content.rstrip(b"\0")  # the mark of its end
    harmed = {
        "half": content[: len(content) // 2],
        "tail": content[:-4] if suffix != ".tar" else content,
        "empty": b"",
        "noise": random.Random(0).randbytes(5000),
    }
    path.write_bytes(harmed[harm])
    message = refused(path, root)
    assert str(path) in message
    assert "damaged" in message


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.xz", ".zip"])
def test_a_flipped_bit_in_an_archive_is_noticed(suffix: str, tmp_path: Path, root: Path) -> None:
    path = WRITERS[suffix](tmp_path / f"mine{suffix}", flat_files())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    assert str(path) in refused(path, root)


def test_a_zip_with_a_name_that_is_not_in_its_encoding_is_refused(
    tmp_path: Path, root: Path
) -> None:
    path = write_zip(tmp_path / "mine.zip", {"café/0.png": picture(0)})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xfe"))
    assert "damaged" in refused(path, root)


def test_a_damaged_header_amid_a_tar_is_not_taken_for_its_end(tmp_path: Path, root: Path) -> None:
    path = write_tar(tmp_path / "mine.tar", flat_files())
    content = path.read_bytes()
    with tarfile.open(path) as archive:
        offset = archive.getmembers()[15].offset
    path.write_bytes(content[:offset] + b"garbage" + content[offset + 7 :])
    assert "damaged" in refused(path, root)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"GNU.sparse.size": "abc", "GNU.sparse.name": "cat/x.png"}, "damaged"),
        ({"GNU.sparse.map": "a,b", "GNU.sparse.size": "1"}, "damaged"),
        ({"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 29)}, "sparse file"),
        ({"comment": "1" * (1 << 15)}, "oversized header"),
    ],
    ids=["no number", "no map", "much of nothing", "endless"],
)
def test_a_tar_whose_headers_say_what_no_image_needs_is_refused(
    headers: dict[str, str], said: str, tmp_path: Path, root: Path
) -> None:
    path = tmp_path / "mine.tar"
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for number, (name, content) in enumerate(flat_files().items()):
            info = tar_info(name, len(content))
            info.pax_headers = headers if number == 3 else {}
            archive.addfile(info, io.BytesIO(content))
    assert said in refused(path, root)


HOSTILE_NAMES = ["/etc/cat/0.png", "../cat/0.png", "cat/../../x/0.png", "C:/cat/0.png"]


@pytest.mark.parametrize("name", [*HOSTILE_NAMES, "..\\cat\\0.png", "\\cat\\0.png"])
@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_a_member_that_leads_out_of_its_folder_is_refused_by_name(
    suffix: str, name: str, tmp_path: Path, root: Path
) -> None:
    files = flat_files() | {name: picture(0)}
    message = refused(WRITERS[suffix](tmp_path / f"mine{suffix}", files), root)
    assert repr(name if suffix != ".zip" else name.replace("\\", "/")) in message
    assert "absolute" in message or "leads out" in message


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_a_tar_with_a_link_or_device_is_refused_by_name(
    kind: bytes, tmp_path: Path, root: Path
) -> None:
    path = tmp_path / "mine.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in flat_files().items():
            archive.addfile(tar_info(name, len(content)), io.BytesIO(content))
        archive.addfile(tar_info("cat/odd.png", type=kind, linkname="/etc/passwd"))
    message = refused(path, root)
    assert "cat/odd.png" in message
    assert "link or device" in message


def test_a_zip_with_a_link_is_refused_by_name(tmp_path: Path, root: Path) -> None:
    path = write_zip(tmp_path / "mine.zip", flat_files())
    info = zipfile.ZipInfo("cat/odd.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    message = refused(path, root)
    assert "cat/odd.png" in message
    assert "link or device" in message


def test_an_encrypted_zip_is_refused_by_name(tmp_path: Path, root: Path) -> None:
    path = write_zip(tmp_path / "mine.zip", flat_files())
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    path.write_bytes(content)
    message = refused(path, root)
    assert "cat/00.png is encrypted" in message


@pytest.mark.parametrize("where", ["file", "folder", "broken", "loop"])
def test_a_link_out_of_the_folder_is_refused_by_name(
    where: str, tmp_path: Path, root: Path
) -> None:
    path = write_folder(tmp_path / "mine", flat_files())
    outside = write_folder(tmp_path / "outside", {"0.png": picture(0)})
    targets = {
        "file": outside / "0.png",
        "folder": outside,
        "broken": tmp_path / "nowhere",
        "loop": path,
    }
    (path / "cat" / "odd.png").symlink_to(targets[where])
    message = refused(path, root)
    assert "cat/odd.png" in message
    assert "link" in message


def test_hidden_links_are_passed_over_like_other_hidden_files(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "mine", flat_files(6))
    (path / ".venv" / "bin").mkdir(parents=True)
    (path / ".venv" / "bin" / "python").symlink_to("/usr/bin/env")
    (path / ".#notes").symlink_to("me@host.123")
    os.mkfifo(path / ".pipe")
    done = import_images(path, None)
    assert (done.entry.num_train, done.num_ignored) == (10, 3)

    archive = tmp_path / "packed.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(path, "mine")
    assert import_images(archive, None).entry.sha256 == done.entry.sha256


def test_a_link_that_stays_in_the_folder_is_followed(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "mine", flat_files(6))
    (path / "cat" / "again.png").symlink_to(path / "cat" / "00.png")
    assert import_images(path, None).entry.num_train == 11


def test_a_pipe_in_a_folder_is_refused_instead_of_waited_for(tmp_path: Path, root: Path) -> None:
    path = write_folder(tmp_path / "mine", flat_files())
    os.mkfifo(path / "cat" / "pipe.png")
    assert "cat/pipe.png is not a regular file" in refused(path, root)


@pytest.mark.parametrize("suffix", [".tar.xz", ".zip"])
def test_a_member_that_is_too_large_for_an_image_is_refused_unread(
    suffix: str, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "MAX_IMAGE_BYTES", 1 << 20)
    files = flat_files() | {"cat/bomb.png": bytes(2 << 20)}
    path = WRITERS[suffix](tmp_path / f"mine{suffix}", files)
    assert "cat/bomb.png has 2,097,152 bytes" in refused(path, root)
    assert len(import_images(path, None, skip_broken=True).broken) == 1


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.xz", ".tar.bz2", ".zip"])
def test_an_archive_that_grows_as_no_images_do_is_refused(
    suffix: str, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "HARMLESS_BYTES", 1 << 20)
    files = flat_files() | {"notes.txt": bytes(64 << 20)}
    path = WRITERS[suffix](tmp_path / f"mine{suffix}", files)
    assert "more than 200 times its size" in refused(path, root)


def test_a_tar_header_that_claims_gigabytes_is_not_read_into_memory(
    tmp_path: Path, root: Path
) -> None:
    path = tmp_path / "mine.tar"
    header = tar_info("x", 7 << 30, type=tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT)
    path.write_bytes(header + bytes(4096))
    assert "oversized header" in refused(path, root)


@pytest.mark.parametrize("suffix", ["", ".tar", ".zip"])
def test_too_many_files_are_refused(
    suffix: str, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "MAX_MEMBERS", 10)
    path = WRITERS[suffix](tmp_path / f"mine{suffix}", flat_files())
    assert "more than 10 files" in refused(path, root)
