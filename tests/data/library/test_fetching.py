"""Fetching, against servers on this machine that do what servers do: stall, lie, break off."""

import dataclasses
import hashlib
import http.server
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from normbench.data import library
from normbench.data.library import cifar, fetching
from normbench.data.library.fetching import SOURCES, Source, fetch
from normbench.errors import UsageError
from tests.data_helpers import cifar_files, everything_below, write_tar

LAYOUT = cifar.LAYOUTS[0]
Behaviour = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the server's behaviour for the path says, and keeps a record of what was asked."""

    server: "Server"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        name = self.path.split("/")[1]
        self.server.behaviours[name](self)

    def log_message(self, *_: object) -> None:
        pass

    def send(self, status: int, content: bytes, length: int | None = None, **more: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, archive: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.archive = archive
        self.requests: list[tuple[str, str | None]] = []
        self.released = threading.Event()
        self.behaviours: dict[str, Behaviour] = {
            "good": lambda it: it.send(200, archive),
            "missing": lambda it: it.send(404, b"not here"),
            "broken": lambda it: it.send(500, b"no"),
            "html": lambda it: it.send(200, b"<html>Please log in</html>"),
            "wrong": lambda it: it.send(200, bytes(len(archive))),
            "endless": self.endless,
            "truncated": lambda it: it.send(200, archive[:-500], len(archive)),
            "silent": lambda it: self.stall(),
            "stalling": self.stalling,
            "ranges": self.ranges,
            "redirect": lambda it: it.send(302, b"", Location=f"{self.url}/good/a.tar.gz"),
            "circle": lambda it: it.send(302, b"", Location=f"{self.url}/circle/a.tar.gz"),
            "encoded": lambda it: it.send(200, archive, Content_Encoding="gzip"),
            "unasked": lambda it: it.send(206, archive[9:], Content_Range="bytes 9-99/100"),
            "slow": self.slow,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def stall(self) -> None:
        self.released.wait(30)

    def stalling(self, handler: Handler) -> None:
        handler.send(200, self.archive[:2000], len(self.archive))
        self.stall()

    def endless(self, handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(self.archive * 3)

    def slow(self, handler: Handler) -> None:
        """Half now, the rest when released."""
        half = len(self.archive) // 2
        handler.send(200, self.archive[:half], len(self.archive))
        self.released.wait(30)
        handler.wfile.write(self.archive[half:])

    def ranges(self, handler: Handler) -> None:
        """Breaks off half-way the first time, and goes on from any byte after that."""
        asked = handler.headers.get("Range")
        if asked is None:
            handler.send(200, self.archive[: len(self.archive) // 2], len(self.archive))
            return
        begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        size = len(self.archive)
        handler.send(206, self.archive[begin:], Content_Range=f"bytes {begin}-{size - 1}/{size}")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("archive") / "toy.tar.gz"
    return write_tar(path, cifar_files(LAYOUT)).read_bytes()


@pytest.fixture
def server(archive: bytes) -> Iterator[Server]:
    with Server(archive) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "library"
    monkeypatch.setenv("NORMBENCH_DATA", str(folder))
    return folder


def sources(server: Server, *behaviours: str) -> dict[str, Source]:
    toy = Source(
        archive="toy.tar.gz",
        urls=tuple(f"{server.url}/{name}/toy.tar.gz" for name in behaviours),
        num_bytes=len(server.archive),
        sha256=hashlib.sha256(server.archive).hexdigest(),
        md5="",
    )
    return {"toy": toy}


def kept(root: Path) -> list[str]:
    """What there is besides locks, which are empty."""
    return sorted(name for name in everything_below(root) if not name.endswith(".lock"))


def test_a_download_is_checked_imported_and_cleared_away(server: Server, root: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    done = fetch("toy", sources=sources(server, "good"), progress=lambda *args: seen.append(args))
    assert not done.existed
    assert done.entry.num_train == 20
    assert done.entry.source == f"{server.url}/good/toy.tar.gz"
    assert library.load("toy").sha256 == done.entry.sha256
    assert kept(root) == ["toy.safetensors"]
    size = len(server.archive)
    downloading = [it for it in seen if it[0].startswith("downloading toy.tar.gz from 127.0.0.1")]
    assert (downloading[0][1], downloading[-1][1:]) == (0, (size, size))


def test_what_is_there_is_not_downloaded_again(server: Server) -> None:
    fetch("toy", sources=sources(server, "good"))
    again = fetch("toy", sources=sources(server, "good"))
    assert again.existed
    assert len(server.requests) == 1


def test_what_is_there_but_damaged_is_downloaded_again(server: Server) -> None:
    path = fetch("toy", sources=sources(server, "good")).entry.path
    path.write_bytes(path.read_bytes()[:-9])
    assert not fetch("toy", sources=sources(server, "good")).existed
    assert library.verify("toy")
    assert len(server.requests) == 2


FAILURES = {
    "missing": "answered 404",
    "broken": "answered 500",
    "html": "offers 26 bytes instead of",
    "wrong": "sent something else",
    "endless": "sent more than",
    "truncated": "the connection broke off",
    "silent": "no answer for 0.3 s",
    "stalling": "no answer for 0.3 s",
    "circle": "redirects in circles",
    "unasked": "sent another part",
}


@pytest.mark.parametrize("behaviour", FAILURES)
def test_a_mirror_that_fails_is_named_with_its_reason_and_nothing_is_believed(
    behaviour: str, server: Server, root: Path
) -> None:
    with pytest.raises(UsageError) as raised:
        fetch("toy", sources=sources(server, behaviour), timeout=0.3)
    message = str(raised.value)
    assert f"127.0.0.1:{server.server_address[1]}: {FAILURES[behaviour]}" in message
    assert "--mirror URL" in message
    assert "`normbench data import PATH --name toy`" in message
    assert "\n" not in message
    assert library.available() == []
    assert set(kept(root)) <= {".downloads/toy.tar.gz.part"}


@pytest.mark.parametrize("behaviour", FAILURES)
def test_after_a_mirror_that_fails_the_next_one_is_tried(
    behaviour: str, server: Server, root: Path
) -> None:
    done = fetch("toy", sources=sources(server, behaviour, "good"), timeout=1)
    assert done.entry.source == f"{server.url}/good/toy.tar.gz"
    assert kept(root) == ["toy.safetensors"]


def test_when_all_mirrors_fail_each_ones_reason_is_told(server: Server) -> None:
    dead = "http://127.0.0.1:9"
    known = sources(server, "missing", "html")
    toy = dataclasses.replace(known["toy"], urls=(*known["toy"].urls, f"{dead}/toy.tar.gz"))
    with pytest.raises(UsageError, match=r"404.*offers 26 bytes.*127\.0\.0\.1:9: connection ref"):
        fetch("toy", sources={"toy": toy})


@pytest.mark.parametrize("behaviour", ["redirect", "encoded"])
def test_redirects_are_followed_and_the_bytes_taken_as_they_are(
    behaviour: str, server: Server
) -> None:
    assert fetch("toy", sources=sources(server, behaviour)).entry.num_train == 20


def test_a_broken_download_goes_on_where_it_stopped(server: Server, root: Path) -> None:
    with pytest.raises(UsageError):
        fetch("toy", sources=sources(server, "ranges"))
    assert kept(root) == [".downloads/toy.tar.gz.part"]
    fetch("toy", sources=sources(server, "ranges"))
    assert [asked for _, asked in server.requests] == [None, f"bytes={len(server.archive) // 2}-"]
    assert kept(root) == ["toy.safetensors"]


def test_a_server_without_ranges_starts_over(server: Server) -> None:
    with pytest.raises(UsageError):
        fetch("toy", sources=sources(server, "truncated"))
    assert fetch("toy", sources=sources(server, "good")).entry.num_train == 20
    assert server.requests[1][1] is not None


def test_a_wrong_beginning_is_thrown_away_and_fetched_anew(server: Server, root: Path) -> None:
    partial = root / ".downloads" / "toy.tar.gz.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(1000))
    server.behaviours["both"] = lambda it: (
        server.ranges(it) if it.headers.get("Range") else it.send(200, server.archive)
    )
    fetch("toy", sources=sources(server, "both"))
    assert [asked for _, asked in server.requests] == ["bytes=1000-", None]


def test_what_was_downloaded_before_a_kill_is_not_downloaded_again(
    server: Server, root: Path
) -> None:
    downloads = root / ".downloads"
    downloads.mkdir(parents=True)
    (downloads / "toy.tar.gz").write_bytes(server.archive)
    fetch("toy", sources=sources(server, "good"))
    assert server.requests == []
    assert kept(root) == ["toy.safetensors"]


@pytest.mark.parametrize("tail", ["", "/", "/toy.tar.gz", "/other.tar.gz"])
def test_a_mirror_is_the_url_of_the_archive_or_of_its_folder(tail: str, server: Server) -> None:
    url = f"{server.url}/good{tail}"
    fetch("toy", sources=sources(server, "missing"), mirror=url)
    name = "/other.tar.gz" if tail == "/other.tar.gz" else "/toy.tar.gz"
    assert server.requests == [(f"/good{name}", None)]


@pytest.mark.parametrize(
    "mirror", ["", "good", "ftp://host/x", "file:///x.tar.gz", "http://", "http://[x"]
)
def test_a_mirror_that_is_no_url_is_refused(mirror: str, server: Server, root: Path) -> None:
    with pytest.raises(UsageError) as raised:
        fetch("toy", sources=sources(server, "good"), mirror=mirror)
    assert repr(mirror) in str(raised.value)
    assert not root.exists()


def test_an_unknown_name_or_timeout_is_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="cannot fetch 'imagenet': there are cifar10, cifar100"):
        fetch("imagenet")
    with pytest.raises(UsageError, match="--timeout 0:"):
        fetch("cifar10", timeout=0)
    with pytest.raises(UsageError, match="--timeout inf:"):
        fetch("cifar10", timeout=float("inf"))
    assert not root.exists()


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NORMBENCH_DATA", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"cannot write .*NORMBENCH_DATA"):
        fetch("toy", sources=sources(server, "good"))
    assert server.requests == []


def test_the_published_name_is_for_the_published_data(server: Server) -> None:
    source = sources(server, "good")["toy"]
    with pytest.raises(UsageError, match="not cifar10 as published"):
        fetch("cifar10", sources={"cifar10": source})
    assert library.available() == []


# ---- other processes ----


def start(server: Server, behaviour: str) -> subprocess.Popen[str]:
    known = sources(server, behaviour)
    code = (
        "from normbench.data.library.fetching import Source, fetch\n"
        "def say(what, done, total): print(what, done, flush=True)\n"
        f"print('existed', fetch('toy', sources={known!r}, progress=say).existed, flush=True)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def read_until(process: subprocess.Popen[str], sign: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if sign in line:
            return line
    raise AssertionError(f"ended without {sign!r}: {process.stderr and process.stderr.read()}")


def test_two_at_once_download_once(server: Server) -> None:
    with start(server, "slow") as first:
        read_until(first, "downloading")
        with start(server, "slow") as second:
            read_until(second, "waiting for another process that is fetching toy")
            server.released.set()
            assert "False" in read_until(first, "existed")
            assert "True" in read_until(second, "existed")
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(server.requests) == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_download_that_is_killed_can_be_repeated(
    how: signal.Signals, server: Server, root: Path
) -> None:
    with start(server, "stalling") as process:
        read_until(process, "downloading toy.tar.gz")
        partial = root / ".downloads" / "toy.tar.gz.part"
        deadline = time.monotonic() + 20
        while not partial.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(how)
        process.wait(20)
        assert process.returncode != 0
    assert library.available() == []
    fetch("toy", sources=sources(server, "good"))
    assert kept(root) == ["toy.safetensors"]


def test_a_full_disk_is_named_as_such_and_no_mirror_is_blamed(server: Server, root: Path) -> None:
    code = (
        "import resource\n"
        "from normbench.data.library.fetching import Source, fetch\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"fetch('toy', sources={sources(server, 'good', 'missing')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "cannot write" in last
    assert "toy.tar.gz.part" in last
    assert "File too large" in last
    assert [path for path, _ in server.requests] == ["/good/toy.tar.gz"]
    assert library.available() == []


# ---- the built-in sources ----


def test_an_encrypted_source_may_not_redirect_to_one_that_is_not() -> None:
    asked, answered = requests.Response(), requests.Response()
    asked.url, answered.url = "https://mirror/a.tar.gz", "http://mirror/a.tar.gz"
    answered.history, answered.status_code = [asked], 200
    with pytest.raises(fetching._MirrorError, match="not encrypted"):
        fetching._check_answer(answered, 0, 9)
    answered.url = "https://other/a.tar.gz"
    assert fetching._check_answer(answered, 0, 9) == 0


@pytest.mark.parametrize("name", SOURCES)
def test_the_built_in_sources_are_encrypted_and_end_with_the_authors(name: str) -> None:
    source = SOURCES[name]
    assert all(url.startswith("https://") for url in source.urls)
    assert all(url.endswith(f"/{source.archive}") for url in source.urls)
    assert source.urls[-1].startswith("https://www.cs.toronto.edu/~kriz/")
    assert len(set(source.urls)) == len(source.urls) >= 3
    assert (len(source.sha256), len(source.md5)) == (64, 32)


def test_the_md5_are_torchvisions() -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    for name, theirs in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        assert (SOURCES[name].archive, SOURCES[name].md5) == (theirs.filename, theirs.tgz_md5)
        assert SOURCES[name].urls[-1] == theirs.url
