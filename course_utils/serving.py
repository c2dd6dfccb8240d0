"""Run a GGUF model in llama.cpp, and serve it over HTTP with its adapters.

    GGUF model ──┐                      ┌─ answers, token_ids, complete
    adapters   ──┴─ llama.cpp ── HTTP ──┤
                                        └─ Gateway ── clients of OpenAI's API: curl, openai, …

`Engine` starts llama.cpp's own server in this process. The methods of `Engine` send requests to the
server over HTTP, as other programs do. The server is a part of the package xllamacpp. It chooses
adapters by the field "lora" of a request. `Gateway` lets clients choose them by the field "model".
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shlex
import signal
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from course_utils import export
from course_utils.machine import runtime
from course_utils.machine.validation import CourseError, one_of, positive, whole_number
from course_utils.models import fetch_base

LOOPBACK = "127.0.0.1"
# The base model's name in requests.
BASE = "base"
INSTALL = "llama.cpp is not installed: run `pip install xllamacpp`"


class Engine:
    """A GGUF model in llama.cpp, with an HTTP server on the loopback address of this machine.

    Use an engine in a with block, or call `close` when you no longer need it. Several methods have
    an argument `adapter`: the name of the adapter to use. If it is None, the base model answers
    without adapters.

    Args:
        default: the name of the adapter that is used for requests without the field "lora". The
            server's web page and many other programs send such requests. By default, the base model
            answers them without adapters.
        threads: the number of threads that compute; by default, one less than the number of usable
            cores, but at least one.
        chat_template: the name of one of llama.cpp's chat templates, or the text of a chat
            template. It replaces the chat template in the GGUF file.
    """

    def __init__(  # noqa: PLR0913 -- options of a server, given by name
        self,
        model: str | Path,
        adapters: Mapping[str, str | Path] | None = None,
        *,
        default: str | None = None,
        port: int = 0,
        slots: int = 1,
        context: int = 2048,
        threads: int | None = None,
        chat_template: str | None = None,
        log: bool = False,
    ):
        try:
            import xllamacpp
        except ImportError as error:
            raise CourseError(INSTALL) from error
        self.adapters = {name: _gguf(path) for name, path in (adapters or {}).items()}
        self.slots = positive("slots", slots)
        options = xllamacpp.CommonParams()
        options.model.path = str(_gguf(model))
        options.model_alias = {BASE}
        # llama.cpp divides the context among the slots.
        options.n_ctx = self.slots * positive("context", context)
        options.n_parallel = self.slots
        # Each thread of the HTTP server keeps some of the memory that its largest answer needed, so
        # the number of these threads is limited.
        options.n_threads_http = 2 * self.slots
        # llama.cpp's threads wait for each other without sleeping. If another program needs one of
        # their cores, an answer can take 20 times as long as on free cores. So one core is left to
        # other programs.
        most = max(1, runtime.usable_cores() - 1)
        options.cpuparams.n_threads = positive("threads", most if threads is None else threads)
        options.hostnames = [LOOPBACK]
        options.port = _free_port(port)
        # Web pages from other addresses must not be able to use this server.
        options.cors_origins = f"http://{LOOPBACK}:{options.port}"
        options.lora_adapters = [
            xllamacpp.CommonAdapterLoraInfo(str(path), each["scale"])
            for path, each in zip(self.adapters.values(), self.scales(default), strict=True)
        ]
        # llama.cpp reuses the keys and values of an earlier prompt that begins with the same
        # tokens, even if they were computed with another adapter (issue 26207 of
        # ggml-org/llama.cpp). So nothing is reused if there are adapters.
        options.cache_prompt = not self.adapters
        # By default, llama.cpp would keep up to 8 GiB of keys and values of earlier prompts.
        options.cache_ram_mib = 0
        options.verbosity = 3 if log else 0
        if chat_template is not None:
            options.chat_template = chat_template
        runtime.release_memory()
        started = time.perf_counter()
        try:
            self._server = xllamacpp.Server(options)
        except RuntimeError as error:
            files = ", ".join(map(str, [model, *self.adapters.values()]))
            raise CourseError(
                f"llama.cpp can't load {files}: pass log=True to see its messages"
            ) from error
        self.url = self._server.listening_address
        # The server answers this request only after its main loop has started. Closing the server
        # before that would take forever.
        self.request("/slots")
        self.load_seconds = time.perf_counter() - started

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and free the memory of the model."""
        self._server = None
        runtime.release_memory()

    def request(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a request to the server, and return the server's answer, parsed from JSON.

        Raises:
            CourseError: the server refuses the request. The message is the server's own.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        message = urllib.request.Request(f"{self.url}{path}", data, headers)
        try:
            with urllib.request.urlopen(message) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise CourseError(_message(error)) from None
        except OSError as error:
            raise CourseError(f"the server {self.url} doesn't answer: {error}") from error

    def token_ids(self, text: str) -> list[int]:
        """Return the ids of the tokens into which llama.cpp divides a text.

        Special tokens in the text, such as `<|im_end|>`, are recognized. No BOS token is added.
        """
        body = {"content": text, "add_special": False, "parse_special": True}
        return self.request("/tokenize", body)["tokens"]

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Apply the chat template to a conversation, and return the text of the prompt."""
        return self.request("/apply-template", {"messages": list(messages)})["prompt"]

    def complete(
        self, prompt: str | Sequence[int], adapter: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Continue a prompt with greedy decoding.

        Returns:
            llama.cpp's answer as a dict. The item "content" is the new text, and "timings" contains
            the times that llama.cpp has measured.
        """
        prompt = prompt if isinstance(prompt, str) else list(prompt)
        body = {"prompt": prompt, "temperature": 0, "lora": self.scales(adapter)}
        return self.request("/completion", body | options)

    def chat(
        self, messages: Sequence[Mapping[str, str]], adapter: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Answer a conversation with greedy decoding.

        Returns:
            The answer in the format of OpenAI's API. Its text is the item
            ["choices"][0]["message"]["content"].
        """
        body = {"messages": list(messages), "temperature": 0, "lora": self.scales(adapter)}
        return self.request("/v1/chat/completions", body | options)

    def answers(
        self,
        conversations: Sequence[Sequence[Mapping[str, str]]],
        adapter: str | None = None,
        *,
        max_new_tokens: int = 40,
        schema: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Answer conversations with greedy decoding, on all slots of the server at the same time.

        The method does the same for a GGUF model as `evaluation.generate` does for a transformers
        model.

        Args:
            schema: a JSON schema. If it is given, llama.cpp chooses only tokens that can lead to an
                answer that conforms to the schema.
        """
        options: dict[str, Any] = {"max_tokens": positive("max_new_tokens", max_new_tokens)}
        if schema is not None:
            form = {"name": "answer", "schema": dict(schema)}
            options["response_format"] = {"type": "json_schema", "json_schema": form}
        with ThreadPoolExecutor(self.slots) as pool:
            done = pool.map(lambda chat: self.chat(chat, adapter, **options), conversations)
            return [answer["choices"][0]["message"]["content"].strip() for answer in done]

    def scales(self, adapter: str | None) -> list[dict[str, float]]:
        """Return the value of a request's field "lora", which gives each adapter its scale."""
        if adapter is not None and adapter not in self.adapters:
            known = ", ".join(self.adapters) or "none"
            raise ValueError(f"unknown adapter {adapter!r}; the adapters here are: {known}")
        return [{"id": i, "scale": float(name == adapter)} for i, name in enumerate(self.adapters)]


class Gateway(ThreadingHTTPServer):
    """An HTTP server that passes requests on to an engine, and gives each adapter a name.

    As in OpenAI's API, the field "model" of a request chooses the adapter, or the base model.
    """

    request_queue_size = 128

    def __init__(self, engine: Engine, port: int = 0):
        if BASE in engine.adapters:
            raise CourseError(f"{BASE!r} is the base model's name: give the adapter another name")
        super().__init__((LOOPBACK, _free_port(port)), _Handler)
        self.engine = engine
        self.names = [*engine.adapters, BASE]
        self.url = f"http://{LOOPBACK}:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._models()
        else:
            self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        """Send the request to llama.cpp, and the answer back while llama.cpp is writing it."""
        engine, name = self.server.engine, self.server.names[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with contextlib.suppress(ValueError):
            fields = json.loads(body)
            if isinstance(fields, dict) and fields.get("model"):
                name = fields["model"]
                if name not in self.server.names:
                    self._unknown(name)
                    return
                lora = engine.scales(None if name == BASE else name)
                body = json.dumps(fields | {"lora": lora}).encode()
        own = ("host", "connection", "content-length")
        headers = {key: value for key, value in self.headers.items() if key.lower() not in own}
        upstream = http.client.HTTPConnection(engine.url.removeprefix("http://"))
        # A client that has left is no error. Closing the connection ends its answer in llama.cpp.
        with contextlib.closing(upstream), contextlib.suppress(ConnectionError):
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            self.send_response_only(answer.status)
            for key, value in answer.getheaders():
                # Without the headers Access-Control-…, pages of other sites can't read answers.
                if not key.lower().startswith(("access-control", "content-length", "transfer")):
                    self.send_header(key, value)
            self.end_headers()
            for line in answer:
                self.wfile.write(line.replace(b'"model":"base"', f'"model":"{name}"'.encode()))

    def _models(self) -> None:
        """List the names as models. llama.cpp itself would list only the base model."""
        [model] = self.server.engine.request("/v1/models")["data"]
        models = [model | {"id": name, "aliases": [name]} for name in self.server.names]
        self._send(200, {"object": "list", "data": models})

    def _unknown(self, name: Any) -> None:
        known = ", ".join(self.server.names)
        message = f"the model {name!r} does not exist; the models here are: {known}"
        error = {"message": message, "type": "invalid_request_error", "param": "model"}
        self._send(404, {"error": error | {"code": "model_not_found"}})

    def _send(self, status: int, body: Mapping[str, Any]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Print nothing for a request."""


def serve(
    model: str | Path | None,
    adapters: Mapping[str, str | Path],
    *,
    weights: str = "dequantized",
    stored_as: str = "Q8_0",
    say: Callable[[str], None] = print,
    **options: Any,
) -> None:
    """Serve a model and its adapters until the process gets SIGINT (Ctrl+C) or SIGTERM.

    Folders of models and adapters are first converted into GGUF files in a temporary folder. The
    field "model" of a request chooses an adapter by its name, or the base model by the name "base".
    Without this field, the first adapter is used.

    Args:
        model: a GGUF file, or the folder of a model. If it is None, the server uses the base model
            of the first adapters that are given as a folder. If there are no such adapters, it uses
            the small model of the course.
        weights: the weights of the model if `model` is None and there are adapters. QLoRA trains
            adapters on the "dequantized" weights, and LoRA without quantization trains them on the
            "original" weights. In all other cases, the model's weights are used as they are.
    """
    one_of("weights", weights, ("dequantized", "original"))
    # Converting a model can take minutes, so wrong arguments are reported first.
    port = _free_port(options.pop("port", 0))
    saved = {}
    for name, given in adapters.items():
        if Path(given).suffix == ".gguf" or Path(given).expanduser().is_file():
            _gguf(given)
        else:
            saved[name] = export.read_adapters(given)
    rounded = model is None and adapters and weights == "dequantized"
    with tempfile.TemporaryDirectory() as scratch, _stopped_by_signals():
        files: dict[str, str | Path] = {}
        for name, path in adapters.items():
            if name in saved:
                model = model or saved[name].base_folder()
                say(f"Converting the adapters in {path}")
                base = model if Path(model).expanduser().is_dir() else None
                new = Path(scratch) / f"{len(files)}.gguf"
                path = export.save_adapter_gguf(path, new, base=base)
            files[name] = path
        model = model or fetch_base()
        if rounded:
            say(f"Rounding the weights in {model} to NF4, as in the training of the adapters")
            model = export.save_dequantized(model, Path(scratch) / "base")
        if Path(model).expanduser().is_dir():
            say(f"Converting the model in {model}")
            model = export.save_gguf(model, Path(scratch) / "model.gguf", stored_as)
        with (
            Engine(model, files, default=next(iter(files), None), **options) as engine,
            Gateway(engine, port) as gateway,
        ):
            say(_welcome(gateway))
            with contextlib.suppress(KeyboardInterrupt):
                gateway.serve_forever()
    say("Stopped.")


def _welcome(gateway: Gateway) -> str:
    """Return the server's address, and a curl command for each adapter and for the base model."""
    url = gateway.url
    lines = [f"Serving on {url} (open it in a browser, or send requests; stop with Ctrl+C)"]
    for name in gateway.names:
        messages = [{"role": "user", "content": "Hello"}]
        body = shlex.quote(json.dumps({"model": name, "temperature": 0, "messages": messages}))
        lines.append("  base model:" if name == BASE else f"  adapter {name}:")
        lines.append(f"    curl {url}/v1/chat/completions -d {body}")
    return "\n".join(lines)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGINT (Ctrl+C) and SIGTERM raise KeyboardInterrupt inside the with block.

    Process managers stop a process with SIGTERM. A process that a shell script has started in the
    background ignores SIGINT unless it sets a handler, so the function also sets a handler for
    SIGINT.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _gguf(path: str | Path) -> Path:
    """Return the path of a GGUF file, or raise a CourseError if there is none at this path."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise CourseError(f"no GGUF file {file}: write one with export.save_gguf")
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise CourseError(f"{file} is not a GGUF file: write one with export.save_gguf")
    return file


def _free_port(port: int) -> int:
    """Return `port`, or the number of a free port if `port` is 0."""
    whole_number("port", port, least=0, most=65535)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise CourseError(
                f"port {port} can't be used ({error.strerror}): choose another port, or 0 for a "
                "free one"
            ) from error
        return probe.getsockname()[1]


def _message(error: urllib.error.HTTPError) -> str:
    """Return the error message that the server has sent instead of an answer."""
    text = error.read().decode(errors="replace")
    try:
        return json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return text or str(error)
