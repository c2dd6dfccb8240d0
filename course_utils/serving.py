"""Run a GGUF model in llama.cpp, and serve it over HTTP with its adapters.

    GGUF model ──┐                      ┌─ answers, token_ids, next_token_probabilities
    adapters   ──┴─ llama.cpp ── HTTP ──┤
                    127.0.0.1:PORT      └─ any client of OpenAI's API: curl, the package openai, …

`Engine` starts llama.cpp's own server in this process, and its methods send requests to the server,
as other programs do. The server belongs to the package xllamacpp, which the extra `serve` installs.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import runtime
from course_utils.validation import CourseError, one_of, positive, whole_number

if TYPE_CHECKING:
    from torch import Tensor

LOOPBACK = "127.0.0.1"
INSTALL = (
    "llama.cpp is not installed: run `pip install 'qlora-course[serve]'`, or install xllamacpp"
)


class RequestError(CourseError):
    """The server refused a request. The message is the server's.

    Attributes:
        status: the HTTP status of the answer, such as 400 for a request that is not allowed.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class Engine:
    """A GGUF model in llama.cpp, with an HTTP server on the loopback address of this machine.

    Use it in a with block, or call `close`. The methods choose an adapter by its name. Without a
    name, the base model answers.

    Args:
        model: GGUF file of the model.
        adapters: a mapping from the name of each adapter to its GGUF file.
        default: name of the adapter that answers requests of other programs without the field
            "lora", such as those of the server's page in a browser. None for the base model.
        port: the port of the server; 0 chooses a free one.
        slots: number of requests that the server answers at the same time.
        context: number of tokens that each request may have, with its answer.
        threads: number of threads that compute; by default one less than there are cores.
        chat_template: name or text of a chat template that replaces that of the model.
        log: whether llama.cpp prints its messages on the standard error stream.

    Attributes:
        url: address of the server, such as "http://127.0.0.1:8080".
        load_seconds: seconds that llama.cpp needed to load the model.

    Raises:
        ValueError: an option is not allowed.
        CourseError: llama.cpp is not installed, a file is missing or no GGUF file, the port is in
            use, or llama.cpp can't load the model.
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
        # llama.cpp divides the context among the slots.
        options.n_ctx = self.slots * positive("context", context)
        options.n_parallel = self.slots
        # llama.cpp's threads wait for each other without sleeping. If another program needs one of
        # their cores, an answer can take 20 times as long. So one core is left to others.
        most = max(1, runtime.usable_cores() - 1)
        options.cpuparams.n_threads = positive("threads", most if threads is None else threads)
        options.hostnames = [LOOPBACK]
        options.port = _free_port(port)
        # Web pages from other addresses must not send requests to this server.
        options.cors_origins = f"http://{LOOPBACK}:{options.port}"
        options.lora_adapters = [
            xllamacpp.CommonAdapterLoraInfo(str(path), each["scale"])
            for path, each in zip(self.adapters.values(), self.scales(default), strict=True)
        ]
        # llama.cpp reuses keys and values of an earlier prompt that begins with the same tokens,
        # even if another adapter has computed them (issue 26207 of ggml-org/llama.cpp).
        options.cache_prompt = not self.adapters
        # By default, llama.cpp keeps up to 8 GiB of keys and values of earlier prompts.
        options.cache_ram_mib = 0
        options.verbosity = 3 if log else 0
        if chat_template is not None:
            options.chat_template = chat_template
        started = time.perf_counter()
        try:
            self._server = xllamacpp.Server(options)
        except RuntimeError as error:
            files = ", ".join(map(str, [model, *self.adapters.values()]))
            raise CourseError(
                f"llama.cpp can't load {files}: pass log=True to see its messages"
            ) from error
        self.url = self._server.listening_address
        # The server answers this request from its main loop. A server that is closed before its
        # main loop has begun would wait forever.
        self.request("/slots")
        self.load_seconds = time.perf_counter() - started

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and free the memory of the model."""
        self._server = None

    def request(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a request to the server, and return the parsed JSON of its answer.

        Args:
            path: such as "/v1/chat/completions" or "/health".
            body: sent as JSON in a POST request; without a body, the request is a GET request.

        Raises:
            RequestError: the server refused the request.
            CourseError: the server doesn't answer.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        message = urllib.request.Request(f"{self.url}{path}", data, headers)
        try:
            with urllib.request.urlopen(message) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RequestError(_message(error), error.code) from None
        except OSError as error:
            raise CourseError(f"the server {self.url} doesn't answer: {error}") from error

    def token_ids(self, text: str) -> list[int]:
        """Return llama.cpp's tokens of a text, in which special tokens may occur."""
        body = {"content": text, "add_special": False, "parse_special": True}
        return self.request("/tokenize", body)["tokens"]

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the text into which the chat template turns messages."""
        return self.request("/apply-template", {"messages": list(messages)})["prompt"]

    def next_token_probabilities(
        self, prompt: str | Sequence[int], adapter: str | None = None
    ) -> Tensor:
        """Return the probability of each token of the vocabulary as the next token, (vocab,).

        Args:
            prompt: a text, or token ids.
            adapter: name of an adapter, or None for the base model.
        """
        import torch

        vocabulary = self._vocabulary
        # The probabilities are those of the model, without the grammar. The grammar only chooses
        # the token that is answered: llama.cpp would report no probabilities with a token that is
        # the beginning of a character.
        options = {"n_predict": 1, "n_probs": vocabulary, "grammar": "root ::= [a-z]"}
        answer = self.complete(prompt, adapter, **options)
        tokens = answer["completion_probabilities"][0]["top_logprobs"]
        probabilities = torch.zeros(vocabulary)
        ids = torch.tensor([token["id"] for token in tokens])
        probabilities[ids] = torch.tensor([math.exp(token["logprob"]) for token in tokens])
        return probabilities

    @cached_property
    def _vocabulary(self) -> int:
        return self.request("/v1/models")["data"][0]["meta"]["n_vocab"]

    def complete(
        self, prompt: str | Sequence[int], adapter: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Continue a prompt greedily, and return llama.cpp's answer with its text and timings.

        Args:
            prompt: a text, or token ids.
            adapter: name of an adapter, or None for the base model.
            options: further fields of the request, such as n_predict (number of new tokens).
        """
        prompt = prompt if isinstance(prompt, str) else list(prompt)
        body = {"prompt": prompt, "temperature": 0, "lora": self.scales(adapter)}
        return self.request("/completion", body | options)

    def chat(
        self, messages: Sequence[Mapping[str, str]], adapter: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Answer a conversation greedily, and return the answer in the form of OpenAI's API.

        Args:
            messages: dicts with "role" and "content"; the last message is the user's.
            adapter: name of an adapter, or None for the base model.
            options: further fields of the request, such as max_tokens or response_format.
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
        """Answer conversations greedily, as `evaluation.generate` does, on all slots of the server.

        Args:
            conversations: lists of chat messages; the last message of each list is the user's.
            adapter: name of an adapter, or None for the base model.
            max_new_tokens: maximum length of an answer, in tokens.
            schema: a JSON schema. llama.cpp then only chooses among tokens that the schema allows.

        Returns:
            The texts, in the order of the conversations.
        """
        options: dict[str, Any] = {"max_tokens": positive("max_new_tokens", max_new_tokens)}
        if schema is not None:
            form = {"name": "answer", "schema": dict(schema)}
            options["response_format"] = {"type": "json_schema", "json_schema": form}
        with ThreadPoolExecutor(self.slots) as pool:
            done = pool.map(lambda chat: self.chat(chat, adapter, **options), conversations)
            return [answer["choices"][0]["message"]["content"].strip() for answer in done]

    def scales(self, adapter: str | None) -> list[dict[str, float]]:
        """Return the field "lora" of a request: 1 for the adapter that answers, 0 for all others.

        Args:
            adapter: name of an adapter, or None for the base model.
        """
        if adapter is not None and adapter not in self.adapters:
            known = ", ".join(self.adapters) or "none"
            raise ValueError(f"unknown adapter {adapter!r}; the adapters here are: {known}")
        return [{"id": i, "scale": float(name == adapter)} for i, name in enumerate(self.adapters)]


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
    first adapter answers requests without the field "lora".

    Args:
        model: a GGUF file, or the folder of a model. By default, it is the base model that the
            first adapters name, or the small model of the course.
        adapters: a mapping from the name of each adapter to its GGUF file or folder.
        weights: the weights of the default model: "dequantized", on which QLoRA trains adapters, or
            "original", on which LoRA without quantization trains them. Without adapters, and for a
            given `model`, the weights stay as they are.
        stored_as: format of a converted model, as in `export.save_gguf`.
        say: prints a message.
        options: further arguments for `Engine`.

    Raises:
        ValueError: an option is not allowed.
        CourseError: as in `Engine` and `export.save_gguf`.
    """
    from course_utils import export
    from course_utils.models import fetch_base

    one_of("weights", weights, ("dequantized", "original"))
    rounded = model is None and adapters and weights == "dequantized"
    with tempfile.TemporaryDirectory() as scratch, _stopped_by_signals():
        files: dict[str, str | Path] = {}
        for name, path in adapters.items():
            if Path(path).expanduser().is_dir():
                model = model or export.read_adapters(path).base_folder()
                say(f"Converting the adapters in {path}")
                base = model if Path(model).is_dir() else None
                new = Path(scratch) / f"{len(files)}.gguf"
                path = export.save_adapter_gguf(path, new, base=base)
            files[name] = path
        model = model or fetch_base()
        if rounded:
            say(f"Rounding the model in {model} to NF4, as in the training of the adapters")
            model = export.save_dequantized(model, Path(scratch) / "base")
        if Path(model).expanduser().is_dir():
            say(f"Converting the model in {model}")
            model = export.save_gguf(model, Path(scratch) / "model.gguf", stored_as)
        with Engine(model, files, default=next(iter(files), None), **options) as engine:
            say(_welcome(engine))
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(1)
    say("Stopped.")


def _welcome(engine: Engine) -> str:
    """Return the address of a server, and a command that sends a request to each adapter."""
    lines = [f"Serving on {engine.url} (open it in a browser, or send requests; stop with Ctrl+C)"]
    for name in (*engine.adapters, None):
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
        if engine.adapters:
            body["lora"] = engine.scales(name)
        lines.append(f"  {'adapter ' + name if name else 'base model'}:")
        lines.append(f"    curl {engine.url}/v1/chat/completions -d '{json.dumps(body)}'")
    return "\n".join(lines)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGINT (Ctrl+C) and SIGTERM raise KeyboardInterrupt inside the with block.

    Process managers send SIGTERM. Shells start background processes with SIGINT switched off.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _gguf(path: str | Path) -> Path:
    """Return the path of a GGUF file, or raise a CourseError if the file is something else."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise CourseError(f"no GGUF file {file}: write one with export.save_gguf")
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise CourseError(f"{file} is not a GGUF file: write one with export.save_gguf")
    return file


def _free_port(port: int) -> int:
    """Return a port on which nothing listens, or raise a CourseError if `port` is in use."""
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
    """Return the server's message about a request that it refused."""
    text = error.read().decode(errors="replace")
    try:
        return json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return text or str(error)
