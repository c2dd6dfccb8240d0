# %% right transposed: decomposes Aᵀ and takes its left singular vectors
def subspace_similarity(one, other, i, j):
    if one.size(1) != other.size(1):
        raise ValueError("the widths differ")
    for count, matrix in ((i, one), (j, other)):
        if count < 1 or count > matrix.shape[0]:
            raise ValueError(f"{count} directions of {matrix.shape[0]}")
    u, v = (torch.linalg.svd(a.T)[0][:, :n] for a, n in ((one, i), (other, j)))
    return torch.linalg.norm(u.T @ v).pow(2) / min(u.shape[1], v.shape[1])


# %% right eigenvectors: takes the eigenvectors of AᵀA, and the trace of the projections
def subspace_similarity(one, other, i, j):
    (first, width), (second, wide) = one.shape, other.shape
    if width != wide or i not in range(1, first + 1) or j not in range(1, second + 1):
        raise ValueError("these sizes don't fit")

    def projection(a, n):
        vectors = torch.linalg.eigh(a.double().T @ a.double())[1][:, -n:]
        return vectors @ vectors.T

    return torch.trace(projection(one, i) @ projection(other, j)).item() / min(i, j)


# %% right numpy: uses NumPy and the singular values of the scalar products
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different inputs")
    if min(i, j) < 1 or i > len(one) or j > len(other):
        raise ValueError("not so many directions")
    u = np.linalg.svd(one.numpy(), full_matrices=False)[2][:i]
    v = np.linalg.svd(other.numpy(), full_matrices=False)[2][:j]
    cosines = np.linalg.svd(u @ v.T, compute_uv=False)
    return float(np.mean(cosines**2))


# %% wrong rows: compares the rows of the matrices
old = "u = torch.linalg.svd(one, full_matrices=False)[2][:i]"
new = "u = one[:i] / one[:i].norm(dim=1, keepdim=True)"
old = "v = torch.linalg.svd(other, full_matrices=False)[2][:j]"
new = "v = other[:j] / other[:j].norm(dim=1, keepdim=True)"


# %% wrong left: takes the left singular vectors
old = "u = torch.linalg.svd(one, full_matrices=False)[2][:i]"
new = "u = torch.linalg.svd(one, full_matrices=False)[0].T[:i]"
old = "v = torch.linalg.svd(other, full_matrices=False)[2][:j]"
new = "v = torch.linalg.svd(other, full_matrices=False)[0].T[:j]"


# %% wrong columns: takes columns of the third result instead of rows
old = "u = torch.linalg.svd(one, full_matrices=False)[2][:i]"
new = "u = torch.linalg.svd(one, full_matrices=False)[2][:, :i].T"
old = "v = torch.linalg.svd(other, full_matrices=False)[2][:j]"
new = "v = torch.linalg.svd(other, full_matrices=False)[2][:, :j].T"


# %% wrong smallest: takes the directions with the smallest singular values
old = "u = torch.linalg.svd(one, full_matrices=False)[2][:i]"
new = "u = torch.linalg.svd(one, full_matrices=False)[2][-i:]"
old = "v = torch.linalg.svd(other, full_matrices=False)[2][:j]"
new = "v = torch.linalg.svd(other, full_matrices=False)[2][-j:]"


# %% wrong norm: forgets to square the norm
old = "return ((u @ v.T) ** 2).sum().item() / min(i, j)"
new = "return (u @ v.T).norm().item() / min(i, j)"


# %% wrong root: takes the square root of φ
old = "return ((u @ v.T) ** 2).sum().item() / min(i, j)"
new = "return math.sqrt(((u @ v.T) ** 2).sum().item() / min(i, j))"


# %% wrong absolute: adds up absolute values instead of squares
old = "return ((u @ v.T) ** 2).sum().item() / min(i, j)"
new = "return (u @ v.T).abs().sum().item() / min(i, j)"


# %% wrong max: divides by the larger of i and j
old = "return ((u @ v.T) ** 2).sum().item() / min(i, j)"
new = "return ((u @ v.T) ** 2).sum().item() / max(i, j)"


# %% wrong product: divides by i times j
old = "return ((u @ v.T) ** 2).sum().item() / min(i, j)"
new = "return ((u @ v.T) ** 2).sum().item() / (i * j)"


# %% wrong undivided: doesn't divide at all
old = "return ((u @ v.T) ** 2).sum().item() / min(i, j)"
new = "return ((u @ v.T) ** 2).sum().item()"


# %% wrong first-number: divides by i, whichever is smaller
old = "return ((u @ v.T) ** 2).sum().item() / min(i, j)"
new = "return ((u @ v.T) ** 2).sum().item() / i"


# %% wrong one-by-one: compares only directions with the same number
old = "return ((u @ v.T) ** 2).sum().item() / min(i, j)"
new = "return sum((u[k] @ v[k]).item() ** 2 for k in range(min(i, j))) / min(i, j)"


# %% wrong same-number: uses the smaller number of directions for both adapters
old = "u = torch.linalg.svd(one, full_matrices=False)[2][:i]"
new = "u = torch.linalg.svd(one, full_matrices=False)[2][: min(i, j)]"
old = "v = torch.linalg.svd(other, full_matrices=False)[2][:j]"
new = "v = torch.linalg.svd(other, full_matrices=False)[2][: min(i, j)]"


# %% wrong scaled: multiplies the directions with their singular values
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    spaces = []
    for matrix, count in ((one, i), (other, j)):
        _, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
        spaces.append((sizes[:, None] / sizes[0] * right)[:count])
    u, v = spaces
    return ((u @ v.T) ** 2).sum().item() / min(i, j)


# %% wrong same-ranks: refuses matrices with different ranks
old = "if one.shape[1] != other.shape[1]:"
new = "if one.shape != other.shape:"


# %% wrong any-number: accepts more directions than there are
old = "if not (1 <= i <= len(one) and 1 <= j <= len(other)):"
new = "if not (i >= 1 and j >= 1):"


# %% wrong largest-rank: compares both numbers with the larger rank
old = "if not (1 <= i <= len(one) and 1 <= j <= len(other)):"
new = "if not (min(i, j) >= 1 and max(i, j) <= max(len(one), len(other))):"


# %% right float32-eigenvectors: takes the eigenvectors of AᵀA in float32
old = "u = torch.linalg.svd(one, full_matrices=False)[2][:i]"
new = "u = torch.linalg.eigh(one.T @ one)[1].T.flip(0)[:i]"
old = "v = torch.linalg.svd(other, full_matrices=False)[2][:j]"
new = "v = torch.linalg.eigh(other.T @ other)[1].T.flip(0)[:j]"


# %% wrong square: refuses a rank that equals the number of inputs
old = "if one.shape[1] != other.shape[1]:"
new = "if not len(one) < one.shape[1] == other.shape[1]:"


# %% wrong rank-one: fails for an adapter of rank 1
old = "u = torch.linalg.svd(one, full_matrices=False)[2][:i]"
new = "u = torch.linalg.svd(one, full_matrices=False)[2].squeeze()[:i]"
