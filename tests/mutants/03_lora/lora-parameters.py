# %% right other-order: counts row by row, and inverts a sum of inverses
def lora_parameters(d_in: int, d_out: int, rank: int) -> tuple[int, float]:
    for size in (d_in, d_out, rank):
        if not size >= 1:
            raise ValueError("too small")
    of_a = d_in * rank
    of_b = rank * d_out
    return of_a + of_b, rank / d_out + rank / d_in


def break_even_rank(d_in: int, d_out: int) -> float:
    if d_in <= 0 or d_out <= 0:
        raise ValueError("too small")
    return 1 / (1 / d_in + 1 / d_out)


# %% right as-tensors: builds A and B and counts what is in them
def lora_parameters(d_in: int, d_out: int, rank: int) -> tuple[int, float]:
    if d_in < 1 or d_out < 1 or rank < 1:
        raise ValueError(f"can't be: {d_in}, {d_out}, {rank}")
    A, B = torch.empty(d_in, rank, device="meta"), torch.empty(rank, d_out, device="meta")
    count = A.numel() + B.numel()
    return [count, count / d_in / d_out]


def break_even_rank(d_in: int, d_out: int) -> float:
    count, _ = lora_parameters(d_in, d_out, rank=1)
    return d_in * d_out / count


# %% wrong only-a: counts A and forgets B
old = "count = rank * (d_in + d_out)"
new = "count = rank * d_in"


# %% wrong per-cent: gives the share in per cent
old = "return count, count / (d_in * d_out)"
new = "return count, 100 * count / (d_in * d_out)"


# %% wrong half-the-width: takes the rule for square matrices, d/2, for a rule
old = "return d_in * d_out / (d_in + d_out)"
new = "return min(d_in, d_out) / 2"


# %% wrong square: takes every matrix for d_in × d_in, as on the slide
old = """
    count = rank * (d_in + d_out)
    return count, count / (d_in * d_out)
"""
new = "    return 2 * rank * d_in, 2 * rank / d_in"


# %% wrong rounded: rounds the break-even rank to a whole number
old = "return d_in * d_out / (d_in + d_out)"
new = "return d_in * d_out // (d_in + d_out)"


# %% wrong eager: refuses a rank above the smaller dimension, where the share may be above 1
base = "solution"
old = "if min(d_in, d_out, rank) < 1:"
new = "if not 1 <= rank <= min(d_in, d_out):"


# %% right as-fractions: divides exactly and converts at the end
def lora_parameters(d_in: int, d_out: int, rank: int) -> tuple[int, float]:
    from fractions import Fraction

    if not all(number > 0 for number in (d_in, d_out, rank)):
        raise ValueError("all three numbers must be positive")
    count = sum(rank * side for side in (d_in, d_out))
    return count, float(Fraction(count, d_in * d_out))


def break_even_rank(d_in: int, d_out: int) -> float:
    if d_in < 1:
        raise ValueError("d_in must be positive")
    if d_out < 1:
        raise ValueError("d_out must be positive")
    return math.prod((d_in, d_out)) / math.fsum((d_in, d_out))


# %% wrong negative-only: raises for negative numbers, but not for 0
def lora_parameters(d_in: int, d_out: int, rank: int) -> tuple[int, float]:
    if min(d_in, d_out, rank) < 0:
        raise ValueError("must not be negative")
    count = rank * (d_in + d_out)
    return count, count / (d_in * d_out)


def break_even_rank(d_in: int, d_out: int) -> float:
    if min(d_in, d_out) < 0:
        raise ValueError("must not be negative")
    return d_in * d_out / (d_in + d_out)


# %% wrong of-the-sum: divides by the parameters of W, A and B together
old = "return count, count / (d_in * d_out)"
new = "return count, count / (d_in * d_out + count)"


# %% wrong rounded-share: rounds the share to a hundredth of a percent
old = "return count, count / (d_in * d_out)"
new = "return count, round(count / (d_in * d_out), 4)"


# %% wrong visible-sizes: is right for the sizes in the notebook only, and else for square matrices
def lora_parameters(d_in: int, d_out: int, rank: int) -> tuple[int, float]:
    if min(d_in, d_out, rank) < 1:
        raise ValueError("must be at least 1")
    known = {(40, 20, 2): (120, 0.15), (576, 1536, 4): (8_448, 8_448 / 884_736)}
    return known.get((d_in, d_out, rank), (2 * rank * d_in, 2 * rank / d_in))


def break_even_rank(d_in: int, d_out: int) -> float:
    if min(d_in, d_out) < 1:
        raise ValueError("must be at least 1")
    known = {(40, 20): 40 / 3, (576, 1536): 576 * 1536 / 2112}
    return known.get((d_in, d_out), d_in / 2)


# %% wrong product-below-1: tests the product, which is positive for two negative numbers
def lora_parameters(d_in: int, d_out: int, rank: int) -> tuple[int, float]:
    if d_in * d_out * rank < 1:
        raise ValueError("dimensions and rank must be at least 1")
    return rank * (d_in + d_out), rank / d_out + rank / d_in


def break_even_rank(d_in: int, d_out: int) -> float:
    if d_in * d_out < 1:
        raise ValueError("dimensions must be at least 1")
    return d_in * d_out / (d_in + d_out)


# %% wrong no-ones: refuses a dimension or a rank of 1
def lora_parameters(d_in: int, d_out: int, rank: int) -> tuple[int, float]:
    if min(d_in, d_out, rank) <= 1:
        raise ValueError("dimensions and rank must be at least 1")
    return rank * (d_in + d_out), rank / d_out + rank / d_in


def break_even_rank(d_in: int, d_out: int) -> float:
    if min(d_in, d_out) < 1:
        raise ValueError("dimensions must be at least 1")
    return d_in * d_out / (d_in + d_out)


# %% wrong at-least-rank-1: doesn't let the break-even rank be below 1
def lora_parameters(d_in: int, d_out: int, rank: int) -> tuple[int, float]:
    if min(d_in, d_out, rank) < 1:
        raise ValueError("dimensions and rank must be at least 1")
    return rank * (d_in + d_out), rank / d_out + rank / d_in


def break_even_rank(d_in: int, d_out: int) -> float:
    if min(d_in, d_out) < 1:
        raise ValueError("dimensions must be at least 1")
    return max(1.0, d_in * d_out / (d_in + d_out))
