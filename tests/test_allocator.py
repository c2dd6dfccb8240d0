"""Tests of the simulated allocator against PyTorch's rules, rule by rule."""

import random
from itertools import pairwise

import pytest

from course_utils.machine.units import MiB
from course_utils.memory.allocator import LARGE_SEGMENT, CachingAllocator, fresh_block, rounded


@pytest.mark.parametrize(
    ("size", "block"),
    [
        (1, 512),
        (512, 512),
        (513, 1024),
        # The block is split off a segment of 2 MiB.
        (MiB, MiB),
        # The block is split off a segment of 20 MiB.
        (2 * MiB, 2 * MiB),
        # A remainder of 1 MiB is not split off.
        (19 * MiB, 20 * MiB),
        (125 * MiB, 126 * MiB),
        (126 * MiB, 126 * MiB),
        # A remainder of more than 1 MiB is split off.
        (int(124.9 * MiB), int(124.9 * MiB) // 512 * 512 + 512),
    ],
)
def test_the_size_of_a_fresh_block(size, block):
    assert fresh_block(size) == block
    assert CachingAllocator().allocate(size).size == block


def test_the_smallest_sufficient_cached_block_is_used():
    gpu = CachingAllocator()
    large, small = gpu.allocate(40 * MiB), gpu.allocate(30 * MiB)
    gpu.release(large)
    gpu.release(small)
    assert gpu.allocate(12 * MiB) is small


def test_a_small_remainder_stays_in_its_block():
    gpu = CachingAllocator()
    gpu.release(gpu.allocate(32 * MiB))
    first, second = gpu.allocate(int(29.5 * MiB)), gpu.allocate(2 * MiB)
    assert first.size == 29.5 * MiB and second.size == 2.5 * MiB
    assert gpu.allocated - gpu.requested == MiB // 2


def test_free_neighbours_are_merged():
    gpu = CachingAllocator()
    parts = [gpu.allocate(5 * MiB) for _ in range(4)]
    assert gpu.segments == 1
    for part in (parts[1], parts[3], parts[0], parts[2]):
        gpu.release(part)
    assert gpu.allocated == gpu.requested == 0
    assert gpu.reserved == LARGE_SEGMENT, "the memory of freed tensors stays reserved"
    assert gpu.allocate(8 * MiB).segment == 1
    assert gpu.segments == 1


def test_small_and_large_tensors_never_share_a_segment():
    gpu = CachingAllocator()
    large = gpu.allocate(LARGE_SEGMENT)
    gpu.release(large)
    gpu.allocate(MiB)
    assert gpu.segments == 2


@pytest.mark.parametrize("seed", range(5))
def test_counters_stay_correct_in_any_order_of_calls(seed):
    chance, gpu, live = random.Random(seed), CachingAllocator(), []
    for _ in range(400):
        if live and chance.random() < 0.45:
            gpu.release(live.pop(chance.randrange(len(live))))
        else:
            live.append(gpu.allocate(int(10 ** chance.uniform(1, 7.7))))
        assert gpu.requested == sum(block.requested for block in live) <= gpu.allocated
        assert gpu.allocated == sum(block.size for block in live)
        assert all(block.requested == rounded(block.requested) for block in live)
        spans = sorted((b.segment, b.start, b.start + b.size) for b in live)
        for (segment, _, end), (other, start, _) in pairwise(spans):
            assert segment != other or end <= start, "two blocks overlap"
