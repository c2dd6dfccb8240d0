"""Draw the parameters of LoRA adapters and the singular values of updates (lecture 03)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from course_utils.figures.base import Picture, grouped_bars, legend_beside, one_panel
from course_utils.palette import BLACK, BLUE, ORANGE


def lora_parameters(per_rank: int, full: int, rank: int) -> Picture:
    """Plot the trainable parameters of LoRA and of full fine-tuning over the rank, on log scales.

    The picture marks the chosen rank and the break-even rank. The break-even rank is full /
    per_rank, at which the adapters have as many parameters as the adapted matrices.

    Args:
        per_rank: the number of parameters of all adapters at rank 1, which is the sum of d_in +
            d_out over all adapted matrices.
        full: the number of parameters of the adapted matrices, which is the sum of d_in · d_out.
        rank: the chosen rank.
    """
    even = full / per_rank
    figure, axes = one_panel()
    ranks = [1, max(2 * even, rank)]
    axes.loglog(ranks, [per_rank * r for r in ranks], color=BLUE, label="LoRA")
    axes.axhline(full, color=ORANGE, linestyle="--", label="full fine-tuning")
    axes.plot(even, full, "s", color=BLACK, label=f"break-even: rank {even:,.0f}")
    axes.plot(rank, rank * per_rank, "o", color=BLUE, markersize=9, label=f"rank {rank:,}")
    axes.set(xlabel="rank r", ylabel="trainable parameters")
    axes.grid(alpha=0.3)
    legend_beside(axes)
    alt = (
        f"Trainable parameters over the rank, on log scales: LoRA of rank {rank:,} trains "
        f"{rank * per_rank:,}, full fine-tuning {full:,}; they are equal at rank {even:,.1f}."
    )
    return Picture(figure, alt)


def spectrum(singular_values: Mapping[str, Sequence[float]], shown: int = 10) -> Picture:
    """Draw the largest singular values of several matrices as bars, in descending order.

    Args:
        singular_values: name of the matrix → its singular values, in any order.
        shown: the number of singular values that are drawn for each matrix.
    """
    figure, axes = one_panel()
    largest = {
        name: sorted(map(float, values), reverse=True)[:shown]
        for name, values in singular_values.items()
    }
    grouped_bars(axes, largest, first=1)
    axes.set(xlabel="singular value, by size", ylabel="value")
    axes.set_xticks(range(1, shown + 1))
    axes.legend(frameon=False)
    descriptions = [
        f"{name} " + ", ".join(f"{value:.2f}" for value in values)
        for name, values in largest.items()
    ]
    return Picture(figure, "Bars of singular values: " + "; ".join(descriptions) + ".")
