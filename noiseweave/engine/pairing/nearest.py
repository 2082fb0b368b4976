"""Features -> similar pairs -> groups. Exact, blockwise: memory O(block^2 + N k), never N x N.

Letters: N rows of the feature table, D feature length, R rows and C columns of a block, K = top_k,
M candidates.

A float32 product of two blocks depends in its last bits on how it was split. It only names candidates here:
their similarity is computed again in float64 and rounded to 2**-20, and ties go to the lower row number. So
pairs depend neither on the block size nor on the number of threads.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine.pairing import drawing
from noiseweave.engine.pairing.blocks import GRID, SLACK, Block, may_pair, similarity_of
from noiseweave.engine.pairing.recipes import PairingRecipe

NONE = -(2 << 20)  # below every similarity on the grid
Columns = Iterable[tuple[int, np.ndarray, np.ndarray]]
"""(first row number, float32 [C, D], int64 [C] labels, -1 for none), in any order, each row once."""


def nearest(
    first: int,
    f_RD: np.ndarray,
    label_R: np.ndarray,
    columns: Columns,
    recipe: PairingRecipe,
    device: str = "cpu",
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K allowed partners of each of R rows, the most similar or over the range, streamed over all columns.

    Args:
        first: row number of the first row of the block.
        f_RD: float32 [R, D], unit length.
        label_R: int64 [R].
        seed: with ``draw: range`` it says which.

    Returns:
        (a, b, similarity): int64, int64, float64 [M], a the block's row, at most R * K entries.
    """
    rows = Block.of(first, f_RD, label_R, device)
    blocks = (Block.of(start, f_CD, label_C, device) for start, f_CD, label_C in columns)
    if recipe.draw == "range":
        drawn = drawing.Drawn.none(len(f_RD), recipe, device)
        for block in blocks:
            drawn = drawing.merge(rows, block, drawn, recipe, seed)
        a, b, s = drawn.pairs(recipe)
    else:
        a, b, s = _most_similar(rows, blocks, recipe)
    return (a + first).cpu().numpy(), b.cpu().numpy(), (s.double() / GRID).cpu().numpy()


def _most_similar(
    rows: Block, blocks: Iterable[Block], recipe: PairingRecipe
) -> tuple[Tensor, Tensor, Tensor]:
    best_s = torch.full((len(rows.f_RD), recipe.top_k), NONE, dtype=torch.int64, device=rows.f_RD.device)
    best_b = torch.zeros_like(best_s)
    for block in blocks:
        best_s, best_b = _merge(rows, block, best_s, best_b, recipe)
    a, k = torch.nonzero(best_s > NONE, as_tuple=True)
    return a, best_b[a, k], best_s[a, k]


def _merge(
    rows: Block, columns: Block, best_s: Tensor, best_b: Tensor, recipe: PairingRecipe
) -> tuple[Tensor, Tensor]:
    """Take a block's candidates into the running top K, [R, K] similarities on the grid and row numbers."""
    s_RC = rows.f_RD @ columns.f_RD.T
    # only what reaches a row's threshold and its K-th best so far can enter
    floor_R = best_s[:, -1].clamp(min=round(recipe.threshold * GRID)).to(s_RC) / GRID - SLACK
    candidate_RC = s_RC >= floor_R[:, None]
    if int(candidate_RC.count_nonzero()) > 4 * best_s.numel():  # or the K-th best of this block alone
        candidate_RC &= s_RC >= _kth_best(s_RC, rows, columns, recipe)[:, None] - 2 * SLACK
    r, c = candidate_RC.nonzero(as_tuple=True)
    keep = may_pair(rows, columns, r, c, recipe)
    r, c = r[keep], c[keep]
    s = similarity_of(rows, columns, r, c)
    keep = (s >= round(recipe.threshold * GRID)) & (s <= round(recipe.upper * GRID))
    return _best(r[keep], s[keep], c[keep] + columns.first, best_s, best_b)


def _kth_best(s_RC: Tensor, rows: Block, columns: Block, recipe: PairingRecipe) -> Tensor:
    """float32 [R]: at least K of a row's allowed partners in this block reach it, give or take the slack."""
    allowed_RC = s_RC <= (recipe.upper - SLACK if recipe.upper < 1 else 2.0)
    low = max(rows.first, columns.first)
    own = torch.arange(low, max(low, min(rows.first + len(s_RC), columns.first + s_RC.shape[1])))
    allowed_RC[own - rows.first, own - columns.first] = False
    if recipe.classes == "same_class":
        allowed_RC &= rows.label_R[:, None] == columns.label_R[None]
    if s_RC.shape[1] < recipe.top_k:
        return s_RC.new_full((len(s_RC),), -2.0)
    return s_RC.masked_fill(~allowed_RC, -2.0).topk(recipe.top_k, dim=1, sorted=False).values.amin(1)


