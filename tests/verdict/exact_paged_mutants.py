"""A right attention over a paged cache, and wrong ones."""

import numpy as np
from exact_attention_mutants import causal, softmax


def paged(heads=lambda h: h // 2, block=None, length=0, table=lambda t, n: t[n], slots=None):
    """mine(q, k_pages, v_pages, table, lengths), with 4 query heads and 2 key heads."""

    def mine(q, k_pages, v_pages, pages, lengths):
        o = np.zeros(q.shape, q.dtype)
        size, count = block or k_pages.shape[1], k_pages.shape[1]
        for n, last in enumerate(lengths):
            j = np.arange(last + length)
            mine_pages = table(pages, n)
            page, slot = mine_pages[np.minimum(j // size, len(mine_pages) - 1)], j % size % count
            slot = slot if slots is None else slots(slot, count)
            for h in range(q.shape[1]):
                K, V = k_pages[page, slot, heads(h)], v_pages[page, slot, heads(h)]
                seen = causal(q.shape[2], len(j))
                p = softmax(q.shape[-1] ** -0.5 * (q[n, h] @ K.T), seen)
                o[n, h] = p.astype(q.dtype) @ V
        return o

    return mine


def _edited(pages, n, change):
    row = np.array(pages[n])
    return change(row)


def _first_page_stale(row):
    row[0] = row[-1]
    return row


def _swapped(row):
    row[[0, 1]] = row[[1, 0]]
    return row


PAGED_MUTANTS = {
    "one key beyond the length": paged(length=1),
    "last key dropped": paged(length=-1),
    "table off by one page": paged(table=lambda t, n: np.roll(t[n], 1)),
    "pages in storage order": paged(table=lambda t, n: np.arange(t.shape[1])),
    "table of the first sequence for all": paged(table=lambda t, n: t[0]),
    "table of the next sequence": paged(table=lambda t, n: t[(n + 1) % len(t)]),
    "first page stale": paged(table=lambda t, n: _edited(t, n, _first_page_stale)),
    "half the block size": paged(block=8),
    "twice the block size": paged(block=32),
    "slots off by one": paged(slots=lambda slot, count: (slot + 1) % count),
    "slots reversed": paged(slots=lambda slot, count: count - 1 - slot),
    "h % K": paged(heads=lambda h: h % 2),
    "head 0 for all": paged(heads=lambda h: 0),
}
