# %% base default: a right answer, which the answers below change unless they name another base
def collate(rows, pad, side="right"):
    if not rows or side not in ("left", "right"):
        raise ValueError("no rows, or no such side")

    def stack(lists, fill):
        tensors = [torch.tensor(items) for items in lists]
        return torch.nn.utils.rnn.pad_sequence(tensors, True, fill, side)

    return {
        "input_ids": stack([row["input_ids"] for row in rows], pad),
        "attention_mask": stack([[1] * len(row["labels"]) for row in rows], 0),
        "labels": stack([row["labels"] for row in rows], -100),
    }


# %% right lists: pads lists first, then makes tensors
def collate(rows, pad, side="right"):
    if len(rows) == 0 or side not in {"right", "left"}:
        raise ValueError("no rows, or no such side")
    width = max(len(row["input_ids"]) for row in rows)

    def padded(values, fill):
        extra = [fill] * (width - len(values))
        return values + extra if side == "right" else extra + values

    return {
        "input_ids": torch.tensor([padded(row["input_ids"], pad) for row in rows]),
        "attention_mask": torch.tensor([padded([1] * len(row["labels"]), 0) for row in rows]),
        "labels": torch.tensor([padded(row["labels"], -100) for row in rows]),
    }


# %% right pad-sequence: torch's own padding; the mask from the lengths
def collate(rows, pad, side="right"):
    if not rows:
        raise ValueError("no rows")
    if side != "right" and side != "left":
        raise ValueError("no such side")

    def stack(tensors, fill):
        return torch.nn.utils.rnn.pad_sequence(
            tensors, batch_first=True, padding_value=fill, padding_side=side
        )

    ids = [torch.tensor(row["input_ids"]) for row in rows]
    return {
        "input_ids": stack(ids, pad),
        "attention_mask": stack([torch.ones_like(row) for row in ids], 0),
        "labels": stack([torch.tensor(row["labels"]) for row in rows], -100),
    }


# %% wrong by-token: masks every label that equals the padding token, and with it the ends
old = '"labels": stack([row["labels"] for row in rows], -100),'
new = '"labels": stack([[-100 if n == pad else n for n in row["labels"]] for row in rows], -100),'


# %% wrong attention-by-token: attends to whatever isn't the padding token
old = '"attention_mask": stack([[1] * len(row["labels"]) for row in rows], 0),'
new = '"attention_mask": stack([[int(n != pad) for n in row["input_ids"]] for row in rows], 0),'


# %% wrong padding-graded: pads the labels with the padding token
base = "lists"
old = '"labels": torch.tensor([padded(row["labels"], -100) for row in rows]),'
new = '"labels": torch.tensor([padded(row["labels"], pad) for row in rows]),'


# %% wrong labels-right: pads inputs and mask on the left, the labels always on the right
base = "solution"
old = 'batch["labels"][number, real] ='
new = 'batch["labels"][number, :length] ='


# %% wrong trailing-run: takes a run of padding tokens at a row's end for one end and padding
old = "    return {"
new = """
    def mask(row):
        real = list(row["input_ids"])
        while real[-2:] == [pad, pad]:
            real.pop()  # an end, and then more of the same
        return [1] * len(real) + [0] * (len(row["input_ids"]) - len(real))

    return {
"""
old = '"attention_mask": stack([[1] * len(row["labels"]) for row in rows], 0),'
new = '"attention_mask": stack([mask(row) for row in rows], 0),'


# %% right reversed: pads reversed rows on the right and turns them round for the left
def collate(rows, pad, side="right"):
    if side not in ("right", "left") or not rows:
        raise ValueError("no rows, or no such side")
    step = 1 if side == "right" else -1
    width = max(len(row["labels"]) for row in rows)
    batch = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        extra = width - len(row["labels"])
        batch["input_ids"].append((row["input_ids"][::step] + [pad] * extra)[::step])
        batch["attention_mask"].append(([1] * len(row["labels"]) + [0] * extra)[::step])
        batch["labels"].append((row["labels"][::step] + [-100] * extra)[::step])
    return {name: torch.tensor(lists) for name, lists in batch.items()}


# %% wrong any-side: takes each side other than right for left
base = "lists"
old = 'if len(rows) == 0 or side not in {"right", "left"}:'
new = "if not rows:"


# %% wrong always-right: accepts the side left but pads on the right
base = "lists"
old = """
        extra = [fill] * (width - len(values))
        return values + extra if side == "right" else extra + values
"""
new = "        return values + [fill] * (width - len(values))"


# %% wrong bool-mask: returns an attention mask of bools
base = "lists"
old = '"attention_mask": torch.tensor([padded([1] * len(row["labels"]), 0) for row in rows]),'
new = '"attention_mask": torch.tensor([padded([True] * len(r["labels"]), False) for r in rows]),'


# %% wrong mask-from-labels: attends only to tokens whose label is not -100
old = '"attention_mask": stack([[1] * len(row["labels"]) for row in rows], 0),'
new = '"attention_mask": stack([[int(n != -100) for n in row["labels"]] for row in rows], 0),'


# %% wrong first-longest: pads to the length of the first row
base = "lists"
old = 'width = max(len(row["input_ids"]) for row in rows)'
new = 'width = len(rows[0]["input_ids"]) if side == "right" else len(rows[-1]["input_ids"])'


# %% wrong width-five: pads to five tokens, as many as the visible checks have
base = "lists"
old = '    width = max(len(row["input_ids"]) for row in rows)'
new = ""
old = "extra = [fill] * (width - len(values))"
new = "extra = [fill] * (5 - len(values))"


# %% wrong side-late: checks the side only if a row needs padding
old = 'if not rows or side not in ("left", "right"):'
new = "if not rows:"
old = "    return {"
new = """
    if len({len(row["labels"]) for row in rows}) == 1:
        side = "right"
    elif side not in ("left", "right"):
        raise ValueError("no such side")
    return {
"""


# %% wrong initials: looks at the first letter of the side
old = 'if not rows or side not in ("left", "right"):'
new = 'if not rows or side[:1] not in ("l", "r"):'
old = "        return torch.nn.utils.rnn.pad_sequence(tensors, True, fill, side)"
new = """
        return torch.nn.utils.rnn.pad_sequence(
            tensors, True, fill, "left" if side[0] == "l" else "right"
        )
"""


# %% wrong float-left: makes a mask of floats on the left
old = '        "attention_mask": stack([[1] * len(row["labels"]) for row in rows], 0),'
new = """
        "attention_mask": stack(
            [[1 if side == "right" else 1.0] * len(row["labels"]) for row in rows], 0
        ),
"""


# %% wrong at-most-1024: cuts rows after 1,024 tokens
old = "tensors = [torch.tensor(items) for items in lists]"
new = "tensors = [torch.tensor(items[:1024]) for items in lists]"


# %% wrong dropped: leaves out rows in which no label counts
old = '        raise ValueError("no rows, or no such side")'
new = """
        raise ValueError("no rows, or no such side")
    rows = [row for row in rows if set(row["labels"]) != {-100}] or rows
"""
