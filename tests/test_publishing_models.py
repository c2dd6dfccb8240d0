"""Test that models are published with a card, and Modelfiles with the model's own chat template."""

import re

import pytest

from course_utils import export
from course_utils.validation import CourseError
from tests.conftest import CHAT_TEMPLATE, make_tokenizer
from tests.hub import Hub

CHATML = "\n".join(
    [
        '{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system',
        '{{ .Content }}<|im_end|>\n{{ end }}{{ if eq .Role "user" }}<|im_start|>user',
        '{{ .Content }}<|im_end|>\n{{ end }}{{ if eq .Role "assistant" }}<|im_start|>assistant',
        "{{ .Content }}<|im_end|>\n{{ end }}{{ end }}<|im_start|>assistant\n",
    ]
)
WITH_BOS = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}[/]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
WITHOUT_SYSTEM = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
OWN_SYSTEM = "{% if messages[0].role != 'system' %}system: I help.\n{% endif %}" + CHAT_TEMPLATE
COUNTING = "{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}"
LAST_ONLY = "{{ messages[-1].content }}{% if add_generation_prompt %}!{% endif %}"


def with_template(template):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def rendered(template, chat):
    """Render a template that only consists of texts, a range and `if eq .Role`, as Ollama would."""
    body, opening = re.fullmatch(
        r"{{ range .Messages }}(.*){{ end }}(.*?)", template, re.S
    ).groups()
    parts = dict(re.findall(r'{{ if eq .Role "(\w+)" }}(.*?){{ end }}', body, re.S))
    told = (parts[m["role"]].replace("{{ .Content }}", m["content"]) for m in chat)
    return "".join(told) + opening


# -- Modelfiles ------------------------------------------------------------------------------------


def test_a_modelfile_has_files_template_and_end_token(tokenizer, tmp_path):
    file = export.save_modelfile(
        tmp_path / "Modelfile", tokenizer, "base.gguf", "lora.gguf", system="Be brief."
    )
    assert file.read_text() == (
        f'FROM ./base.gguf\nADAPTER ./lora.gguf\nTEMPLATE """{CHATML}"""\n'
        'SYSTEM """Be brief."""\nPARAMETER temperature 0\nPARAMETER stop """<|im_end|>"""\n'
    )


@pytest.mark.parametrize("template", [None, WITH_BOS, WITHOUT_SYSTEM])
def test_a_translated_template_writes_the_same_text(template):
    tokenizer = with_template(template) if template else make_tokenizer()
    system = [] if template == WITHOUT_SYSTEM else [{"role": "system", "content": "S"}]
    turns = ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")
    chat = [*system, *({"role": role, "content": text} for role, text in turns)]
    expected = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered(export.ollama_template(tokenizer), chat) == expected


def test_a_template_with_its_own_system_message_needs_one(tmp_path):
    tokenizer = with_template(OWN_SYSTEM)
    with pytest.raises(CourseError, match="give the system message of training as `system`"):
        export.save_modelfile(tmp_path / "Modelfile", tokenizer, "model.gguf")
    export.save_modelfile(tmp_path / "Modelfile", tokenizer, "model.gguf", system="Be brief.")


@pytest.mark.parametrize("template", [COUNTING, LAST_ONLY])
def test_a_template_that_cannot_be_translated_is_refused(template):
    with pytest.raises(CourseError, match="can't be translated"):
        export.ollama_template(with_template(template))


def test_a_tokenizer_without_a_chat_template_is_refused():
    with pytest.raises(CourseError, match="no chat template"):
        export.ollama_template(with_template(None))


# -- the hub ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(range(256)))
    return tmp_path


@pytest.fixture
def ask_the_hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with Hub({}) as hub:
        hub.be_used(monkeypatch)
        yield hub


def test_a_folder_is_pushed_with_the_users_token(folder, ask_the_hub):
    url = export.push(folder, "me/news")
    assert url.startswith(f"{ask_the_hub.url}/me/news/commit/")
    assert ask_the_hub.commits == {
        "me/news": {file.name: file.read_bytes() for file in folder.iterdir()}
    }
    tokens = {token for method, _, token in ask_the_hub.requests if method == "POST"}
    assert tokens == {"Bearer hf_test"}


def test_a_folder_without_a_card_is_not_pushed(folder, ask_the_hub):
    (folder / "README.md").unlink()
    with pytest.raises(CourseError, match="write a model card first"):
        export.push(folder, "me/news")
    assert not ask_the_hub.commits


def test_a_refused_upload_is_one_clear_error(folder, ask_the_hub, monkeypatch):
    monkeypatch.setattr(ask_the_hub, "accept", lambda *_: (403, {}, b"{}"))
    with pytest.raises(CourseError, match=r"did not accept .* as me/news: .*write access"):
        export.push(folder, "me/news")


def test_the_name_of_a_repository_needs_an_owner(folder):
    with pytest.raises(CourseError, match="must be owner/name, got 'news'"):
        export.push(folder, "news")
