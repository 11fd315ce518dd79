"""The files of a SQLite store: where they may lie, who may read them, which process may use them.

They hold what runs, fails and is sent to whom, so they are their owner's alone whatever the umask; SQLite gives its WAL
and shared memory the mode of the database. The lock is on the database file itself, so that it holds by whatever name
or link the file is opened. A file that was deleted or replaced while it is open takes writes that nobody finds again:
each transaction asks first whether it is still the same.
"""

import errno
import fcntl
import os
from pathlib import Path

from tocsin.store.errors import StoreFailed, StoreRefused, StoreUnavailable

_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"})
_MODE = 0o600
_DIRECTORY_MODE = 0o700
_BESIDE = ("-wal", "-shm")


def check_sqlite_place(path: Path) -> None:
    """Refuse a directory that cannot hold a WAL database, with one line that says what to do."""
    try:
        _check_place(path)
    except OSError as error:  # a directory above it that this user may not enter, a name that is too long
        raise StoreRefused(f"cannot use the store {path}: {error.strerror or error}") from None


def _check_place(path: Path) -> None:
    directory = path.parent
    if not directory.is_dir():
        try:
            directory.mkdir(parents=True)
            directory.chmod(_DIRECTORY_MODE)
        except OSError as error:
            why = "it is not a directory" if isinstance(error, FileExistsError) else error.strerror
            raise StoreRefused(f"cannot make the directory of the store {path}: {why}") from None
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise StoreRefused(f"cannot write the store {path}: its volume is mounted read-only")
    if not os.access(directory, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise StoreRefused(f"cannot write the store {path}: permission denied; give the directory to this user")
    kind = file_system(directory)
    if kind in _NETWORK_FILE_SYSTEMS or kind.startswith("fuse.sshfs"):
        raise StoreRefused(
            f"the store {path} lies on a network file system ({kind}), where SQLite loses data; "
            "use a local disk, or PostgreSQL"
        )


def file_system(directory: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system that holds ``directory``; empty where the system does not tell."""
    try:
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    place, best, kind = directory.resolve(), -1, ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(fields[1].replace("\\040", " "))
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def make_private(path: Path) -> None:
    """Make a file that only its owner may read, or take it from others if it is ours. Raises ``StoreRefused``."""
    try:
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, _MODE))
        for file in (path, *(path.with_name(path.name + end) for end in _BESIDE)):
            if file.exists() and (held := file.stat()).st_uid == os.geteuid() and held.st_mode & 0o777 != _MODE:
                file.chmod(_MODE)
    except OSError as error:
        raise StoreRefused(f"cannot write the store {path}: {error.strerror}") from None


class FileLock:
    """One process a SQLite file. The system frees the lock when the process dies, however it dies.

    Closing any descriptor of the file frees SQLite's own locks of this process: release it after the last connection.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Raises ``StoreRefused`` when another process holds it."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise StoreRefused(f"cannot write the store {self._path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise StoreRefused(f"cannot lock the store {self._path}: {error.strerror}") from None
            raise StoreRefused(
                f"another Tocsin already runs on {self._path}; stop it first, or use PostgreSQL for several"
            ) from None
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class SameFiles:
    """Whether the files of an open store are still those that it was opened with, by device and inode."""

    def __init__(self, path: Path) -> None:
        self._files = (path, *(path.with_name(path.name + end) for end in _BESIDE))
        self._known: dict[Path, tuple[int, int]] = {}

    def check(self) -> None:
        """Raises ``StoreFailed`` when one of them was deleted or replaced."""
        for file in self._files:
            known = self._known.get(file)
            try:
                found = os.stat(file)
            except (FileNotFoundError, NotADirectoryError):
                if known is None:
                    continue  # SQLite makes its WAL with the first transaction
                raise StoreFailed(f"the store's file {file} was deleted while the daemon ran; {_REMEDY}") from None
            except OSError as error:
                raise StoreUnavailable(f"cannot see the store's file {file}: {error.strerror}") from None
            if self._known.setdefault(file, (found.st_dev, found.st_ino)) != (found.st_dev, found.st_ino):
                raise StoreFailed(f"the store's file {file} was replaced while the daemon ran; {_REMEDY}")


_REMEDY = "what is written now would be lost, so it ends; put the files back or start it again on what is there"
