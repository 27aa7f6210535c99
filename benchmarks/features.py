"""Features of a frozen backbone: computed once, kept on disk, found again by what the images and the backbone are."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from benchmarks._data_readable import Readable
from benchmarks._onnx import faster
from benchmarks.backbones import Encoder
from benchmarks.images import Square, center
from metriczoo.data import LabelledImages

__all__ = ["FeatureCache", "Vectors", "digests_of", "extract", "maker_of"]

_VERSION = 1  # of how images become features, weights aside: one more makes everything anew
_SHARD = 128  # images in a file, and in a batch
_WORTH_EXPORT = 1000  # images, below which ONNX Runtime is not worth its preparation
_DIGEST = hashlib.sha256().digest_size
_STALE = 3600  # seconds after which an unfinished file is nobody's

OnProgress = Callable[[int, int], None]  # images done, of how many
_Rows = dict[bytes, NDArray[np.float32]]


class Vectors(Dataset[tuple[Tensor, int, int]]):
    """A data set whose items are a vector of features, its label and its position."""

    def __init__(self, features: Tensor, labels: NDArray[np.int64]) -> None:
        self.features, self.labels = features, labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.features[index], self.labels[index], index


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


@torch.no_grad()
def extract(
    encoder: Encoder,
    images: Square,
    side: int,
    cache: FeatureCache,
    *,
    device: torch.device,
    workers: int = 0,
    on_progress: OnProgress = lambda done, total: None,
) -> tuple[Tensor, str | None]:
    """Features `[n, f]` of all images, those that the cache has not yet computed and added to it some at a time.

    Args:
        encoder: with the backbone.
        images: the data set, of which the middle is seen.
        side: of the images that the backbone sees.
        cache: of the features of this backbone.
        device: where to compute.
        workers: processes that read images.
        on_progress: is called as features get there.

    Returns:
        The features, on the host, and what computed those that were missing.

    Raises:
        OSError: an image cannot be read, or the cache cannot be written.
    """
    digests = digests_of(images.images)
    rows = cache.find(digests)
    first = {digest: row for row, digest in reversed(list(enumerate(digests)))}  # equal images need one
    missing = sorted(row for digest, row in first.items() if digest not in rows)
    total, runtime = len(digests), None
    done = sum(digest in rows for digest in digests)
    on_progress(done, total)
    if missing:
        cache.sweep()
        compute: Callable[[Tensor], Tensor] | None = None
        loader = DataLoader(Subset(images, missing), batch_size=_SHARD, num_workers=workers, generator=torch.Generator())
        for batch, _, positions in loader:
            seen = center(batch.to(device), side)
            if compute is None:
                compute, runtime = _runtime(encoder, seen, total)
            features = compute(seen).float().cpu().numpy()
            cache.add(of_shard := [digests[row] for row in positions.tolist()], features)
            rows |= zip(of_shard, features, strict=True)
            done += len(of_shard)
            on_progress(min(done, total), total)
        on_progress(total, total)
    return torch.from_numpy(np.stack([rows[digest] for digest in digests])), runtime


class _Features(nn.Module):
    """The part of an encoder that is frozen."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder.features(images)


def _runtime(encoder: Encoder, images: Tensor, total: int) -> tuple[Callable[[Tensor], Tensor], str]:
    encoder.to(images.device).eval()
    if images.device.type != "cpu" or total < _WORTH_EXPORT:
        return encoder.features, "torch"
    return faster(_Features(encoder).eval(), images)
