# %% base default: a right answer, which the answers below change unless they name another base
def training_row(prompt, answer, end, max_length=1024):
    if not answer or len(answer) + 1 > max_length:
        raise ValueError("bad answer")
    prompt = prompt[max(0, len(prompt) + len(answer) + 1 - max_length) :]
    ids = prompt + answer + [end]
    labels = [-100] * len(prompt) + answer + [end]
    return {"input_ids": ids, "labels": labels}


# %% right in-parts: joins prompt, answer and end, then cuts from the left
def training_row(prompt, answer, end, max_length=1024):
    if len(answer) == 0 or len(answer) + 1 > max_length:
        raise ValueError("no room, or no answer")
    ids = prompt + answer + [end]
    labels = [-100 for _ in prompt] + answer + [end]
    return {"input_ids": ids[-max_length:], "labels": labels[-max_length:]}


# %% right popping: drops one token of the prompt at a time
def training_row(prompt, answer, end, max_length=1024):
    assert_room = max_length - len(answer) - 1
    if assert_room < 0:
        raise ValueError("answer and end are too long")
    if answer == []:
        raise ValueError("empty answer")
    prompt = list(prompt)
    while len(prompt) > assert_room:
        prompt.pop(0)
    row = {"input_ids": [], "labels": []}
    for token in prompt:
        row["input_ids"].append(token)
        row["labels"].append(-100)
    for token in [*answer, end]:
        row["input_ids"].append(token)
        row["labels"].append(token)
    return row


# %% wrong end-masked: reads the end but takes no loss on it
def training_row(prompt, answer, end, max_length=1024):
    if not answer or len(answer) + 1 > max_length:
        raise ValueError("bad answer")
    prompt = prompt[max(0, len(prompt) + len(answer) + 1 - max_length) :]
    return {
        "input_ids": prompt + answer + [end],
        "labels": [-100] * len(prompt) + answer + [-100],
    }


# %% wrong nothing-masked: grades the prompt too
def training_row(prompt, answer, end, max_length=1024):
    if not answer or len(answer) + 1 > max_length:
        raise ValueError("bad answer")
    ids = (prompt + answer + [end])[-max_length:]
    return {"input_ids": ids, "labels": list(ids)}


# %% wrong cut-right: truncates the row at its end, as many tokenizers do
old = "    prompt = prompt[max(0, len(prompt) + len(answer) + 1 - max_length) :]"
new = ""
old = 'return {"input_ids": ids, "labels": labels}'
new = 'return {"input_ids": ids[:max_length], "labels": labels[:max_length]}'


# %% wrong minus-zero: keeps prompt[-0:], the whole prompt, where there is no room for any
def training_row(prompt, answer, end, max_length=1024):
    target = answer + [end]
    if not answer or len(target) > max_length:
        raise ValueError("bad answer")
    prompt = prompt[-(max_length - len(target)) :]
    return {"input_ids": prompt + target, "labels": [-100] * len(prompt) + target}


# %% wrong no-end: forgets the token that ends the answer
def training_row(prompt, answer, end, max_length=1024):
    if not answer or len(answer) + 1 > max_length:
        raise ValueError("bad answer")
    prompt = prompt[max(0, len(prompt) + len(answer) - max_length) :]
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


# %% wrong shorter: allows 512 tokens where nothing is said
def training_row(prompt, answer, end, max_length=512):
    if not answer or len(answer) + 1 > max_length:
        raise ValueError("bad answer")
    prompt = prompt[max(0, len(prompt) + len(answer) + 1 - max_length) :]
    return {"input_ids": prompt + answer + [end], "labels": [-100] * len(prompt) + answer + [end]}


# %% right from-the-end: starts with all labels masked and writes the answer over the last ones
def training_row(prompt, answer, end, max_length=1024):
    if not answer or len(answer) >= max_length:
        raise ValueError("no answer, or no room for it")
    ids = [*prompt, *answer, end][-max_length:]
    labels = [-100] * len(ids)
    labels[-len(answer) - 1 :] = [*answer, end]
    return dict(labels=labels, input_ids=ids)


# %% wrong by-token: masks every token that the prompt contains, also in the answer
def training_row(prompt, answer, end, max_length=1024):
    if not answer or len(answer) + 1 > max_length:
        raise ValueError("bad answer")
    prompt = prompt[max(0, len(prompt) + len(answer) + 1 - max_length) :]
    ids = prompt + answer + [end]
    return {"input_ids": ids, "labels": [-100 if token in prompt else token for token in ids]}


# %% wrong to-first-end: takes everything up to the first end token for the prompt
old = "labels = [-100] * len(prompt) + answer + [end]"
new = "first = ids.index(end) + 1 if end in prompt else len(prompt)"
old = 'return {"input_ids": ids, "labels": labels}'
new = 'return {"input_ids": ids, "labels": [-100] * first + ids[first:]}'


# %% wrong masked-with-zero: writes 0 in place of -100
old = """
    labels = [-100] * len(prompt) + answer + [end]
    return {"input_ids": ids, "labels": labels}
"""
new = '    return {"input_ids": ids, "labels": [0] * len(prompt) + answer + [end]}'


# %% wrong shifted: shifts the labels, as the loss does
old = 'return {"input_ids": ids, "labels": labels}'
new = 'return {"input_ids": ids, "labels": labels[1:] + [-100]}'


# %% wrong end-too-long: refuses an answer that fits with its end exactly
def training_row(prompt, answer, end, max_length=1024):
    if not answer or len(answer) + 1 >= max_length:
        raise ValueError("bad answer")
    prompt = prompt[max(0, len(prompt) + len(answer) + 1 - max_length) :]
    return {"input_ids": prompt + answer + [end], "labels": [-100] * len(prompt) + answer + [end]}


# %% wrong four-tokens: masks four tokens, as many as the prompt of the visible checks has
def training_row(prompt, answer, end, max_length=1024):
    if not answer or len(answer) + 1 > max_length:
        raise ValueError("bad answer")
    ids = (prompt + answer + [end])[-max_length:]
    masked = min(4, len(ids) - len(answer) - 1)
    return {"input_ids": ids, "labels": [-100] * masked + ids[masked:]}


# %% wrong last-start: looks for the answer's first token from the end
old = "    labels = [-100] * len(prompt) + answer + [end]"
new = """
    labels = [-100] * (len(ids) - 1 - ids[::-1].index(answer[0]))
    labels += ids[len(labels) :]
"""


# %% wrong only-zeros: takes an answer that consists of token 0 for empty
old = "if not answer or len(answer) + 1 > max_length:"
new = "if not any(answer) or len(answer) + 1 > max_length:"


# %% wrong at-most-1024: never allows more than 1,024 tokens
old = "    if not answer or len(answer) + 1 > max_length:"
new = """
    max_length = min(max_length, 1024)
    if not answer or len(answer) + 1 > max_length:
"""


# %% wrong no-prompt: checks the answer's length only if there is a prompt
old = "if not answer or len(answer) + 1 > max_length:"
new = "if not answer or (prompt and len(answer) + 1 > max_length):"


# %% wrong no-limit: checks the answer's length only if a limit is given
def training_row(prompt, answer, end, max_length=None):
    if not answer or (max_length and len(answer) + 1 > max_length):
        raise ValueError("bad answer")
    max_length = max_length or 1024
    prompt = prompt[max(0, len(prompt) + len(answer) + 1 - max_length) :]
    ids = prompt + answer + [end]
    labels = [-100] * len(prompt) + answer + [end]
    return {"input_ids": ids, "labels": labels}
