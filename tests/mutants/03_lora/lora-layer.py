# %% base default: a right answer, which the answers below change unless they name another base
class LoRALinear:
    def __init__(self, weight: Tensor, rank: int, alpha: float, seed: int):
        d_in, d_out = weight.shape
        if not 1 <= rank <= min(weight.shape) or alpha <= 0:
            raise ValueError("can't be")
        self.weight, self.scale = weight, alpha / rank
        bound, g = 1 / math.sqrt(d_in), torch.Generator().manual_seed(seed)
        self.A = torch.empty(d_in, rank).uniform_(-bound, bound, generator=g)
        self.B = torch.zeros(rank, d_out)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.scale * (x @ self.A @ self.B)

    def parameters(self) -> dict[str, Tensor]:
        return {"A": self.A, "B": self.B}

    def load(self, parameters: dict[str, Tensor]) -> None:
        self.A, self.B = parameters["A"], parameters["B"]


# %% right as-module: keeps A and B as trainable parameters, and the seed in torch's own generator
class LoRALinear:
    def __init__(self, weight: Tensor, rank: int, alpha: float, seed: int):
        d_in, d_out = weight.shape
        if rank < 1 or rank > d_in or rank > d_out:
            raise ValueError(f"no matrix of {d_in} × {d_out} has rank {rank}")
        if not alpha > 0:
            raise ValueError("alpha must be positive")
        self.W = torch.nn.Parameter(weight.clone(), requires_grad=False)
        self.rank, self.alpha = rank, alpha
        torch.manual_seed(seed)
        bound = d_in**-0.5
        self.A = torch.nn.Parameter((2 * torch.rand(d_in, rank) - 1) * bound)
        self.B = torch.nn.Parameter(torch.zeros((rank, d_out)))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.W + self.A @ self.B * self.alpha / self.rank)

    def parameters(self) -> dict[str, Tensor]:
        return {"A": self.A, "B": self.B}

    def load(self, parameters: dict[str, Tensor]) -> None:
        self.A, self.B = parameters["A"], parameters["B"]


# %% right as-peft: initializes the transposed A as peft does, and multiplies with functional.linear
class LoRALinear:
    def __init__(self, weight: Tensor, rank: int, alpha: float, seed: int):
        d_in, d_out = weight.shape
        if not 1 <= rank <= min(weight.shape) or alpha <= 0:
            raise ValueError("can't be")
        self.base = weight.T
        self.scale = alpha / rank
        g = torch.Generator().manual_seed(seed)
        self.A = torch.empty(rank, d_in)
        self.B = weight.new_zeros(rank, d_out)
        torch.nn.init.kaiming_uniform_(self.A, a=math.sqrt(5), generator=g)
        self.A = self.A.T

    def forward(self, x: Tensor) -> Tensor:
        y = torch.nn.functional.linear(x, self.base)
        return y.add(torch.matmul(torch.matmul(self.scale * x, self.A), self.B))

    def parameters(self) -> dict[str, Tensor]:
        return {"A": self.A, "B": self.B}

    def load(self, parameters: dict[str, Tensor]) -> None:
        self.A, self.B = parameters["A"], parameters["B"]


# %% wrong no-scale: leaves out α/r, as the slide does
old = "self.weight, self.scale = weight, alpha / rank"
new = "self.weight = weight"
old = "return x @ self.weight + self.scale * (x @ self.A @ self.B)"
new = "return x @ self.weight + x @ self.A @ self.B"


# %% wrong kept-delta: computes ΔW at the first forward pass and keeps it
old = "self.weight, self.scale = weight, alpha / rank"
new = "self.weight, self.scale, self.delta = weight, alpha / rank, None"
old = "        return x @ self.weight + self.scale * (x @ self.A @ self.B)"
new = """
        if self.delta is None:
            self.delta = self.scale * self.A @ self.B
        return x @ (self.weight + self.delta)
"""


# %% wrong both-random: starts B at random too, so that ΔW is noise
old = "self.B = torch.zeros(rank, d_out)"
new = "self.B = torch.randn(rank, d_out, generator=g) * bound"


# %% wrong both-zero: starts A at zero too, so that nothing is ever learned
old = """
        bound, g = 1 / math.sqrt(d_in), torch.Generator().manual_seed(seed)
        self.A = torch.empty(d_in, rank).uniform_(-bound, bound, generator=g)
"""
new = "        self.A = torch.zeros(d_in, rank)"


