"""Files are written whole or not at all, leftovers go, caches have a place, and no file that is read is a trap."""

from __future__ import annotations

import fcntl
import io
import os
import pwd
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ganjax.runtime import files
from ganjax.runtime.errors import UserError


def test_what_a_killed_writer_left_is_swept_and_a_live_writers_file_is_not(tmp_path: Path) -> None:
    killed = f"""
import os
from pathlib import Path
from ganjax.runtime import files
files.os.fsync = lambda descriptor: os.kill(os.getpid(), 9)
files.replace_file(Path({str(tmp_path)!r}, "cache.npz"), bytes(1000))
"""
    assert subprocess.run([sys.executable, "-c", killed]).returncode == -9
    [left] = tmp_path.iterdir()
    assert left.name.startswith(".cache.npz.") and left.stat().st_size == 1000
    (tmp_path / ".a user's own.tmp").write_text("stays")
    with open(tmp_path / ".b.json.7.tmp", "wb") as live:
        fcntl.flock(live, fcntl.LOCK_EX)
        files.replace_file(tmp_path / "other.json", b"{}")
        assert sorted(os.listdir(tmp_path)) == [".a user's own.tmp", ".b.json.7.tmp", "other.json"]
    files.replace_file(tmp_path / "other.json", b"[]")
    assert sorted(os.listdir(tmp_path)) == [".a user's own.tmp", "other.json"]


def test_a_file_that_is_swept_before_it_is_locked_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, sweeps = fcntl.flock, []

    def late(file: int, operation: int) -> None:
        if not sweeps:
            sweeps.append(file)
            [unfinished] = tmp_path.iterdir()
            unfinished.unlink()
        lock(file, operation)

    monkeypatch.setattr(files.fcntl, "flock", late)
    files.replace_file(tmp_path / "a", b"whole")
    assert sweeps and [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user without HOME and without an entry, as `docker run --user=1234` makes; returns the temporary folder."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files._temporary_cache.cache_clear()
    yield tmp_path
    files._temporary_cache.cache_clear()


def test_without_a_home_caches_are_private_temporary_ones(homeless: Path) -> None:
    own = homeless / f"ganjax-{os.getuid()}"
    assert files.cache_dir("native") == own / "native"
    assert own.stat().st_mode & 0o777 == 0o700
    files._temporary_cache.cache_clear()
    own.chmod(0o777)
    with pytest.raises(UserError, match=r"not yours alone\. Set XDG_CACHE_HOME"):
        files.cache_dir("native")
    with pytest.raises(UserError, match="Give the whole path"):
        files.expand("~/pictures")


def test_a_home_that_cannot_be_written_is_none(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = homeless / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    assert files.cache_dir("native") == home / ".cache" / "ganjax" / "native"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != home)
    assert files.cache_dir("native") == homeless / f"ganjax-{os.getuid()}" / "native"
    (home / ".cache" / "ganjax" / "inception").mkdir(parents=True)  # what is there can be read
    assert files.cache_dir("inception") == home / ".cache" / "ganjax" / "inception"


def test_only_mine(tmp_path: Path) -> None:
    file = tmp_path / "a"
    assert not files.only_mine(file)
    file.touch(mode=0o600)
    assert files.only_mine(file)
    (tmp_path / "link").symlink_to(file)
    assert not files.only_mine(tmp_path / "link")
    file.chmod(0o620)
    assert not files.only_mine(file)
    if os.geteuid() == 0:
        file.chmod(0o600)
        os.chown(file, 1234, -1)
        assert not files.only_mine(file)


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="No regular file"):
            files.read_regular(path)
        with pytest.raises(OSError, match="No regular file"):
            files.read_npz(path)
    (tmp_path / "file").write_bytes(b"content")
    assert files.read_regular(tmp_path / "file") == b"content"


def npz(size: int, *, declared: int = 0) -> io.BytesIO:
    """An .npz of `size` zeros, which may say that it has more."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        array = io.BytesIO()
        np.save(array, np.zeros(size, np.uint8))
        archive.writestr("a.npy", array.getvalue())
        archive.filelist[0].file_size = declared or archive.filelist[0].file_size
    return file


def test_an_npz_unpacks_to_no_more_than_is_allowed() -> None:
    assert len(files.read_npz(npz(100_000))["a"]) == 100_000
    assert len(files.read_npz(npz(1000), most=10)["a"]) == 1000  # not more than sixteen times its own size
    with pytest.raises(ValueError, match="unpack to 100,128 bytes"):
        files.read_npz(npz(100_000), most=50_000)
    with pytest.raises(ValueError, match="unpack to 1,000,000,000 bytes"):
        files.read_npz(npz(10, declared=10**9))
