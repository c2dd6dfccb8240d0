"""Test that saved adapters are read, copied and merged exactly, and refused with a reason."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from course_utils import export
from course_utils.export import merged
from course_utils.machine.validation import CourseError
from course_utils.models import load_base
from course_utils.training import Recipe, attach_adapters, load_adapters
from tests.conftest import edit_json, make_model, randomize_adapters
from tests.hub import put_in_hub_cache

PROBE = torch.arange(3, 43).view(2, 20)


def save(model, folder):
    randomize_adapters(model).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def base_16(tiny_base, tmp_path_factory):
    """Folder of the tiny model in bfloat16, in which models are published."""
    folder = shutil.copytree(tiny_base, tmp_path_factory.mktemp("models") / "base-16")
    make_model().to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def adapters(tiny_base, tmp_path):
    """Folder of adapters that were trained on the tiny model in NF4."""
    base, _ = load_base(path=tiny_base, quantization="nf4")
    return save(attach_adapters(base, Recipe(rank=4, alpha=8)), tmp_path / "adapters")


def save_adapters(base, folder, **settings):
    """Save adapters of the model in a folder with settings of peft."""
    options = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", **settings}
    model = AutoModelForCausalLM.from_pretrained(base)
    return save(get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options)), folder)


@torch.no_grad()
def logits(model):
    return model(PROBE).logits.float()


# -- merging files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("into", "stored_as", "base", "double_quant"),
    [
        ("dequantized", "bfloat16", "base_16", True),
        ("original", "float16", "base_16", True),
        # The files of this model are float32, and `load_base` rounds them before quantization.
        ("dequantized", "float32", "tiny_base", True),
        ("dequantized", "float32", "tiny_base", False),
    ],
)
def test_merged_files_equal_the_merge_in_memory_bit_for_bit(
    adapters, tmp_path, request, into, stored_as, base, double_quant
):
    path = request.getfixturevalue(base)
    options = {"into": into, "stored_as": stored_as, "base": path, "double_quant": double_quant}
    folder = export.save_merged(adapters, tmp_path / "new", **options)
    base, _ = load_base(path=path, quantization="nf4", double_quant=double_quant)
    expected = export.merge(load_adapters(base, adapters), into, stored_as).state_dict()
    saved = load_file(folder / "model.safetensors")
    assert set(saved) == set(expected) - {"lm_head.weight"}
    for name, weight in saved.items():
        assert torch.equal(weight, expected[name]), name
    _, tokenizer = load_base(path=folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == stored_as
    assert tokenizer.chat_template == (path / "chat_template.jinja").read_text()


def test_a_large_model_is_saved_in_several_files(adapters, tmp_path, monkeypatch):
    whole = export.save_merged(adapters, tmp_path / "whole")
    monkeypatch.setattr(merged, "SHARD_BYTES", 40_000)
    parts = export.save_merged(adapters, tmp_path / "parts")
    files = sorted(file.name for file in parts.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors" and len(files) > 2
    small = (load_file(parts / name) for name in files)
    assert all(sum(w.nbytes for w in s.values()) <= 40_000 or len(s) == 1 for s in small)
    assert torch.equal(logits(load_base(path=whole)[0]), logits(load_base(path=parts)[0]))


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
        {"alpha_pattern": {"o_proj": 32}},
        {"rank_pattern": {"layers.1.mlp.up_proj": 2}},
    ],
)
def test_scales_and_ranks_of_layers_equal_those_of_peft(tiny_base, tmp_path, settings):
    folder = save_adapters(tiny_base, tmp_path / "adapters", **settings)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    expected = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    new = export.save_merged(folder, tmp_path / "new", into="original", stored_as="float32")
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(new)), logits(expected), rtol=1e-5, atol=1e-5
    )


def test_a_weight_that_float16_cannot_store_is_refused(adapters, tiny_base, tmp_path):
    weights = load_file(tiny_base / "model.safetensors")
    weights["model.norm.weight"][0] = 1e5
    other = shutil.copytree(tiny_base, tmp_path / "other")
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CourseError, match=r"model\.norm\.weight .* use bfloat16"):
        export.save_merged(adapters, tmp_path / "new", stored_as="float16", base=other)
    assert not (tmp_path / "new").exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["adapters", "other"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 128, "head_dim": 16}, "has the shape"),
        ({"num_hidden_layers": 1}, r"no weight for model\.layers\.1"),
    ],
)
def test_adapters_of_another_model_are_refused(adapters, tokenizer, tmp_path, change, message):
    other = tmp_path / "other"
    make_model(**change).save_pretrained(other)
    tokenizer.save_pretrained(other)
    with pytest.raises(CourseError, match=f"don't belong to the model in .*{message}"):
        export.save_merged(adapters, tmp_path / "new", base=other)
    assert not (tmp_path / "new").exists()


def test_a_folder_with_files_is_not_replaced(adapters, tmp_path):
    (tmp_path / "new").mkdir()
    export.save_merged(adapters, tmp_path / "new")  # an empty folder may be used
    before = (tmp_path / "new" / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(CourseError, match="is a folder that is not empty"):
        export.save_merged(adapters, tmp_path / "new")
    assert (tmp_path / "new" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("double_quant", [True, False])
def test_the_weights_that_adapters_are_trained_on_can_be_saved(base_16, tmp_path, double_quant):
    folder = export.save_dequantized(base_16, tmp_path / "new", double_quant=double_quant)
    base, _ = load_base(path=base_16, quantization="nf4", double_quant=double_quant)
    expected = base.dequantize().to(torch.bfloat16).state_dict()
    for name, weight in load_file(folder / "model.safetensors").items():
        assert torch.equal(weight, expected[name]), name
    with pytest.raises(CourseError, match="no model in"):
        export.save_dequantized(tmp_path, tmp_path / "other")


# -- reading ---------------------------------------------------------------------------------------


def damage(folder):
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def lose_half(folder):
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(next(key for key in weights if "lora_B" in key))
    save_file(weights, file)


def become_ia3(folder):
    IA3Config(target_modules=["q_proj"], feedforward_modules=[]).save_pretrained(folder)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"use_dora": True}, None, "can't be exported: .*use_dora=True"),
        ({"bias": "lora_only"}, None, "can't be exported: .*bias='lora_only'"),
        ({"lora_bias": True}, None, "can't be exported: .*lora_bias=True"),
        ({"modules_to_save": ["lm_head"]}, None, r"exported: .*modules_to_save=\['lm_head'\]"),
        ({"target_modules": ["embed_tokens"]}, None, r"embed_tokens.*, which is neither A nor B"),
        ({}, become_ia3, "they are IA3 adapters, but only LoRA"),
        ({}, lose_half, "but not the other matrix of this layer"),
        ({}, damage, "can't be read"),
        ({}, shutil.rmtree, "no adapters in"),
    ],
)
def test_adapters_that_cannot_be_exported_are_refused(
    tiny_base, tmp_path, settings, change, message
):
    settings = {"target_modules": ["q_proj"]} | settings
    folder = save_adapters(tiny_base, tmp_path / "adapters", **settings)
    if change:
        change(folder)
    with pytest.raises(CourseError, match=message):
        export.read_adapters(folder)


# -- the base model --------------------------------------------------------------------------------


def test_a_base_model_in_the_cache_of_the_hub_is_found(adapters, tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    edit_json(adapters / "adapter_config.json", base_model_name_or_path="owner/model")
    with pytest.raises(CourseError, match=r"base model 'owner/model' .* pass its folder as base"):
        export.save_merged(adapters, tmp_path / "new")
    snapshot = put_in_hub_cache(tiny_base, "owner/model")
    assert export.read_adapters(adapters).base_folder() == snapshot


def test_copied_adapters_name_the_base_model_on_the_hub(adapters, tmp_path, monkeypatch):
    monkeypatch.setenv("QLORA_COURSE_CACHE", str(tmp_path))
    cached = str(tmp_path / "models" / "smollm2-135m")
    edit_json(adapters / "adapter_config.json", base_model_name_or_path=cached)
    copy = export.save_adapters(adapters, tmp_path / "copy")
    named = json.loads((copy / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == "HuggingFaceTB/SmolLM2-135M-Instruct"
    before, after = (load_file(f / "adapter_model.safetensors") for f in (adapters, copy))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


# -- memory ----------------------------------------------------------------------------------------

MEASURE = """
import sys
from course_utils import export
from course_utils.machine import runtime

adapters, out = sys.argv[1:]
for into in ("dequantized", "original"):
    export.save_merged(adapters, f"{out}/{into}", into=into)
export.save_gguf(f"{out}/original", f"{out}/model.gguf", "Q4_0")
export.save_adapter_gguf(adapters, f"{out}/adapters.gguf")
print(runtime.peak_memory("cpu"))
"""


@pytest.mark.slow
def test_all_exports_of_the_real_model_need_at_most_1_2_gb(tmp_path):
    base, _ = load_base("smollm2-135m", quantization="nf4")
    adapters = save(attach_adapters(base, Recipe()), tmp_path / "adapters")
    command = [sys.executable, "-c", MEASURE, str(adapters), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 1.2e9
