"""Describe the shapes of decoder-only transformers, from presets, configs or parameter counts.

A shape contains all properties of a model that its memory depends on: the width, the number of
layers, the matrices, and which of the matrices have a bias. The tests compare every family of
`FAMILIES` with the class in transformers, parameter by parameter. A config of any other family
raises a ValueError, because a wrong estimate is worse than no estimate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.validation import names_of, positive


@dataclass(frozen=True)
class ModelShape:
    """The properties of a decoder-only transformer that determine how much memory it needs.

    Attributes:
        name: Name of the model.
        layers: Number of transformer layers.
        hidden: Width of the residual stream.
        heads: Number of attention heads; heads × head_dim is the width of the queries.
        kv_heads: Number of key heads, which is also the number of value heads. With grouped-query
            attention, there are fewer key heads than attention heads.
        head_dim: Width of one head.
        intermediate: Width of the MLP.
        vocab: Number of tokens in the vocabulary.
        tied: Whether the output layer shares the embedding's weights.
        gated: Whether the MLP has gate, up and down matrices (SwiGLU), not just up and down.
        activation: The function between the MLP's matrices, one of `ACTIVATIONS`.
        norm: Kind of the normalization layers: "rms" (RMSNorm, with a scale) or "layer" (LayerNorm,
            with a scale and a shift).
        biases: Names of the linear layers that have a bias.
        qk_norm: Whether each head's queries and keys are normalized.
        positions: Number of rows in the learned position table, 0 for rotary positions.
        dropout: The largest dropout probability in the model's config.
        family: The `model_type` of the config.
        scalar: The number of parameters if nothing else about the model is known, else 0.

    Raises:
        ValueError: A size is not a whole number of at least 1, or the sizes contradict each other.
    """

    name: str
    layers: int = 0
    hidden: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    intermediate: int = 0
    vocab: int = 0
    tied: bool = False
    gated: bool = True
    activation: str = "silu"
    norm: str = "rms"
    biases: frozenset[str] = frozenset()
    qk_norm: bool = False
    positions: int = 0
    dropout: float = 0.0
    family: str = "llama"
    scalar: int = 0

    def __post_init__(self) -> None:
        if self.scalar:
            return
        for size in ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab"):
            value = positive(f"{size} of {self.name}", getattr(self, size))
            object.__setattr__(self, size, value)
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.name}: {self.heads} heads can't share {self.kv_heads} key and value heads, "
                "because the first number must be a multiple of the second"
            )

    @classmethod
    def of(cls, model: ModelShape | str | Path | Mapping[str, Any]) -> ModelShape:
        """Return the shape of a model given as a shape, a preset's name or a config.

        Args:
            model: A `ModelShape`, the name of a preset, or a Hugging Face config (its dict, its
                path, or its name on the hub).

        Raises:
            ValueError: No preset has this name, or the config is not supported.
        """
        if isinstance(model, ModelShape):
            return model
        if isinstance(model, str) and "/" not in model and not Path(model).exists():
            return cls.preset(model)
        return cls.from_config(model)

    @classmethod
    def preset(cls, name: str) -> ModelShape:
        """Return the shape of a well-known model, given its name, such as "llama-7b".

        Raises:
            ValueError: The name is neither "7b" nor in `PRESETS`.
        """
        key = str(name).strip().lower()
        if key == "7b":
            return cls.generic(7_000_000_000, name="7b")
        if key not in PRESETS:
            raise ValueError(
                f"unknown preset {name!r}; choose one of 7b, {', '.join(PRESETS)}, or pass the "
                "config of a model: its dict, its path, or its name on the hub"
            )
        return cls.from_config(PRESETS[key], name=key)

    @classmethod
    def generic(cls, parameters: float, name: str | None = None) -> ModelShape:
        """Return the shape of a model of which only the number of parameters is known.

        The number, such as 7e9, is enough to compute weights, gradients and optimizer states, but
        not activations and adapters.

        Raises:
            ValueError: `parameters` is not a whole number of at least 1.
        """
        whole = isinstance(parameters, int | float) and not isinstance(parameters, bool)
        if not whole or not 1 <= parameters < float("inf") or int(parameters) != parameters:
            raise ValueError(
                f"parameters must be a whole number of at least 1, such as 7e9, got {parameters!r}"
            )
        return cls(name=name or f"{parameters:,.0f} parameters", scalar=int(parameters))

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | str | Path, name: str | None = None
    ) -> ModelShape:
        """Return the shape of a model, read from its Hugging Face config.

        Args:
            config: The config as a dict, the path of config.json or of its folder, or the name of a
                repository on the hub, such as "owner/model". A config from the hub is downloaded,
                or read from the cache.
            name: Name for the model. The default is the name in the config. If the config contains
                no name, the default is the config's path, repository or model_type.

        Raises:
            ValueError: The config can't be read, lacks a field, has a value that is not allowed, or
                describes a model that this module doesn't support (a mixture of experts, an
                encoder–decoder, a family that is not in `FAMILIES`).
        """
        values, where = _read_config(config)
        where = str(name or values.get("_name_or_path") or where)
        if reason := _unsupported(values):
            raise ValueError(f"{where} {reason}")
        read = FAMILIES[values["model_type"]]
        try:
            return cls(name=where, family=values["model_type"], **read(_Config(values)))
        except KeyError as error:
            raise ValueError(f"the config of {where} has no {error.args[0]!r}") from None
        except _BadField as error:
            raise ValueError(f"the config of {where}: {error}") from None

    @property
    def known(self) -> bool:
        """Whether the sizes of the model are known, not just its number of parameters."""
        return not self.scalar

    def check_length(self, tokens: int) -> None:
        """Raise ValueError if a sequence has more tokens than the model's table of positions."""
        if self.positions and tokens > self.positions:
            raise ValueError(
                f"{self.name} has a table of {self.positions:,} positions, so sequence_length must "
                f"be at most {self.positions:,}, got {tokens:,}"
            )

    @property
    def query_width(self) -> int:
        """The total width of the queries of all heads, and the width of attention's result."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """The total width of the keys of all heads, and the total width of the values."""
        return self.kv_heads * self.head_dim

    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Return the linear layers of one transformer layer: name → (d_in, d_out).

        The result is empty if only the model's number of parameters is known.
        """
        if not self.known:
            return {}
        h, query, key = self.hidden, self.query_width, self.key_width
        wide = self.intermediate
        if self.family == "gpt2":
            return {
                "attn.c_attn": (h, 3 * h),
                "attn.c_proj": (h, h),
                "mlp.c_fc": (h, wide),
                "mlp.c_proj": (wide, h),
            }
        attention = {"q_proj": (h, query), "k_proj": (h, key), "v_proj": (h, key)}
        attention["o_proj"] = (query, h)
        if not self.gated:
            return attention | {"c_fc": (h, wide), "c_proj": (wide, h)}
        return attention | {"gate_proj": (h, wide), "up_proj": (h, wide), "down_proj": (wide, h)}

    @property
    def bias_parameters(self) -> int:
        """The number of bias parameters in the linear layers of one transformer layer."""
        return sum(d for name, (_, d) in self.linear_layers().items() if name in self.biases)

    @property
    def norm_tensors(self) -> int:
        """The number of tensors in one normalization layer: 2 for LayerNorm, 1 for RMSNorm."""
        return 2 if self.norm == "layer" else 1

    @property
    def norm_parameters(self) -> int:
        """The number of parameters in the normalization layers of one transformer layer."""
        return 2 * self.hidden * self.norm_tensors + (2 * self.head_dim if self.qk_norm else 0)

    @property
    def linear_parameters(self) -> int:
        """The number of weights in all linear layers. QLoRA quantizes these weights."""
        return self.layers * sum(i * o for i, o in self.linear_layers().values())

    @property
    def embedding_parameters(self) -> int:
        """The number of parameters in the embedding, position table and untied output layer."""
        return self.hidden * (self.vocab * (1 if self.tied else 2) + self.positions)

    @property
    def parameters(self) -> int:
        """The total number of parameters. Tied parameters are counted once."""
        if not self.known:
            return self.scalar
        last_norm = self.hidden * self.norm_tensors
        in_layers = self.layers * (self.bias_parameters + self.norm_parameters)
        return self.embedding_parameters + self.linear_parameters + in_layers + last_norm

    def target_layers(self, targets: str | Iterable[str]) -> dict[str, tuple[int, int]]:
        """Return the linear layers that `targets` selects, as peft's `target_modules` would.

        Args:
            targets: "all-linear", or names such as ("q_proj", "v_proj"). A name also matches the
                end of a longer name: "c_proj" matches "attn.c_proj" and "mlp.c_proj".

        Returns:
            The chosen layers of one transformer layer: name → (d_in, d_out).

        Raises:
            ValueError: A name matches no layer, or only the number of parameters is known.
        """
        if not self.known:
            raise ValueError(
                f"only the number of parameters of {self.name} is known, but adapters depend on "
                "its layers; choose a preset or a config"
            )
        layers = self.linear_layers()
        if targets == "all-linear":
            return layers
        wanted = names_of("targets", targets)
        for target in wanted:
            if not any(_matches(name, target) for name in layers):
                raise ValueError(
                    f"{self.name} has no linear layer {target!r}; choose from {', '.join(layers)}, "
                    'or "all-linear" for all of them'
                )
        if not wanted:
            raise ValueError('targets must name at least one layer, or be "all-linear"')
        return {n: d for n, d in layers.items() if any(_matches(n, target) for target in wanted)}

    def adapter_parameters(self, rank: int, targets: str | Iterable[str] = "all-linear") -> int:
        """Return how many parameters LoRA trains on the target layers of the entire model.

        For example, rank 8 on all linear layers of SmolLM2-135M trains 2,442,240 parameters.
        """
        each = self.target_layers(targets).values()
        return self.layers * positive("rank", rank) * sum(d_in + d_out for d_in, d_out in each)


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


