"""`course fit`: the answer, its JSON, its exit status, and what would fit instead."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from course_utils.memory import alternatives, estimate, fit, usable_bytes
from course_utils.memory.advice import traced_alternatives
from course_utils.memory.families import PRESETS
from tests.conftest import SIZES
from tests.hub import Hub
from workshop import cli

LLAMA = SIZES | {"model_type": "llama"}
# The formula knows no mixture of experts. One layer and few tokens are traced quickly.
MIXTURE = SIZES | {
    "model_type": "qwen3_moe",
    "num_hidden_layers": 1,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
SHORT = ("--tokens", "16")


def course_fit(*arguments):
    result = CliRunner().invoke(cli.main, ["fit", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def found(*arguments):
    """Return the JSON that the command prints, which must be all of its output."""
    return json.loads(course_fit(*arguments, "--json").stdout)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(fit, "own_gpu", lambda: None)


@pytest.fixture
def config(tmp_path):
    """Return a function that writes a config.json."""

    def write(values):
        (tmp_path / "config.json").write_text(json.dumps(values))
        return tmp_path / "config.json"

    return write


def test_a_step_that_fits():
    result = course_fit("qwen3-8b", "--gpu", "T4")
    needed, usable = estimate("qwen3-8b", "qlora"), usable_bytes("T4")
    rest = f"{(usable - needed.total) / 1e9:.2f} GB stay free"
    assert result.exit_code == 0 and result.output.startswith("Yes, it fits: qwen3-8b needs ")
    assert rest in result.output and str(needed) in result.output
    assert "by the course's formula" in result.output


def test_a_step_that_does_not_fit_and_what_would():
    result = course_fit("qwen3-8b", "--gpu", "12 GB", "--batch", 16)
    needed = estimate("qwen3-8b", "qlora", batch_size=16).total
    missing = f"{(needed - usable_bytes('12 GB')) / 1e9:.2f} GB are missing"
    assert result.exit_code == 1 and result.output.startswith("No: ") and missing in result.output
    others = alternatives("qwen3-8b", "qlora", gpu="12 GB", batch_size=16)
    assert others and all(other.words in result.output for other in others)
    nothing = course_fit("llama-65b", "--gpu", "600 MiB").output
    assert nothing.endswith("No change that is known fits.\n")


def test_json_is_the_only_output():
    answer = found("smollm2-135m", "--gpu", "T4")
    expected = estimate("smollm2-135m", "qlora")
    assert answer["total"] == expected.total == sum(answer["parts"].values())
    assert answer["phase"] == expected.peak and answer["fits"] is True
    assert (answer["model"], answer["gpu"]) == ("smollm2-135m", "T4")
    small = course_fit("qwen3-8b", "--gpu", "1 GiB", "--json")
    assert small.exit_code == 1 and json.loads(small.stdout)["fits"] is False


@pytest.mark.parametrize(
    ("arguments", "method", "options"),
    [
        (["--method", "full"], "full", {}),
        (["--method", "lora", "--trainer", "transformers"], "lora", {"trainer": "transformers"}),
        (["--tokens", "300", "--batch", "3"], "qlora", {"sequence_length": 300, "batch_size": 3}),
        (["--rank", "64"], "qlora", {"rank": 64}),
        (["--targets", "q_proj, v_proj"], "qlora", {"targets": ("q_proj", "v_proj")}),
        (["--targets", "all-linear", "--attention", "eager"], "qlora", {"attention": "eager"}),
        (["--dtype", "float16"], "qlora", {"compute_dtype": "float16"}),
        (["--no-checkpointing"], "qlora", {"gradient_checkpointing": False}),
        (["--checkpointing"], "qlora", {"gradient_checkpointing": True}),
        (["--loss", "answers", "--answers", ".2"], "qlora", {"loss": "answers"}),
        (["--optimizer", "adamw8bit"], "qlora", {"optimizer": "adamw8bit"}),
        (["--device", "cpu"], "qlora", {"device": "cpu"}),
    ],
)
def test_options_are_those_of_the_settings(arguments, method, options):
    if "--answers" in arguments:
        options = options | {"answer_share": 0.2}
    answer = found("smollm2-135m", *arguments)
    expected = estimate("smollm2-135m", method, **options)
    assert answer["total"] == expected.total
    assert answer["settings"] == json.loads(json.dumps(vars(expected.settings)))


# --- the GPU --------------------------------------------------------------------------------------


def test_without_a_gpu_the_gpus_that_are_large_enough_are_named():
    result = course_fit("llama-65b")
    names = re.search(r"It fits on (.*)\.\n", result.output)[1].split(", ")
    assert result.exit_code == 0 and "RTX 5090" not in names and "T4" not in names
    assert {"H100", "H200"} <= set(names)
    assert found("llama-65b")["fits"] is None
    assert "It fits on no GPU" in course_fit("llama-65b", "--method", "full", *SHORT).output
    assert "for tensors on a CPU." in course_fit("smollm2-135m", "--device", "cpu").output


def test_the_gpu_of_this_machine_is_the_default(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu = SimpleNamespace(name="NVIDIA Small", total_memory=2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    answer = found("qwen3-8b")
    assert (answer["gpu"], answer["usable"], answer["fits"]) == ("NVIDIA Small", 2**29, False)
    assert found("qwen3-8b", "--gpu", "T4")["fits"] is True
    assert found("qwen3-8b", "--device", "cpu")["fits"] is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert fit.own_gpu() is None


def test_a_known_model_needs_no_pytorch():
    code = (
        "import shutil, sys; shutil.which = lambda _: None\n"
        "from workshop.cli import main; main(['fit', 'qwen3-8b'], standalone_mode=False)"
    )
    wrapped = f"try:\n    {code.splitlines()[0]}\n    {code.splitlines()[1]}\n"
    wrapped += "finally:\n    print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", wrapped], capture_output=True, text=True)
    assert done.stdout.endswith("False\n"), done.stderr


# --- the model ------------------------------------------------------------------------------------


def test_a_folder_and_a_config_are_read(config):
    path = config(LLAMA)
    expected = estimate(path, "qlora", sequence_length=16).total
    assert found(path, *SHORT)["total"] == found(path.parent, *SHORT)["total"] == expected


def test_only_the_config_of_a_hub_model_is_downloaded(config, tmp_path, monkeypatch):
    folder = config(LLAMA).parent
    (folder / "model.safetensors").write_bytes(b"weights")
    with Hub({"me/tiny": folder}) as hub:
        hub.be_used(monkeypatch, tmp_path / "cache")
        answer = found("me/tiny", *SHORT)
        assert answer["model"] == "me/tiny" and answer["total"] > 0
        paths = [path for _, path, _ in hub.requests]
        assert any("config.json" in path for path in paths)
        assert not any("safetensors" in path for path in paths)
        missing = course_fit("me/other")
    assert missing.exit_code == 1 and missing.stderr.count("\n") == 1
    assert "the config of me/other can't be read from the hub" in missing.stderr


def test_a_model_of_which_only_the_size_is_known():
    result = course_fit("7b", "--method", "full")
    assert "Warning: only the number of parameters of 7b is known" in result.output
    assert "depend on its layers" in course_fit("7b").stderr


def test_dropout_of_the_config_is_mentioned(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"attention_dropout": 0.1}))
    result = course_fit(str(tmp_path), "--tokens", "16", "--json")
    assert "dropout" in result.stderr and json.loads(result.stdout)["fits"] is None


@pytest.fixture(scope="module")
def traced():
    """The answer for a model that the formula doesn't know."""
    return fit.Answer(fit.predict(MIXTURE, "qlora", sequence_length=16))


