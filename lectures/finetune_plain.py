"""QLoRA without the course's code. Run: python finetune_plain.py MODEL NEWS.jsonl FOLDER"""

import json
import sys

import peft
import torch
import transformers

(name, data, folder), epochs = sys.argv[1:], 1
device = "cuda" if torch.cuda.is_available() else "cpu"
old = device == "cuda" and torch.cuda.get_device_capability() < (8, 0)  # such as a T4
dtype = torch.float16 if old else torch.bfloat16
nf4 = dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
nf4 = transformers.BitsAndBytesConfig(**nf4, bnb_4bit_compute_dtype=dtype)
tokenizer = transformers.AutoTokenizer.from_pretrained(name)


def load():
    options = {"quantization_config": nf4, "dtype": dtype, "device_map": {"": device}}
    model = transformers.AutoModelForCausalLM.from_pretrained(name, **options)
    # Otherwise, bitsandbytes would change the weights in eval mode, on some CPUs.
    return model.apply(lambda layer: setattr(layer, "support_avx512bf16_for_cpu", False))


def encode(row):  # token ids, and labels that are −100 wherever the loss doesn't count
    rules = "Section and headline (4 to 9 words, present tense) of the story, as JSON."
    chat = [{"role": "system", "content": rules}, {"role": "user", "content": row["story"]}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    answer = {"section": row["section"], "headline": row["headline"]}
    answer = json.dumps(answer, ensure_ascii=False) + tokenizer.eos_token  # It also learns to stop.
    # The template has already written all special tokens, so the tokenizer must add none.
    ids, labels = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompt, answer))
    return torch.tensor(ids + labels), torch.tensor([-100] * len(ids) + labels)


def loss_sum(rows):  # in nats, over all answer tokens of some rows
    pad = torch.nn.utils.rnn.pad_sequence  # on the right; to generate, pad on the left
    ids, labels = (pad(part, True, -100).to(device) for part in zip(*rows, strict=True))
    with torch.autocast(device, dtype):
        logits = model(ids.clamp(min=0), attention_mask=(ids >= 0).long()).logits[:, :-1].float()
    return torch.nn.CrossEntropyLoss(reduction="sum")(logits.mT, labels[:, 1:])


def answer_tokens(rows):
    return sum((labels >= 0).sum().item() for _, labels in rows)


rows = [json.loads(line) for line in open(data, encoding="utf-8")]
train, validation = ([encode(r) for r in rows if r["split"] == s] for s in ("train", "validation"))
torch.manual_seed(0)
lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
model = peft.get_peft_model(load(), lora).train()
model.gradient_checkpointing_enable()  # computes activations again instead of storing them
optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0)
batches = torch.utils.data.DataLoader(train, batch_size=8, shuffle=True, collate_fn=list)
steps = epochs * len(batches)
schedule = transformers.get_cosine_schedule_with_warmup(optimizer, max(1, steps // 10), steps)
scaler = torch.amp.GradScaler(device, enabled=old)  # Small gradients would be 0 in float16.
for batch in (batch for _ in range(epochs) for batch in batches):
    total = 0
    for part in filter(None, (batch[:4], batch[4:])):  # Two halves need less memory.
        loss = loss_sum(part) / answer_tokens(batch)  # not those of the half alone
        scaler.scale(loss).backward()  # adds to the gradients of the first half
        total += loss.item()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer), scaler.update(), schedule.step(), optimizer.zero_grad()
    print(f"loss {total:.4f}", flush=True)

model.save_pretrained(folder)
model = peft.PeftModel.from_pretrained(load(), folder).eval()  # as anybody else loads it
with torch.no_grad():
    loss = sum(loss_sum([row]).item() for row in validation) / answer_tokens(validation)
    prompt = validation[0][0][validation[0][1] < 0][None].to(device)
    text = model.generate(input_ids=prompt, max_new_tokens=40, do_sample=False)[0]
print(f"validation loss {loss:.4f}\n{tokenizer.decode(text)}")
