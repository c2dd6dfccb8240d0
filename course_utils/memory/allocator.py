"""Simulate the bytes that PyTorch's caching allocator counts on a GPU, block by block.

`torch.cuda.max_memory_allocated` adds up blocks, not tensors. A block has the size of its tensor,
rounded up to a multiple of 512 B. If the remainder of a cached block or of a new segment is too
small to be split off, it stays in the block:

    a cached block of 8 MiB   |· 5.5 MiB requested ·|· 2 MiB requested ·|½|
                                        the last ½ MiB is not split off: it counts as used

No memory is allocated, so any machine can compute what a GPU would report. The source of the rules
is c10/cuda/CUDACachingAllocator.cpp in PyTorch 2.x, with default settings.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

from course_utils.machine.units import MiB

# Every block size is a multiple of this number of bytes (kMinBlockSize).
ROUND = 512
# A tensor of at most this many bytes shares a segment with other small tensors (kSmallSize).
SMALL = MiB
# The allocator requests segments of these sizes from the driver: SMALL_SEGMENT bytes for small
# tensors (kSmallBuffer), and LARGE_SEGMENT bytes for larger tensors (kLargeBuffer).
SMALL_SEGMENT, LARGE_SEGMENT = 2 * MiB, 20 * MiB
# A tensor of at least OWN_SEGMENT bytes gets a separate segment (kMinLargeAlloc). The size of this
# segment is a multiple of OWN_ROUND bytes (kRoundLarge).
OWN_SEGMENT = 10 * MiB
OWN_ROUND = 2 * MiB


def rounded(size: int) -> int:
    """Return the smallest block for a tensor: `size` rounded up to a multiple of 512 bytes."""
    return max(ROUND, -(-size // ROUND) * ROUND)


def fresh_block(size: int) -> int:
    """Return the bytes of a tensor's block if it needs a new segment from the driver.

    >>> fresh_block(125 * MiB) == 126 * MiB  # a remainder of 1 MiB is not split off
    True
    """
    size = rounded(size)
    segment = _segment(size)
    return size if segment - size > _unsplit_limit(size) else segment


def _segment(size: int) -> int:
    if size <= SMALL:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < OWN_SEGMENT else -(-size // OWN_ROUND) * OWN_ROUND


def _unsplit_limit(size: int) -> int:
    """Return the largest remainder of a block, in bytes, that is not split off."""
    return ROUND - 1 if size <= SMALL else SMALL


@dataclass(eq=False)
class Block:
    """A contiguous piece of a segment, with its neighbours `before` and `after`.

    Attributes:
        start: Offset of the block in the segment, in bytes.
        size: Size of the block in bytes.
        requested: Bytes of the tensor in the block, rounded up to a multiple of 512.
        free: Whether the block is cached rather than used by a tensor.
    """

    segment: int
    start: int
    size: int
    requested: int = 0
    free: bool = True
    before: Block | None = None
    after: Block | None = None


@dataclass
class CachingAllocator:
    """A simulation of PyTorch's best-fit allocator. The simulation allocates no memory.

    Attributes:
        allocated: Bytes of the blocks in use, which PyTorch reports as allocated.
        requested: Bytes of the tensors in the blocks in use, each rounded up to a multiple of 512.
        segments: Number of segments requested from the driver, and `reserved` their bytes. Both
            stay the same when a tensor is freed, because no segment is returned.
    """

    allocated: int = 0
    requested: int = 0
    segments: int = 0
    reserved: int = 0
    _cached: dict[bool, list[Block]] = field(default_factory=lambda: {True: [], False: []})

    def allocate(self, size: int) -> Block:
        """Return the smallest cached block that has room for `size` bytes, or one of a new segment.

        The remainder is split off and cached if it is large enough.
        """
        size = rounded(size)
        cached = self._cached[size <= SMALL]
        index = bisect_left(cached, size, key=lambda block: block.size)
        block = cached.pop(index) if index < len(cached) else self._new_segment(size)
        if block.size - size > _unsplit_limit(size):
            self._split(block, size, cached)
        block.free, block.requested = False, size
        self.allocated += block.size
        self.requested += size
        return block

    def release(self, block: Block) -> None:
        """Return a block to the cache, merged with its free neighbours in the segment."""
        self.allocated -= block.size
        self.requested -= block.requested
        cached = self._cached[block.requested <= SMALL]
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
        self.reserved += _segment(size)
        return Block(self.segments, 0, _segment(size))

    def _split(self, block: Block, size: int, cached: list[Block]) -> None:
        remainder = Block(block.segment, block.start + size, block.size - size)
        remainder.before, remainder.after = block, block.after
        if block.after is not None:
            block.after.before = remainder
        block.size, block.after = size, remainder
        insort(cached, remainder, key=_order)


def _order(block: Block) -> tuple[int, int, int]:
    return block.size, block.segment, block.start
