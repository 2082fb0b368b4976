"""Features -> similar pairs -> groups. Exact, blockwise: memory O(block^2 + N k), never N x N.

Letters: N rows of the feature table, D feature length, R rows and C columns of a block, K = top_k.
Similarities are rounded to 2**-20 and ties go to the lower row number, so that pairs do not depend on how a
matrix product was split.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine.recipes import PairingRecipe

GRID = 1 << 20
NONE = -(2 << 20)  # below every similarity on the grid
Columns = Iterable[tuple[int, np.ndarray, np.ndarray]]
"""(first row number, float32 [C, D], int64 [C] labels, -1 for none), in any order, each row once."""


def nearest(first: int, f_RD: np.ndarray, label_R: np.ndarray, columns: Columns, recipe: PairingRecipe,
            device: str = "cpu") -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """The K most similar allowed partners of each of R rows, streamed over all columns.

    Args:
        first: row number of the first row of the block.
        f_RD: float32 [R, D], unit length.
        label_R: int64 [R].

    Returns:
        (a, b, similarity): int64, int64, float64 [M], a the block's row, at most R * K entries.
    """
    rows = torch.from_numpy(np.array(f_RD)).to(device)
    label = torch.from_numpy(np.array(label_R)).to(device)
    best_s = torch.full((len(rows), recipe.top_k), NONE, dtype=torch.int64, device=device)
    best_b = torch.zeros_like(best_s)
    for start, f_CD, label_C in columns:
        s_RC = rows @ torch.from_numpy(np.array(f_CD)).to(device).T
        _forbid(s_RC, first, start, label, torch.from_numpy(np.array(label_C)).to(device), recipe)
        best_s, best_b = _merge(s_RC, start, best_s, best_b, recipe)
    a, k = torch.nonzero(best_s > NONE, as_tuple=True)
    similarity = best_s[a, k].double() / GRID
    return (a + first).cpu().numpy(), best_b[a, k].cpu().numpy(), similarity.cpu().numpy()


def _forbid(s_RC: Tensor, first: int, start: int, label_R: Tensor, label_C: Tensor, recipe: PairingRecipe) -> None:
    """Mark what may not pair (itself, near-duplicates, other classes) with -inf, in place."""
    s_RC.masked_fill_(s_RC > recipe.upper + 0.5 / GRID, float("-inf"))
    low, high = max(first, start), min(first + s_RC.shape[0], start + s_RC.shape[1])
    if low < high:
        own = torch.arange(low, high, device=s_RC.device)
        s_RC[own - first, own - start] = float("-inf")
    if recipe.classes == "same_class":
        s_RC.masked_fill_(label_R[:, None] != label_C[None], float("-inf"))


def _merge(s_RC: Tensor, start: int, best_s: Tensor, best_b: Tensor, recipe: PairingRecipe) -> tuple[Tensor, Tensor]:
    """Take a block's candidates into the running top K."""
    # only what beats a row's threshold and its K-th best so far can enter; half a grid step of slack for rounding
    floor_R = best_s[:, -1].clamp(min=round(recipe.threshold * GRID)).to(s_RC) / GRID - 1.0 / GRID
    candidate_RC = s_RC >= floor_R[:, None]
    most = int(candidate_RC.sum(1).max())
    if most == 0:
        return best_s, best_b
    if most > 4 * recipe.top_k:
        s, b = _dense(s_RC, recipe.top_k)
    else:
        s, b = _sparse(s_RC, candidate_RC, most)
    s = torch.where(s >= round(recipe.threshold * GRID), s, NONE)
    return _best(torch.cat([best_s, s], 1), torch.cat([best_b, b + start], 1), recipe.top_k)


def _grid(s: Tensor) -> Tensor:
    return torch.where(s.isneginf(), NONE, (s.double().clamp(-1, 1) * GRID).round().nan_to_num(NONE)).long()


