"""Test llama.cpp's server: adapters by request, grammars, bad requests, ports, and its end."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gguf import GGUFReader
from peft import PeftModel
from transformers import AutoModelForCausalLM

from course_utils import export, serving, sft
from course_utils.machine.validation import CourseError
from course_utils.parity import of_model, probabilities
from course_utils.serving import Engine, Gateway
from tests.test_export_saved import save_adapters
from tests.test_gguf import FAMILIES, assert_close, make_tokenizer, next_token, save_model
from tests.waiting import wait_until
from workshop.cli import main

ADAPTERS = (None, "weak", "strong")
CHATS = [[{"role": "user", "content": f"Story number {i} is about {i * i}."}] for i in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with a tiny model, adapters of two strengths, and their GGUF files."""
    folder = tmp_path_factory.mktemp("serving")
    save_model(FAMILIES["tied llama"], folder / "model")
    export.save_gguf(folder / "model", folder / "model.gguf", "F32")
    for name, alpha in {"weak": 2, "strong": 30}.items():
        save_adapters(folder / "model", folder / name, lora_alpha=alpha)
        export.save_adapter_gguf(folder / name, folder / f"{name}.gguf")
    return folder


@pytest.fixture(scope="module")
def engine(folder):
    adapters = {name: folder / f"{name}.gguf" for name in ("weak", "strong")}
    with Engine(folder / "model.gguf", adapters, slots=2, threads=1) as engine:
        yield engine


@pytest.fixture
def gateway(engine):
    with Gateway(engine) as gateway, ThreadPoolExecutor(1) as pool:
        pool.submit(gateway.serve_forever)
        yield gateway
        gateway.shutdown()


@pytest.fixture(scope="module")
def prompts():
    """The token ids of the prompt of each conversation."""
    return [sft.prompt_ids(chat, make_tokenizer("smollm")) for chat in CHATS]


@pytest.fixture(scope="module")
def expected(folder, prompts):
    """The probabilities of transformers for the first token of each answer, by adapter."""
    found = {}
    for name in ADAPTERS:
        model = AutoModelForCausalLM.from_pretrained(folder / "model")
        if name:
            model = PeftModel.from_pretrained(model, str(folder / name))
        found[name] = torch.stack(list(probabilities(of_model(model), prompts)))
    return found


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.full
def test_each_request_chooses_its_adapter_even_at_the_same_time(engine, prompts, expected):
    jobs = [(name, i) for i in range(len(CHATS)) for name in ADAPTERS]
    with ThreadPoolExecutor(6) as pool:
        done = pool.map(lambda job: next_token(engine, prompts[job[1]], job[0]), jobs)
        for (name, i), probabilities in zip(jobs, done, strict=True):
            assert_close(probabilities, expected[name][i])
    # Otherwise the test could not fail.
    assert (expected["weak"] - expected[None]).abs().amax(1).min() > 0.01
    assert (expected["strong"] - expected["weak"]).abs().amax(1).min() > 0.05


def test_no_prompt_is_answered_with_the_cache_of_another_adapter(engine, prompts, expected):
    # The prompts have a shared prefix, and some of them are asked twice.
    for name, i in [*product(ADAPTERS, range(3)), *product(ADAPTERS[::-1], (2, 0, 1))]:
        assert_close(next_token(engine, prompts[i], name), expected[name][i])


def test_answers_are_in_the_order_of_the_conversations(engine):
    alone = [engine.answers([chat], "strong", max_new_tokens=3)[0] for chat in CHATS]
    assert engine.answers(CHATS, "strong", max_new_tokens=3) == alone
    assert len(set(alone)) > 1


@pytest.mark.full
def test_an_unknown_adapter_is_refused(engine):
    with pytest.raises(
        ValueError, match="unknown adapter 'x'; the adapters here are: weak, strong"
    ):
        engine.answers(CHATS, "x")


def test_a_schema_allows_only_matching_answers(engine):
    colours = ["red", "green", "blue"]
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": colours}, "count": {"type": "integer", "maximum": 99}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    answers = engine.answers(CHATS, "strong", max_new_tokens=500, schema=schema)
    parsed = [json.loads(answer) for answer in answers]
    assert all(set(each) == {"colour", "count"} and each["colour"] in colours for each in parsed)


