"""Export a fine-tuned model, so that other programs can run it (lectures 07 and 09).

The package has these modules:

    merging      merges adapters into a model in memory, and measures how much of their update
                 remains after rounding
    saved        reads saved adapters, and copies them into a folder that can be published
    merged       merges saved adapters into the weights of their base model, and saves the result
    gguf_files   converts models and adapters into GGUF files for llama.cpp, Ollama and LM Studio
    ollama       writes a GGUF file and a Modelfile, with which Ollama runs it
"""

from course_utils.export.gguf_files import (
    GGUF_FORMATS,
    adapter_tensors,
    interleave,
    quantize_gguf,
    save_adapter_gguf,
    save_gguf,
    write_adapter_gguf,
)
from course_utils.export.merged import save_dequantized, save_merged
from course_utils.export.merging import NumberLine, merge, number_line, update_left
from course_utils.export.ollama import modelfile, save_for_ollama
from course_utils.export.saved import SavedAdapters, read_adapters, save_adapters
