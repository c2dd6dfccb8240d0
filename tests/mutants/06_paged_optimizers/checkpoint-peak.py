# %% base default: a right answer, which the answers below change unless they name another base
def step_peaks(saved, inputs, gradients, loss, checkpointing):
    if not saved or not len(saved) == len(inputs) == len(gradients):
        raise ValueError("lengths differ")
    kept = inputs if checkpointing else saved
    moments = [sum(kept[:n]) + saved[n] + sum(gradients[n:]) for n in range(len(saved))]
    return sum(kept) + loss, max(moments)


# %% right event-by-event: follows the step and notes the highest moment
def step_peaks(saved, inputs, gradients, loss, checkpointing):
    if len({len(saved), len(inputs), len(gradients)}) > 1 or len(saved) == 0:
        raise ValueError("one number for each layer, please")
    alive = 0
    for all_of, own in zip(saved, inputs):
        alive += own if checkpointing else all_of
    at_loss = alive + loss
    highest = 0
    for all_of, own, grads in zip(saved[::-1], inputs[::-1], gradients[::-1]):
        if checkpointing:
            alive += all_of - own
        alive += grads
        highest = max(highest, alive)
        alive -= all_of
    return at_loss, highest


# %% right two-formulas: a function for each way
def step_peaks(saved, inputs, gradients, loss, checkpointing):
    layers = len(saved)
    if layers < 1 or len(inputs) != layers or len(gradients) != layers:
        raise ValueError("lengths differ")

    def plain(layer):
        return sum(saved[: layer + 1]) + sum(gradients[layer:])

    def recomputed(layer):
        return sum(inputs[: layer + 1]) - inputs[layer] + saved[layer] + sum(gradients[layer:])

    if checkpointing:
        return loss + sum(inputs), max(map(recomputed, range(layers)))
    return loss + sum(saved), max(map(plain, range(layers)))


# %% wrong input-twice: counts the input of the recomputed layer twice
def step_peaks(saved, inputs, gradients, loss, checkpointing):
    if not saved or not len(saved) == len(inputs) == len(gradients):
        raise ValueError("lengths differ")
    moments = []
    for layer in range(len(saved)):
        above = sum(gradients[layer:])
        if checkpointing:
            moments.append(sum(inputs[: layer + 1]) + saved[layer] + above)
        else:
            moments.append(sum(saved[: layer + 1]) + above)
    return sum(inputs if checkpointing else saved) + loss, max(moments)


# %% wrong inputs-stay: keeps the inputs of all layers until the end
def step_peaks(saved, inputs, gradients, loss, checkpointing):
    if not saved or not len(saved) == len(inputs) == len(gradients):
        raise ValueError("lengths differ")
    if not checkpointing:
        moments = [sum(saved[: n + 1]) + sum(gradients[n:]) for n in range(len(saved))]
        return sum(saved) + loss, max(moments)
    moments = [sum(inputs) - inputs[n] + saved[n] + sum(gradients[n:]) for n in range(len(saved))]
    return sum(inputs) + loss, max(moments)


# %% wrong no-gradients: leaves out what stays of the layers above
old = "moments = [sum(kept[:n]) + saved[n] + sum(gradients[n:]) for n in range(len(saved))]"
new = "moments = [sum(kept[:n]) + saved[n] for n in range(len(saved))]"


# %% wrong forward-order: adds up the gradients from the first layer on
old = "moments = [sum(kept[:n]) + saved[n] + sum(gradients[n:]) for n in range(len(saved))]"
new = "moments = [sum(kept[:n]) + saved[n] + sum(gradients[: n + 1]) for n in range(len(saved))]"


# %% wrong start-is-highest: without checkpointing takes the last layer's moment for the highest
def step_peaks(saved, inputs, gradients, loss, checkpointing):
    if not saved or not len(saved) == len(inputs) == len(gradients):
        raise ValueError("lengths differ")
    if not checkpointing:
        return sum(saved) + loss, sum(saved) + gradients[-1]
    moments = [sum(inputs[:n]) + saved[n] + sum(gradients[n:]) for n in range(len(saved))]
    return sum(inputs) + loss, max(moments)


