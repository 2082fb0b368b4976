"""Texts -> what a pipeline's network is conditioned on, and which of their ends its text encoders do not read.

B prompts, L tokens of D values.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from noiseweave.engine.networks.families.family import Reader
from noiseweave.engine.networks.families.registry import family_of
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.protocols import Pipeline

PARALLEL = 1e-3  # sine of the angle below which slerp is lerp to float32's precision


def slerp(a: Tensor, b: Tensor, mix: float) -> Tensor:
    """Spherical interpolation along the last dimension (Shoemake, SIGGRAPH 1985), float32 [..., D].

    ``sin((1 - mix) w) / sin(w) a + sin(mix w) / sin(w) b``, w the angle between a and b: a at mix 0 and b at 1,
    bit for bit. Each vector turns on its own: cross-attention reads a prompt token by token, and the end of
    CLIP's transformer is a normalisation of each token, so it is each token's length that must stay.
    Parallel and opposite vectors have no one arc between them and are mixed linearly.
    """
    a, b = a.float(), b.float()
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1)[..., None]
    w = cosine.acos()
    turned = torch.sin((1 - mix) * w) / torch.sin(w) * a + torch.sin(mix * w) / torch.sin(w) * b
    return torch.where(torch.sin(w) < PARALLEL, torch.lerp(a, b, mix), turned)


def embeddings(pipeline: Pipeline, prompts: Sequence[Prompt], guided: bool) -> dict[str, Tensor]:
    """What the texts become: prompt_embeds [B, L, D] and the other ``Family.embeddings``; if guided the negative ones.

    Each distinct text is encoded once.
    """
    family = family_of(pipeline)
    encode, names = functools.cache(functools.partial(family.encode, pipeline)), family.embeddings

    def mixed(p: Prompt) -> Iterable[Tensor]:
        a = encode(p.text, False)
        if p.other is None:
            return a
        pairs = zip(a, encode(p.other, False), strict=True)
        return [slerp(x, y, p.mix).to(x.dtype) for x, y in pairs]

    positive = [torch.cat(t) for t in zip(*map(mixed, prompts), strict=True)]
    out = dict(zip(names, positive, strict=False))
    if guided:
        negative = [torch.cat(t) for t in zip(*(encode(p.negative, True) for p in prompts), strict=True)]
        out |= {f"negative_{n}": t for n, t in zip(names, negative, strict=False)}
    return out


def truncated_ends(pipeline: Pipeline, prompts: Iterable[Prompt]) -> dict[str, str]:
    """The distinct texts, negative ones too, that are longer than the text encoders read -> the ends left unread.

    In their order. CLIP reads 77 tokens, the two around the words included; what comes after has no effect.
    """
    readers = family_of(pipeline).readers(pipeline)
    texts = dict.fromkeys(t for p in prompts for t in (p.text, p.other, p.negative) if t)
    return {t: end for t in texts for end in [_unread(readers, t)] if end is not None}


def _unread(readers: Sequence[Reader], text: str) -> str | None:
    for one in readers:
        ids = one.tokenizer(text).input_ids
        if len(ids) > one.most:
            return str(one.tokenizer.decode(ids[one.most - one.ends : len(ids) - one.ends])).strip()
    return None
