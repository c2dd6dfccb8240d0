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
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = one[:i] / one[:i].norm(dim=1, keepdim=True)
    v = other[:j] / other[:j].norm(dim=1, keepdim=True)
    return ((u @ v.T) ** 2).sum().item() / min(i, j)


# %% wrong left: takes the left singular vectors
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[0].T[:i]
    v = torch.linalg.svd(other, full_matrices=False)[0].T[:j]
    return ((u @ v.T) ** 2).sum().item() / min(i, j)


# %% wrong columns: takes columns of the third result instead of rows
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2][:, :i].T
    v = torch.linalg.svd(other, full_matrices=False)[2][:, :j].T
    return ((u @ v.T) ** 2).sum().item() / min(i, j)


# %% wrong smallest: takes the directions with the smallest singular values
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2][-i:]
    v = torch.linalg.svd(other, full_matrices=False)[2][-j:]
    return ((u @ v.T) ** 2).sum().item() / min(i, j)


# %% wrong norm: forgets to square the norm
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2][:i]
    v = torch.linalg.svd(other, full_matrices=False)[2][:j]
    return (u @ v.T).norm().item() / min(i, j)


# %% wrong root: takes the square root of φ
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2][:i]
    v = torch.linalg.svd(other, full_matrices=False)[2][:j]
    return math.sqrt(((u @ v.T) ** 2).sum().item() / min(i, j))


# %% wrong absolute: adds up absolute values instead of squares
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2][:i]
    v = torch.linalg.svd(other, full_matrices=False)[2][:j]
    return (u @ v.T).abs().sum().item() / min(i, j)


# %% wrong max: divides by the larger of i and j
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2][:i]
    v = torch.linalg.svd(other, full_matrices=False)[2][:j]
    return ((u @ v.T) ** 2).sum().item() / max(i, j)


# %% wrong product: divides by i times j
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2][:i]
    v = torch.linalg.svd(other, full_matrices=False)[2][:j]
    return ((u @ v.T) ** 2).sum().item() / (i * j)


# %% wrong undivided: doesn't divide at all
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2][:i]
    v = torch.linalg.svd(other, full_matrices=False)[2][:j]
    return ((u @ v.T) ** 2).sum().item()


# %% wrong first-number: divides by i, whichever is smaller
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2][:i]
    v = torch.linalg.svd(other, full_matrices=False)[2][:j]
    return ((u @ v.T) ** 2).sum().item() / i


# %% wrong one-by-one: compares only directions with the same number
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2][:i]
    v = torch.linalg.svd(other, full_matrices=False)[2][:j]
    return sum((u[k] @ v[k]).item() ** 2 for k in range(min(i, j))) / min(i, j)


# %% wrong same-number: uses the smaller number of directions for both adapters
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2][: min(i, j)]
    v = torch.linalg.svd(other, full_matrices=False)[2][: min(i, j)]
    return ((u @ v.T) ** 2).sum().item() / min(i, j)


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
def subspace_similarity(one, other, i, j):
    if one.shape != other.shape:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2][:i]
    v = torch.linalg.svd(other, full_matrices=False)[2][:j]
    return ((u @ v.T) ** 2).sum().item() / min(i, j)


# %% wrong any-number: accepts more directions than there are
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (i >= 1 and j >= 1):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2][:i]
    v = torch.linalg.svd(other, full_matrices=False)[2][:j]
    return ((u @ v.T) ** 2).sum().item() / min(i, j)


# %% wrong largest-rank: compares both numbers with the larger rank
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (min(i, j) >= 1 and max(i, j) <= max(len(one), len(other))):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2][:i]
    v = torch.linalg.svd(other, full_matrices=False)[2][:j]
    return ((u @ v.T) ** 2).sum().item() / min(i, j)


# %% right float32-eigenvectors: takes the eigenvectors of AᵀA in float32
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.eigh(one.T @ one)[1].T.flip(0)[:i]
    v = torch.linalg.eigh(other.T @ other)[1].T.flip(0)[:j]
    return ((u @ v.T) ** 2).sum().item() / min(i, j)


# %% wrong square: refuses a rank that equals the number of inputs
def subspace_similarity(one, other, i, j):
    if not len(one) < one.shape[1] == other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2][:i]
    v = torch.linalg.svd(other, full_matrices=False)[2][:j]
    return ((u @ v.T) ** 2).sum().item() / min(i, j)


# %% wrong rank-one: fails for an adapter of rank 1
def subspace_similarity(one, other, i, j):
    if one.shape[1] != other.shape[1]:
        raise ValueError("different numbers of inputs")
    if not (1 <= i <= len(one) and 1 <= j <= len(other)):
        raise ValueError("i or j is not allowed")
    u = torch.linalg.svd(one, full_matrices=False)[2].squeeze()[:i]
    v = torch.linalg.svd(other, full_matrices=False)[2][:j]
    return ((u @ v.T) ** 2).sum().item() / min(i, j)
