"""Matching of the largest total weight between two sets, pair by pair (Kuhn, 1955; Munkres, 1957)."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from robovision.types import Array


def components(i: Array, j: Array, count: int) -> list[Array]:
    """Indices of the pairs (i[p], j[p]), i < count, grouped so that no two groups share an i or a j."""
    parent = list(range(count + (int(j.max()) + 1 if len(j) else 0)))

    def root(x: int) -> int:
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for a, b in zip(i.tolist(), (j + count).tolist(), strict=True):
        parent[root(a)] = root(b)
    groups: dict[int, list[int]] = defaultdict(list)
    for pair, a in enumerate(i.tolist()):
        groups[root(a)].append(pair)
    return [np.array(pairs) for pairs in groups.values()]


def best_assignment(i: Array, j: Array, weight: Array) -> Array:
    """Indices of the pairs (i[p], j[p]) of positive weights [P], no i or j twice, whose weights' sum is largest."""
    rows, row = np.unique(i, return_inverse=True)
    columns, column = np.unique(j, return_inverse=True)
    if len(rows) == 1 or len(columns) == 1:
        return np.array([int(weight.argmax())])
    size = max(len(rows), len(columns))
    table = np.zeros((size, size))
    table[row, column] = weight
    partner = _hungarian(table)
    chosen: Array = np.flatnonzero(partner[row] == column)
    return chosen


def _hungarian(weight: Array) -> Array:
    """The column [N] of each row of a square table [N, N] in a complete matching of the largest sum.

    Shortest augmenting paths with potentials: rows come in one by one, each along the cheapest path.
    """
    size = len(weight)
    cost = -weight
    row_potential, column_potential = np.zeros(size), np.zeros(size + 1)
    owner = np.full(size + 1, -1)  # of each column; the last column is where paths start
    for row in range(size):
        owner[size] = row
        column = size
        slack, before = np.full(size, np.inf), np.full(size, size)
        visited = np.zeros(size + 1, bool)
        while owner[column] >= 0:
            visited[column] = True
            at = owner[column]
            open_columns = ~visited[:size]
            reduced = cost[at] - row_potential[at] - column_potential[:size]
            better = open_columns & (reduced < slack)
            slack[better], before[better] = reduced[better], column
            nearest = int(np.where(open_columns, slack, np.inf).argmin())
            step = slack[nearest]
            row_potential[owner[visited]] += step
            column_potential[visited] -= step
            slack[open_columns] -= step
            column = nearest
        while column != size:
            owner[column] = owner[before[column]]
            column = int(before[column])
    partner = np.empty(size, np.int64)
    partner[owner[:size]] = np.arange(size)
    return partner
