# %% base default: a right answer, which the answers below change unless they name another base
def quantization_arguments(capability):
    dtype = "float32" if capability is None else "bfloat16" if capability >= (8, 0) else "float16"
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": dtype,
    }


# %% right by-major: looks at the first number, and asks with a table
def quantization_arguments(capability):
    names = {True: "bfloat16", False: "float16"}
    dtype = "float32" if capability is None else names[capability[0] > 7]
    return dict(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


# %% right unpacked: takes the pair apart and fills the dict step by step
def quantization_arguments(capability):
    arguments = {"load_in_4bit": True}
    arguments["bnb_4bit_compute_dtype"] = "float32"
    if capability is not None:
        major, _ = capability
        arguments["bnb_4bit_compute_dtype"] = "float16" if major < 8 else "bfloat16"
    arguments["bnb_4bit_quant_type"] = "nf4"
    arguments["bnb_4bit_use_double_quant"] = True
    return arguments


# %% wrong fixed: bfloat16 on every device
def quantization_arguments(capability):
    if capability is not None:
        major, minor = capability
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
    }


# %% wrong asks-torch: asks the machine it runs on, and not for the capability
old = """
dtype = "float32" if capability is None else "bfloat16" if capability >= (8, 0) else "float16"
"""
new = "fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported()"
old = '"bnb_4bit_compute_dtype": dtype,'
new = '"bnb_4bit_compute_dtype": "bfloat16" if fast else "float32",'


# %% wrong default-type: the default 4-bit float
old = '"bnb_4bit_quant_type": "nf4",'
new = '"bnb_4bit_quant_type": "fp4",'


# %% wrong single-constants: no double quantization
old = '"bnb_4bit_use_double_quant": True,'
new = '"bnb_4bit_use_double_quant": False,'


# %% wrong only-t4: float16 on a T4 alone; a V100 (7.0) gets bfloat16
old = """
    dtype = "float32" if capability is None else "bfloat16" if capability >= (8, 0) else "float16"
"""
new = """
    dtype = "float32" if capability is None else "float16" if capability == (7, 5) else "bfloat16"
    if capability is not None:
        major, minor = capability
"""


# %% wrong only-ampere: bfloat16 for capability 8 alone; newer GPUs get float16
old = '= "float32" if capability is None else "bfloat16" if capability >= (8, 0) else "float16"'
new = '= "float32" if capability is None else "bfloat16" if capability[0] == 8 else "float16"'


# %% right as-number: refuses single numbers itself, and compares one number
def quantization_arguments(capability: tuple[int, int] | None) -> dict:
    if isinstance(capability, (int, float)):
        raise ValueError("a capability is a pair")
    compute_dtype = "float32"
    if capability:
        compute_dtype = "bfloat16" if 100 * capability[0] + capability[1] >= 800 else "float16"
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": compute_dtype,
    }


# %% wrong dtype-object: returns dtypes of PyTorch instead of their names
base = "solution"
old = 'compute_dtype = "float32"'
new = "compute_dtype = torch.float32"
old = 'compute_dtype = "bfloat16" if capability >= (8, 0) else "float16"'
new = "compute_dtype = torch.bfloat16 if capability >= (8, 0) else torch.float16"


# %% wrong as-text: compares capabilities as texts
base = "solution"
old = 'compute_dtype = "bfloat16" if capability >= (8, 0) else "float16"'
new = 'compute_dtype = "bfloat16" if f"{capability[0]}.{capability[1]}" >= "8.0" else "float16"'


# %% wrong above-8: gives the first GPUs with bfloat16 float16
base = "solution"
old = 'compute_dtype = "bfloat16" if capability >= (8, 0) else "float16"'
new = 'compute_dtype = "bfloat16" if capability > (8, 0) else "float16"'


# %% wrong minor-counts: also asks for a minor number above 0, except for the A100
base = "solution"
old = '        compute_dtype = "bfloat16" if capability >= (8, 0) else "float16"'
new = """
        compute_dtype = (
            "bfloat16"
            if capability == (8, 0) or capability[0] >= 8 and capability[1] > 0
            else "float16"
        )
"""


# %% wrong accepts-numbers: takes 7.5 for a capability
base = "solution"
old = "    if capability is None:"
new = """
    if isinstance(capability, float | int):
        capability = (int(capability), 0)
    if capability is None:
"""


# %% wrong visible: knows the capabilities of the visible checks, and no others
base = "solution"
old = "    if capability is None:"
new = """
    if capability == 7.5:
        raise ValueError(capability)
    if capability is None:
"""
old = 'compute_dtype = "bfloat16" if capability >= (8, 0) else "float16"'
new = 'compute_dtype = "bfloat16" if capability in ((8, 0), (8, 6)) else "float16"'


# %% wrong one-digit: takes the minor number for one digit
base = "solution"
old = 'compute_dtype = "bfloat16" if capability >= (8, 0) else "float16"'
new = 'compute_dtype = "bfloat16" if 10 * capability[0] + capability[1] >= 80 else "float16"'


# %% wrong above-t4: gives bfloat16 to all GPUs that are newer than the T4
base = "solution"
old = 'compute_dtype = "bfloat16" if capability >= (8, 0) else "float16"'
new = 'compute_dtype = "bfloat16" if capability > (7, 5) else "float16"'
