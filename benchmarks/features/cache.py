"""Features on disk, found again by what the images and the backbone are."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.images.readable import Readable
from benchmarks.training.backbones import Encoder
from metriczoo.data import LabelledImages

__all__ = ["FeatureCache", "digests_of", "maker_of"]

_VERSION = 1  # of how images become features, weights aside: one more makes everything anew
_DIGEST = hashlib.sha256().digest_size
_STALE = 3600  # seconds after which an unfinished file is nobody's

_Rows = dict[bytes, NDArray[np.float32]]


class FeatureCache:
    """Features on disk, in files of some images each, found by digests of the images.

    A file is replaced as a whole or not at all, and says itself what it holds: one that is damaged is removed, and its images are missing.

    Args:
        folder: for all features.
        maker: what the features depend on beside the images, for JSON: backbone, digest of its weights, size of images. Features of
            another maker are never found.

    Attributes:
        folder: of the features of this maker.
        damaged: files that were removed.
    """

    def __init__(self, folder: str | os.PathLike[str], maker: Mapping[str, Any]) -> None:
        self._maker = json.dumps({**maker, "version": _VERSION}, sort_keys=True)
        name = re.sub(r"[^\w.-]+", "-", str(maker.get("backbone", "features")))
        self.folder = Path(folder) / f"{name}-{hashlib.sha256(self._maker.encode()).hexdigest()[:16]}"
        self.damaged: list[Path] = []

    def find(self, digests: Iterable[bytes]) -> _Rows:
        """The features `[f]` that are there of images with these digests."""
        wanted, found = set(digests), _Rows()
        if not self.folder.is_dir():
            return found
        for path in sorted(self.folder.glob("*.npz")):
            try:
                found |= self._read(path, wanted - found.keys())
            except MemoryError:
                raise
            except Exception:  # BadZipFile, ValueError, KeyError, EOFError, zlib.error, OSError: there is no common base
                self.damaged.append(path)
                with contextlib.suppress(OSError):
                    path.unlink()
        return found

    def _read(self, path: Path, wanted: set[bytes]) -> _Rows:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            images = [row.tobytes() for row in content["images"]]
            if any(len(image) != _DIGEST for image in images):
                raise ValueError("not what was written")
            if not wanted.intersection(images):
                return {}
            features, check = content["features"], content["check"].tobytes()
        if check != self._check(images, features) or features.dtype != np.float32:
            raise ValueError("not what was written")
        return {image: row for image, row in zip(images, features, strict=True) if image in wanted}

    def _check(self, images: list[bytes], features: NDArray[np.float32]) -> bytes:
        parts = (self._maker.encode(), *images, str(features.shape).encode(), np.ascontiguousarray(features).tobytes())
        return hashlib.sha256(b"".join(parts)).digest()

    def add(self, digests: list[bytes], features: NDArray[np.float32]) -> None:
        """Keep the features `[n, f]` of images.

        Raises:
            OSError: if they cannot be written; what was there before is still there.
        """
        path = self.folder / f"{hashlib.sha256(b''.join(digests)).hexdigest()[:24]}.npz"
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")  # several processes may make the same features
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
            images = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
            with unfinished.open("wb") as file:
                np.savez(file, images=images, features=features, check=np.frombuffer(self._check(digests, features), np.uint8))
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError as error:
            raise OSError(f"Cannot write to the cache of features {self.folder}: {error.strerror or error}.") from error
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what killed processes left unfinished."""
        for path in self.folder.glob(".*.part"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()


def digests_of(images: LabelledImages) -> list[bytes]:
    """A digest of each image: of its file, of its box if it is cut out of it, and of who reads it; of its pixels, if it has no file."""
    source, rows = (images._dataset, images.rows.tolist()) if isinstance(images, Readable) else (images, range(len(images)))
    boxes, kind = getattr(source, "boxes", None), type(source).__name__
    content: bytes
    about: tuple[Any, ...]
    digests = []
    for row in rows:
        if source.paths:
            content, about = source.paths[row].read_bytes(), (kind, None if boxes is None else boxes[row].tolist())
        else:
            pixels = np.asarray(source[row][0])
            content, about = pixels.tobytes(), ("pixels", pixels.shape)
        digests.append(hashlib.sha256(content + repr(about).encode()).digest())
    return digests


def maker_of(encoder: Encoder, backbone: str, side: int, margin: int) -> dict[str, Any]:
    """What the features of a backbone depend on beside the images.

    Args:
        encoder: with the backbone.
        backbone: its name.
        side: of the images that it sees.
        margin: of the images, on each side, that is read but not seen.
    """
    weights = hashlib.sha256()
    for name, value in [*encoder.net.state_dict().items(), ("mean", encoder.mean), ("std", encoder.std)]:
        weights.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        weights.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return {"backbone": backbone, "weights": weights.hexdigest(), "image_size": side, "margin": margin}