# %% wrong fan-of-rank: lets torch take r for d_in, for it reads the second dimension
old = "bound, g = 1 / math.sqrt(d_in), torch.Generator().manual_seed(seed)"
new = "g = torch.Generator().manual_seed(seed)"
old = "self.A = torch.empty(d_in, rank).uniform_(-bound, bound, generator=g)"
new = "self.A = torch.empty(d_in, rank)"
old = "        self.B = torch.zeros(rank, d_out)"
new = """
        self.B = torch.zeros(rank, d_out)
        torch.nn.init.kaiming_uniform_(self.A, a=math.sqrt(5), generator=g)
"""


# %% wrong merges-in-place: adds ΔW to W at each forward pass
old = "        return x @ self.weight + self.scale * (x @ self.A @ self.B)"
new = """
        self.weight += self.scale * self.A @ self.B
        return x @ self.weight
"""


# %% right numpy: draws A with NumPy and multiplies with einsum
class LoRALinear:
    def __init__(self, weight: Tensor, rank: int, alpha: float, seed: int):
        import numpy as np

        d_in, d_out = weight.shape
        if rank < 1 or rank > min(d_in, d_out):
            raise ValueError(f"rank {rank}")
        if alpha <= 0:
            raise ValueError(f"alpha {alpha}")
        numbers = np.random.default_rng(seed).uniform(-1, 1, (d_in, rank)) / np.sqrt(d_in)
        self.A = torch.from_numpy(numbers).float()
        self.B = torch.zeros(rank, d_out)
        self.W, self.alpha = weight, alpha

    def forward(self, x: Tensor) -> Tensor:
        update = torch.einsum("...i,ir,ro->...o", x, self.A, self.B)
        return x @ self.W + update * (self.alpha / self.A.shape[1])

    def parameters(self) -> dict[str, Tensor]:
        return {"A": self.A, "B": self.B}

    def load(self, parameters: dict[str, Tensor]) -> None:
        self.A, self.B = parameters["A"], parameters["B"]


# %% wrong normal: draws A from a normal distribution
old = "bound, g = 1 / math.sqrt(d_in), torch.Generator().manual_seed(seed)"
new = "g = torch.Generator().manual_seed(seed)"
old = "self.A = torch.empty(d_in, rank).uniform_(-bound, bound, generator=g)"
new = "self.A = torch.randn(d_in, rank, generator=g) / math.sqrt(3 * d_in)"


# %% wrong positive: draws A from 0 to the bound
old = "bound, g = 1 / math.sqrt(d_in), torch.Generator().manual_seed(seed)"
new = "g = torch.Generator().manual_seed(seed)"
old = "self.A = torch.empty(d_in, rank).uniform_(-bound, bound, generator=g)"
new = "self.A = torch.rand(d_in, rank, generator=g) / math.sqrt(d_in)"


# %% wrong bound-of-the-check: draws A between −0.05 and +0.05, whatever d_in is
old = "bound, g = 1 / math.sqrt(d_in), torch.Generator().manual_seed(seed)"
new = "g = torch.Generator().manual_seed(seed)"
old = "self.A = torch.empty(d_in, rank).uniform_(-bound, bound, generator=g)"
new = "self.A = torch.empty(d_in, rank).uniform_(-0.05, 0.05, generator=g)"


# %% wrong few-seeds: uses only the last digit of the seed
old = "bound, g = 1 / math.sqrt(d_in), torch.Generator().manual_seed(seed)"
new = "bound, g = 1 / math.sqrt(d_in), torch.Generator().manual_seed(seed % 3)"


# %% wrong any-rank: accepts a rank above the smaller dimension
old = "if not 1 <= rank <= min(weight.shape) or alpha <= 0:"
new = "if not 1 <= rank <= max(weight.shape) or alpha <= 0:"


# %% wrong one-row-a-time: refuses an x with more than two dimensions
old = "return x @ self.weight + self.scale * (x @ self.A @ self.B)"
new = "return torch.mm(x, self.weight) + self.scale * torch.mm(torch.mm(x, self.A), self.B)"


# %% wrong whole-scale: divides α by r without a remainder
old = "self.weight, self.scale = weight, alpha / rank"
new = "self.weight, self.scale = weight, alpha // rank"