# -- bad requests ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/chat/completions", {}, "messages"),
        ("/v1/chat/completions", {"messages": "Hi"}, "messages"),
        ("/completion", {"prompt": 5}, "prompt"),
        ("/completion", {"prompt": [10**9]}, "token"),
        ("/completion", {"prompt": "a " * 5000}, "exceeds the available context size"),
        ("/completion", {"prompt": "a", "grammar": "root ::= ("}, "grammar"),
        ("/nonsense", {}, "Not Found"),
    ],
)
def test_the_server_survives_a_bad_request(engine, path, body, message):
    with pytest.raises(CourseError, match=message):
        engine.request(path, body)
    assert engine.request("/health") == {"status": "ok"}


def test_pages_of_other_sites_may_not_read_answers(engine):
    request = urllib.request.Request(f"{engine.url}/health", headers={"Origin": "http://evil.test"})
    with urllib.request.urlopen(request) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == engine.url


def test_pages_of_other_sites_may_not_read_answers_of_the_gateway(gateway):
    request = urllib.request.Request(gateway.url, headers={"Origin": "http://evil.test"})
    request.add_header("Accept-Encoding", "gzip")
    with urllib.request.urlopen(request) as answer:
        assert answer.read().startswith(b"\x1f\x8b")  # llama.cpp's web page, compressed
        assert not [key for key in answer.headers if key.lower().startswith("access-control")]


# -- models by name --------------------------------------------------------------------------------


def post(url, **fields):
    body = {"messages": CHATS[0], "temperature": 0, "max_tokens": 3} | fields
    return urllib.request.urlopen(f"{url}/v1/chat/completions", json.dumps(body).encode())


@pytest.mark.parametrize("name", ["weak", "strong", "base", None])
def test_the_field_model_chooses_the_adapter_also_in_a_stream(engine, gateway, name):
    fields = {"model": name} if name else {"lora": engine.scales("weak")}
    with post(gateway.url, **fields, stream=True) as answer:
        parts = [json.loads(line[6:]) for line in answer if line.startswith(b"data: {")]
    deltas = [part["choices"][0]["delta"].get("content") or "" for part in parts if part["choices"]]
    adapter = {None: "weak", "base": None}.get(name, name)
    assert "".join(deltas).strip() == engine.answers(CHATS[:1], adapter, max_new_tokens=3)[0]
    assert {part["model"] for part in parts} == {name or "weak"}


def test_an_unknown_model_is_refused_with_the_names_of_all_models(gateway):
    with urllib.request.urlopen(f"{gateway.url}/v1/models") as answer:
        assert [model["id"] for model in json.load(answer)["data"]] == ["weak", "strong", "base"]
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        post(gateway.url, model="x")
    error = json.load(refused.value)["error"]
    assert error["message"].endswith("the models here are: weak, strong, base")
    assert error["code"] == "model_not_found"


# -- starting and stopping -------------------------------------------------------------------------


@pytest.mark.full
def test_a_port_in_use_is_refused_and_free_again_after_close(folder):
    engine = Engine(folder / "model.gguf", threads=1)
    port = int(engine.url.rpartition(":")[2])
    with pytest.raises(CourseError, match=f"port {port} can't be used"):
        Engine(folder / "model.gguf", port=port)
    engine.close()
    with pytest.raises(CourseError, match="doesn't answer"):
        engine.request("/health")
    again = Engine(folder / "model.gguf", port=port, threads=1)
    again.close()
    assert again.url == f"http://127.0.0.1:{port}"


def test_files_that_are_no_models_are_refused(folder, tmp_path):
    with pytest.raises(CourseError, match="no GGUF file"):
        Engine(tmp_path / "missing.gguf")
    with pytest.raises(CourseError, match="is not a GGUF file"):
        Engine(folder / "model" / "config.json")
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes((folder / "model.gguf").read_bytes()[:2000])
    with pytest.raises(CourseError, match=r"llama\.cpp can't load"):
        Engine(damaged)


