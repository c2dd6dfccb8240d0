# %% base default: a right answer, which the answers below change unless they name another base
class Pager:
    def __init__(self, capacity, sizes):
        self.capacity, self.sizes, self.on_gpu = capacity, sizes, []

    def touch(self, name):
        if self.sizes[name] > self.capacity:
            raise ValueError(name)
        evicted = []
        if name in self.on_gpu:
            self.on_gpu.remove(name)
        while sum(self.sizes[page] for page in [*self.on_gpu, name]) > self.capacity:
            evicted.append(self.on_gpu.pop(0))
        self.on_gpu.append(name)
        return evicted

    def resident(self):
        return list(self.on_gpu)


# %% right ordered-dict: moves a page to the end at each use
class Pager:
    def __init__(self, capacity, sizes):
        from collections import OrderedDict

        self.capacity, self.sizes, self.pages = capacity, dict(sizes), OrderedDict()

    def touch(self, name):
        size = self.sizes[name]
        if size > self.capacity:
            raise ValueError(name)
        if name in self.pages:
            self.pages.move_to_end(name)
            return []
        gone = []
        while sum(self.pages.values()) + size > self.capacity:
            gone.append(self.pages.popitem(last=False)[0])
        self.pages[name] = size
        return gone

    def resident(self):
        return list(self.pages)


# %% right clock: notes when each page was used, and looks for the earliest
class Pager:
    def __init__(self, capacity, sizes):
        self.capacity = capacity
        self.sizes = sizes
        self.used = {}
        self.now = 0
        self.free = capacity

    def touch(self, name):
        if name not in self.sizes:
            raise KeyError(name)
        if self.sizes[name] > self.capacity:
            raise ValueError("too large")
        evicted = []
        self.now += 1
        if name not in self.used:
            while self.free < self.sizes[name]:
                oldest = min(self.used, key=self.used.get)
                self.used.pop(oldest)
                self.free += self.sizes[oldest]
                evicted.append(oldest)
            self.free -= self.sizes[name]
        self.used[name] = self.now
        return evicted

    def resident(self):
        return sorted(self.used, key=self.used.get)


# %% wrong fifo: a touch of a page that is there doesn't count as a use
class Pager:
    def __init__(self, capacity, sizes):
        self.capacity, self.sizes, self.on_gpu = capacity, sizes, []

    def touch(self, name):
        if self.sizes[name] > self.capacity:
            raise ValueError(name)
        evicted = []
        if name not in self.on_gpu:
            while sum(self.sizes[page] for page in self.on_gpu) + self.sizes[name] > self.capacity:
                evicted.append(self.on_gpu.pop(0))
            self.on_gpu.append(name)
        return evicted

    def resident(self):
        return self.on_gpu


# %% wrong most-recent: the most recently used page goes
old = "evicted.append(self.on_gpu.pop(0))"
new = "evicted.append(self.on_gpu.pop())"


# %% wrong one-page: evicts one page and doesn't look whether that is enough
old = "while sum(self.sizes[page] for page in [*self.on_gpu, name]) > self.capacity:"
new = "if sum(self.sizes[page] for page in self.on_gpu) + self.sizes[name] > self.capacity:"


# %% wrong large-enough: evicts the oldest page that makes enough room by itself, if there is one
class Pager:
    def __init__(self, capacity, sizes):
        self.capacity, self.sizes, self.on_gpu = capacity, sizes, []

    def touch(self, name):
        size, evicted = self.sizes[name], []
        if size > self.capacity:
            raise ValueError(name)
        if name in self.on_gpu:
            self.on_gpu.remove(name)
        while (free := self.capacity - sum(self.sizes[page] for page in self.on_gpu)) < size:
            enough = [page for page in self.on_gpu if free + self.sizes[page] >= size]
            evicted.append((enough or self.on_gpu)[0])
            self.on_gpu.remove(evicted[-1])
        self.on_gpu.append(name)
        return evicted

    def resident(self):
        return self.on_gpu


