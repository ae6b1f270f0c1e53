"""setuptools, whose wheel and source distribution are then packed anew: the same bytes, whoever builds, when and where.

setuptools writes down the builder's umask, the time, and who owns the files. Here every entry bears one time
(SOURCE_DATE_EPOCH, else the first one that a zip file knows), the rights 0644 or 0755, and nobody's name.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import time
import zipfile
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = dict[str, str | list[str] | None]

FIRST = 315532800  # 1980-01-01
STAMP = max(FIRST, int(os.environ.get("SOURCE_DATE_EPOCH", FIRST)))


def build_wheel(
    wheel_directory: str,
    config_settings: Settings | None = None,
    metadata_directory: str | None = None,
) -> str:
    """PEP 517; the name of the wheel."""
    name = str(build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))
    path = Path(wheel_directory) / name
    path.write_bytes(wheel_again(path))
    return name


def build_sdist(sdist_directory: str, config_settings: Settings | None = None) -> str:
    """PEP 517; the name of the source distribution."""
    name = str(build_meta.build_sdist(sdist_directory, config_settings))
    path = Path(sdist_directory) / name
    path.write_bytes(sdist_again(path))
    return name


def wheel_again(path: Path) -> bytes:
    """The same entries in the same order (RECORD comes last)."""
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            made = zipfile.ZipInfo(entry.filename, time.gmtime(STAMP)[:6])
            made.external_attr = (stat.S_IFREG | rights(entry.external_attr >> 16)) << 16
            new.writestr(made, old.read(entry), zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def sdist_again(path: Path) -> bytes:
    """The same files, by name; directories come of themselves."""
    packed = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=packed, mode="w") as new:
        for entry in sorted(old, key=lambda entry: entry.name):
            content = old.extractfile(entry)
            if content is not None:
                made = tarfile.TarInfo(entry.name)
                made.size, made.mtime, made.mode = entry.size, STAMP, rights(entry.mode)
                new.addfile(made, content)
    return gzip.compress(packed.getvalue(), mtime=STAMP)


def rights(mode: int) -> int:
    """What everybody may do with a file that its owner may execute, or not."""
    return 0o755 if mode & stat.S_IXUSR else 0o644
