"""What the rows of a network call are conditioned on, with classifier-free guidance (Ho & Salimans, arXiv 2207.12598).

B rows, P prompts, L tokens of D values, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from noiseweave.engine.networks import text_encoding
from noiseweave.engine.networks.families.family import Family, Guidance, How
from noiseweave.engine.networks.families.registry import family_of
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.protocols import Network, Pipeline, Unet
from noiseweave.engine.networks.text_encoding import slerp

POOLED = "pooled_prompt_embeds"


def guide(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598): u + scale (c - u); scale 1 is c."""
    return unconditional + scale * (conditional - unconditional)


@dataclass(frozen=True, kw_only=True)
class Words:
    """The embeddings of P prompts.

    Attributes:
        conditional: prompt_embeds [P, L, D]; of most families pooled_prompt_embeds [P, D'] too.
        unconditional: the same names, of the negative prompts: no words, as a rule. [1, ...] where it is one for all;
            empty where there is no classifier-free guidance.
        family: of the pipeline that reads them.
        guided: how its network is guided.
    """

    conditional: Mapping[str, Tensor]
    unconditional: Mapping[str, Tensor]
    family: Family
    guided: Guidance = "classifier-free"

    def __len__(self) -> int:
        return len(self.conditional["prompt_embeds"])

    @property
    def silent(self) -> bool:
        """Whether the prompts say no more than the negative ones, so that guidance changes nothing."""
        return bool(self.unconditional) and all(
            torch.equal(x, self.unconditional[name].expand_as(x)) for name, x in self.conditional.items()
        )

    def mixed(self, shares: Sequence[Sequence[tuple[int, float]]]) -> Words:
        """New prompts, each a mixture of some of these: (number, weight >= 0), with a sum above 0.

        Two of them are mixed by slerp, so that a weight of 0 or 1 gives an end bit for bit; several by going
        from one to the next, each time as far as its weight is in what has come together.
        """
        assert all(len(x_P) == 1 for x_P in self.unconditional.values())
        mixed = {
            n: torch.stack([_walk(x_P, share) for share in shares]) for n, x_P in self.conditional.items()
        }
        return replace(self, conditional=mixed)

    def output(self, network: Network, x: Tensor, t: Tensor, rows: Mapping[str, Tensor], how: How) -> Tensor:
        """What the network gives of rows that are conditioned on ``rows``."""
        return self.family.predict(network, x, t, rows, how)

    def guide(self, unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
        """Classifier-free guidance as the family has it."""
        return self.family.rescaled(guide(unconditional, conditional, scale), conditional)

    def rows(self, which_B: Tensor, guided_G: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """What G unconditional rows, then B that are conditioned on prompts ``which_B``, are conditioned on.

        Args:
            guided_G: int64, the prompts whose negative ones the unconditional rows have.
        """
        rows = {name: x_P[which_B].to(dtype) for name, x_P in self.conditional.items()}
        if len(guided_G):
            for name, x_P in self.unconditional.items():
                null_G = x_P[guided_G if len(x_P) > 1 else torch.zeros_like(guided_G)]
                rows[name] = torch.cat([null_G.to(dtype), rows[name]])
        return rows


@dataclass(frozen=True, kw_only=True)
class Classes:
    """P labels for a class-conditional network, whose last embedding is that of no class.

    Attributes:
        weight_PK: float [P, K + 1], weights of the classes' embeddings, the last that of no class.
    """

    weight_PK: Tensor
    guided: ClassVar[Guidance] = "classifier-free"

    def __len__(self) -> int:
        return len(self.weight_PK)

    @property
    def silent(self) -> bool:
        """Whether no row has a class."""
        return bool((self.weight_PK[:, :-1] == 0).all())

    def mixed(self, shares: Sequence[Sequence[tuple[int, float]]]) -> Classes:
        """New labels, each a mixture of some of these: (number, weight >= 0), with a sum above 0."""
        weights = [sum(w for _, w in share) for share in shares]
        rows = [
            torch.stack([self.weight_PK[p] * (w / total) for p, w in share]).sum(0)
            for share, total in zip(shares, weights, strict=True)
        ]
        return Classes(weight_PK=torch.stack(rows))

    def output(self, network: Network, x: Tensor, t: Tensor, rows: Mapping[str, Tensor], how: How) -> Tensor:
        """As of ``Words``; ``mixable`` must have been done to the network."""
        return network(x, t, **rows, return_dict=False)[0]

    def guide(self, unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
        """As of ``Words``, and nothing else."""
        return guide(unconditional, conditional, scale)

    def rows(self, which_B: Tensor, guided_G: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """As of ``Words``."""
        null_GK = torch.zeros_like(self.weight_PK[guided_G])
        null_GK[:, -1] = 1
        return {"class_labels": torch.cat([null_GK, self.weight_PK[which_B]]).to(dtype)}


def classes_of(labels: Sequence[int | None], classes: int, device: torch.device | str) -> Classes:
    """P labels in 0..classes - 1 -> their weights; None and what lies outside is no class."""
    known = [classes if y is None or not 0 <= y < classes else y for y in labels]
    conditional = torch.nn.functional.one_hot(torch.tensor(known, device=device), classes + 1)
    return Classes(weight_PK=conditional.float())


class _Mixture(torch.nn.Module):
    """An embedding table that takes weights of its rows, float [B, K + 1], as well as their numbers, int64 [B]."""

    def __init__(self, table: torch.nn.Embedding) -> None:
        super().__init__()
        self.weight = table.weight

    def forward(self, rows: Tensor) -> Tensor:
        if not rows.is_floating_point():
            return torch.nn.functional.embedding(rows, self.weight)
        return rows.to(self.weight) @ self.weight


def mixable(unet: Unet) -> Unet:
    """A class-conditional UNet2DModel whose ``class_labels`` may be weights of its classes; in place."""
    if isinstance(unet.class_embedding, torch.nn.Embedding):
        unet.class_embedding = _Mixture(unet.class_embedding)
    return unet


def _walk(x_P: Tensor, share: Sequence[tuple[int, float]]) -> Tensor:
    (start, weight), *others = [(p, w) for p, w in share if w > 0]
    here = x_P[start]
    for p, w in others:
        weight += w
        here = slerp(here, x_P[p], w / weight).to(x_P.dtype)
    return here


def words_of(pipeline: Pipeline, prompts: Sequence[Prompt], dtype: torch.dtype) -> Words:
    """P prompts -> their embeddings, each distinct text encoded once; one negative for all where it is the same."""
    family = family_of(pipeline)
    guided = family.guidance(family.network_of(pipeline).config)
    found = text_encoding.embeddings(pipeline, prompts, guided == "classifier-free")
    found = {name: x.to(dtype) for name, x in found.items()}
    conditional = {name: x for name, x in found.items() if not name.startswith("negative_")}
    one = slice(0, 1 if len({p.negative for p in prompts}) == 1 else None)
    unconditional = {
        name: found[f"negative_{name}"][one] for name in conditional if f"negative_{name}" in found
    }
    return Words(conditional=conditional, unconditional=unconditional, family=family, guided=guided)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What each row of a network call is conditioned on; it is split as the rows are.

    Attributes:
        words: of P prompts, or P labels.
        guidance: scale, 1 is off.
        which_B: int64 [B], the prompt of each row.
        guided_B: bool [B], the rows that are guided at all; None is every row.
    """

    words: Words | Classes
    guidance: float
    which_B: Tensor
    guided_B: Tensor | None = None

    def __getitem__(self, part: slice | Tensor) -> Condition:
        guided_B = None if self.guided_B is None else self.guided_B[part]
        return replace(self, which_B=self.which_B[part], guided_B=guided_B)

    @property
    def _guided_rows(self) -> Tensor:
        """int64 [G], their places."""
        rows_B = torch.arange(len(self.which_B), device=self.which_B.device)
        if self.guidance == 1 or self.words.guided != "classifier-free":
            return rows_B[:0]
        return rows_B if self.guided_B is None else rows_B[self.guided_B]

    def predict(self, network: Network, x_BCHW: Tensor, t_B: Tensor, size: tuple[int, int]) -> Tensor:
        """The network's output, guided, float32 [B, ...]: both halves in one call; a row that is not guided has one.

        Where guidance is an input of the network there is one half.

        Args:
            x_BCHW: what the network sees, in its precision.
            t_B: [B], or a number's tensor for all.
            size: (height, width) of the pictures in pixels, which SDXL is conditioned on.
        """
        guided_G, t_B = self._guided_rows, t_B.to(x_BCHW.device).expand(len(x_BCHW))
        x = torch.cat([x_BCHW[guided_G], x_BCHW]).contiguous()  # as in Backbone._output
        t = torch.cat([t_B[guided_G], t_B])
        rows = self.words.rows(self.which_B, self.which_B[guided_G], x.dtype)
        out = self.words.output(network, x, t, rows, How(size=size, guidance=self.guidance)).float()
        unconditional, conditional = out[: len(guided_G)], out[len(guided_G) :]
        if not len(guided_G):
            return conditional
        guided = self.words.guide(unconditional, conditional[guided_G], self.guidance)
        return conditional.index_copy(0, guided_G, guided)
