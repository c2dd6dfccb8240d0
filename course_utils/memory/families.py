"""Read the shape of a model from its Hugging Face config, with one function for each family.

Such a function returns fields of `ModelShape`, with the defaults of transformers 5 where the config
lacks a field. `PRESETS` contains the fields of well-known models' published configs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from course_utils.machine.units import format_bytes
from course_utils.machine.validation import whole_number

# A model is a mixture of experts if one of these fields of its config is above 1.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")
# The names of transformers' classes for models that predict the next token have these endings.
_CAUSAL = ("ForCausalLM", "ForConditionalGeneration")
# If a model also reads images or sounds, these fields may be outside the config of its text part.
_OF_WHOLE = ("architectures", "is_encoder_decoder", "quantization_config", "tie_word_embeddings")
# A model with more layers than this is a mistake, and would take too long to compute.
MOST_LAYERS = 1000
# What to do about a model that this module doesn't support.
TRACED = "`course fit NAME` computes it with PyTorch"


def text_part(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of a model's text part, or the whole config if it has no other part."""
    inner = values.get("text_config")
    if not isinstance(inner, Mapping):
        return values
    return {key: values[key] for key in _OF_WHOLE if key in values} | dict(inner)


def not_a_decoder(values: Mapping[str, Any]) -> str | None:
    """Return why a model isn't decoder-only, or None if it is decoder-only."""
    if "peft_type" in values or "base_model_name_or_path" in values:
        base = values.get("base_model_name_or_path")
        return f"is an adapter, not a model; use the config of its base model {base}"
    if values.get("is_encoder_decoder") or values.get("add_cross_attention"):
        return "is an encoder–decoder; only decoder-only models are supported"
    return None


def unsupported(values: Mapping[str, Any]) -> str | None:
    """Return why this module doesn't support a config, or None if it does.

    The reason is the end of a sentence that begins with the name of the model.
    """
    if reason := not_a_decoder(values):
        return reason
    if any(values.get(key) not in (None, False, 0, 1) for key in _EXPERTS):
        size = ""
        with suppress(KeyError, BadField):
            count = expert_parameters(ConfigFields(values))
            size = f"its {count:,} parameters alone need {format_bytes(2 * count)} in 16 bits; "
        return f"is a mixture of experts; only dense models are supported; {size}{TRACED}"
    if values.get("quantization_config"):
        return "is quantized; use the config of the original model"
    if values.get("use_bidirectional_attention"):
        return "also attends to later tokens; only causal models are supported"
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        families = ", ".join(FAMILIES)
        return f"has the model_type {kind!r}; the formulas know only {families}; {TRACED}"
    classes = values.get("architectures")
    names = [str(name) for name in classes] if isinstance(classes, list) else []
    if names and not any(name.endswith(_CAUSAL) for name in names):
        return (
            f"is a {', '.join(names)}; only models that predict the next token are supported, "
            f"and the names of their classes end with {' or '.join(_CAUSAL)}"
        )
    return None


class BadField(ValueError):
    """Raised if a field of a config is missing, or has a value that is not allowed."""


class ConfigFields:
    """A config whose fields are checked when they are read.

    A missing field without a default raises KeyError, a value that is not allowed BadField.
    """

    def __init__(self, values: Mapping[str, Any]):
        self.values = values

    def size(self, key: str, default: int | None = None, least: int = 1) -> int:
        """Return a whole number of at least `least`; a field that is null counts as missing."""
        value = self.values.get(key)
        if value is None and default is None:
            raise KeyError(key)
        most = MOST_LAYERS if key == "num_hidden_layers" else None
        try:
            return whole_number(key, default if value is None else value, least=least, most=most)
        except ValueError as error:
            raise BadField(error) from None

    def optional_size(self, key: str, default: int | None) -> int:
        """Return a whole number of at least 1, or 0 if the field and the default are null."""
        value = self.values.get(key, default)
        return 0 if value is None else self.size(key, default)

    def texts(self, key: str) -> list[str] | None:
        """Return a list with one string for each layer, or None if the field is null or missing."""
        value, layers = self.values.get(key), self.size("num_hidden_layers")
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise BadField(f"{key} must be a list of strings, got {value!r:.80}")
        if len(value) != layers:
            raise BadField(
                f"{key} must have {layers} entries, one for each layer, got {len(value)}"
            )
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return the value of a field that must be true or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise BadField(f"{key} must be true or false, got {value!r}")
        return value

    def share(self, key: str, default: float) -> float:
        """Return the value of a field that must be a number from 0 to 1. Null counts as 0."""
        value = self.values.get(key, default) or 0.0
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise BadField(f"{key} must be a number from 0 to 1, got {value!r}")
        return float(value)

    def check_activation(self, *keys: str) -> None:
        """Raise ValueError if a field names an activation function that isn't in `ACTIVATIONS`."""
        for value in [self.values[key] for key in keys if key in self.values]:
            if value not in ACTIVATIONS:
                supported = ", ".join(ACTIVATIONS)
                raise ValueError(
                    f"the activation {value!r} is not supported; supported are {supported}"
                )


