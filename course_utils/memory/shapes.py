"""Describe the shapes of decoder-only transformers, from presets, configs or parameter counts.

A shape contains all properties of a model that its memory depends on. The tests compare every
family of `FAMILIES` with the class in transformers, parameter by parameter. Any other config raises
a ValueError, because a wrong estimate is worse than no estimate.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

from course_utils.machine.validation import names_of, positive
from course_utils.memory.families import (
    FAMILIES,
    PRESETS,
    BadField,
    ConfigFields,
    text_part,
    unsupported,
)


@dataclass(frozen=True)
class ModelShape:
    """The properties of a decoder-only transformer that determine how much memory it needs.

    Attributes:
        hidden: Width of the residual stream.
        heads: Number of attention heads; heads × head_dim is the width of the queries.
        kv_heads: Number of key heads, which is also the number of value heads. With grouped-query
            attention, there are fewer key heads than attention heads.
        intermediate: Width of the MLP.
        tied: Whether the output layer shares the embedding's weights.
        biases: Names of the linear layers that have a bias.
        qk_norm: Whether each head's queries and keys are normalized.
        gemma: Whether the model is built like Gemma 3. Gemma's RMSNorm computes its scale in
            float32, as 1 + weight. The results of attention and of the MLP are also normalized,
            before they are added to the residual stream. The embedding's result is multiplied by a
            constant. Layers with a sliding window rotate queries and keys by other angles than
            layers without one.
        context: The largest sequence length that the config allows, 0 if unknown.
        window: Number of tokens in the sliding window of attention, 0 for no window.
        sliding: Indices of the layers whose attention has the sliding window, from 0.
        dropout: The dropout probability of attention in the model's config.
        scalar: The number of parameters if nothing else about the model is known, else 0.
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
    biases: frozenset[str] = frozenset()
    qk_norm: bool = False
    gemma: bool = False
    context: int = 0
    window: int = 0
    sliding: frozenset[int] = frozenset()
    dropout: float = 0.0
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
        """Return the shape of a model given as a shape, a preset's name or a config."""
        if isinstance(model, ModelShape):
            return model
        if is_name(model):
            return cls.preset(model)
        return cls.from_config(model)

    @classmethod
    def preset(cls, name: str) -> ModelShape:
        """Return the shape of a well-known model, given its name, such as "llama-7b"."""
        key = str(name).strip().lower()
        if key == "7b":
            return cls.generic(7_000_000_000, name="7b")
        if key not in PRESETS:
            raise ValueError(
                f"unknown preset {name!r}; choose one of 7b, {', '.join(PRESETS)}, or pass the "
                "config of a model: its dict, its path, or its name on the hub"
            )
        return _preset(key)

    @classmethod
    def generic(cls, parameters: float, name: str | None = None) -> ModelShape:
        """Return a shape of which only the number of parameters, such as 7e9, is known.

        This is enough to compute weights, gradients and optimizer states, but not activations and
        adapters.
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

        If the model also reads images or sounds, the shape describes only the text part, and the
        shape's name ends with "(text only)".

        Args:
            config: The config as a dict, the path of config.json or of its folder, or the name of a
                repository on the hub, such as "owner/model", which is downloaded or in the cache.
            name: Name for the model, by default the one in the config, or else the config's path,
                repository or model_type.

        Raises:
            ValueError: The config can't be read, lacks a field, has a value that is not allowed, or
                describes a model that is not supported.
        """
        values, where = read_config(config)
        where = str(name or values.get("_name_or_path") or where)
        text = text_part(values)
        if reason := unsupported(text):
            raise ValueError(f"{where} {reason}")
        title = where if text is values else f"{where} (text only)"
        try:
            fields = FAMILIES[text["model_type"]](ConfigFields(text))
        except KeyError as error:
            raise BadField(f"the config of {where} has no {error.args[0]!r}") from None
        except ValueError as error:
            raise type(error)(f"the config of {where}: {error}") from None
        return cls(name=title, **fields)

    @property
    def known(self) -> bool:
        """Whether the sizes of the model are known, not just its number of parameters."""
        return not self.scalar

    def check_attention(self, tokens: int, attention: str) -> None:
        """Raise ValueError if the memory of attention is unknown for a sequence of `tokens` tokens.

        From the length of the window on, fused attention needs a mask, and PyTorch chooses a kernel
        that depends on the GPU. Shorter sequences need what layers without a window need.
        """
        if self.window and tokens >= self.window and attention == "sdpa":
            raise ValueError(
                f"{self.name} has a sliding window of {self.window:,} tokens, and for sequences of "
                f"at least this length the memory of attention='sdpa' depends on the GPU, so "
                f"sequence_length must be below {self.window:,}, got {tokens:,}, or attention must "
                "be 'eager'"
            )

    def longest(self, attention: str) -> int | None:
        """Return the largest sequence length for which memory is known, None without a limit."""
        window = self.window - 1 if self.window and attention == "sdpa" else 0
        return min(filter(None, (window, self.context)), default=None)

    def check_length(self, tokens: int) -> None:
        """Raise ValueError if a sequence has more tokens than the model allows."""
        if self.context and tokens > self.context:
            raise ValueError(
                f"the config of {self.name} allows {self.context:,} positions, so sequence_length "
                f"must be at most {self.context:,}, got {tokens:,}"
            )

    @property
    def query_width(self) -> int:
        """The total width of the queries of all heads, and the width of attention's result."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """The total width of the keys of all heads, and the total width of the values."""
        return self.kv_heads * self.head_dim

    def attention_kinds(self, layers: int) -> int:
        """Return how many kinds of attention, with and without the window, the lowest layers have.

        The number is 0 if `layers` is 0, else 1 or 2.
        """
        return len({layer in self.sliding for layer in range(layers)})

    def rotations(self, layers: int) -> int:
        """Return how many sets of angles the lowest `layers` layers rotate queries and keys by."""
        return self.attention_kinds(layers) if self.gemma else min(layers, 1)

    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Return the linear layers of one transformer layer, if known: name → (d_in, d_out)."""
        if not self.known:
            return {}
        h, query, key = self.hidden, self.query_width, self.key_width
        wide = self.intermediate
        return {
            "q_proj": (h, query),
            "k_proj": (h, key),
            "v_proj": (h, key),
            "o_proj": (query, h),
            "gate_proj": (h, wide),
            "up_proj": (h, wide),
            "down_proj": (wide, h),
        }

    @property
    def bias_parameters(self) -> int:
        """The number of bias parameters in the linear layers of one transformer layer."""
        return sum(d for name, (_, d) in self.linear_layers().items() if name in self.biases)

    @property
    def norm_layers(self) -> int:
        """The number of normalization layers in a transformer layer, except those of heads."""
        return 4 if self.gemma else 2

    @property
    def norm_parameters(self) -> int:
        """The number of parameters in the normalization layers of one transformer layer."""
        of_heads = 2 * self.head_dim if self.qk_norm else 0
        return self.norm_layers * self.hidden + of_heads

    @property
    def linear_parameters(self) -> int:
        """The number of weights in all linear layers. QLoRA quantizes these weights."""
        return self.layers * sum(i * o for i, o in self.linear_layers().values())

    @property
    def embedding_parameters(self) -> int:
        """The number of parameters in the embedding and, if it isn't tied, in the output layer."""
        return self.hidden * self.vocab * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """The total number of parameters. Tied parameters are counted once."""
        if not self.known:
            return self.scalar
        in_layers = self.layers * (self.bias_parameters + self.norm_parameters)
        return self.embedding_parameters + self.linear_parameters + in_layers + self.hidden

    def target_layers(self, targets: str | Iterable[str]) -> dict[str, tuple[int, int]]:
        """Return the linear layers that `targets` selects, as peft's `target_modules` would.

        Args:
            targets: "all-linear", or names such as ("q_proj", "v_proj").

        Returns:
            The chosen layers of one transformer layer: name → (d_in, d_out).
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
            if target not in layers:
                raise ValueError(
                    f"{self.name} has no linear layer {target!r}; choose from {', '.join(layers)}, "
                    'or "all-linear" for all of them'
                )
        if not wanted:
            raise ValueError('targets must name at least one layer, or be "all-linear"')
        return {name: widths for name, widths in layers.items() if name in wanted}

    def adapter_parameters(self, rank: int, targets: str | Iterable[str] = "all-linear") -> int:
        """Return how many parameters LoRA trains on the target layers of the entire model.

        For example, rank 8 on all linear layers of SmolLM2-135M trains 2,442,240 parameters.
        """
        each = self.target_layers(targets).values()
        return self.layers * positive("rank", rank) * sum(d_in + d_out for d_in, d_out in each)


@cache
def _preset(key: str) -> ModelShape:
    """Return the shape of a preset; it is read from its config only once."""
    return ModelShape.from_config(PRESETS[key], name=key)


# --- reading a config -----------------------------------------------------------------------------


def is_name(model: Any) -> TypeGuard[str]:
    """Return whether a model is given by a preset's name, not by a path or a name on the hub."""
    return isinstance(model, str) and "/" not in model and not os.path.exists(model)


def read_config(config: Mapping[str, Any] | str | Path) -> tuple[dict[str, Any], str]:
    """Return the values of a model's config.json, and a name for the model.

    The argument and the errors are those of `ModelShape.from_config`.
    """
    if isinstance(config, Mapping):
        return dict(config), str(config.get("model_type", "the config"))
    if not isinstance(config, str | Path):
        raise ValueError(
            "a model must be a preset's name, a config (its dict, its path, or its name on the "
            f"hub) or a ModelShape; got {config!r:.80}"
        )
    try:
        path = Path(config)
        if path.is_dir():
            # A folder may contain only the config of an adapter. Then a later error explains this.
            files = [path / name for name in ("config.json", "adapter_config.json")]
            path = next(filter(Path.exists, files), path)
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

    from course_utils.machine.runtime import HUB_TIMEOUT

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
