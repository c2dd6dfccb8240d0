"""Write models and adapters as GGUF files, the format of llama.cpp, Ollama and LM Studio.

A model's GGUF file contains everything that a program needs to run the model: hyperparameters such
as the number of layers, the tokenizer, the chat template and the weights. It differs from the files
of a Hugging Face model in three ways:

    names     Each weight has a different name. Hugging Face's name
              model.layers.0.self_attn.q_proj.weight becomes blk.0.attn_q.weight.
    formats   Weights may be quantized in blocks of 32. Q8_0 stores an 8-bit code for each weight
              and a 16-bit scale for each block, so it needs 8.5 bits per weight. Q4_0 stores 4-bit
              codes instead, so it needs 4.5 bits per weight.
    rotary    Rotary embeddings rotate pairs of numbers in each head of the queries and keys. In
    pairs     Hugging Face's Llama, number i of a head of width d forms a pair with number i + d/2.
              In llama.cpp's Llama, the numbers 2i and 2i + 1 form a pair. So a Llama's GGUF file
              stores the rows of the query and key weights in a different order: see `interleave`.

References: the GGUF specification and convert_hf_to_gguf.py in github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from course_utils.export.saved import SavedAdapters, read_adapters
from course_utils.machine.files import written_aside
from course_utils.machine.validation import CourseError, one_of
from course_utils.models import stored_weights
from course_utils.models.fetch import check_model_files
from course_utils.models.silence import silence
from course_utils.models.supported import check_config

if TYPE_CHECKING:
    from gguf import GGUFWriter

# The formats in which a weight matrix can be stored, with the number of bits per weight.
GGUF_FORMATS = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q4_1": 5, "Q4_0": 4.5}
# The quantized formats divide each row of a weight matrix into blocks of 32 weights.
BLOCK = 32
# The embedding and the output head are stored in this format or in a more precise one. Many small
# models also use the embedding as their output head, and rounding the head costs more accuracy than
# rounding another layer. llama.cpp's own quantizer doesn't store the head in 4 bits, either.
LEAST_FOR_EMBEDDING = "Q8_0"
USE_CONVERTER = (
    "save a merged model with save_merged, and convert its folder with llama.cpp's "
    "convert_hf_to_gguf.py"
)

NO_QUANTIZER = (
    "llama-cpp-python is not installed: run `pip install llama-cpp-python`, which needs a compiler "
    "for C++"
)


class Architecture(NamedTuple):
    """llama.cpp's name for a family of models, and the order of the rows of q_proj and k_proj."""

    name: str
    interleaved: bool


# The model families that can be converted. Each key is a value of model_type in the config of a
# Hugging Face model.
ARCHITECTURES = {
    "llama": Architecture("llama", interleaved=True),
    "mistral": Architecture("llama", interleaved=True),
    "qwen2": Architecture("qwen2", interleaved=False),
    "qwen3": Architecture("qwen3", interleaved=False),
}
# A byte-level BPE tokenizer has a pre-tokenizer, which first divides a text into pieces. BPE then
# joins the bytes of each piece into tokens, so no token extends over two pieces. The keys of SPLITS
# are llama.cpp's names for the pre-tokenizers that the course can convert. The values are the rules
# by which the pre-tokenizers divide a text: regular expressions, or "digits" if each digit becomes
# a piece of its own.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    "smollm": ("digits",),
    "qwen2": (f"{_WORDS}\\p{{N}}{_REST}",),
    "llama-bpe": (f"{_WORDS}\\p{{N}}{{1,3}}{_REST}",),
}


def interleave(rows: Tensor, heads: int) -> Tensor:
    """Reorder the rows of q_proj or k_proj from Hugging Face's order into llama.cpp's order.

    The drawing shows the rows of one head of width 8. Each row keeps its number from Hugging Face's
    order:

        Hugging Face   0 1 2 3 | 4 5 6 7       rows i and i + 4 are a rotary pair
        llama.cpp      0 4 | 1 5 | 2 6 | 3 7   neighbouring rows are a rotary pair

    In an adapter, only the matrix B is reordered. Row i of the update B A is row i of B times A, so
    reordering the rows of B reorders the rows of the update in the same way. The rows of A don't
    correspond to rows of the update, so A stays unchanged.

    Args:
        rows: the weight of q_proj or k_proj, of shape (heads · d, in), the matrix B of the layer's
            adapter, of shape (heads · d, r), or the layer's bias, of shape (heads · d,).
    """
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


# --- adapters -------------------------------------------------------------------------------------


def save_adapter_gguf(
    adapters: str | Path, file: str | Path, *, base: str | Path | None = None
) -> Path:
    """Convert saved adapters into a GGUF file.

    llama.cpp loads this file together with a GGUF file of the base model, and adds the output of
    the adapters to the output of the layers. The weights of the base model stay unchanged.
    """
    saved = read_adapters(adapters)
    config = _config(saved.base_folder(base))
    alpha = float(saved.config.lora_alpha)
    write_adapter_gguf(file, config, alpha, adapter_tensors(saved, config, alpha))
    return Path(file)


