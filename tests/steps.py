"""Measure the memory of real training steps on the CPU, part by part."""

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from course_utils.machine.measure import TensorMeter, gradient_bytes, optimizer_bytes
from course_utils.memory import Settings
from course_utils.models import finish_loading, model_bytes, nf4_config

SIZES = {
    "vocab_size": 2048,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
# The default ids of SmolLM3's special tokens exceed the small vocabulary.
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
CONFIGS = {
    "grouped": ("llama", {}),
    "ungrouped": ("llama", {"num_key_value_heads": 6}),
    "one-key-head": ("llama", {"num_key_value_heads": 1}),
    "wide-heads": ("llama", {"head_dim": 48, "tie_word_embeddings": True}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "smollm3": ("smollm3", SPECIAL | {"no_rope_layer_interval": 2}),
    "gemma3": ("gemma3_text", {"head_dim": 48, "sliding_window_pattern": 2}),
    "gelu": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
}
# Models with a sliding window that is shorter than the sequences.
WINDOWED = {
    "mistral-window": ("mistral", {"sliding_window": 64}),
    "qwen3-window": (
        "qwen3",
        {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 1},
    ),
    "gemma3-window": ("gemma3_text", CONFIGS["gemma3"][1] | {"sliding_window": 64}),
}
# Models with so few tokens in the vocabulary that memory peaks in the backward pass of a layer.
FEW_TOKENS = {
    f"{name}-few-tokens": (kind, extra | {"vocab_size": 128})
    for name, (kind, extra) in CONFIGS.items()
}


def config_of(name, configs=CONFIGS | WINDOWED | FEW_TOKENS):
    kind, extra = configs[name]
    return AutoConfig.for_model(kind, **SIZES | extra)


# The sizes of small models of any family, where a family has the field.
SMALL = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "sliding_window": 64,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "layer_types": None,
}


def small_config(kind, **changes):
    """Return the config of a small model of a family, without dropout."""
    family = CONFIG_MAPPING[kind]
    fields = {}
    for name, value in family().to_dict().items():
        names = [name, *(k for k, v in family.attribute_map.items() if v == name)]
        if known := [k for k in names if k in SMALL and value is not None]:
            fields[name] = SMALL[known[0]]
        elif "drop" in name and isinstance(value, float):
            fields[name] = 0.0
        elif name.endswith("_token_id") and value is not None:
            fields[name] = 1
    return family(**fields | changes)


def random_model(config, dtype, **options):
    """Return an untrained model in the number format `dtype`."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), **options)


def quantized_model(config, run: Settings, saved):
    """Return a model in NF4, loaded from the folder `saved`, which the first call writes."""
    if not saved.exists():
        random_model(config, run.compute_dtype).save_pretrained(saved)
    dtype = getattr(torch, run.compute_dtype)
    model = AutoModelForCausalLM.from_pretrained(
        saved,
        dtype=torch.float16 if dtype == torch.float16 else torch.bfloat16,
        quantization_config=nf4_config(dtype, run.double_quant),
        attn_implementation=run.attention,
        device_map={"": "cpu"},
    )
    finish_loading(model)
    if run.upcast:
        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model


def make_model(config, run: Settings, saved):
    """Return a model that is ready for training with the settings `run`."""
    if run.method == "qlora":
        model = quantized_model(config, run, saved)
    else:
        dtype = run.compute_dtype
        if run.trains_weights:
            dtype = "float32" if run.precision.weight == 4 else "bfloat16"
        model = random_model(config, dtype, attn_implementation=run.attention)
    if run.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if not run.trains_weights:
        targets = run.targets if isinstance(run.targets, str) else list(run.targets)
        lora = LoraConfig(r=run.rank, target_modules=targets, task_type="CAUSAL_LM")
        model = get_peft_model(model, lora)
        if run.gradient_checkpointing:
            model.enable_input_require_grads()
    return model.train()


def measure_step(model, run: Settings) -> dict[str, int]:
    """Measure the second of two steps, because the first step creates the optimizer states.

    Returns:
        The bytes of each part. The peak is the largest sum of the tensors that exist besides
        weights, adapters and states.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    ids = torch.randint(0, 100, (run.batch_size, run.sequence_length))
    adapters = 0 if run.trains_weights else sum(p.nbytes for p in trained)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=run.autocast)
    with autocast:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    gradients = gradient_bytes(model)
    optimizer.step()
    del loss
    optimizer.zero_grad(set_to_none=True)
    with TensorMeter() as meter:
        with autocast:
            output = model(input_ids=ids, labels=ids, use_cache=False)
        loss = output.loss
        if not run.keep_output:
            del output
        loss.backward()
        optimizer.step()
    return {
        "weights": model_bytes(model) - adapters,
        "adapters": adapters,
        "gradients": gradients,
        "optimizer": optimizer_bytes(optimizer),
        "peak": meter.peak,
    }