def test_an_unknown_model_is_traced(traced, config):
    experts = MIXTURE["num_experts"] * 3 * MIXTURE["moe_intermediate_size"] * 64 * 2
    result = course_fit(config(MIXTURE), *SHORT, "--json")
    answer = json.loads(result.stdout)
    assert answer["total"] == traced.estimate.total and answer["source"] == "trace"
    assert result.stderr.startswith(f"Warning: experts, not quantized: {experts / 1e3:.2f} kB.")
    assert result.stderr.count("\n") == 1
    assert "by tracing the model's own code" in str(traced)


@pytest.mark.full
def test_a_few_changes_to_a_traced_step_are_tried():
    full = {"attention": "eager", "optimizer": "sgd", "sequence_length": 64, "rank": 1}
    full |= {"double_quant": True, "device": "cpu"}
    tried = []

    def progress(changes):
        tried.append([words for words, _ in changes])
        return changes

    gpu = usable_bytes("T4")
    assert len(traced_alternatives(MIXTURE, "qlora", gpu=gpu, progress=progress, **full)) == 2
    assert tried == [["fused attention (SDPA)", "texts of at most 32 tokens"]]
    assert traced_alternatives(MIXTURE, "qlora", gpu=2**29 + 2, progress=progress, **full) == []
    assert tried[2] == ["all of these: fused attention (SDPA) and texts of at most 32 tokens"]


@pytest.mark.usefixtures("traced")
def test_a_refusal_of_the_formula_is_kept_if_the_trace_fails_too(config):
    result = course_fit(config(LLAMA), *SHORT, "--targets", "nothing")
    assert result.exit_code == 1 and "choose from q_proj, k_proj" in result.stderr


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "T5"], "unknown GPU 'T5'; choose one of T4, "),
        (["--gpu", ""], "GPU"),
        (["--method", "dora"], "method must be one of full, lora, qlora; got 'dora'"),
        (["--trainer", "x"], "trainer must be one of "),
        (["--tokens", "0"], "--tokens must be a whole number of at least 1, got 0"),
        (["--tokens", "many"], "'many' is not a valid integer"),
        (["--answers", "2"], "--answers must be a number above 0 and at most 1"),
        (["--dtype", "int8"], "--dtype must be one of float32, bfloat16, float16"),
        (["--gpu", "9" * 400 + " GB"], "unknown GPU '999"),
        (["--device", "tpu"], "device must be one of cuda, cpu"),
        (["--json", "--no-such-option"], "No such option"),
    ],
)
def test_wrong_options_are_bad_usage(arguments, message):
    result = course_fit("qwen3-8b", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (LLAMA | {"hidden_size": "wide"}, "hidden_size must be a whole number"),
        (
            LLAMA | {"intermediate_size": 0},
            "intermediate_size must be a whole number of at least 1",
        ),
        (LLAMA | {"num_hidden_layers": 10**11}, "num_hidden_layers must be a whole number from 1"),
        ({"model_type": "gemma3", "text_config": {"num_layers": 10**11}}, "at most 1,000 can be"),
        (
            LLAMA | {"model_type": "x", "auto_map": {"AutoModel": "evil.Model"}},
            "code from a repository is never run",
        ),
        (MIXTURE | {"text_config": 5}, "config.json is wrong: 'int' object"),
        ([], "it must contain a JSON object"),
    ],
)
def test_a_wrong_config_is_one_line(config, values, message):
    result = course_fit(config(values), *SHORT, "--json")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert message in result.stderr


def test_wrong_models_are_one_line(tmp_path):
    for model, message in (
        ("llama-8b", f"choose one of 7b, {', '.join(PRESETS)}"),
        ("x" * 300, "choose one of 7b"),
        (tmp_path, "no config at"),
        (tmp_path / "config.json", "no config at"),
    ):
        result = course_fit(model, "--gpu", "T4")
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert message in result.stderr