# --- reading a config -----------------------------------------------------------------------------


def _read_config(config: Mapping[str, Any] | str | Path) -> tuple[dict[str, Any], str]:
    if isinstance(config, Mapping):
        return dict(config), str(config.get("model_type", "the config"))
    if not isinstance(config, str | Path):
        raise ValueError(
            "a model must be a preset's name, a config (its dict, its path, or its name on the "
            f"hub) or a ModelShape; got {config!r:.80}"
        )
    try:
        path = Path(config)
        path = path / "config.json" if path.is_dir() else path
        path = path if path.is_file() else _from_hub(str(config))
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{config!s:.300} can't be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a config: it must contain a JSON object")
    return values, str(config)


def _from_hub(name: str) -> Path:
    if name.count("/") != 1 or name.endswith(".json") or name.startswith((".", "/")):
        raise ValueError(
            f"no config at {name!r}; pass a dict, the path of a config.json, or the name of a hub "
            'repository such as "HuggingFaceTB/SmolLM2-135M"'
        )
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    from course_utils.runtime import HUB_TIMEOUT

    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return Path(cached)
    try:
        # Ask the hub once with a time-out, because the download itself would retry many times.
        HfApi().model_info(name, timeout=HUB_TIMEOUT)
        return Path(hf_hub_download(name, "config.json"))
    # The errors of httpx, the errors of huggingface_hub and OSError have only the base class
    # Exception in common.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise ValueError(f"the config of {name} can't be read from the hub: {reason}") from None


