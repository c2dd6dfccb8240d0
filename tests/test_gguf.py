"""Test that GGUF files of models and adapters compute the same in llama.cpp as in transformers."""

import shutil
import sys

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel
from tokenizers import Regex, models, normalizers, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from course_utils import export
from course_utils.export import gguf_files
from course_utils.machine.validation import CourseError
from course_utils.models import stored_weights
from course_utils.parity import of_engine, of_model
from course_utils.serving import Engine
from tests import conftest
from tests.conftest import CHAT_TEMPLATE, edit_json
from tests.test_export_saved import save_adapters

SIZES = conftest.SIZES | {"vocab_size": 320, "intermediate_size": 96}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "tied llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama with biases": LlamaConfig(**SIZES, attention_bias=True),
    "llama 3.1": LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "wide heads": LlamaConfig(**SIZES, head_dim=32),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=32),
}
IDS = [1, *range(10, 90, 3), 5]
TEXTS = [
    "It's 2024, and 12345(rare) readers'll pay £3.50!",
    "  two  spaces\n\n\nand lines\t\ttabs ",
    "naïve café — 日本語 ½ don't DON'T",
    "<|im_start|>user\nHi<|im_end|>\n",
]


def make_tokenizer(split):
    """Return a tokenizer with a few merges that splits text as `split` of llama.cpp does."""
    tokenizer = conftest.make_tokenizer()
    tokenizer.add_special_tokens({"unk_token": "<|endoftext|>"})
    pairs = ("Ġ t", "1 2", "12 3", "Ċ Ċ", "Ġ Ġ", "' l", "'l l", "( r")
    merges = [tuple(pair.split()) for pair in pairs]
    words = [*sorted(vocab := tokenizer.get_vocab(), key=vocab.get), *map("".join, merges)]
    raw = tokenizer.backend_tokenizer
    raw.model = models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges)
    if split == "smollm":
        first, byte_level = pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)
    else:
        pattern = Regex(gguf_files.SPLITS[split][0])
        first = pre_tokenizers.Split(pattern, "isolated")
        byte_level = pre_tokenizers.ByteLevel(False, use_regex=False)
    raw.pre_tokenizer = pre_tokenizers.Sequence([first, byte_level])
    if split == "qwen2":
        raw.normalizer = normalizers.NFC()
    return tokenizer