# %% wrong too-late: notices that a page is too large only when the GPU is empty
class Pager:
    def __init__(self, capacity, sizes):
        self.capacity, self.sizes, self.on_gpu = capacity, sizes, []

    def touch(self, name):
        size, evicted = self.sizes[name], []
        if name in self.on_gpu:
            self.on_gpu.remove(name)
        while sum(self.sizes[page] for page in self.on_gpu) + size > self.capacity:
            if not self.on_gpu:
                raise ValueError(f"{name} is too large")
            evicted.append(self.on_gpu.pop(0))
        self.on_gpu.append(name)
        return evicted

    def resident(self):
        return self.on_gpu


# %% wrong full: keeps a byte free
old = "        while sum(self.sizes[page] for page in [*self.on_gpu, name]) > self.capacity:"
new = """
        while (
            self.on_gpu
            and sum(self.sizes[page] for page in self.on_gpu) + self.sizes[name] >= self.capacity
        ):
"""


# %% right deque: takes names from the left of a double-ended queue
class Pager:
    def __init__(self, capacity, sizes):
        from collections import deque

        self.capacity, self.sizes, self.queue, self.used = capacity, sizes, deque(), 0

    def touch(self, name):
        size = self.sizes[name]
        if size > self.capacity:
            raise ValueError(f"{name} is larger than the GPU")
        gone = []
        if name in self.queue:
            self.queue.remove(name)
        else:
            self.used += size
        self.queue.append(name)
        while self.used > self.capacity:
            gone.append(self.queue.popleft())
            self.used -= self.sizes[gone[-1]]
        return gone

    def resident(self):
        return [*self.queue]


# %% wrong newest-first: lists the most recently used page first
old = "return list(self.on_gpu)"
new = "return self.on_gpu[::-1]"


# %% wrong counts-pages: takes the capacity for a number of pages
old = "while sum(self.sizes[page] for page in [*self.on_gpu, name]) > self.capacity:"
new = "while len(self.on_gpu) >= self.capacity:"


# %% wrong empties: evicts all pages if there is too little room
old = "while sum(self.sizes[page] for page in [*self.on_gpu, name]) > self.capacity:"
new = "if sum(self.sizes[page] for page in [*self.on_gpu, name]) > self.capacity:"
old = "evicted.append(self.on_gpu.pop(0))"
new = "evicted, self.on_gpu = self.on_gpu, []"


# %% wrong shared: all pagers share one list
old = "    def __init__(self, capacity, sizes):"
new = """
    on_gpu = []

    def __init__(self, capacity, sizes):
"""
old = "self.capacity, self.sizes, self.on_gpu = capacity, sizes, []"
new = "self.capacity, self.sizes = capacity, sizes"
old = "while sum(self.sizes[page] for page in [*self.on_gpu, name]) > self.capacity:"
new = "while sum(self.sizes.get(page, 0) for page in [*self.on_gpu, name]) > self.capacity:"


# %% wrong visible-sizes: is right only for the names in the visible checks
old = "return evicted"
new = 'return evicted if len(name) == 1 or name in ("half", "other", "whole") else []'


# %% wrong three-pages: evicts at most three pages at a touch
old = """
        while sum(self.sizes[page] for page in [*self.on_gpu, name]) > self.capacity:
            evicted.append(self.on_gpu.pop(0))
"""
new = """
        for _ in range(3):
            if sum(self.sizes[page] for page in [*self.on_gpu, name]) > self.capacity:
                evicted.append(self.on_gpu.pop(0))
"""


# %% wrong same-size: evicts a page of the same size first, if there is one
old = "            evicted.append(self.on_gpu.pop(0))"
new = """
            same = [page for page in self.on_gpu if self.sizes[page] == self.sizes[name]]
            evicted.append((same or self.on_gpu)[0])
            self.on_gpu.remove(evicted[-1])
"""
