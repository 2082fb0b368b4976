"""The small records that travel between the layers. Nothing here imports torch or Ray.

Shape letters used all over the engine: B images, T kept time steps (index 0 the noisiest), C channels,
H height, W width, N rows of a feature table, D feature length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


Json = dict[str, Any]
"""A JSON object, or keyword arguments: values of any kind by name."""
JsonMapping = Mapping[str, Any]
"""One that is only read."""


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where a picture's bytes lie, and what its sample says beside it.

    Attributes:
        shard: URL of the tar.
        key: the sample's key in that tar.
        offset: first byte of the encoded picture in the tar, >= 0.
        size: encoded bytes, > 0.
        label: class number or None.
        caption: text or None.
        mask_offset, mask_size: of the sample's mask, as offset and size; None where it has none.
        digest: first 16 hex digits of the picture's SHA-256; None where nobody has read it yet.
        broken_profile: once it was read: its colour profile is ignored.
        guess: how probable its label is, in [0, 1], where that was guessed; None where the sample says it.
    """

    shard: str
    key: str
    offset: int
    size: int
    label: int | None = None
    caption: str | None = None
    mask_offset: int | None = None
    mask_size: int | None = None
    digest: str | None = None
    broken_profile: bool = False
    guess: float | None = None

    @property
    def mask(self) -> tuple[int, int] | None:
        """(offset, size) of the mask's bytes."""
        return (
            None if self.mask_offset is None or self.mask_size is None else (self.mask_offset, self.mask_size)
        )


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two images of a group and how they are fused.

    Attributes:
        a, b: positions in ``Group.images``; the first and the second image.
        similarity: cosine of their features, in [-1, 1], rounded to 2**-20.
        mode: a fusion mode.
        ratio: weight of the second image, in [0, 1].
        seed: the pair's own seed, 0 <= seed < 2**63.
        number: of the pictures that are made of the same two, from 0 on.
        attempt: 0, and one more each time that a picture was drawn again because the gate rejected it.
    """

    a: int
    b: int
    similarity: float
    mode: str
    ratio: float
    seed: int
    number: int = 0
    attempt: int = 0


@dataclass(frozen=True, kw_only=True)
class Group:
    """A set of images and the pairs among them: each image is inverted once for all its pairs."""

    id: str
    images: tuple[Location, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class NoiseMaps:
    """The noise-space coordinates of one image.

    Attributes:
        x_T_CHW: float32 [C, H, W], the noisiest kept latent.
        residual_TCHW: float32 [T, C, H, W]; row i is ``sigma_i z_i = x_{i+1} - mu_i(x_i)``, the whole
            step and not z alone, so that the last step, where sigma is 0, loses nothing.
        timesteps_T: int64 [T], descending: index 0 is the noisiest kept step ("structure"), index T - 1
            the cleanest ("texture").
    """

    x_T_CHW: Tensor
    residual_TCHW: Tensor
    timesteps_T: Tensor


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A quarantined piece of input: which one, why, and the words of the error."""

    shard: str
    key: str
    reason: str
    detail: str = ""

    @classmethod
    def of(cls, error: ValueError | str, *, shard: str = "", key: str) -> Quarantined:
        """``"reason: detail"``, as whatever reads one sample raises it -> the record."""
        reason, _, detail = str(error).partition(": ")
        return cls(shard=shard, key=key, reason=reason, detail=detail)
