"""What lora learns from: pictures with their masks and captions, out of folders or shards."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from noiseweave.cluster.labels import text_of
from noiseweave.engine import seeding
from noiseweave.engine.pictures import crops, images, masks
from noiseweave.engine.pictures.crops import Size
from noiseweave.engine.records import Json, JsonMapping, Quarantined
from noiseweave.jobs.lora.config import Config
from noiseweave.jobs.lora.listing import Found, found_in, without_mask
from noiseweave.jobs.lora.model import Model, look
from noiseweave.jobs.reading.places import TEXT_LIMIT, Place

PLAIN: JsonMapping = {"captions": True, "template": "{caption}"}


@dataclass(frozen=True, kw_only=True)
class Item:
    """A picture to learn from.

    Attributes:
        words: what it is called.
        size: (height, width) of the upright picture.
        bucket: the size that it is cut to.
        mode: the colour of the hole in its mask.
        content: hash of its bytes and its mask's.
        broken_profile: its colour profile is ignored.
    """

    key: str
    picture: Place
    mask: Place | None
    words: str
    size: Size
    bucket: Size
    mode: masks.MaskMode
    content: str
    broken_profile: bool = False


@dataclass(frozen=True, kw_only=True)
class Source:
    """All that training reads.

    Attributes:
        items, held, prior: pictures that are trained on, that are held out, and of the class.
        masked: whether holes come from masks; else they are random, for a model that sees holes.
        folders: that every worker must see.
        bad: what was left out, and why.
        truncated: ends of captions that the text encoder does not read, one for each distinct caption that is too long.
        identity: what else than the config the weights depend on.
        encoded, spoken: where the cache holds what the encoders made, by key and by words; {} without a cache.
    """

    model: Model
    items: tuple[Item, ...]
    held: tuple[Item, ...]
    prior: tuple[Item, ...]
    masked: bool
    folders: tuple[str, ...]
    bad: tuple[Quarantined, ...] = ()
    truncated: tuple[str, ...] = ()
    identity: JsonMapping = field(default_factory=dict)
    encoded: Mapping[str, Mapping[str, Place]] = field(default_factory=dict, repr=False)
    spoken: Mapping[str, Mapping[str, Place]] = field(default_factory=dict, repr=False)

    @property
    def all(self) -> tuple[Item, ...]:
        """All pictures: to train on, held out, prior."""
        return (*self.items, *self.held, *self.prior)

    @property
    def draws_holes(self) -> bool:
        """Whether some holes are random, so that pictures are read and encoded at each step."""
        return self.model.sees_holes and any(item.mask is None for item in self.all)


def gather(config: Config) -> Source:
    """Look at the model and at every picture.

    Raises:
        ValueError: one line: no picture, one only, masks and model do not fit, or what is missing.
    """
    model = look(config)
    found, modes, left_out, seen = found_in(config, config.input, "input")
    masked = _masked(config, model, found)
    if masked:
        left_out += [without_mask(f) for f in found if f.mask is None]
        found = [f for f in found if f.mask is not None]
    else:
        found = [replace(f, mask=None) for f in found]
    items, bad = _looked(config, model, found, modes)
    if len(items) < 2:
        what = f"one picture only ({items[0].key})" if items else "no picture that can be read"
        why = Counter(b.reason for b in (*left_out, *bad))
        what += f" (left out: {', '.join(f'{n} {r}' for r, n in sorted(why.items()))})" if why else ""
        raise ValueError(f"input {config.input!r}: {what}; two or more are needed")
    prior, more = _prior(config, model)
    kept, held = split(items, config.validation.share)
    source = Source(
        model=model,
        items=tuple(kept),
        held=tuple(held),
        prior=tuple(prior.items),
        masked=masked,
        folders=tuple(dict.fromkeys([*seen, *more])),
        bad=(*left_out, *bad, *prior.bad),
    )
    return replace(source, identity=_identity(source))


@dataclass(frozen=True)
class _Prior:
    items: Sequence[Item] = ()
    bad: Sequence[Quarantined] = ()


def _prior(config: Config, model: Model) -> tuple[_Prior, list[str]]:
    if config.prior is None:
        return _Prior(), []
    data = replace(config.data, template="{caption}", masks=False)
    plain = replace(config, data=data)
    found, modes, left_out, seen = found_in(plain, config.prior, "prior")
    found = [replace(f, key=f"prior/{f.key}", mask=None) for f in found]
    items, bad = _looked(plain, model, found, modes)
    if not items:
        raise ValueError(f"prior {config.prior!r}: no picture that can be read")
    named = [replace(item, words=item.words or config.prior_prompt) for item in items]
    return _Prior(named, [*left_out, *bad]), seen


def split(items: Sequence[Item], share: float) -> tuple[list[Item], list[Item]]:
    """Trained and held out, by a hash of the key alone; at least one of each where there is a share."""
    at = {item.key: seeding.seed_of(0, "held out", item.key) / (1 << 63) for item in items}
    ordered = sorted(items, key=lambda item: at[item.key])
    count = sum(at[item.key] < share for item in items)
    count = min(max(count, share > 0), len(items) - 1)
    held = {item.key for item in ordered[:count]}
    return [i for i in items if i.key not in held], [i for i in items if i.key in held]


def _identity(source: Source) -> Json:
    rows = [(i.key, i.words, i.bucket, i.mode, i.content) for i in source.all]
    content = hashlib.sha256(repr(rows).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return {
        "pictures": len(source.items),
        "held_out": len(source.held),
        "prior_pictures": len(source.prior),
        "content": content,
        "model.hash": source.model.hash,
    }


def summary(config: Config, source: Source, workers: int) -> str:
    """What is about to happen, in a line."""
    sizes = len({item.bucket for item in source.items})
    holes = "from masks" if source.masked else "random" if source.model.sees_holes else "none"
    more = f", {len(source.held)} held out" * bool(source.held)
    more += f", {len(source.prior)} of the class" * bool(source.prior)
    batch = config.batch * config.accumulate * workers
    return (
        f"{len(source.items)} pictures in {sizes} sizes{more}; holes: {holes}; {batch} pictures a step "
        f"({config.batch} x {config.accumulate} x {workers} workers) -> {config.output}"
    )


# one picture


def _looked(
    config: Config, model: Model, found: Sequence[Found], mode: masks.MaskMode
) -> tuple[list[Item], list[Quarantined]]:
    """Every picture's size, bucket, words and content; those that cannot be read are quarantined."""
    among = _sizes(config, model)
    look_at = functools.partial(_item, config, among, mode)
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(look_at, found))
    return [o for o in outcomes if isinstance(o, Item)], [o for o in outcomes if isinstance(o, Quarantined)]


