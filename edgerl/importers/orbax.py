"""Checkpoint folders of Orbax, as JAX's programs save them: arrays by name, in the database OCDBT.

The folder becomes a zip archive, in memory, and tensorstore reads that in a process of its own: whatever its files say,
no other file is looked at.
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np

from edgerl.errors import EdgerlError, FileFormatError, UnsupportedModelError, quoted, reason, require
from edgerl.files.atomic import read_bytes
from edgerl.importers import bounded
from edgerl.policy.compact import MAXIMUM_POSITIONS, Array

MAXIMUM_BYTES = 1 << 28
"""Of a folder, value networks included."""

MAXIMUM_FILES = 4096

MAXIMUM_ARRAYS = 4096

_MARK = "manifest.ocdbt"
"""The file by which tensorstore finds everything else."""

_ARRAY = "/.zarray"
"""Behind the name of each array."""

_TYPES = ("float32", "float64")

_INSTEAD = "where it was trained, load it and save its parameters with brax.io.model.save_params, and import these"


def archived(folder: Path) -> bytes:
    """The regular files of a folder as a zip archive, the same bytes for the same files.

    Raises FileFormatError, UnsupportedModelError.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if len(files) > MAXIMUM_FILES or sum(path.stat().st_size for path in files) > MAXIMUM_BYTES:
        raise UnsupportedModelError(f"{folder} holds more than a checkpoint; expected at most {MAXIMUM_BYTES} bytes")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in files:
            archive.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix()), read_bytes(path, MAXIMUM_BYTES))
    return buffer.getvalue()


def read(data: bytes, path: Path, prefixes: tuple[str, ...]) -> dict[str, Array]:
    """The arrays of an archived folder whose names begin with one of `prefixes`: 1.params.hidden_0.kernel and so on.

    Raises FileFormatError, UnsupportedModelError, MissingExtraError.
    """
    found = bounded.call("orbax:stored", path, data=data, prefixes=np.array(prefixes))
    return {name: values.astype(np.float64) for name, values in found.items()}


def stored(path: Path, data: bytes, prefixes: Array) -> dict[str, Array]:
    """In a process of its own: the same."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        if _MARK not in archive.namelist():
            raise UnsupportedModelError(f"{path} holds no arrays as Orbax writes them today (no {_MARK}); {_INSTEAD}")
        return _arrays(archive, tuple(str(prefix) for prefix in prefixes), path)
    except EdgerlError:
        raise
    except Exception as error:  # tensorstore's, zipfile's, numpy's
        raise FileFormatError(f"{path} is no checkpoint of Orbax, or is damaged ({reason(error)})") from error


def _arrays(archive: zipfile.ZipFile, prefixes: tuple[str, ...], path: Path) -> dict[str, Array]:
    tensorstore = require("tensorstore", "import")
    context = tensorstore.Context()
    files = tensorstore.KvStore.open("memory://checkpoint/", context=context).result()
    for name in archive.namelist():
        files.write(name, archive.read(name)).result()
    database = {"driver": "ocdbt", "base": "memory://checkpoint/"}
    keys = [key.decode() for key in tensorstore.KvStore.open(database, context=context).result().list().result()]
    names = [key.removesuffix(_ARRAY) for key in keys if key.endswith(_ARRAY) and key.startswith(prefixes)]
    if not names and any(key.endswith("zarr.json") for key in keys):
        raise UnsupportedModelError(
            f"{path} has its arrays in the third version of zarr; expected the second; {_INSTEAD}"
        )
    if len(names) > MAXIMUM_ARRAYS:
        raise UnsupportedModelError(f"{path} holds {len(names)} arrays; expected a policy's")
    found = {}
    for name in names:
        array = tensorstore.open(
            {"driver": "zarr", "kvstore": {**database, "path": f"{name}/"}}, context=context, read=True, open=True
        ).result()
        parts = array.chunk_layout.read_chunk.shape or ()
        if max(math.prod(array.shape), math.prod(parts)) > MAXIMUM_POSITIONS or array.dtype.name not in _TYPES:
            raise UnsupportedModelError(
                f"{path}: {quoted(name, 60)} is {array.dtype.name} of the shape {list(array.shape)}; expected a "
                "policy's"
            )
        found[name] = np.asarray(array.read().result())
    return found
