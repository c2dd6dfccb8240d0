# %% right loops: looks at every token and the one before it
def repair_ends(input_ids, attention_mask, labels, end):
    if input_ids.shape != labels.shape or attention_mask.shape != labels.shape:
        raise ValueError("shapes differ")
    mended = labels.clone()
    rows, length = labels.shape
    for r in range(rows):
        for t in range(1, length):
            real = attention_mask[r, t] == 1 and input_ids[r, t] == end
            if real and labels[r, t - 1] != -100:
                mended[r, t] = end
    return mended


# %% right shifted: pads the labels with one more column on the left
def repair_ends(input_ids, attention_mask, labels, end):
    if len({tuple(t.shape) for t in (input_ids, attention_mask, labels)}) > 1:
        raise ValueError("shapes differ")
    before = torch.nn.functional.pad(labels, (1, 0), value=-100)[:, :-1]
    wanted = attention_mask.bool() & (input_ids == end) & (before >= 0)
    return torch.where(wanted, torch.full_like(labels, end), labels)


# %% wrong every-end: grades all ends, of user and padding too
def repair_ends(input_ids, attention_mask, labels, end):
    if not input_ids.shape == attention_mask.shape == labels.shape:
        raise ValueError("shapes differ")
    return torch.where(input_ids == end, input_ids, labels)


# %% wrong ends-anew: sets every end anew, and loses those that were graded for another reason
def repair_ends(input_ids, attention_mask, labels, end):
    if not input_ids.shape == attention_mask.shape == labels.shape:
        raise ValueError("shapes differ")
    after_graded = torch.zeros_like(labels, dtype=torch.bool)
    after_graded[:, 1:] = labels[:, :-1] != -100
    ends = torch.where(after_graded & (attention_mask == 1), end, -100)
    return torch.where(input_ids == end, ends, labels)


# %% wrong broken-rows: leaves a row as it is once one of its ends is graded
def repair_ends(input_ids, attention_mask, labels, end):
    if not input_ids.shape == attention_mask.shape == labels.shape:
        raise ValueError("shapes differ")
    mended = labels.clone()
    for r in range(len(labels)):
        if (labels[r] == end).any():
            continue
        for t in range(1, labels.shape[1]):
            real = attention_mask[r, t] == 1 and input_ids[r, t] == end
            if real and labels[r, t - 1] != -100:
                mended[r, t] = end
    return mended


# %% wrong no-mask: trusts the token before it and forgets that padding may follow an end
def repair_ends(input_ids, attention_mask, labels, end):
    if not input_ids.shape == attention_mask.shape == labels.shape:
        raise ValueError("shapes differ")
    mended = labels.clone()
    after_graded = labels[:, :-1] != -100
    mended[:, 1:][(input_ids[:, 1:] == end) & after_graded] = end
    return mended


# %% wrong rolled: the last token of a row counts as the one before its first
def repair_ends(input_ids, attention_mask, labels, end):
    if not input_ids.shape == attention_mask.shape == labels.shape:
        raise ValueError("shapes differ")
    after_graded = labels.roll(1, dims=1) != -100
    is_end = (input_ids == end) & (attention_mask == 1)
    return labels.masked_fill(is_end & after_graded, end)


# %% wrong unchecked: lets torch broadcast a mask of another shape
def repair_ends(input_ids, attention_mask, labels, end):
    if input_ids.shape != labels.shape:
        raise ValueError("shapes differ")
    after_graded = torch.zeros_like(labels, dtype=torch.bool)
    after_graded[:, 1:] = labels[:, :-1] != -100
    is_end = (input_ids == end) & (attention_mask == 1)
    return labels.masked_fill(is_end & after_graded, end)


# %% right in-place: goes through each row, and reads labels that it may have repaired already
def repair_ends(input_ids, attention_mask, labels, end):
    if labels.shape != input_ids.shape or labels.shape != attention_mask.shape:
        raise ValueError("shapes differ")
    for row, mask, ids in zip(labels, attention_mask, input_ids):
        for t in range(1, len(row)):
            if mask[t] and ids[t] == end and row[t - 1] != -100:
                row[t] = end
    return labels


# %% right nonzero: looks up the real ends and then what comes before them
def repair_ends(input_ids, attention_mask, labels, end):
    if not labels.shape == input_ids.shape == attention_mask.shape:
        raise ValueError("shapes differ")
    mended = labels.clone()
    for b, t in (attention_mask * (input_ids == end)).nonzero().tolist():
        if t and labels[b, t - 1] >= 0:
            mended[b, t] = input_ids[b, t]
    return mended


# %% wrong last-only: repairs only the last real token of each row
def repair_ends(input_ids, attention_mask, labels, end):
    if not input_ids.shape == attention_mask.shape == labels.shape:
        raise ValueError("shapes differ")
    mended = labels.clone()
    for r in range(len(labels)):
        t = int(attention_mask[r].nonzero().max())
        if t > 0 and input_ids[r, t] == end and labels[r, t - 1] != -100:
            mended[r, t] = end
    return mended


# %% wrong after: looks at the label after an end instead of the one before it
def repair_ends(input_ids, attention_mask, labels, end):
    if not input_ids.shape == attention_mask.shape == labels.shape:
        raise ValueError("shapes differ")
    before = torch.zeros_like(labels, dtype=torch.bool)
    before[:, :-1] = labels[:, 1:] != -100
    return labels.masked_fill((input_ids == end) & (attention_mask == 1) & before, end)


# %% wrong above-zero: takes a label of 0 for one that doesn't count
def repair_ends(input_ids, attention_mask, labels, end):
    if not input_ids.shape == attention_mask.shape == labels.shape:
        raise ValueError("shapes differ")
    after_answer = torch.zeros_like(labels, dtype=torch.bool)
    after_answer[:, 1:] = labels[:, :-1] > 0
    return labels.masked_fill((input_ids == end) & (attention_mask == 1) & after_answer, end)


# %% wrong padded-right: takes the first tokens of each row for the real ones
def repair_ends(input_ids, attention_mask, labels, end):
    if not input_ids.shape == attention_mask.shape == labels.shape:
        raise ValueError("shapes differ")
    mended = labels.clone()
    for r in range(len(labels)):
        for t in range(1, int(attention_mask[r].sum())):
            if input_ids[r, t] == end and labels[r, t - 1] != -100:
                mended[r, t] = end
    return mended


# %% wrong prompts-too: gives each real token its label
def repair_ends(input_ids, attention_mask, labels, end):
    if not input_ids.shape == attention_mask.shape == labels.shape:
        raise ValueError("shapes differ")
    return torch.where(attention_mask == 1, input_ids, labels)


# %% wrong end-is-two: knows only the end token of the visible checks
old = """
    is_end = (input_ids == end) & (attention_mask == 1)
    return labels.masked_fill(is_end & after_answer, end)
"""
new = "    return labels.masked_fill((input_ids == 2) & (attention_mask == 1) & after_answer, 2)"


# %% wrong product: multiplies tokens and mask, and so takes padding for token 0
old = "is_end = (input_ids == end) & (attention_mask == 1)"
new = "is_end = input_ids * attention_mask == end"


# %% wrong third-on: repairs ends from the third position on
old = "after_answer[:, 1:] = labels[:, :-1] != -100"
new = "after_answer[:, 2:] = labels[:, 1:-1] != -100"


# %% wrong two-rows: repairs the first two rows, as many as the visible checks have
old = "    return labels.masked_fill(is_end & after_answer, end)"
new = """
    is_end[2:] = False
    return labels.masked_fill(is_end & after_answer, end)
"""
