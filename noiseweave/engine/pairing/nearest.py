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
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine.pairing.recipes import PairingRecipe

GRID = 1 << 20
SLACK = 4 / GRID  # more than the rounding of a float32 product of two unit vectors
NONE = -(2 << 20)  # below every similarity on the grid
CHUNK = 2048  # candidates whose float64 products are held at once: few enough to stay in the cache
Columns = Iterable[tuple[int, np.ndarray, np.ndarray]]
"""(first row number, float32 [C, D], int64 [C] labels, -1 for none), in any order, each row once."""


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Consecutive rows of the feature table: ``first`` row number, unit features [R, D] and labels [R]."""

    first: int
    f_RD: Tensor
    label_R: Tensor

    @staticmethod
    def of(first: int, f_RD: np.ndarray, label_R: np.ndarray, device: str) -> _Block:
        f, label = torch.from_numpy(np.array(f_RD)).to(device), torch.from_numpy(np.array(label_R)).to(device)
        return _Block(first=first, f_RD=f, label_R=label)


def nearest(
    first: int,
    f_RD: np.ndarray,
    label_R: np.ndarray,
    columns: Columns,
    recipe: PairingRecipe,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The K most similar allowed partners of each of R rows, streamed over all columns.

    Args:
        first: row number of the first row of the block.
        f_RD: float32 [R, D], unit length.
        label_R: int64 [R].

    Returns:
        (a, b, similarity): int64, int64, float64 [M], a the block's row, at most R * K entries.
    """
    rows = _Block.of(first, f_RD, label_R, device)
    best_s = torch.full((len(rows.f_RD), recipe.top_k), NONE, dtype=torch.int64, device=device)
    best_b = torch.zeros_like(best_s)
    for start, f_CD, label_C in columns:
        best_s, best_b = _merge(rows, _Block.of(start, f_CD, label_C, device), best_s, best_b, recipe)
    a, k = torch.nonzero(best_s > NONE, as_tuple=True)
    similarity = best_s[a, k].double() / GRID
    return (a + first).cpu().numpy(), best_b[a, k].cpu().numpy(), similarity.cpu().numpy()


def _merge(
    rows: _Block, columns: _Block, best_s: Tensor, best_b: Tensor, recipe: PairingRecipe
) -> tuple[Tensor, Tensor]:
    """Take a block's candidates into the running top K, [R, K] similarities on the grid and row numbers."""
    s_RC = rows.f_RD @ columns.f_RD.T
    # only what reaches a row's threshold and its K-th best so far can enter
    floor_R = best_s[:, -1].clamp(min=round(recipe.threshold * GRID)).to(s_RC) / GRID - SLACK
    candidate_RC = s_RC >= floor_R[:, None]
    if int(candidate_RC.count_nonzero()) > 4 * best_s.numel():  # or the K-th best of this block alone
        candidate_RC &= s_RC >= _kth_best(s_RC, rows, columns, recipe)[:, None] - 2 * SLACK
    r, c = candidate_RC.nonzero(as_tuple=True)
    keep = _may_pair(rows, columns, r, c, recipe)
    r, c = r[keep], c[keep]
    s = _similarity(rows, columns, r, c)
    keep = (s >= round(recipe.threshold * GRID)) & (s <= round(recipe.upper * GRID))
    return _best(r[keep], s[keep], c[keep] + columns.first, best_s, best_b)


def _kth_best(s_RC: Tensor, rows: _Block, columns: _Block, recipe: PairingRecipe) -> Tensor:
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


def _may_pair(rows: _Block, columns: _Block, r: Tensor, c: Tensor, recipe: PairingRecipe) -> Tensor:
    """bool [M]: not itself, and of the same class where that is asked for."""
    other = r + rows.first != c + columns.first
    return other & (rows.label_R[r] == columns.label_R[c]) if recipe.classes == "same_class" else other


def _similarity(rows: _Block, columns: _Block, r: Tensor, c: Tensor) -> Tensor:
    """int64 [M]: the cosine on the grid, the same whatever the block was."""
    s = [
        torch.linalg.vecdot(rows.f_RD[i].double(), columns.f_RD[j].double())
        for i, j in zip(r.split(CHUNK), c.split(CHUNK), strict=True)
    ]
    return (torch.cat(s).clamp(-1, 1) * GRID).round().long()


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


def select(
    a: np.ndarray, b: np.ndarray, similarity: np.ndarray, recipe: PairingRecipe
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates from all blocks -> unordered pairs, most similar first, within max_uses and max_pairs.

    Args:
        a, b: int64 [M], similarity: float64 [M], as ``nearest`` gives them; a pair may come from both ends.

    Returns:
        (low, high, similarity), low < high, each pair once.
    """
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