_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")
# The endings of transformers' class names for models that predict the next token.
_CAUSAL = ("ForCausalLM", "LMHeadModel")


def _unsupported(values: Mapping[str, Any]) -> str | None:
    """Return the reason why this module doesn't support a config, None for a supported config."""
    if values.get("is_encoder_decoder") or values.get("add_cross_attention"):
        return "is an encoder–decoder; only decoder-only models are supported"
    if any(values.get(key) not in (None, False, 0, 1) for key in _EXPERTS):
        return "is a mixture of experts; only dense models are supported"
    if values.get("quantization_config"):
        return "is quantized; use the config of the original model"
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        families = ", ".join(FAMILIES)
        return f"has model_type {kind!r}, which is not supported; supported are {families}"
    classes = values.get("architectures")
    names = [str(name) for name in classes] if isinstance(classes, list) else []
    if names and not any(name.endswith(_CAUSAL) for name in names):
        return (
            f"is a {', '.join(names)}; only models that predict the next token are supported, "
            f"and the names of their classes end with {' or '.join(_CAUSAL)}"
        )
    return None


class _BadField(ValueError):
    """A field of a config has a value that is not allowed."""


class _Config:
    """A config whose fields are checked when they are read.

    A missing field without a default raises KeyError. A value that is not allowed raises _BadField.
    """

    def __init__(self, values: Mapping[str, Any]):
        self.values = values

    def size(self, key: str, default: int | None = None) -> int:
        """Return a field that must be a whole number of at least 1; null counts as missing."""
        value = self.values.get(key)
        if value is None and default is None:
            raise KeyError(key)
        try:
            return positive(key, default if value is None else value)
        except ValueError as error:
            raise _BadField(error) from None

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise _BadField(f"{key} must be true or false, got {value!r}")
        return value

    def share(self, key: str, default: float) -> float:
        """Return a field that must be a number from 0 to 1; null counts as 0."""
        value = self.values.get(key, default) or 0.0
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise _BadField(f"{key} must be a number from 0 to 1, got {value!r}")
        return float(value)

    def activation(self, key: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.values.get(key, default)
        if value not in allowed:
            raise _BadField(
                f"the activation {value!r} is not supported; supported are {', '.join(allowed)}"
            )
        return value


# Each of these activation functions is one operation of PyTorch, so autograd stores only the
# function's input.
FUSED = ("silu", "gelu", "gelu_pytorch_tanh")
# transformers computes "gelu_new" with a formula of several operations.
ACTIVATIONS = (*FUSED, "gelu_new")


def _rotary(
    config: _Config, kv_heads: int | None = None, head_dim: int | None = None
) -> dict[str, Any]:
    """Return the sizes in the config of a family with rotary positions.

    `kv_heads` and `head_dim` are the family's defaults for a config without these fields.
    """
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    shared = kv_heads if "num_key_value_heads" not in config.values else None
    return {
        "layers": config.size("num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": config.size("num_key_value_heads", shared or heads),
        "head_dim": config.size("head_dim", head_dim or hidden // heads),
        "intermediate": config.size("intermediate_size"),
        "vocab": config.size("vocab_size"),
        "dropout": config.share("attention_dropout", 0.0),
    }


def _gated(config: _Config, **defaults: int) -> dict[str, Any]:
    tied = config.flag("tie_word_embeddings", False)
    activation = config.activation("hidden_act", "silu", FUSED)
    return _rotary(config, **defaults) | {"tied": tied, "activation": activation}


def _llama(config: _Config) -> dict[str, Any]:
    attention = _attention_biases(config)
    mlp = ("gate_proj", "up_proj", "down_proj") if config.flag("mlp_bias", False) else ()
    return _gated(config) | {"biases": frozenset(attention + mlp)}


def _attention_biases(config: _Config) -> tuple[str, ...]:
    has = config.flag("attention_bias", False)
    return ("q_proj", "k_proj", "v_proj", "o_proj") if has else ()


def _mistral(config: _Config) -> dict[str, Any]:
    return _gated(config, kv_heads=8)


def _qwen2(config: _Config) -> dict[str, Any]:
    return _gated(config, kv_heads=32) | {"biases": frozenset(("q_proj", "k_proj", "v_proj"))}


def _qwen3(config: _Config) -> dict[str, Any]:
    sizes = _gated(config, kv_heads=32, head_dim=128)
    return sizes | {"biases": frozenset(_attention_biases(config)), "qk_norm": True}


def _starcoder2(config: _Config) -> dict[str, Any]:
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj")
    dropouts = ("attention_dropout", "residual_dropout", "embedding_dropout")
    return _rotary(config, kv_heads=2) | {
        "tied": config.flag("tie_word_embeddings", True),
        "gated": False,
        "activation": config.activation("hidden_act", "gelu_pytorch_tanh", FUSED),
        "norm": "layer",
        "biases": frozenset(names if config.flag("use_bias", True) else ()),
        "dropout": max(config.share(key, 0.0) for key in dropouts),
    }


def _gpt2(config: _Config) -> dict[str, Any]:
    hidden, heads = config.size("n_embd"), config.size("n_head")
    if hidden % heads:
        raise _BadField(f"n_embd, {hidden}, must be a multiple of n_head, {heads}")
    if config.flag("reorder_and_upcast_attn", False):
        raise _BadField("reorder_and_upcast_attn is not supported")
    dropouts = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
    return {
        "layers": config.size("n_layer"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": hidden // heads,
        "intermediate": config.size("n_inner", 4 * hidden),
        "vocab": config.size("vocab_size"),
        "tied": config.flag("tie_word_embeddings", True),
        "gated": False,
        "activation": config.activation("activation_function", "gelu_new", ACTIVATIONS),
        "norm": "layer",
        "biases": frozenset(("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")),
        "positions": config.size("n_positions"),
        "dropout": max(config.share(key, 0.1) for key in dropouts),
    }


FAMILIES: dict[str, Callable[[_Config], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "starcoder2": _starcoder2,
    "gpt2": _gpt2,
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


def _config(model_type: str, *sizes: int, tied: bool = False) -> dict[str, Any]:
    """Return the config of a model with rotary positions, given its sizes in the order `_SIZES`."""
    named = dict(zip(_SIZES, sizes, strict=True))
    return {"model_type": model_type, **named, "tie_word_embeddings": tied}


def _gpt_config(layers: int, hidden: int, heads: int, positions: int) -> dict[str, Any]:
    sizes = {"n_layer": layers, "n_embd": hidden, "n_head": heads, "n_positions": positions}
    return {"model_type": "gpt2", "vocab_size": 50257, **sizes}


PRESETS: dict[str, dict[str, Any]] = {
    "llama-7b": _config("llama", 32, 4096, 32, 32, 11008, 32000),
    "llama-13b": _config("llama", 40, 5120, 40, 40, 13824, 32000),
    "llama-33b": _config("llama", 60, 6656, 52, 52, 17920, 32000),
    "llama-65b": _config("llama", 80, 8192, 64, 64, 22016, 32000),
    "llama-3.1-8b": _config("llama", 32, 4096, 32, 8, 14336, 128256),
    "mistral-7b": _config("mistral", 32, 4096, 32, 8, 14336, 32000),
    "qwen2.5-0.5b": _config("qwen2", 24, 896, 14, 2, 4864, 151936, tied=True),
    "qwen2.5-1.5b": _config("qwen2", 28, 1536, 12, 2, 8960, 151936, tied=True),
    "qwen2.5-7b": _config("qwen2", 28, 3584, 28, 4, 18944, 152064),
    "tinyllama-1.1b": _config("llama", 22, 2048, 32, 4, 5632, 32000),
    "smollm2-135m": _config("llama", 30, 576, 9, 3, 1536, 49152, tied=True),
    "smollm2-360m": _config("llama", 32, 960, 15, 5, 2560, 49152, tied=True),
    "smollm2-1.7b": _config("llama", 24, 2048, 32, 32, 8192, 49152, tied=True),
    "gpt2": _gpt_config(12, 768, 12, 1024),
    "gpt3-175b": _gpt_config(96, 12288, 96, 2048),
}
