"""A MedMNIST .npz file -> PNG files in the cache and a table with the file's own split."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from PIL import Image

from medlens.data.groups import SPLITS
from medlens.data.remote import local_side
from medlens.errors import MedlensError
from medlens.files import write_bytes


def unpack_medmnist(file: Path, cache: Path) -> tuple[Path, pd.DataFrame]:
    """Write the pictures of a MedMNIST file as PNG files, once, and list them.

    The pictures are read one at a time, so that a file larger than the memory can be unpacked.

    Args:
        file: An .npz file with train_images, train_labels and the same for val and test.
        cache: The cache folder; the pictures go below it, named by the file's SHA-256.

    Returns:
        The folder of the pictures, and a table with path, label, patient and split.

    Raises:
        MedlensError: If the file is not of that format, or has several labels per image.
    """
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = local_side(cache) / "medmnist" / digest
    index = folder / "labels.csv"
    if not index.exists():
        try:
            rows = list(_unpack(file, folder))
        except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError) as error:
            raise MedlensError(
                "The .npz file is not in MedMNIST's format.",
                got=str(error.args[0]) if error.args else type(error).__name__,
                expected="train_images (uint8, n x height x width, or x 3) and train_labels "
                "(n x 1), the same for val and test",
                fix="Use a 2-D, single-label MedMNIST file, or a folder or CSV of images.",
                names=[str(file)],
            ) from None
        table = pd.DataFrame(rows, columns=["path", "label", "patient", "split"])
        # The list comes last: without it the folder counts as not unpacked.
        write_bytes(index, table.to_csv(index=False).encode())
    table = pd.read_csv(index, dtype=str, keep_default_na=False)
    return folder, table.sort_values("path", ignore_index=True)


def _unpack(file: Path, folder: Path) -> Iterator[tuple[str, str, str, str]]:
    with zipfile.ZipFile(file) as archive:
        labels = {split: _labels(archive, split) for split in SPLITS}
        digits = len(str(max(int(values.max()) for values in labels.values())))
        for split in SPLITS:
            with archive.open(f"{split}_images.npy") as stream:
                for number, picture in enumerate(_pictures(stream, len(labels[split]))):
                    label = str(labels[split][number]).zfill(digits)
                    path = folder / split / label / f"{number:06d}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture).save(path)
                    yield path.relative_to(folder).as_posix(), label, "", split


def _labels(archive: zipfile.ZipFile, split: str) -> NDArray[np.int64]:
    with archive.open(f"{split}_labels.npy") as stream:
        labels = npy_format.read_array(stream, allow_pickle=False)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"{split}_labels of shape {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{split}_labels of type {labels.dtype}")
    return labels.astype(np.int64)


def _pictures(stream: IO[bytes], count: int) -> Iterator[NDArray[np.uint8]]:
    version = npy_format.read_magic(stream)
    read_header: Any = {
        (1, 0): npy_format.read_array_header_1_0,
        (2, 0): npy_format.read_array_header_2_0,
    }[version]
    shape, fortran_order, dtype = read_header(stream)
    is_picture = len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)
    if dtype != np.uint8 or fortran_order or not is_picture or shape[0] != count:
        raise ValueError(f"images of shape {shape} and type {dtype} for {count} labels")
    size = int(np.prod(shape[1:]))
    for _ in range(count):
        content = stream.read(size)
        yield np.frombuffer(content, dtype=np.uint8).reshape(shape[1:])