def _dense(s_RC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top k of many candidates. Similarity and column share one integer, so that ties are exact."""
    columns = torch.arange(s_RC.shape[1], device=s_RC.device)
    key_RK = torch.cat([
        ((_grid(part) << 32) - columns).topk(min(k, part.shape[1]), dim=1).values for part in s_RC.split(512)
    ])  # fmt: skip
    s_RK = (key_RK + (1 << 32) - 1) >> 32
    return s_RK, (s_RK << 32) - key_RK


def _sparse(s_RC: Tensor, candidate_RC: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The few candidates of each row, packed to the left."""
    r, c = candidate_RC.nonzero(as_tuple=True)
    counts_R = torch.bincount(r, minlength=len(s_RC))
    place = torch.arange(len(r), device=r.device) - (counts_R.cumsum(0) - counts_R)[r]
    s = torch.full((len(s_RC), most), NONE, dtype=torch.int64, device=s_RC.device)
    b = torch.zeros_like(s)
    s[r, place], b[r, place] = _grid(s_RC[r, c]), c
    return s, b


def _best(s: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest similarities of each row, the lower partner first among equals."""
    order = torch.argsort(b, dim=1, stable=True)
    s, b = s.gather(1, order), b.gather(1, order)
    order = torch.argsort(s, dim=1, descending=True, stable=True)[:, :k]
    return s.gather(1, order), b.gather(1, order)


def select(a: np.ndarray, b: np.ndarray, similarity: np.ndarray, recipe: PairingRecipe
           ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Candidates from all blocks -> unordered pairs, each once, most similar first, within max_uses and max_pairs."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    order = np.lexsort((-similarity, high, low))
    low, high, similarity = low[order], high[order], similarity[order]
    once = np.ones(len(low), bool)
    once[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    low, high, similarity = low[once], high[once], similarity[once]
    order = np.lexsort((high, low, -similarity))
    low, high, similarity = low[order], high[order], similarity[order]
    if recipe.max_uses is not None:
        keep = _within_uses(low, high, recipe.max_uses)
        low, high, similarity = low[keep], high[keep], similarity[keep]
    end = recipe.max_pairs
    return low[:end], high[:end], similarity[:end]


def _within_uses(low: np.ndarray, high: np.ndarray, most: int) -> np.ndarray:
    """Greedy: a pair stays when both of its images still have a use left."""
    uses: Counter[int] = Counter()
    keep = np.zeros(len(low), bool)
    for i, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        if uses[a] < most and uses[b] < most:
            keep[i] = True
            uses[a] += 1
            uses[b] += 1
    return keep


def group(a: np.ndarray, b: np.ndarray, recipe: PairingRecipe) -> list[list[int]]:
    """Cut the pair graph into groups of pairs that share images, so that each image is inverted for many pairs.

    Greedy: a group starts at the lowest image with pairs left and takes in, again and again, the image with
    most pairs into the group, until group_images or group_pairs is reached. Small components share a group.

    Returns:
        Lists of pair numbers, each pair in exactly one list.
    """
    neighbours: dict[int, dict[int, int]] = defaultdict(dict)
    for pair, (x, y) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        neighbours[x][y] = neighbours[y][x] = pair
    groups, waiting = [], sorted(neighbours, reverse=True)
    while waiting:
        if taken := _grow(neighbours, waiting, recipe):
            groups.append(sorted(taken))
    return groups


def _grow(neighbours: dict[int, dict[int, int]], waiting: list[int], recipe: PairingRecipe) -> list[int]:
    """Take one group's pairs out of the graph."""
    images: set[int] = set()
    taken: list[int] = []
    links: Counter[int] = Counter()
    heap: list[tuple[int, int]] = []  # (-links into the group, image); stale entries are skipped
    while len(images) < recipe.group_images and len(taken) < recipe.group_pairs:
        image = _next(neighbours, waiting, images, links, heap)
        if image is None:
            break
        images.add(image)
        for other in sorted(neighbours[image]):
            if other not in images:
                links[other] += 1
                heapq.heappush(heap, (-links[other], other))
            elif len(taken) < recipe.group_pairs:
                taken.append(neighbours[image].pop(other))
                del neighbours[other][image]
    return taken


def _next(neighbours: dict[int, dict[int, int]], waiting: list[int], images: set[int], links: Counter[int],
          heap: list[tuple[int, int]]) -> int | None:  # fmt: skip
    """The image with most links into the group; when it has none, the lowest that still has pairs."""
    while heap:
        count, image = heapq.heappop(heap)
        if image not in images and -count == links[image]:
            return image
    while waiting and (not neighbours[waiting[-1]]):
        waiting.pop()
    return next((i for i in reversed(waiting) if neighbours[i] and i not in images), None)