def adapter_tensors(
    saved: SavedAdapters, config: Any, alpha: float
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the name of each adapted weight and the matrices A and B, as llama.cpp needs them.

    llama.cpp computes W + (α/r) B A with one α for all layers. If the scale s of a layer differs
    from α/r, as with rsLoRA, the function multiplies the layer's B by s · r/α. The scaled update is
    then still s B A.

    Yields:
        llama.cpp's name of the weight, A as float32 (r, in), and B as float32 (out, r) with its
        rows in llama.cpp's order.
    """
    names = _gguf_names(config)
    for layer, (A, B, scale) in saved.layers.items():
        B = B.float() * (scale * len(A) / alpha)
        yield names(f"{layer}.weight"), A.float(), _reordered(f"{layer}.weight", B, config)


def write_adapter_gguf(
    file: str | Path, config: Any, alpha: float, tensors: Iterator[tuple[str, Tensor, Tensor]]
) -> None:
    """Write the tensors from `adapter_tensors` into a GGUF file."""
    with _writer(Path(file), config) as writer:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for name, A, B in tensors:
            for tensor, matrix in ((A, "lora_a"), (B, "lora_b")):
                writer.add_tensor(f"{name}.{matrix}", tensor.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


# --- models ---------------------------------------------------------------------------------------


@torch.no_grad()
def save_gguf(model: str | Path, file: str | Path, stored_as: str = "Q8_0") -> Path:
    """Convert a Hugging Face model into a GGUF file.

    The weights are read, converted and written one at a time. Not all of them are stored in the
    format `stored_as`. Tensors with one dimension are stored in float32. The embedding and the
    output head are stored in at least 8 bits (Q8_0). If `stored_as` is a format with blocks, but
    the length of a matrix's rows is not a multiple of 32, the matrix is stored in F16.
    """
    one_of("stored_as", stored_as, GGUF_FORMATS)
    folder = Path(model).expanduser()
    check_model_files(folder)
    config = _config(folder)
    names = _gguf_names(config)
    with _writer(Path(file), config) as writer:
        add_sizes(writer, config, stored_as)
        _add_tokenizer(writer, folder, config)
        factors = _rotary_factors(config)
        tensors = [("rope_freqs.weight", factors)] if factors is not None else []
        # The file begins with a table of the names, shapes and sizes of all tensors. So the weights
        # are read twice, first for the table and then for the data. In this way, there is never
        # more than one weight in memory.
        shapes = [(names(key), weight.shape) for key, weight in stored_weights(path=folder)]
        for name, shape in [(n, t.shape) for n, t in tensors] + shapes:
            _announce(writer, name, shape, stored_as)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in tensors:
            writer.write_tensor_data(_encoded(name, tensor, stored_as))
        for key, weight in stored_weights(path=folder):
            rows = _reordered(key, weight.float(), config)
            writer.write_tensor_data(_encoded(names(key), rows, stored_as))
    return Path(file)


def quantize_gguf(model: str | Path, file: str | Path, stored_as: str = "Q4_K_M") -> Path:
    """Round a GGUF model to any format of llama.cpp, by llama.cpp's own program.

    Formats whose names contain "_K" have blocks of 256. A matrix whose rows can't be divided into
    such blocks is stored in another format, with more bits.

    Args:
        model: a GGUF file in F32, F16 or BF16.

    Raises:
        CourseError: The package llama-cpp-python is missing, or llama.cpp refuses the model.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise CourseError(NO_QUANTIZER) from error
    start = "LLAMA_FTYPE_MOSTLY_"
    formats = [name.removeprefix(start) for name in vars(llama_cpp) if name.startswith(start)]
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, start + one_of("stored_as", stored_as, formats))
    with written_aside(Path(file)) as part:
        if llama_cpp.llama_model_quantize(str(model).encode(), str(part).encode(), options):
            raise CourseError(f"llama.cpp can't round {model}, which must be in F32, F16 or BF16")
    return Path(file)


def _announce(writer: GGUFWriter, name: str, shape: torch.Size, stored_as: str) -> None:
    """Add a tensor's name, shape, format and size to the table at the beginning of the file."""
    from gguf import quants

    kind = _format(name, shape, stored_as)
    size = math.prod(quants.quant_shape_to_byte_shape(shape, kind))
    writer.add_tensor_info(name, shape, np.dtype(np.float32), size, kind)


def _encoded(name: str, tensor: Tensor, stored_as: str) -> np.ndarray:
    from gguf import quants

    kind = _format(name, tensor.shape, stored_as)
    return quants.quantize(tensor.float().contiguous().numpy(), kind)


def _format(name: str, shape: torch.Size, stored_as: str) -> Any:
    """Choose the format in which a tensor is stored: a member of gguf's GGMLQuantizationType."""
    from gguf import GGMLQuantizationType

    if len(shape) == 1:
        return GGMLQuantizationType.F32
    if name in ("token_embd.weight", "output.weight"):
        stored_as = max(stored_as, LEAST_FOR_EMBEDDING, key=GGUF_FORMATS.__getitem__)
    # In a quantized format, each row must consist of complete blocks. A matrix whose rows don't is
    # stored in F16.
    if GGUF_FORMATS[stored_as] < 16 and shape[-1] % BLOCK:
        stored_as = "F16"
    return GGMLQuantizationType[stored_as]


