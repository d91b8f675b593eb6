"""The library of data sets: what is saved comes back exactly, or not at all."""

import dataclasses
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from normbench.data import library
from normbench.data.library import ImageSet, content_digest
from normbench.errors import UsageError
from normbench.files import data_folder
from tests.data_helpers import everything_below, image_set


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "library"
    monkeypatch.setenv("NORMBENCH_DATA", str(folder))
    return folder


def tensors_of(images: ImageSet) -> dict[str, torch.Tensor]:
    parts = ("train_images", "train_labels", "test_images", "test_labels")
    return {part: getattr(images, part) for part in parts}


def rewrite(path: Path, **changes: torch.Tensor) -> None:
    """Replaces tensors in a data set's file, leaving its header's claims alone."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({**load_file(path), **changes}, path, metadata)


def test_what_is_saved_comes_back_bit_for_bit(root: Path) -> None:
    saved = image_set()
    assert library.save(saved, "a test") == root / "toy.safetensors"
    loaded = library.load("toy")
    assert (loaded.name, loaded.sha256, loaded.classes) == ("toy", saved.sha256, ("cat", "dog"))
    for part, tensor in tensors_of(saved).items():
        assert torch.equal(getattr(loaded, part), tensor)
        assert getattr(loaded, part).dtype == tensor.dtype


def test_the_root_is_the_users_data_folder_unless_the_environment_names_another(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert data_folder() == root
    monkeypatch.delenv("NORMBENCH_DATA")
    assert data_folder().name == "normbench"
    assert data_folder().is_absolute()


def test_the_digest_is_of_the_content_alone() -> None:
    images = image_set("one")
    assert image_set("two").sha256 == images.sha256
    # pinned: results of different machines and releases are compared by it
    assert images.sha256.startswith("7c5dd7e382b0d9ba")


@pytest.mark.parametrize(
    "part", ["train_images", "train_labels", "test_images", "test_labels", "classes"]
)
def test_the_digest_changes_with_each_part(part: str) -> None:
    images = image_set()
    parts = tensors_of(images)
    classes = images.classes
    if part == "classes":
        classes = ("cat", "cow")
    else:
        parts[part] = parts[part].clone()
        parts[part].view(-1)[-1] += 1
    assert content_digest(classes, **parts) != images.sha256


def test_the_digest_tells_shapes_apart_that_have_the_same_bytes() -> None:
    images = image_set()
    parts = tensors_of(images)
    parts["train_images"] = parts["train_images"].reshape(6, 3, 4, 16)
    assert content_digest(images.classes, **parts) != images.sha256


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".hidden",
        "a/b",
        "../a",
        "a b",
        "-a",
        "a" * 65,
        "é",
        "a\n",
        "auto",
        "synthetic",
        "Images",
    ],
)
def test_a_name_that_is_no_file_name_or_means_something_else_is_refused(
    name: str, root: Path
) -> None:
    for act in (library.load, library.verify, library.find):
        with pytest.raises(UsageError) as raised:
            act(name)
        assert repr(name) in str(raised.value)
    with pytest.raises(UsageError):
        library.save(dataclasses.replace(image_set(), name=name), "a test")
    assert not root.exists()


def test_a_missing_set_is_an_error_that_names_the_two_commands() -> None:
    library.save(image_set("mine"), "a test")
    with pytest.raises(UsageError) as raised:
        library.load("cifar10")
    message = str(raised.value)
    assert "'cifar10'" in message
    assert "mine" in message
    assert "`normbench data fetch cifar10`" in message
    assert "`normbench data import PATH --name cifar10`" in message
    assert "\n" not in message
    with pytest.raises(UsageError, match="import PATH --name other"):
        library.load("other")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_pixel(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)


def foreign(path: Path) -> None:
    save_file({"x": torch.zeros(1)}, path)


def wrong_dtype(path: Path) -> None:
    rewrite(path, train_images=load_file(path)["train_images"].float())


def wrong_shape(path: Path) -> None:
    rewrite(path, train_images=load_file(path)["train_images"][:, :1].contiguous())


def wrong_count(path: Path) -> None:
    rewrite(path, test_labels=torch.zeros(3, dtype=torch.int64))


def label_outside(path: Path) -> None:
    rewrite(path, test_labels=torch.full((4,), 2))


def missing_tensor(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    del tensors["test_images"]
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, "damaged"),
        (empty, "damaged"),
        (flip_pixel, "digest"),
        (foreign, "not a normbench data set"),
        (wrong_dtype, "train_images is F32"),
        (wrong_shape, "train_images is U8"),
        (wrong_count, "4 test images have 3 labels"),
        (label_outside, "2 classes"),
        (missing_tensor, "instead of"),
    ],
)
def test_a_damaged_file_is_refused_by_name_with_what_to_do(
    damage: Callable[[Path], None], says: str
) -> None:
    path = library.save(image_set(), "a test")
    damage(path)
    for act in (library.load, library.verify):
        with pytest.raises(UsageError) as raised:
            act("toy")
        message = str(raised.value)
        assert str(path) in message
        assert says in message
        assert "delete the file" in message
        assert "`normbench data import PATH --name toy`" in message
        assert "\n" not in message


def test_no_flipped_bit_anywhere_changes_an_image_unnoticed() -> None:
    saved = image_set()
    path = library.save(saved, "x")
    sound = path.read_bytes()
    refused = 0
    for position in range(0, len(sound), 3):
        flipped = bytearray(sound)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            loaded = library.load("toy")
        except UsageError:
            refused += 1
        else:  # the flip hit the note of where the images came from, which changes no result
            assert loaded.classes == saved.classes
            assert loaded.sha256 == saved.sha256
            for part, tensor in tensors_of(saved).items():
                assert torch.equal(getattr(loaded, part), tensor)
    assert refused > 0.98 * len(range(0, len(sound), 3))


def test_the_list_shows_each_set_and_lists_damaged_ones_as_damaged(root: Path) -> None:
    library.save(image_set("b.2"), "some archive")
    damaged = library.save(image_set("a"), "x")
    cut(damaged)
    (root / "notes.txt").write_text("not a data set")
    first, second = library.available()
    assert (first.name, first.path) == ("a", damaged)
    assert first.damage
    assert second.name == "b.2"
    assert second.damage is None
    assert (second.num_train, second.num_test, second.image_size) == (6, 4, (8, 8))
    assert (second.classes, second.source) == (("cat", "dog"), "some archive")
    assert second.sha256 == image_set().sha256
    assert second.num_bytes == second.path.stat().st_size
    assert library.verify("b.2") == second == library.find("b.2")


def test_the_list_of_a_library_that_does_not_exist_is_empty(root: Path) -> None:
    assert library.available() == []
    assert not root.exists()


def test_listing_reads_headers_only_and_does_not_wait_for_torch() -> None:
    path = library.save(image_set(), "x")
    flip_pixel(path)
    assert library.available()[0].damage is None, "pixels were read"
    # the package itself may import torch; the library must not ask for it
    code = (
        "import sys, types;"
        "sys.modules['normbench.data'] = p = types.ModuleType('normbench.data');"
        f"p.__path__ = [{str(Path(library.__file__).parents[1])!r}];"
        "from normbench.data import library;"
        "print(library.available()[0].name, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["toy", "False"]


def test_saving_again_replaces_and_leaves_no_temporary_file(root: Path) -> None:
    library.save(image_set(num_train=6), "x")
    library.save(image_set(num_train=8), "y")
    assert library.verify("toy").num_train == 8
    assert [path.name for path in root.iterdir()] == ["toy.safetensors"]


def test_what_is_saved_has_the_rights_of_any_new_file(root: Path) -> None:
    """Others may train on it where the umask lets them read."""
    before = os.umask(0o022)
    try:
        path = library.save(image_set(), "test")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_file_that_cannot_be_read_is_not_called_damaged(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = library.save(image_set(), "test")
    look = Path.open

    def refuse(self: Path, *arguments: Any, **keywords: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return look(self, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match="Permission denied") as caught:
        library.load("toy")
    assert "delete" not in str(caught.value)
    assert [entry.damage for entry in library.available()] == [
        f"cannot read {path}: Permission denied"
    ]


def test_a_home_that_does_not_exist_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMBENCH_DATA", "~nobody-of-this-name/x")
    with pytest.raises(UsageError, match="no such home folder"):
        data_folder()


def test_a_save_that_fails_leaves_the_old_set_and_nothing_else(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.save(image_set(), "x")
    before = everything_below(root)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"cannot write .*toy.*No space left.*NORMBENCH_DATA"):
        library.save(image_set(num_train=8), "y")
    assert everything_below(root) == before


def test_a_library_that_cannot_be_made_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NORMBENCH_DATA", str(tmp_path / "file" / "library"))
    with pytest.raises(UsageError, match=r"cannot write .*file.*NORMBENCH_DATA"):
        library.save(image_set(), "x")


def test_a_save_that_was_killed_is_never_believed_and_swept_up_later(root: Path) -> None:
    code = (
        "import os, sys; sys.path.insert(0, 'TESTS');"
        "from tests.data_helpers import image_set; from normbench.data import library;"
        "os.fsync = lambda fd: os.kill(os.getpid(), 9);"
        "library.save(image_set(), 'x')"
    ).replace("TESTS", str(Path(__file__).parents[3]))
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -9
    (leftover,) = root.iterdir()
    assert library.available() == []
    library.save(image_set(), "x")
    assert leftover.exists(), "it may belong to a save that is still writing"
    long_ago = time.time() - 7200
    os.utime(leftover, (long_ago, long_ago))
    library.save(image_set(), "x")
    assert not leftover.exists()
