"""Which pictures a text-to-image job draws: prompts from the command line, a file or captions, and their crosses.

A picture's random numbers come from "variant:words" and not from its place in the list: a line added to a
file changes no other picture, and equal lines are further variants, not copies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from noiseweave.cluster import shards, storage
from noiseweave.engine.networks.prompts import Prompt, PromptList, dress_with, interpolate, keyed
from noiseweave.jobs.reading import class_names


@dataclass(frozen=True, kw_only=True)
class PromptValues:
    """What a command line says of prompts.

    Args:
        prompts: texts.
        prompts_file: a text file or URL, one prompt a line; blank lines and lines that begin with # are left
            out.
        captions: shards whose captions are prompts, one for each sample, in the order of the shards.
        negative: negative prompt of every picture.
        interpolate: two texts; frame i of N mixes i / (N - 1) of the second in, from the same noise.
        frames: N, 2 or more.
        styles: a text file or URL with one style a line, which every prompt is crossed with:
            "{content}, {style}", or the line itself where it holds {content} or {}. All styles of a prompt
            start from the same noise.
        count: variants of each, which differ in their noise alone; null draws one.
        classes: names that {label} in each of prompts or of the file's lines stands for, one after another.

    Raises:
        ValueError: no or several of prompts, prompts_file, captions and interpolate; an empty text; a number out of
            range; classes with another source than prompts and prompts_file.
    """

    prompts: Sequence[str] = ()
    prompts_file: str | None = None
    captions: str | None = None
    negative: str = ""
    interpolate: tuple[str, str] | None = None
    frames: int = 8
    styles: str | None = None
    count: int | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sources = ("prompts", "prompts_file", "captions", "interpolate")
        chosen = [name for name in sources if getattr(self, name) not in (None, ())]
        if len(chosen) != 1:
            raise ValueError(f"one of {', '.join(sources)} is needed; given: {', '.join(chosen) or 'none'}")
        if self.interpolate is not None and self.styles is not None:
            raise ValueError(
                f"styles={self.styles!r}: not together with interpolate, which has two texts of its own"
            )
        texts = self.prompts if self.interpolate is None else self.interpolate
        if any(not text.strip() for text in texts):
            raise ValueError(f"{chosen[0]}={list(texts)!r}: a text is empty")
        if self.interpolate is not None and self.frames < 2:
            raise ValueError(f"frames={self.frames}: 2 or more")
        if self.classes and chosen[0] not in ("prompts", "prompts_file"):
            raise ValueError(f"classes: with prompts or prompts_file, not with {chosen[0]}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count={self.count}: 1 or more, or null")


def prompts_of(values: PromptValues) -> PromptList:
    """The pictures that the values mean, the same list for the same values and files.

    Raises:
        ValueError: a file that is empty or cannot be read; a text without {label} with classes, or with it without.
    """
    variants = 1 if values.count is None else values.count
    if values.interpolate is not None:
        return interpolate(values.interpolate, values.frames, variants, values.negative)
    skipped: Counter[str] = Counter()
    if values.prompts_file is not None:
        texts = lines(values.prompts_file, "prompts_file")
    elif values.captions is not None:
        texts = _captions(values.captions, skipped)
    else:
        texts = list(values.prompts)
    if values.captions is None:
        texts = _of_classes(texts, values.classes)
    dressed = (
        [dress_with(style) for style in lines(values.styles, "styles")]
        if values.styles is not None
        else [str]
    )
    drawn = [
        Prompt(text=dress(text), key=key, negative=values.negative)
        for text, key in keyed(texts, variants)
        for dress in dressed
    ]
    each = variants * len(dressed)
    across = len(dressed) if values.styles is not None else variants
    return PromptList(
        prompts=drawn,
        labels=[p.text for p in drawn],
        across=across,
        skipped=dict(sorted(skipped.items())),
        classes=tuple(i for i in range(len(values.classes)) for _ in range(each)),
    )


def _of_classes(texts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Each text once for each class, its name in place of {label}; the texts as they are where there are no classes."""
    wrong = next((text for text in texts if ("{label}" in text) != bool(names)), None)
    if wrong is not None:
        why = "each prompt needs {label} with classes" if names else "{label} needs classes"
        raise ValueError(f"prompt {wrong[:200]!r}: {why}")
    return [text.replace("{label}", name) for text in texts for name in names] if names else list(texts)


def class_names_of(given: str) -> tuple[str, ...]:
    """The lines of a text file, or the names that the classes.json of shards has.

    Raises:
        ValueError: there are none.
    """
    if given.endswith(".txt"):
        return tuple(lines(given, "classes"))
    names = class_names.carried_classes(given, shards.find(given))
    if not names:
        raise ValueError(
            f"classes {given!r}: its shards have no classes.json; give a .txt with one name a line"
        )
    return tuple(names)


def lines(url: str, field: str) -> list[str]:
    """The lines of a UTF-8 text file, stripped, without blank ones and # comments.

    Raises:
        ValueError: it cannot be read, is no text, or nothing is left; names the field and the file.
    """
    try:
        text = storage.read(storage.absolute(url)).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise ValueError(f"{field} {url!r}: not UTF-8 text (byte {e.start})") from None
    except (OSError, ImportError, ValueError) as e:
        detail = e.strerror if isinstance(e, OSError) and e.strerror else str(e) or type(e).__name__
        raise ValueError(f"{field} {url!r}: cannot be read: {detail}") from None
    found = [line.strip() for line in text.splitlines()]
    kept = [line for line in found if line and not line.startswith("#")]
    if not kept:
        raise ValueError(f"{field} {url!r}: no line in it but blank ones and # comments")
    return kept


def _captions(pattern: str, skipped: Counter[str]) -> list[str]:
    """The captions of shards on one line each, in the order of the shards."""
    texts = []
    for url in shards.find(pattern):
        located, bad = shards.locate(url)
        skipped.update(b.reason for b in bad)
        found = [" ".join((location.caption or "").split()) for location in located]
        texts += [text for text in found if text]
        skipped["no_caption"] += found.count("")
    skipped += Counter()  # drops the reasons that never occurred
    if not texts:
        raise ValueError(f"captions {pattern!r}: no sample there has a caption")
    return texts