def _best(r: Tensor, s: Tensor, b: Tensor, best_s: Tensor, best_b: Tensor) -> tuple[Tensor, Tensor]:
    """The K highest of old and new in each row, the lower partner first among equals."""
    if len(r) == 0:
        return best_s, best_b
    old_r, old_k = torch.nonzero(best_s > NONE, as_tuple=True)
    r, s = torch.cat([old_r, r]), torch.cat([best_s[old_r, old_k], s])
    b = torch.cat([best_b[old_r, old_k], b])
    order = torch.argsort(b, stable=True)
    order = order[torch.argsort((r << 24)[order] - s[order], stable=True)]
    r, s, b = r[order], s[order], b[order]
    counts_R = torch.bincount(r, minlength=len(best_s))
    place = torch.arange(len(r), device=r.device) - (counts_R.cumsum(0) - counts_R)[r]
    kept = place < best_s.shape[1]
    new_s, new_b = torch.full_like(best_s, NONE), torch.zeros_like(best_b)
    new_s[r[kept], place[kept]], new_b[r[kept], place[kept]] = s[kept], b[kept]
    return new_s, new_b


def split_into_groups(a: np.ndarray, b: np.ndarray, recipe: PairingRecipe) -> list[list[int]]:
    """Cut the pair graph into groups of pairs that share images: each image is inverted for many pairs.

    Greedy: a group starts at the lowest image with pairs left and takes in, again and again, the image with
    most pairs into the group, until group_images or group_pairs is reached. Small components share a group.
    Of an image with very many pairs only the group_images lowest partners are looked at, so that the time is
    near linear in the number of pairs.

    Returns:
        Lists of pair numbers, each pair in exactly one list.
    """
    graph = _Graph(a, b)
    waiting = sorted(graph.pairs, reverse=True)
    groups = []
    while waiting:
        if taken := _grow(graph, waiting, recipe):
            groups.append(sorted(taken))
    return groups


class _Graph:
    """The pairs that are left: pairs[x][y] = pairs[y][x] = the pair's number."""

    def __init__(self, a: np.ndarray, b: np.ndarray) -> None:
        self.pairs: dict[int, dict[int, int]] = defaultdict(dict)
        for pair, (x, y) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
            self.pairs[x][y] = self.pairs[y][x] = pair
        self.partners = {x: sorted(of_x, reverse=True) for x, of_x in self.pairs.items()}

    def lowest(self, x: int, most: int) -> list[int]:
        """Up to ``most`` of the partners that x still has, ascending; gone ones are forgotten on the way."""
        queue, alive = self.partners[x], self.pairs[x]
        found: list[int] = []
        while queue and len(found) < most:
            if (y := queue.pop()) in alive:
                found.append(y)
        queue.extend(reversed(found))
        return found

    def take(self, x: int, y: int) -> int:
        del self.pairs[y][x]
        return self.pairs[x].pop(y)


def _grow(graph: _Graph, waiting: list[int], recipe: PairingRecipe) -> list[int]:
    """Take one group's pairs out of the graph."""
    images: set[int] = set()
    taken: list[int] = []
    links: Counter[int] = Counter()
    heap: list[tuple[int, int]] = []  # (-links into the group, image); stale entries are skipped
    while len(images) < recipe.group_images and len(taken) < recipe.group_pairs:
        image = _next(graph, waiting, images, links, heap)
        if image is None:
            break
        near = graph.lowest(image, recipe.group_images)
        if len(near) < recipe.group_images:
            inside = [other for other in near if other in images]
        else:
            inside = [other for other in sorted(images) if other in graph.pairs[image]]
        for other in inside[: recipe.group_pairs - len(taken)]:
            taken.append(graph.take(image, other))
        images.add(image)
        for other in near:
            if other not in images:
                links[other] += 1
                heapq.heappush(heap, (-links[other], other))
    return taken


def _next(
    graph: _Graph, waiting: list[int], images: set[int], links: Counter[int], heap: list[tuple[int, int]]
) -> int | None:
    """The image with most links into the group; when it has none, the lowest that still has pairs."""
    while heap:
        count, image = heapq.heappop(heap)
        if image not in images and -count == links[image]:
            return image
    while waiting and not graph.pairs[waiting[-1]]:
        waiting.pop()
    return next((image for image in reversed(waiting) if graph.pairs[image] and image not in images), None)
