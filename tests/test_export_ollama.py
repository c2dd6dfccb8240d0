"""Test the Modelfile for Ollama, and the lines that a run prints at its end."""

import re
import shlex
from types import SimpleNamespace

import pytest
from jinja2 import Environment

from course_utils import export
from course_utils.machine.validation import CourseError
from course_utils.tuning.report import next_steps
from tests.test_export_saved import save_adapters
from tests.test_gguf import FAMILIES, make_tokenizer, save_model

LOOP = "{% for m in messages %}{{ BODY }}{% endfor %}{% if add_generation_prompt %}{{ ASK }}"
CHATML = LOOP.replace("BODY", "'<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n'")
CHATML = CHATML.replace("ASK", "'<|im_start|>assistant\\n'") + "{% endif %}"
DEFAULT = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
LLAMA3 = LOOP.replace("BODY", "'<|h|>' + m.role + '<|/h|>\\n\\n' + m.content | trim + '<|im_end|>'")
LLAMA3 = "<|b|>" + LLAMA3.replace("ASK", "'<|h|>assistant<|/h|>\\n\\n'") + "{% endif %}"
# Gemma 3 puts the system message into the first message of the user.
GEMMA = (
    "{% for m in messages %}{% if m.role == 'system' %}<t>user\n{{ m.content }}\n\n{% else %}"
    "{% if loop.first or loop.previtem.role != 'system' %}"
    "<t>{{ 'model' if m.role == 'assistant' else 'user' }}\n{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<t>model\n{% endif %}"
)


def ollamas_prompt(text, chat):
    """Render the template in a Modelfile. Its Go constructs are replaced by Jinja's."""
    template = re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL)[1]
    template = template.replace("{{ range $i, $_ := .Messages }}", "{% for m in messages %}")
    template = re.sub(r'{{ if eq .Role ("\w+") }}', r"{% if m.role == \1 %}", template)
    template = re.sub(r'{{ else if eq .Role ("\w+") }}', r"{% elif m.role == \1 %}", template)
    template = template.replace("{{ if eq $i 0 }}", "{% if loop.first %}")
    template = template.replace("{{ .Content }}", "{{ m.content }}")
    template = template.replace("{{ else }}", "{% else %}").replace("{{ end }}", "{% endif %}")
    template = template.removesuffix("{% endif %}") + "{% endfor %}"
    return Environment(keep_trailing_newline=True).from_string(template).render(messages=chat)


@pytest.mark.parametrize("template", [CHATML, DEFAULT + CHATML, LLAMA3, GEMMA])
@pytest.mark.parametrize("roles", ["u", "su", "uau", "suauau"])
def test_ollamas_prompts_have_the_tokens_of_the_chat_template(template, roles):
    tokenizer = make_tokenizer("smollm")
    tokenizer.chat_template = template
    names = {"s": "system", "u": "user", "a": "assistant"}
    chat = [{"role": names[r], "content": f"{r}: text {i}"} for i, r in enumerate(roles)]
    text = export.modelfile("./model.gguf", tokenizer)
    prompt = ollamas_prompt(text, chat)
    expected = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert tokenizer(prompt, add_special_tokens=False)["input_ids"] == expected
    assert 'PARAMETER stop "<|im_end|>"' in text


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
        "{{ messages | length }}" + CHATML,
        "{{ raise_exception('No.') }}",
        None,
    ],
)
def test_a_template_that_cannot_be_translated_is_refused(template):
    tokenizer = make_tokenizer("smollm")
    tokenizer.chat_template = template
    with pytest.raises(CourseError, match="chat template"):
        export.modelfile("./model.gguf", tokenizer)


def test_each_line_at_the_end_of_a_run_writes_its_files(tmp_path):
    base = save_model(FAMILIES["tied llama"], tmp_path / "model")
    folder = tmp_path / "two words"
    save_adapters(base, folder / "adapters")
    lines = [line for _, line in next_steps(SimpleNamespace(folder=folder))]
    for line in (line for line in lines if line.startswith("python")):
        exec(shlex.split(line)[2])
    for file in ("merged/config.json", "ollama/model.gguf"):
        assert (folder / file).is_file()
    assert "FROM ./model.gguf" in (folder / "ollama/Modelfile").read_text()
    upload = ["hf", "upload", "YOUR_NAME/two words", f"{folder}/adapters", "--private"]
    assert shlex.split(lines[-1]) == upload
