"""What a text-to-image model is asked for. Free of torch, so that ``--help`` is quick."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from noiseweave.engine.checks import check


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One picture to draw.

    Args:
        text: what the picture shows; "" draws without words.
        key: what its random numbers come from, together with the job's seed: equal keys start from the same
            noise, whatever the words.
        other: a second text that is mixed in.
        mix: share of ``other``, 0 to 1: 0 draws text, 1 draws other.
        negative: what the picture keeps away from; it takes the place of "no words" in the guidance.
    """

    text: str
    key: str
    other: str | None = None
    mix: float = 0.0
    negative: str = ""

    def __post_init__(self) -> None:
        check(0 <= self.mix <= 1, "prompt.mix", self.mix, "0 to 1")
        check(
            self.mix == 0 or self.other is not None, "prompt.mix", self.mix, "0 where there is no other text"
        )


PLACEHOLDERS = ("{content}", "{}")


@dataclass(frozen=True, kw_only=True)
class PromptList:
    """The pictures of a job, in order.

    Attributes:
        prompts: index -> Prompt.
        labels: what each picture's words are, for a sheet and for its caption.
        across: pictures that belong in one row of a sheet: variants, frames or styles; 1 where they are
            unrelated.
        skipped: {reason: number} of shard samples without a usable caption.
        classes: of the pictures in turn, () where they have none.
    """

    prompts: list[Prompt]
    labels: list[str]
    across: int
    skipped: dict[str, int]
    classes: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Prompt:
        return self.prompts[index]


def keyed(texts: Iterable[str], variants: int) -> list[tuple[str, str]]:
    """(text, key) of each text's variants; those of equal texts are counted on."""
    seen: Counter[str] = Counter()
    out = []
    for text in texts:
        out += [(text, f"{seen[text] + v}:{text}") for v in range(variants)]
        seen[text] += variants
    return out


def interpolate(ends: tuple[str, str], frames: int, variants: int, negative: str) -> PromptList:
    """Frames from one text to another, all of a variant from the same noise."""
    a, b = ends
    mixes = [i / (frames - 1) for i in range(frames)]
    prompts = [
        Prompt(text=a, other=b, mix=mix, key=f"{variant}:{a}\n{b}", negative=negative)
        for variant in range(variants)
        for mix in mixes
    ]
    labels = [{0.0: a, 1.0: b}.get(mix, f"{1 - mix:.2f} {a} + {mix:.2f} {b}") for mix in mixes]
    return PromptList(prompts=prompts, labels=labels * variants, across=frames, skipped={})


def dress_with(style: str) -> Callable[[str], str]:
    """A style line -> content -> text. No str.format: other braces in a line mean themselves."""
    held = next((p for p in PLACEHOLDERS if p in style), None)
    if held is None:
        return lambda content: f"{content}, {style}"
    return lambda content: style.replace(held, content)