def _sizes(config: Config, model: Model) -> list[Size]:
    """What pictures are cut to."""
    size, square = config.data.size, (config.data.size, config.data.size)
    among = crops.buckets(size, model.multiple) if config.data.buckets else [square]
    kept = [sides for sides in among if model.most is None or max(sides) <= model.most]
    if not kept:
        raise ValueError(
            f"data.size={size}: model {config.model.name!r} takes at most {model.most} on a side"
        )
    return kept


def _item(config: Config, among: list[Size], mode: masks.MaskMode, f: Found) -> Item | Quarantined:
    try:
        data = f.picture.read()
        mask = f.mask.read() if f.mask is not None else b""
        size = _size(data, config.data.max_pixels)
        words = caption(config, f)
    except (ValueError, OSError) as e:
        error = e if isinstance(e, ValueError) else f"unreadable: {e}"
        return Quarantined.of(error, shard=f.picture.path if f.picture.size is not None else "", key=f.key)
    return Item(
        key=f.key,
        picture=f.picture,
        mask=f.mask,
        words=words,
        size=size,
        mode=mode,
        bucket=crops.bucket_of(size, among),
        content=content_of(data, mask),
        broken_profile=images.has_broken_profile(data),
    )


def content_of(data: bytes, mask: bytes) -> str:
    """An ``Item.content``: of a picture's file and its mask's, b"" where it has none."""
    return hashlib.sha256(hashlib.sha256(data).digest() + hashlib.sha256(mask).digest()).hexdigest()[:24]


def _size(data: bytes, most: int) -> Size:
    """(height, width) of an encoded picture, from its head."""
    try:
        height, width = images.upright_size(data)
    except Exception:  # Pillow raises many kinds on damaged heads; decode knows their names
        height, width = images.decode(data, 3, most).shape[:2]
    if height * width > most:
        raise ValueError(f"too_large: {width}x{height}, at most {most} pixels")
    if min(height, width) < 8:
        raise ValueError(f"too_small: {width}x{height}, 8x8 or more")
    return height, width


def caption(config: Config, f: Found) -> str:
    """What a picture is called.

    Raises:
        ValueError: ``"bad_txt: ..."``.
    """
    text = f.text if config.data.captions else None
    if isinstance(text, Place):
        text = text_of(text.read(TEXT_LIMIT))
    return " ".join(config.data.template.format(caption=text or "", label=f.label).split())


def unseen(paths: Iterable[str]) -> str | None:
    """The first of these local folders or files that is not to be seen from here."""
    return next((p for p in paths if not os.path.exists(p)), None)


def _masked(config: Config, model: Model, found: Sequence[Found]) -> bool:
    """Whether holes come from masks."""
    wanted, there = config.data.masks, any(f.mask is not None for f in found)
    if wanted and not there:
        raise ValueError(f"input {config.input!r}: no picture with a mask, and data.masks=True")
    masked = there if wanted is None else wanted
    if masked and not model.sees_holes:
        raise ValueError(
            f"model {config.model.name!r}: its network sees no mask, and the pictures have masks; "
            "take an inpainting model, or --data.masks false"
        )
    return masked