def save_model(config, folder, split="smollm"):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases are 0 and norms 1, which would hide their order
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    make_tokenizer(split).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folder of a tiny Llama with a tokenizer that can be written as GGUF."""
    return save_model(FAMILIES["llama"], tmp_path_factory.mktemp("tiny"))


def next_token(engine, ids, adapter=None):
    return of_engine(engine, adapter)(ids, [0])[0]


def assert_close(ours, theirs):
    # llama.cpp stores keys and values in float16.
    torch.testing.assert_close(ours, theirs, rtol=0.03, atol=1e-4)


# -- models and adapters in llama.cpp --------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_and_its_adapters_compute_the_same_in_llama_cpp(name, tmp_path):
    folder = save_model(FAMILIES[name], tmp_path / "model")
    adapters = save_adapters(folder, tmp_path / "adapters")
    file = export.save_gguf(folder, tmp_path / "model.gguf", "F32")
    lora = export.save_adapter_gguf(adapters, tmp_path / "adapters.gguf")
    base = AutoModelForCausalLM.from_pretrained(folder)
    expected = of_model(base)(IDS)
    tuned = of_model(PeftModel.from_pretrained(base, str(adapters)))(IDS)
    assert (expected - tuned).abs().max() > 0.01  # the test could not fail otherwise
    with Engine(file, {"tuned": lora}, threads=1) as engine:
        assert_close(next_token(engine, IDS), expected)
        assert_close(next_token(engine, IDS, "tuned"), tuned)


@pytest.mark.full
def test_scales_that_differ_between_layers_are_kept(tiny, tmp_path):
    settings = {
        "rslora": {"use_rslora": True},
        "patterns": {"alpha_pattern": {"q_proj": 3}, "rank_pattern": {"up_proj": 2}},
    }
    files, expected = {}, {}
    for name, options in settings.items():
        adapters = save_adapters(tiny, tmp_path / name, **options)
        files[name] = export.save_adapter_gguf(adapters, tmp_path / f"{name}.gguf")
        base = AutoModelForCausalLM.from_pretrained(tiny)
        expected[name] = of_model(PeftModel.from_pretrained(base, str(adapters)))(IDS)
    file = export.save_gguf(tiny, tmp_path / "model.gguf", "F32")
    with Engine(file, files, threads=1) as engine:
        for name, right in expected.items():
            assert_close(next_token(engine, IDS, name), right)


@pytest.mark.full
@pytest.mark.parametrize("split", gguf_files.SPLITS)
def test_llama_cpp_splits_text_into_the_same_tokens(split, tmp_path):
    folder = save_model(FAMILIES["llama"], tmp_path / "model", split)
    tokenizer = make_tokenizer(split)
    with Engine(export.save_gguf(folder, tmp_path / "model.gguf"), threads=1) as engine:
        for text in TEXTS:
            assert engine.token_ids(text) == tokenizer(text)["input_ids"]
        chat = [{"role": "user", "content": "Hi"}]
        options = {"tokenize": False, "add_generation_prompt": True}
        assert engine.prompt(chat) == tokenizer.apply_chat_template(chat, **options)


# -- the file --------------------------------------------------------------------------------------


def tensors_of(file):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}


@pytest.mark.parametrize("stored_as", export.GGUF_FORMATS)
def test_each_tensor_has_its_format(tiny, tmp_path, stored_as):
    tensors = tensors_of(export.save_gguf(tiny, tmp_path / "model.gguf", stored_as))
    head = stored_as if export.GGUF_FORMATS[stored_as] >= 8 else "Q8_0"
    for name, tensor in tensors.items():
        end = name in ("token_embd.weight", "output.weight")
        expected = "F32" if len(tensor.shape) == 1 else head if end else stored_as
        assert tensor.tensor_type.name == expected, name
    weights = {name[-13]: weight for name, weight in stored_weights(path=tiny, part="1.self_attn")}
    kind = gguf.GGMLQuantizationType[stored_as]
    for layer, rows in {"v": weights["v"], "k": export.interleave(weights["k"], heads=2)}.items():
        expected = gguf.quants.quantize(rows.numpy(), kind)
        stored = tensors[f"blk.1.attn_{layer}.weight"].data
        assert np.array_equal(stored.view(expected.dtype), expected), layer


def test_rows_that_are_no_complete_blocks_have_16_bits(tmp_path):
    config = LlamaConfig(**SIZES | {"intermediate_size": 80})
    folder = save_model(config, tmp_path / "model")
    tensors = tensors_of(export.save_gguf(folder, tmp_path / "model.gguf", "Q4_0"))
    assert tensors["blk.0.ffn_down.weight"].tensor_type.name == "F16"
    assert tensors["blk.0.ffn_up.weight"].tensor_type.name == "Q4_0"


def test_the_beginning_of_the_file_describes_the_model(tiny, tmp_path):
    reader = gguf.GGUFReader(export.save_gguf(tiny, tmp_path / "model.gguf", "Q8_0"))
    expected = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 16,
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": CHAT_TEMPLATE,
        "general.file_type": gguf.LlamaFileType.MOSTLY_Q8_0,
    }
    assert {key: reader.get_field(key).contents() for key in expected} == expected
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    assert len(tokens) == 320 and tokens[2] == "<|im_end|>" and tokens[-1] == "[PAD319]"


def test_adapters_are_stored_exactly(tiny, tmp_path):
    adapters = save_adapters(tiny, tmp_path / "adapters")
    file = export.save_adapter_gguf(adapters, tmp_path / "adapters.gguf")
    reader, saved = gguf.GGUFReader(file), export.read_adapters(adapters)
    assert reader.get_field("general.type").contents() == "adapter"
    assert reader.get_field("adapter.type").contents() == "lora"
    assert reader.get_field("adapter.lora.alpha").contents() == 12
    tensors = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    assert len(tensors) == 2 * len(saved.layers) == 28
    for layer, name in {"self_attn.q_proj": "attn_q", "mlp.down_proj": "ffn_down"}.items():
        A, B, _ = saved.layers[f"model.layers.1.{layer}"]
        assert torch.equal(tensors[f"blk.1.{name}.weight.lora_a"], A)
        ordered = export.interleave(B, heads=4) if name == "attn_q" else B
        assert torch.equal(tensors[f"blk.1.{name}.weight.lora_b"], ordered)


def test_adapters_in_bfloat16_are_written_as_float32(tiny, tmp_path):
    saved = export.read_adapters(save_adapters(tiny, tmp_path / "adapters"))
    config = AutoConfig.from_pretrained(tiny)
    tensors = [
        (n, *map(torch.Tensor.bfloat16, AB)) for n, *AB in export.adapter_tensors(saved, config, 12)
    ]
    export.write_adapter_gguf(tmp_path / "adapters.gguf", config, 12, iter(tensors))
    written = {
        t.name: torch.tensor(t.data) for t in gguf.GGUFReader(tmp_path / "adapters.gguf").tensors
    }
    for name, A, B in tensors:
        assert torch.equal(written[f"{name}.lora_a"], A.float())
        assert torch.equal(written[f"{name}.lora_b"], B.float())


def test_interleave_makes_pairs_neighbours():
    rows = torch.arange(16).view(16, 1)
    expected = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert export.interleave(rows, heads=2).flatten().tolist() == expected


# -- what can't be written -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma"}, "can't write gemma models as GGUF, only llama, mistral"),
        ({"model_type": "mistral", "sliding_window": 64}, "uses sliding-window attention"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "RoPE scaling 'linear'",
        ),
    ],
)
def test_a_model_that_cannot_be_written_is_refused(tiny, tmp_path, changes, message):
    folder = shutil.copytree(tiny, tmp_path / "model")
    edit_json(folder / "config.json", **changes)
    with pytest.raises(CourseError, match=f"{message}.*convert_hf_to_gguf"):
        export.save_gguf(folder, tmp_path / "model.gguf")
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_tokenizer_that_cannot_be_written_is_refused(tiny_base, tmp_path):
    with pytest.raises(CourseError, match=r"tokenizer in .* convert_hf_to_gguf"):
        export.save_gguf(tiny_base, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_other_wrong_input_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="stored_as must be"):
        export.save_gguf(tiny, tmp_path / "model.gguf", "Q4_K_M")
    with pytest.raises(CourseError, match="no model in"):
        export.save_gguf(tmp_path, tmp_path / "model.gguf")
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match="can't be written"):
        export.save_gguf(tiny, tmp_path / "file" / "model.gguf")


def test_llama_cpps_own_formats_need_its_quantizer(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(CourseError, match="run `pip install llama-cpp-python`"):
        export.quantize_gguf(tmp_path / "f16.gguf", tmp_path / "q4.gguf")


def test_llama_cpps_quantizer_writes_its_own_formats(tiny, tmp_path):
    pytest.importorskip("llama_cpp", reason="needs the extra `quantize`")
    source = export.save_gguf(tiny, tmp_path / "f16.gguf", "F16")
    file = export.quantize_gguf(source, tmp_path / "q5.gguf", "Q5_K_M")
    kinds = {str(tensor.name): tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    # Rows of 32 numbers are no blocks of 256, so they get a format with blocks of 32.
    assert kinds["blk.0.attn_q.weight"] == "Q5_1"
    with pytest.raises(ValueError, match="stored_as must be"):
        export.quantize_gguf(source, file, "NF4")
    with pytest.raises(CourseError, match="must be in F32, F16 or BF16"):
        export.quantize_gguf(tmp_path / "none.gguf", tmp_path / "q4.gguf")


def test_an_older_file_is_replaced_only_by_a_complete_one(tiny, tmp_path, monkeypatch):
    file = tmp_path / "model.gguf"
    file.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(gguf_files, "_encoded", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export.save_gguf(tiny, file)
    assert file.read_text() == "old"
    export.save_gguf(tiny, file)
    assert file.read_bytes().startswith(b"GGUF")
    assert [each.name for each in tmp_path.iterdir()] == ["model.gguf"]