# --- the parts of a file --------------------------------------------------------------------------


def _config(folder: Path) -> Any:
    """Load the config of a model, or raise a CourseError if the course can't convert the model."""
    from transformers import AutoConfig

    check_config(folder, None)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise CourseError(
            f"the course can't write {kind} models as GGUF, only {', '.join(ARCHITECTURES)}: "
            f"{USE_CONVERTER}"
        )
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise CourseError(
            f"the model in {folder} uses sliding-window attention, which the course can't write "
            f"into a GGUF file: {USE_CONVERTER}"
        )
    return config


@contextmanager
def _writer(file: Path, config: Any) -> Iterator[GGUFWriter]:
    from gguf import GGUFWriter

    with written_aside(file) as part, silence("gguf"):
        writer = GGUFWriter(part, ARCHITECTURES[config.model_type].name)
        try:
            yield writer
        finally:
            writer.close()


def _gguf_names(config: Any) -> Any:
    """Return a function that translates Hugging Face's name of a tensor into llama.cpp's name."""
    import gguf

    arch = ARCHITECTURES[config.model_type].name
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[arch], config.num_hidden_layers)

    def name_of(key: str) -> str:
        name = table.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise CourseError(f"llama.cpp's architecture {arch} has no name for the tensor {key}")
        return name

    return name_of


def _reordered(key: str, rows: Tensor, config: Any) -> Tensor:
    """Return a weight, a bias or a matrix B with its rows in llama.cpp's order.

    Only the rows of q_proj and k_proj are reordered, and only in the families whose `Architecture`
    has `interleaved` set to True. In all other cases, the function returns the tensor unchanged.
    """
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    projection = key.split(".")[-2]
    if ARCHITECTURES[config.model_type].interleaved and projection in heads:
        return interleave(rows, heads[projection])
    return rows


def add_sizes(writer: GGUFWriter, config: Any, stored_as: str) -> None:
    """Write the hyperparameters of a model, such as its number of layers, into a GGUF file."""
    from gguf import LlamaFileType

    writer.add_name(Path(config.name_or_path).name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    width = _head_width(config)
    writer.add_rope_dimension_count(width)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_vocab_size(config.vocab_size)
    name = "ALL_F32" if stored_as == "F32" else f"MOSTLY_{stored_as}"
    writer.add_file_type(LlamaFileType[name])


def _head_width(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _rotary_factors(config: Any) -> Tensor | None:
    """Return the factors of Llama 3.1's RoPE scaling, or None for a model without RoPE scaling.

    Llama 3.1 divides the frequency of each rotary pair by a factor that depends on the pair. A head
    of width d has d/2 rotary pairs, so the factors have the shape (d/2,).
    """
    kind = config.rope_parameters.get("rope_type", "default")
    if kind == "default":
        return None
    if kind != "llama3":
        raise CourseError(
            f"the course can't write the RoPE scaling {kind!r} into a GGUF file: {USE_CONVERTER}"
        )
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    width = _head_width(config)
    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, width, 2) / width)
    return plain / scaled


def _add_tokenizer(writer: GGUFWriter, folder: Path, config: Any) -> None:
    """Write the vocabulary, the merge rules of BPE, the special tokens and the chat template."""
    from gguf import SpecialVocab, TokenType
    from transformers import AutoTokenizer

    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split(raw, folder))
    # The embedding may have more rows than the vocabulary has tokens. The token of each additional
    # row is a placeholder, such as [PAD49152].
    tokens = {i: (f"[PAD{i}]", TokenType.UNUSED) for i in range(config.vocab_size)}
    tokens |= {i: (token, TokenType.NORMAL) for token, i in raw["model"]["vocab"].items()}
    for added in raw["added_tokens"]:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        tokens[added["id"]] = (added["content"], kind)
    texts, kinds = zip(*(tokens[i] for i in range(config.vocab_size)), strict=True)
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    special = SpecialVocab(folder, load_merges=True, n_vocab=config.vocab_size)
    # This entry says whether the tokenizer begins each text with the BOS token. Without the entry,
    # llama.cpp guesses this from the name of the pre-tokenizer.
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    first = tokenizer("a")["input_ids"][0]
    special.add_special_token["bos"] = first == special.special_token_ids.get("bos")
    special.add_to_gguf(writer, quiet=True)


def _split(raw: dict[str, Any], folder: Path) -> str:
    """Return llama.cpp's name for the pre-tokenizer that a tokenizer uses."""
    steps = raw.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    found = tuple(
        "digits" if step.get("individual_digits") else step["pattern"].get("Regex")
        for step in steps
        if step.get("type") in ("Digits", "Split")
    )
    byte_level = any(step.get("type") == "ByteLevel" for step in steps)
    for name, split in SPLITS.items():
        if byte_level and raw["model"]["type"] == "BPE" and found == split:
            return name
    raise CourseError(
        f"the tokenizer in {folder} splits text by rules that the course can't write into a GGUF "
        f"file: {USE_CONVERTER}"
    )