@pytest.mark.full
def test_adapters_of_another_model_are_refused(folder, tmp_path):
    save_model(FAMILIES["wide heads"], tmp_path / "other")
    save_adapters(tmp_path / "other", tmp_path / "adapters")
    lora = export.save_adapter_gguf(tmp_path / "adapters", tmp_path / "other.gguf")
    with pytest.raises(CourseError, match=r"can't load .*other\.gguf"):
        Engine(folder / "model.gguf", {"other": lora})


def test_a_missing_package_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(CourseError, match="run `pip install xllamacpp`"):
        Engine(folder / "model.gguf")


# -- course serve ----------------------------------------------------------------------------------


@pytest.fixture
def serve(tmp_path):
    """Start `course serve` with arguments; return the process, its output and its address."""
    processes = []

    def start(*arguments):
        command = [sys.executable, "-m", "workshop.cli", "serve", "--threads", "1", *arguments]
        output = tmp_path / "output"
        with output.open("w") as stream:
            processes.append(subprocess.Popen(command, stdout=stream))
        wait_until(lambda: "Serving on" in output.read_text())
        return processes[-1], output, re.search(r"http://[\d.]+:\d+", output.read_text())[0]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_folders_are_served_until_a_signal(folder, engine, serve, number):
    model, adapters = str(folder / "model"), f"tuned={folder / 'strong'}"
    process, printed, url = serve(model, "--adapter", adapters, "--port", "0", "--format", "F32")
    for chosen, name in (({"model": "base"}, None), ({}, "strong")):
        with post(url, **chosen) as answer:
            text = json.load(answer)["choices"][0]["message"]["content"]
        assert [text.strip()] == engine.answers(CHATS[:1], name, max_new_tokens=3)
    process.send_signal(number)
    assert process.wait(timeout=60) == 0
    output = printed.read_text()
    assert "adapter tuned:" in output and output.endswith("Stopped.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "99999"], "port must be"),
        (["--format", "Q4_K_M"], "stored_as must be"),
        (["--adapter", "a=missing.gguf"], "no GGUF file missing.gguf"),
        (["--adapter", "a=missing"], "no adapters in missing"),
        (["--adapter", "a=pyproject.toml"], "pyproject.toml is not a GGUF file"),
        (["--adapter", "x/a.gguf", "--adapter", "y/a.gguf"], "two adapters have the same name"),
    ],
)
def test_wrong_arguments_are_one_line(folder, arguments, message):
    result = CliRunner().invoke(main, ["serve", str(folder / "model"), *arguments])
    assert result.exit_code != 0
    assert message in result.output.splitlines()[-1]


@pytest.mark.full
@pytest.mark.parametrize("weights", ["dequantized", "original"])
def test_without_a_model_the_base_of_the_adapters_is_served(folder, tmp_path, monkeypatch, weights):
    served = []

    class Stopping(Engine):
        def __init__(self, model, adapters, **options):
            super().__init__(model, adapters, threads=1, default=options["default"])
            tensors = {tensor.name: tensor.data.copy() for tensor in GGUFReader(model).tensors}
            served.append((list(adapters), tensors["blk.0.ffn_down.weight"]))

        def __enter__(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(serving, "Engine", Stopping)
    with pytest.raises(KeyboardInterrupt):
        adapters = {"weak": folder / "weak"}
        serving.serve(None, adapters, weights=weights, stored_as="F32", say=lambda _: None)

    base = folder / "model"
    if weights == "dequantized":
        base = export.save_dequantized(base, tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    weight = model.get_parameter("model.layers.0.mlp.down_proj.weight")
    [(names, found)] = served
    assert names == ["weak"]
    np.testing.assert_array_equal(found, weight.detach().float().numpy())


def test_a_port_in_use_is_refused_before_models_are_converted(folder):
    said = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CourseError, match=f"port {port} can't be used"):
            serving.serve(folder / "model", {"weak": folder / "weak"}, port=port, say=said.append)
    assert said == []
