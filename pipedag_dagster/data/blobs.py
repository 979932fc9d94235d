"""Files for values that are not tables: pickled Python objects, on any file system that fsspec knows.

    <base_path>/<instance id>-<id of the catalog>/<stage>/<SHA-256 of the bytes>.pickle

A file is named by its content, so it never changes, and equal blobs of a stage are one file. What says that it is
visible is the catalog. The id of the catalog is random: two instances never share a folder, whatever they are called
and wherever their databases are. A file appears under its name when it is complete. Local folders and files belong to
their user alone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pickle
import re
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipedag_dagster.errors import ConfigError, DiskFull, NotMaterialized, TaskFailed

_FILE = re.compile(r"([0-9a-f]{64})\.pickle")
_UNFINISHED = ".unfinished"  # what a process that was killed has left


def content_of(data: bytes) -> str:
    """The hash by which bytes are found again."""
    return hashlib.sha256(data).hexdigest()


class BlobStore:
    """The blobs of one instance. Nothing is touched before the first use.

    Args:
        base_path: a folder, or the url of one, as fsspec takes it.
        folder: of the instance in it.

    Raises:
        ConfigError: fsspec has no file system for it, or lacks a package.
    """

    def __init__(self, base_path: str, folder: str) -> None:
        # Imported here: it takes 35 ms, and most stages have no blobs.
        import fsspec  # noqa: PLC0415
        from fsspec.implementations.local import LocalFileSystem  # noqa: PLC0415

        try:
            self._files, root = fsspec.url_to_fs(base_path)
        except (ImportError, ValueError) as error:
            scheme = base_path.partition("://")[0]
            raise ConfigError(f"blob_store.args.base_path: no files under {scheme}:// can be used: {error}") from None
        self._is_local = isinstance(self._files, LocalFileSystem)
        self.root = f"{root.rstrip('/')}/{folder}"

    def write(self, stage: str, data: bytes) -> str:
        """Keep bytes. Returns the name of their file.

        Raises:
            DiskFull: there is no room. No file is left.
            ConfigError: a folder of ours is a symbolic link.
        """
        name = content_of(data)
        path = self.path(stage, name)
        if not self._holds(path, name):  # a file that was changed is written again
            if self._is_local:
                self._write_local(stage, Path(path), data)
            else:  # a store of objects shows an object when it is complete
                self._files.makedirs(self._parent(stage), exist_ok=True)
                self._files.pipe_file(path, data)
        return name

    def _write_local(self, stage: str, path: Path, data: bytes) -> None:
        """Write a file under another name first. Whatever has its name is replaced, and never written through."""
        root = Path(self.root)
        root.parent.mkdir(parents=True, exist_ok=True)
        for folder in (root, Path(self._parent(stage))):
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.is_symlink():
                raise ConfigError(
                    f"{folder} is a symbolic link: blobs would be written somewhere else. Nothing was written. Remove "
                    "the link, or set blob_store.args.base_path to where the blobs are to be."
                )
        descriptor, unfinished = tempfile.mkstemp(_UNFINISHED, dir=path.parent)  # for its user alone
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(unfinished).replace(path)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DiskFull(
                f"The disk that holds {path.parent} is full: a blob of {len(data):,} bytes does not fit. What people "
                "see is as it was before. Make room (`pipedag-dagster gc` drops old versions), and run it again: what "
                "was staged is reused."
            ) from None
        finally:
            Path(unfinished).unlink(missing_ok=True)

    def read(self, stage: str, name: str, what: str) -> bytes:
        """The bytes of a file, as they were written.

        Raises:
            NotMaterialized: it is not there.
            TaskFailed: it is not what was written.
        """
        path = self.path(stage, name)
        try:
            data = self._files.cat_file(path)
        except FileNotFoundError:
            raise NotMaterialized(
                f"{what}: its file {path} is not there. Is blob_store.args.base_path another one than when it was "
                "written? Else run it again with --cache-mode force_cache_invalid."
            ) from None
        if content_of(data) != name:
            raise TaskFailed(
                f"{what}: its file {path} was changed since it was written, so it is not unpickled: that could run "
                "any code. Find out who has written to it; run with --cache-mode force_cache_invalid to make it again."
            )
        return bytes(data)

    def load(self, stage: str, name: str, what: str) -> Any:
        """The object in a file. Only what the catalog knows by its hash is unpickled.

        Raises:
            NotMaterialized: the file is not there.
            TaskFailed: it is not what was written, or its classes are not what they were.
        """
        data = self.read(stage, name, what)
        try:
            return pickle.loads(data)
        except Exception as error:
            raise TaskFailed(
                f"{what} cannot be unpickled: {type(error).__name__}: {error}. Its classes have changed since it was "
                "made: run with --cache-mode force_cache_invalid to make it again."
            ) from error

    def sizes(self, stage: str) -> dict[str, int]:
        """The blobs of a stage that are there, with their bytes. Files that are not ours are not looked at."""
        return {match[1]: int(info["size"]) for match, info in self._list(self._parent(stage))}

    def remove(self, stage: str, names: Collection[str]) -> None:
        """Remove blobs of a stage and unfinished files, and its folder when nothing is left in it. The caller holds
        the lock of the stage."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self.path(stage, name))
        if self._is_local:
            for file in Path(self._parent(stage)).glob(f"*{_UNFINISHED}"):
                file.unlink(missing_ok=True)
        self._remove_folder(self._parent(stage))

    def stages(self) -> list[str]:
        """The stages that have a folder."""
        if not self._files.isdir(self.root):
            return []
        found = self._files.ls(self.root, detail=True)
        return [_base(one["name"]) for one in found if one["type"] == "directory"]

    def remove_all(self) -> int:
        """Remove all blobs of the instance. Returns their number."""
        count = 0
        for stage in self.stages():
            names = self.sizes(stage)
            count += len(names)
            self.remove(stage, names)
        self._remove_folder(self.root)
        return count

    def _parent(self, stage: str) -> str:
        return f"{self.root}/{stage}"

    def path(self, stage: str, name: str) -> str:
        """Where a blob is, for people."""
        return f"{self._parent(stage)}/{name}.pickle"

    def _holds(self, path: str, name: str) -> bool:
        if self._is_local and Path(path).is_symlink():
            return False
        try:
            return content_of(self._files.cat_file(path)) == name
        except FileNotFoundError:
            return False

    def _list(self, folder: str) -> list[tuple[re.Match[str], dict[str, Any]]]:
        self._files.invalidate_cache(folder)
        try:
            found = self._files.ls(folder, detail=True)
        except FileNotFoundError:
            return []
        matched = ((_FILE.fullmatch(_base(one["name"])), one) for one in found if one["type"] == "file")
        return [(match, one) for match, one in matched if match]

    def _remove_folder(self, folder: str) -> None:
        self._files.invalidate_cache(folder)
        with contextlib.suppress(OSError):  # stores of objects have no folders
            if not self._files.ls(folder, detail=False):
                self._files.rmdir(folder)


def _base(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
