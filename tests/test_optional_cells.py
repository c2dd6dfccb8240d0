"""Check the code that lecture 07 shows but doesn't run: the lines for TRL and the plain script."""

import re

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from course_utils import models, news
from course_utils.machine.notebooks import load_node
from course_utils.models.load import nf4_config
from tests.cells import LECTURES, ROOT

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("optional_cells")]

MODEL = '"HuggingFaceTB/SmolLM2-135M-Instruct"'
STEPS = 4


def block_of_code(cell):
    """Return the block of code in a Markdown cell of lecture 07."""
    (path,) = (path for path in LECTURES if path.stem.startswith("07"))
    (text,) = (c["source"] for c in load_node(path)["cells"] if c["id"] == cell)
    return re.search(r"```python\n(.+?)```", text, re.DOTALL)[1]


@pytest.fixture(scope="module")
def space(tiny_base, tmp_path_factory):
    """Return the names after the lecture's lines have run with a tiny model."""
    code = block_of_code("work-question")
    assert code.count(MODEL) == code.count("max_steps=42") == code.count('"news-trl"') == 1
    folder = str(tmp_path_factory.mktemp("trl"))
    code = code.replace(MODEL, repr(str(tiny_base))).replace("max_steps=42", f"max_steps={STEPS}")
    code = code.replace('"news-trl"', f"{folder!r}, use_cpu=True, bf16=False, logging_steps=1")
    # The tiny tokenizer reads single bytes, so the stories are shortened.
    stories = [story | {"story": story["story"][:80]} for story in news.load_news()["train"]][:32]
    names = {
        "news": news,
        "data": {"train": stories},
        "config": nf4_config(torch.float32),
        "lora": LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    }
    exec(code, names)
    return names | {"folder": folder}


def counted(trainer):
    """Return the texts of the tokens that count in the first row of a trainer's data."""
    row = next(iter(trainer.get_train_dataloader()))
    labels = row["labels"][0]
    return trainer.processing_class.decode(labels[labels != -100])


def test_the_lines_for_trl_train_4_bit_weights_with_the_lectures_rate(space):
    trainer = space["trainer"]
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == STEPS and losses[-1] < losses[0]
    layers = models.linear4bit_layers(trainer.model)
    assert layers and all(layer.weight.quant_state.nested for layer in layers.values())
    rates = [row["learning_rate"] for row in trainer.state.log_history if "loss" in row]
    assert rates[0] == 0 and max(rates) == pytest.approx(
        models.BASE_MODELS[models.SMALL_MODEL].learning_rate
    )
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.bfloat16}


def test_prompt_and_completion_count_the_answer_and_its_line_break(space):
    assert re.fullmatch(r'\{"section".*\}<\|im_end\|>\n', counted(space["trainer"]))


def test_messages_count_all_tokens_by_default(space, tiny_base, tmp_path):
    import trl

    rows = Dataset.from_list([{"messages": chat} for chat in space["chats"]])
    config = trl.SFTConfig(str(tmp_path), use_cpu=True, bf16=False)
    assert (config.learning_rate, config.lr_scheduler_type) == (2e-5, "linear")
    trainer = trl.SFTTrainer(str(tiny_base), config, train_dataset=rows)
    assert news.TUNED_INSTRUCTION in counted(trainer)


def test_the_lecture_shows_the_plain_script():
    script = (ROOT / "lectures" / "finetune_plain.py").read_text(encoding="utf-8")
    assert block_of_code("plain-script") == script
