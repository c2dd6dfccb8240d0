"""Run the optional cells of lecture 07, full fine-tuning and TRL, on a tiny model.

A student turns these cells on with `FULL = True` and `TRL = True`. The tests do the same. They
import what the lecture imports before these cells, and replace only the base model and the
stories, so that a step needs a second.
"""

import ast
import json
import re

import pytest
import torch

from course_utils import models, news, sft
from course_utils.machine import runtime
from course_utils.training import Recipe, attach_adapters, finetune, trainable_parameters
from tests.cells import LECTURES

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("optional_cells")]

STEPS = 4


def code_cells():
    """Return a dict from the ids of lecture 07's code cells to their source."""
    (path,) = (path for path in LECTURES if path.stem.startswith("07"))
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return {c["id"]: "".join(c["source"]) for c in cells if c["cell_type"] == "code"}


def imports(sources):
    """Return the import statements at the top level of some cells, without the set-up's."""
    statements = [node for source in sources for node in ast.parse(source).body]
    wanted = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    return ast.unparse(ast.Module(wanted, []))


def run_cells(space, switch):
    """Run the cells whose ids begin with `switch`, after turning its switch on."""
    sources = [source for i, source in code_cells().items() if i.startswith(f"{switch}-")]
    off, on = f"{switch.upper()} = False", f"{switch.upper()} = True"
    text = "\n".join(sources)
    assert text.count(off) == 1, f"no cell of the section has a line `{off}`"
    exec(text.replace(off, on), space)


@pytest.fixture(scope="module")
def lecture(tiny_base, tmp_path_factory):
    """Return the names that the optional cells use, as the lecture has them after its main run."""
    earlier = [s for i, s in code_cells().items() if not i.startswith(("full-", "trl-", "setup"))]
    names = {}
    exec(imports(earlier), names)

    def load_base(name=None, **options):
        return models.load_base(path=tiny_base, **options)

    # The tiny tokenizer reads single bytes, so the stories are shortened.
    stories = [story | {"story": story["story"][:80]} for story in news.load_news()["train"]][:32]
    base, tokenizer = load_base(quantization="nf4")
    train = sft.encode_all([news.tuned_messages(story) for story in stories], tokenizer)
    recipe = Recipe(max_steps=STEPS)
    model = attach_adapters(base, recipe)
    folder = tmp_path_factory.mktemp("run")
    run = finetune(model, tokenizer, train, recipe=recipe, output_dir=folder)
    (lora,) = model.peft_config.values()
    return names | {
        "NAME": models.SMALL_MODEL,
        "device": runtime.device(),
        "dtype": runtime.compute_dtype(),
        "lora": lora,
        "order": torch.randperm(len(train), generator=torch.Generator().manual_seed(recipe.seed)),
        "load_base": load_base,
        "model": model,
        "tokenizer": tokenizer,
        "train": train,
        "recipe": recipe,
        "history": run.table(),
        "parameters": load_base()[0].num_parameters(),
    }


@pytest.fixture
def space(lecture, tmp_path, monkeypatch):
    """Return a copy of the lecture's names, in a folder from which checkpoints can be written."""
    (tmp_path / "lectures").mkdir()
    monkeypatch.chdir(tmp_path / "lectures")
    return dict(lecture)


def test_full_fine_tuning_trains_every_weight(space, capsys):
    run_cells(space, "full")
    losses = space["full"].table()["loss"]
    # The weights of QLoRA are rounded to 4 bits, so its first loss is a little different.
    assert losses.iloc[0] == pytest.approx(space["history"]["loss"].iloc[0], rel=0.05)
    assert len(losses) == STEPS
    trained = dict(space["whole"].named_parameters())
    for name, weight in space["load_base"]()[0].named_parameters():
        assert trained[name].dtype == torch.float32
        assert not torch.equal(trained[name], weight.float()), name
    printed = capsys.readouterr().out
    assert re.search(r"^full +[\d.]+ .B for the process, \d+ tokens/s$", printed, re.MULTILINE)


def test_trl_trains_like_finetune(space, capsys):
    run_cells(space, "trl")
    trainer, ours = space["trainer"], space["history"]["loss"].iloc[0]
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    # Both compute in the same number format, but they round at different places.
    assert losses[0] == pytest.approx(ours, rel=0.01)
    assert len(losses) == STEPS and losses[-1] < losses[0]
    assert f"first loss: {losses[0]:.3f} in TRL, {ours:.3f} above" in capsys.readouterr().out
    trained = trainable_parameters(trainer.model)
    assert {adapter.dtype for adapter in trained.values()} == {torch.float32}
    assert all("lora_" in name and adapter.any() for name, adapter in trained.items())
    batch = next(iter(trainer.get_train_dataloader()))
    for row, labels, i in zip(batch["input_ids"], batch["labels"], space["order"], strict=False):
        example = space["train"][i]
        length = len(example["input_ids"])
        assert row[:length].tolist() == example["input_ids"]
        assert labels[:length].tolist() == example["labels"]
        assert (labels[length:] == sft.IGNORE).all()


def test_trl_trains_adapters_in_float32_if_it_computes_in_float16(space, monkeypatch):
    """On a CPU, accelerate refuses float16, so the trainer computes a loss, but takes no step."""
    import trl

    asked, built = [], []

    def sft_config(folder, **options):
        asked.append(options)
        return config(folder, **options | {"fp16": False})

    class Trainer(trl.SFTTrainer):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            built.append({p.dtype for p in trainable_parameters(self.model).values()})

        def train(self):
            batch = next(iter(self.get_train_dataloader()))
            with torch.autocast("cpu", torch.float16):
                self.state.log_history.append({"loss": self.model(**batch).loss.item()})

    config = trl.SFTConfig
    monkeypatch.setattr(trl, "SFTConfig", sft_config)
    monkeypatch.setattr(trl, "SFTTrainer", Trainer)
    monkeypatch.setattr(runtime, "compute_dtype", lambda device=None: torch.float16)
    space["dtype"] = torch.float16
    run_cells(space, "trl")
    assert (asked[0]["fp16"], asked[0]["bf16"]) == (True, False)
    # If a later version of TRL leaves the adapters in float32, the cell needs no conversion.
    assert built == [{torch.bfloat16}]
    first = space["trainer"].state.log_history[-1]["loss"]
    assert first == pytest.approx(space["history"]["loss"].iloc[0], rel=0.02)
    adapters = trainable_parameters(space["trainer"].model).values()
    assert {adapter.dtype for adapter in adapters} == {torch.float32}