# %% wrong largest-layer: looks for the spike at the layer that saves most
old = "    moments = [sum(kept[:n]) + saved[n] + sum(gradients[n:]) for n in range(len(saved))]"
new = """
    if checkpointing and len(set(saved)) > 1:
        n = saved.index(max(saved))
        return sum(kept) + loss, sum(kept[:n]) + saved[n] + sum(gradients[n:])
    moments = [sum(kept[:n]) + saved[n] + sum(gradients[n:]) for n in range(len(saved))]
"""


# %% right running-sums: from sums that are computed once
def step_peaks(saved, inputs, gradients, loss, checkpointing):
    from itertools import accumulate

    if not (len(saved) == len(inputs) == len(gradients) > 0):
        raise ValueError("lengths differ")
    stored = inputs if checkpointing else saved
    below = [0, *accumulate(stored)]
    above = list(accumulate(gradients[::-1]))[::-1]
    highest = max(b + own + grads for b, own, grads in zip(below, saved, above))
    return below[-1] + loss, highest


# %% wrong no-loss: forgets what the loss needs
old = "return sum(kept) + loss, max(moments)"
new = "return sum(kept), max(moments)"


# %% wrong loss-stays: doesn't free what the loss needs
old = "return sum(kept) + loss, max(moments)"
new = "return sum(kept) + loss, max(moments) + loss"


# %% wrong any-lengths: cuts all lists to the shortest
def step_peaks(saved, inputs, gradients, loss, checkpointing):
    count = min(len(saved), len(inputs), len(gradients))
    if not count:
        raise ValueError("no layers")
    kept = (inputs if checkpointing else saved)[:count]
    moments = [sum(kept[:n]) + saved[n] + sum(gradients[n:count]) for n in range(count)]
    return sum(kept) + loss, max(moments)


# %% wrong visible-sizes: is right only for two, three and thirty layers
old = "    moments = [sum(kept[:n]) + saved[n] + sum(gradients[n:]) for n in range(len(saved))]"
new = """
    if max(saved) not in (30, 80, 900, 4_752_896):
        return sum(kept), sum(kept)
    moments = [sum(kept[:n]) + saved[n] + sum(gradients[n:]) for n in range(len(saved))]
"""


# %% wrong two-layers: raises for a single layer
old = "if not saved or not len(saved) == len(inputs) == len(gradients):"
new = "if len(saved) < 2 or not len(saved) == len(inputs) == len(gradients):"


# %% wrong last-kept: with checkpointing, leaves out the last layer
old = "return sum(kept) + loss, max(moments)"
new = "return sum(kept) + loss, max((checkpointing and moments[:-1]) or moments)"


# %% wrong all-or-none: counts no gradients if a layer above is frozen
old = "    moments = [sum(kept[:n]) + saved[n] + sum(gradients[n:]) for n in range(len(saved))]"
new = """
    moments = [
        sum(kept[:n]) + saved[n] + (sum(gradients[n:]) if all(gradients[n:]) else 0)
        for n in range(len(saved))
    ]
"""


# %% wrong three-layers: looks at the first, the last and the largest layer
old = "    moments = [sum(kept[:n]) + saved[n] + sum(gradients[n:]) for n in range(len(saved))]"
new = """
    layers = (0, saved.index(max(saved)), len(saved) - 1)
    moments = [sum(kept[:n]) + saved[n] + sum(gradients[n:]) for n in layers]
"""


# %% wrong frozen-below: ends the backward pass above the first frozen layers
old = "for n in range(len(saved))]"
new = "for n in range(len(saved)) if any(gradients[: n + 1]) or not any(gradients)]"


# %% wrong one-layer: stores all tensors of a single layer, even with checkpointing
old = "kept = inputs if checkpointing else saved"
new = "kept = inputs if checkpointing and len(saved) > 1 else saved"