# Each of these activation functions is one operation of PyTorch, so autograd stores only the
# function's input.
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh")
# The defaults of transformers' Gemma3TextConfig for fields that published configs leave out.
_GEMMA3 = {"vocab_size": 262208, "num_attention_heads": 8, "max_position_embeddings": 131072}


def _common(
    config: ConfigFields,
    *,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    tied: bool = False,
) -> dict[str, Any]:
    """Read the fields that are the same in all families. The arguments are the family's defaults.

    If neither the config nor the family gives the number of key heads, it is the number of
    attention heads. If neither gives the width of an attention head, it is the hidden size divided
    by the number of heads.
    """
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    shared = kv_heads if "num_key_value_heads" not in config.values else None
    config.check_activation("hidden_act", "hidden_activation")
    return {
        "layers": config.size("num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": config.size("num_key_value_heads", shared or heads),
        "head_dim": config.size("head_dim", head_dim or hidden // heads),
        "intermediate": config.size("intermediate_size"),
        "vocab": config.size("vocab_size"),
        "context": config.optional_size("max_position_embeddings", None),
        "dropout": config.share("attention_dropout", 0.0),
        "tied": config.flag("tie_word_embeddings", tied),
    }


def _attention_biases(config: ConfigFields) -> frozenset[str]:
    has = config.flag("attention_bias", False)
    return frozenset(("q_proj", "k_proj", "v_proj", "o_proj") if has else ())


def _mlp_biases(config: ConfigFields) -> frozenset[str]:
    has = config.flag("mlp_bias", False)
    return frozenset(("gate_proj", "up_proj", "down_proj") if has else ())


# --- mixtures of experts: only their parameters are counted ---------------------------------------


def expert_parameters(config: ConfigFields) -> int:
    """Return how many parameters a mixture of experts has; raise KeyError if this is unknown."""
    kind = config.values.get("model_type")
    if kind not in ("qwen3_moe", "mixtral", "gpt_oss", "olmoe"):
        raise KeyError(kind)
    if config.values.get("mlp_only_layers") or config.size("decoder_sparse_step", 1) > 1:
        raise KeyError("layers without experts")
    oss = kind == "gpt_oss"
    sizes = _common(config, head_dim=64 if oss else None)
    hidden, heads, width = (sizes[name] for name in ("hidden", "heads", "head_dim"))
    query, key = heads * width, sizes["kv_heads"] * width
    named = "num_experts" if "num_experts" in config.values else "num_local_experts"
    experts = config.size(named)
    wide = config.size("moe_intermediate_size" if kind == "qwen3_moe" else "intermediate_size")
    # Attention, two norms, the norms of queries and keys, and the experts with their router.
    layer = 2 * hidden * (query + key + 1) + experts * hidden * (1 + 3 * wide)
    layer += {"qwen3_moe": 2 * width, "olmoe": query + key}.get(kind, 0)
    if config.flag("attention_bias", oss):
        layer += query + 2 * key + hidden
    if oss:
        # Each head has a sink. The router and the experts have biases.
        layer += heads + experts * (1 + 2 * wide + hidden)
    tables = 1 if config.flag("tie_word_embeddings", False) else 2
    return int(sizes["layers"] * layer + (tables * sizes["vocab"] + 1) * hidden)


# --- sliding windows ------------------------------------------------------------------------------


def _window(config: ConfigFields, slides: Callable[[int], bool]) -> dict[str, Any]:
    """Read the length of the sliding window, and find the layers that have a window.

    Args:
        slides: A function that returns whether the layer with a given index has the window. It is
            called only if the config has no `layer_types`.

    Returns:
        The fields `window` and `sliding` of `ModelShape`, or {} if no layer has a window.
    """
    window = config.optional_size("sliding_window", 4096)
    types = config.texts("layer_types")
    layers = range(config.size("num_hidden_layers"))
    if types is not None:
        sliding = frozenset(i for i in layers if types[i] == "sliding_attention")
    else:
        sliding = frozenset(filter(slides, layers))
    return {"window": window, "sliding": sliding} if window and sliding else {}


def _late_window(config: ConfigFields) -> dict[str, Any]:
    """Read the sliding window of a Qwen family, in which only the last layers can have a window."""
    if not config.flag("use_sliding_window", False):
        return {}
    first = config.size("max_window_layers", 28, least=0)
    return _window(config, lambda i: i >= first)


# --- the families ---------------------------------------------------------------------------------


def _llama(config: ConfigFields) -> dict[str, Any]:
    return _common(config) | {"biases": _attention_biases(config) | _mlp_biases(config)}


def _mistral(config: ConfigFields) -> dict[str, Any]:
    window = config.optional_size("sliding_window", 4096)
    # All layers have the window; transformers ignores `layer_types` here.
    layers = frozenset(range(config.size("num_hidden_layers")))
    windows = {"window": window, "sliding": layers} if window else {}
    return _common(config, kv_heads=8) | windows


def _qwen2(config: ConfigFields) -> dict[str, Any]:
    biases = frozenset(("q_proj", "k_proj", "v_proj"))
    return _common(config, kv_heads=32) | _late_window(config) | {"biases": biases}


def _qwen3(config: ConfigFields) -> dict[str, Any]:
    sizes = _common(config, kv_heads=32, head_dim=128) | _late_window(config)
    return sizes | {"biases": _attention_biases(config), "qk_norm": True}


def _smollm3(config: ConfigFields) -> dict[str, Any]:
    """Read the config of SmolLM3, some of whose layers rotate neither queries nor keys."""
    if config.flag("use_sliding_window", False):
        raise ValueError("use_sliding_window must be false: SmolLM3's windows are not supported")
    biases = _attention_biases(config) | _mlp_biases(config)
    return _common(config, tied=True, kv_heads=4) | {"biases": biases}


def _gemma3(config: ConfigFields) -> dict[str, Any]:
    """Read the config of a Gemma 3 model or of its text part.

    Fields that the config leaves out get Gemma 3's defaults. Like transformers, this ignores the
    field `attn_logit_softcapping`.
    """
    config = ConfigFields({**_GEMMA3, **config.values})
    if config.values.get("final_logit_softcapping") is not None:
        raise ValueError("final_logit_softcapping must be null: a cap on logits is not supported")
    pattern = config.size("sliding_window_pattern", 6)
    return (
        _common(config, kv_heads=4, head_dim=256, tied=True)
        | _window(config, lambda i: (i + 1) % pattern != 0)
        | {"biases": _attention_biases(config), "qk_norm": True, "gemma": True}
    )


FAMILIES: dict[str, Callable[[ConfigFields], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "smollm3": _smollm3,
    "gemma3_text": _gemma3,
}


# --- presets: the fields of each model's published config.json that its shape depends on ----------


_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)


def _config(model_type: str, *sizes: int, tied: bool = False, **more: Any) -> dict[str, Any]:
    """Return the config of a model with rotary position embeddings.

    `sizes` contains the values of the fields in _SIZES, in the order of _SIZES.
    """
    named = dict(zip(_SIZES, sizes, strict=True))
    return {"model_type": model_type, **named, "tie_word_embeddings": tied, **more}


def _qwen3_config(*sizes: int, tied: bool) -> dict[str, Any]:
    return _config("qwen3", *sizes, 151936, tied=tied, head_dim=128)


def _gemma3_config(*sizes: int) -> dict[str, Any]:
    widths = {"head_dim": 256, "sliding_window": 512, "sliding_window_pattern": 6}
    return _config("gemma3_text", *sizes, 262144, tied=True, **widths)


PRESETS: dict[str, dict[str, Any]] = {
    "llama-7b": _config("llama", 32, 4096, 32, 32, 11008, 32000),
    "llama-13b": _config("llama", 40, 5120, 40, 40, 13824, 32000),
    "llama-33b": _config("llama", 60, 6656, 52, 52, 17920, 32000),
    "llama-65b": _config("llama", 80, 8192, 64, 64, 22016, 32000),
    "llama-3.1-8b": _config("llama", 32, 4096, 32, 8, 14336, 128256),
    "llama-3.2-1b": _config("llama", 16, 2048, 32, 8, 8192, 128256, tied=True),
    "llama-3.2-3b": _config("llama", 28, 3072, 24, 8, 8192, 128256, tied=True),
    # This is version 0.2. Version 0.1 has the same sizes, but a sliding window of 4,096 tokens.
    "mistral-7b": _config("mistral", 32, 4096, 32, 8, 14336, 32000, sliding_window=None),
    "qwen2.5-0.5b": _config("qwen2", 24, 896, 14, 2, 4864, 151936, tied=True),
    "qwen2.5-1.5b": _config("qwen2", 28, 1536, 12, 2, 8960, 151936, tied=True),
    "qwen2.5-7b": _config("qwen2", 28, 3584, 28, 4, 18944, 152064),
    "qwen3-0.6b": _qwen3_config(28, 1024, 16, 8, 3072, tied=True),
    "qwen3-1.7b": _qwen3_config(28, 2048, 16, 8, 6144, tied=True),
    "qwen3-4b": _qwen3_config(36, 2560, 32, 8, 9728, tied=True),
    "qwen3-8b": _qwen3_config(36, 4096, 32, 8, 12288, tied=False),
    "gemma-3-270m": _gemma3_config(18, 640, 4, 1, 2048),
    "gemma-3-1b": _gemma3_config(26, 1152, 4, 1, 6912),
    "tinyllama-1.1b": _config("llama", 22, 2048, 32, 4, 5632, 32000),
    "smollm2-135m": _config("llama", 30, 576, 9, 3, 1536, 49152, tied=True),
    "smollm2-360m": _config("llama", 32, 960, 15, 5, 2560, 49152, tied=True),
    "smollm2-1.7b": _config("llama", 24, 2048, 32, 32, 8192, 49152, tied=True),
    "smollm3-3b": _config("smollm3", 36, 2048, 16, 4, 11008, 128256, tied=True),
}
