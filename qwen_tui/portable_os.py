"""Files and processes where Unix and Windows differ: locks, flags of `os.open`, owners, folders.

Law: the only module that imports `fcntl` or `msvcrt`; without either a file is used unlocked.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

fcntl: Any
msvcrt: Any
try:
    import fcntl
except ImportError:
    fcntl = None
try:
    import msvcrt
except ImportError:
    msvcrt = None

KEYBOARD: Final = "CONIN$" if sys.platform == "win32" else "/dev/tty"
"""The device of a terminal's keys, for when standard input is something else."""
_BYTES: Final = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)
_LOCKED_BYTE: Final = (1 << 31) - 2
"""Offset of the lock: Windows locks bytes against access, so it is beyond the end of any file."""
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def open_plain(path: Path, flags: int, mode: int = 0o600) -> int:
    """A descriptor for bytes, closed in child processes, made with `mode` where it is new.

    Raises OSError for a symbolic link (ELOOP) instead of following it, and waits for no pipe.
    """
    if not _NO_LINK and path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return os.open(path, flags | _BYTES | _NO_LINK | _NO_WAIT, mode)


def lock(fd: int, *, shared: bool = False) -> bool:
    """Lock an open file until it is closed, without waiting.

    False where the file system knows no locks, or the system none. Windows has no shared locks:
    there `shared` locks alone. Raises BlockingIOError where another holds it, OSError otherwise.
    """
    try:
        if fcntl is not None:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        elif msvcrt is not None:
            _lock_a_byte(fd)
        else:
            return False
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _lock_a_byte(fd: int) -> None:
    here = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise BlockingIOError(errno.EAGAIN, "the file is locked") from error
        raise
    finally:
        os.lseek(fd, here, os.SEEK_SET)


def read_at(fd: int, size: int, offset: int) -> bytes:
    """At most `size` bytes from an offset; the file's position is unchanged."""
    if hasattr(os, "pread"):
        return os.pread(fd, size, offset)
    here = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)
    finally:
        os.lseek(fd, here, os.SEEK_SET)


def is_ours(status: os.stat_result) -> bool:
    """Whether a file belongs to this user; on Windows, which does not say, always true."""
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk; not possible on Windows."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _BYTES)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_and_close(fd: int, path: Path) -> None:
    """Delete an open file and close it, in the order that keeps its lock until it is gone; Windows
    deletes no open file, so there it is closed first.
    """
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        if sys.platform != "win32":
            raise
    finally:
        os.close(fd)
    if sys.platform == "win32":
        path.unlink(missing_ok=True)


def process_runs(pid: int) -> bool:
    """Whether there is a process with that number."""
    if sys.platform == "win32":
        import ctypes

        kernel: Any = ctypes.windll.kernel32
        with suppress(OSError, OverflowError, ctypes.ArgumentError):
            found = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
            if found:
                kernel.CloseHandle(found)
            return bool(found)
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