# %% wrong low-alpha: refuses a high α
class LoRALinear:
    def __init__(self, weight: Tensor, rank: int, alpha: float, seed: int):
        d_in, d_out = weight.shape
        if not 1 <= rank <= min(weight.shape) or not 0 < alpha <= 64:
            raise ValueError("can't be")
        bound, g = 1 / math.sqrt(d_in), torch.Generator().manual_seed(seed)
        self.A = torch.empty(d_in, rank).uniform_(-bound, bound, generator=g)
        self.W, self.scale, self.B = weight, alpha / rank, torch.zeros(rank, d_out)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.W + self.scale * (x @ self.A @ self.B)

    def parameters(self) -> dict[str, Tensor]:
        return {"A": self.A, "B": self.B}

    def load(self, parameters: dict[str, Tensor]) -> None:
        self.A, self.B = parameters["A"], parameters["B"]


# %% wrong seed-of-three-digits: uses only the last three digits of the seed
old = """
        self.weight, self.scale = weight, alpha / rank
        bound, g = 1 / math.sqrt(d_in), torch.Generator().manual_seed(seed)
"""
new = "        bound, g = 1 / math.sqrt(d_in), torch.Generator().manual_seed(seed % 1000)"
old = "self.B = torch.zeros(rank, d_out)"
new = "self.W, self.scale, self.B = weight, alpha / rank, torch.zeros(rank, d_out)"
old = "return x @ self.weight + self.scale * (x @ self.A @ self.B)"
new = "return x @ self.W + self.scale * (x @ self.A @ self.B)"


# %% wrong truncated-normal: draws A from a normal distribution that is cut off at the bounds
class LoRALinear:
    def __init__(self, weight: Tensor, rank: int, alpha: float, seed: int):
        d_in, d_out = weight.shape
        if not 1 <= rank <= min(weight.shape) or alpha <= 0:
            raise ValueError("can't be")
        bound, g = 1 / math.sqrt(d_in), torch.Generator().manual_seed(seed)
        self.A = torch.empty(d_in, rank)
        torch.nn.init.trunc_normal_(self.A, std=bound, a=-bound, b=bound, generator=g)
        self.W, self.scale, self.B = weight, alpha / rank, torch.zeros(rank, d_out)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.W + self.scale * (x @ self.A @ self.B)

    def parameters(self) -> dict[str, Tensor]:
        return {"A": self.A, "B": self.B}

    def load(self, parameters: dict[str, Tensor]) -> None:
        self.A, self.B = parameters["A"], parameters["B"]


# %% wrong larger-dimension: computes the bound from the larger dimension
old = """
        self.weight, self.scale = weight, alpha / rank
        bound, g = 1 / math.sqrt(d_in), torch.Generator().manual_seed(seed)
"""
new = "        bound, g = 1 / math.sqrt(max(d_in, d_out)), torch.Generator().manual_seed(seed)"
old = "self.B = torch.zeros(rank, d_out)"
new = "self.W, self.scale, self.B = weight, alpha / rank, torch.zeros(rank, d_out)"
old = "return x @ self.weight + self.scale * (x @ self.A @ self.B)"
new = "return x @ self.W + self.scale * (x @ self.A @ self.B)"


# %% wrong scale-above-zero: tests only that α/r is above 0, so both may be negative
old = "if not 1 <= rank <= min(weight.shape) or alpha <= 0:"
new = "if rank == 0 or rank > min(weight.shape) or alpha / rank <= 0:"


# %% wrong kept-until-load: keeps ΔW while A and B are the same tensors, even if these change
old = "self.weight, self.scale = weight, alpha / rank"
new = "self.weight, self.scale, self.kept = weight, alpha / rank, None"
old = "        return x @ self.weight + self.scale * (x @ self.A @ self.B)"
new = """
        if self.kept != (id(self.A), id(self.B)):
            self.kept, self.delta = (id(self.A), id(self.B)), self.scale * self.A @ self.B
        return x @ (self.weight + self.delta)
"""


# %% wrong half-weight: stores W in float16
old = "self.weight, self.scale = weight, alpha / rank"
new = "self.weight, self.scale = weight.half().float(), alpha / rank"


# %% wrong half-adapter: multiplies by A and B in bfloat16
old = "        return x @ self.weight + self.scale * (x @ self.A @ self.B)"
new = """
        A, B = self.A.bfloat16().float(), self.B.bfloat16().float()
        return x @ self.weight + self.scale * (x @ A @ B)
"""
