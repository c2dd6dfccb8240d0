"""The bytes that PyTorch's caching allocator counts on a GPU, block by block.

`torch.cuda.max_memory_allocated` adds up blocks, not tensors. A block is a tensor's size rounded up
to 512 B, and more where the rest of a cached block is too small to be worth splitting off:

    a cached block of 8 MiB   |· 5.5 MiB asked for ·|· 2 MiB asked for ·|½|
                                                     the last ½ MiB is not split: it counts as used

This module follows the same rules with numbers only, so it knows without a GPU what a GPU would
report. The rules and constants are those of c10/cuda/CUDACachingAllocator.cpp in PyTorch 2.x, with
its default settings.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

from course_utils.units import MiB

# Every size is a multiple of this (kMinBlockSize).
ROUND = 512
# A tensor up to this size shares a segment with other small ones (kSmallSize).
SMALL = MiB
# The sizes that are asked of the driver (kSmallBuffer, kLargeBuffer).
SMALL_SEGMENT, LARGE_SEGMENT = 2 * MiB, 20 * MiB
# A tensor from this size on gets a segment of its own (kMinLargeAlloc), in multiples of the
# second size (kRoundLarge).
OWN_SEGMENT = 10 * MiB
OWN_ROUND = 2 * MiB


def rounded(size: int) -> int:
    """Return the bytes of a block for `size` bytes: the next multiple of 512."""
    return max(ROUND, -(-size // ROUND) * ROUND)


def fresh_block(size: int) -> int:
    """Return the bytes that a tensor counts for if no cached block fits it and the driver is asked.

    >>> fresh_block(125 * MiB) == 126 * MiB  # a rest of 1 MiB is not split off
    True
    """
    size = rounded(size)
    segment = _segment(size)
    return size if segment - size > _least_rest(size) else segment


def _segment(size: int) -> int:
    if size <= SMALL:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < OWN_SEGMENT else -(-size // OWN_ROUND) * OWN_ROUND


def _least_rest(size: int) -> int:
    """The most bytes of a rest that stays with the block instead of being split off."""
    return ROUND - 1 if size <= SMALL else SMALL


@dataclass(eq=False)
class Block:
    """A contiguous piece of a segment.

    Attributes:
        segment: Number of the segment.
        start: Where the block begins in the segment, in bytes.
        size: Its bytes.
        asked: Bytes that its tensor needs.
        free: Whether it is cached rather than used by a tensor.
        before: The block before it in the segment.
        after: The block after it.
    """

    segment: int
    start: int
    size: int
    asked: int = 0
    free: bool = True
    before: Block | None = None
    after: Block | None = None


@dataclass
class CachingAllocator:
    """PyTorch's best-fit allocator, simulated with numbers.

    Attributes:
        allocated: Bytes of the blocks in use, which is what PyTorch counts.
        requested: Bytes of the tensors in these blocks.
        segments: How many segments were asked of the driver.
    """

    allocated: int = 0
    requested: int = 0
    segments: int = 0
    _cached: dict[bool, list[Block]] = field(default_factory=lambda: {True: [], False: []})

    def allocate(self, size: int) -> Block:
        """Return a block for `size` bytes: the smallest cached one that is large enough.

        If no cached block is large enough, the block comes from a new segment.
        """
        size = rounded(size)
        cached = self._cached[size <= SMALL]
        at = bisect_left(cached, size, key=lambda block: block.size)
        block = cached.pop(at) if at < len(cached) else self._new_segment(size)
        if block.size - size > _least_rest(size):
            self._split(block, size, cached)
        block.free, block.asked = False, size
        self.allocated += block.size
        self.requested += size
        return block

    def release(self, block: Block) -> None:
        """Put a block back into the cache, joined with the free blocks beside it."""
        self.allocated -= block.size
        self.requested -= block.asked
        cached = self._cached[block.asked <= SMALL]
        for other in (block.before, block.after):
            if other is not None and other.free:
                cached.remove(other)
                first, second = (other, block) if other is block.before else (block, other)
                first.size += second.size
                first.after = second.after
                if second.after is not None:
                    second.after.before = first
                block = first
        block.free = True
        insort(cached, block, key=_order)

    def _new_segment(self, size: int) -> Block:
        self.segments += 1
        return Block(self.segments, 0, _segment(size))

    def _split(self, block: Block, size: int, cached: list[Block]) -> None:
        rest = Block(block.segment, block.start + size, block.size - size)
        rest.before, rest.after = block, block.after
        if block.after is not None:
            block.after.before = rest
        block.size, block.after = size, rest
        insort(cached, rest, key=_order)


def _order(block: Block) -> tuple[int, int, int]:
    return block.size, block.segment, block.start
