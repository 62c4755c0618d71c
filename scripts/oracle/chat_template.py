"""Writes tests/fixtures/chat_template.json: conversations as `transformers` renders them.

    pip install -r scripts/oracle/requirements.txt
    python scripts/oracle/chat_template.py

Each case holds the template, the named tokens, the messages, and the text with and without a generation prompt, or null where the template
refuses the conversation. The templates are in the style of ChatML and Llama 3, and one more tries the features that
`transformers` adds to Jinja. The test in crates/lm/src/template.rs renders the same cases.
"""

import json
import pathlib

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

CHATML = """\
{%- if not messages or messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message.content + eos_token }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' -}}
{% endif %}
"""

LLAMA3 = """\
{{- bos_token }}
{%- set ns = namespace(expect='user') %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = '' %}
    {%- set turns = messages %}
{%- endif %}
{%- if system or tools is not none %}
    {{- '<|start_header_id|>system<|end_header_id|>\\n\\n' ~ system ~ '<|eot_id|>' }}
{%- endif %}
{%- for turn in turns %}
    {%- if turn['role'] != ns.expect %}
        {{- raise_exception('roles must alternate: turn ' ~ loop.index0 ~ ' is ' ~ turn['role']) }}
    {%- endif %}
    {%- set ns.expect = 'assistant' if turn.role == 'user' else 'user' %}
    {{- '<|start_header_id|>' + turn.role + '<|end_header_id|>\\n\\n' + turn.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

FEATURES = """\
{#- comments, trim_blocks, lstrip_blocks, loop controls, Python's methods, tojson, generation tags -#}
{% macro line(text) -%}
[{{ text }}]
{% endmacro %}
{% for message in messages %}
    {% if message.role == 'tool' %}{% continue %}{% endif %}
    {% if message.content.startswith('STOP') %}{% break %}{% endif %}
    {% if message.role == 'assistant' %}
    {% generation %}{{ message.content.strip().split('</think>')[-1].lstrip('\\n') }}{% endgeneration %}

    {% else %}
{{ line(message.content.upper().replace('A', 'b')) }}
{{ message | tojson }} {{ message.content | tojson(indent=2) }} {{ {'b': [1, 2.5, none, true], 'a': {}, 'c': []} | tojson(indent=4) }}
{{ {'b': 'é"<&>', 'a': 1} | tojson(sort_keys=true, ensure_ascii=true, separators=(',', ':')) }}
{{ message.content[:3] }}{{ message.content[::-1] }} {{ message.items() | list | length }} {{ loop.last }} {{ none }} {{ missing }}
    {% endif %}
{% endfor %}
{{ messages | map(attribute='role') | join(', ') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{% if strftime_now is defined and strftime_now('%Y') | int > 2000 %}dated{% endif %}
{{ messages[-1].get('name', 'nobody') }}{{ (messages | last)['content'] is string }}
"""

TOKENS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|im_end|>\n"}


def conversation(*turns):
    return [{"role": role, "content": content} for role, content in turns]


CONVERSATIONS = {
    "question": conversation(("user", "What colour is a fox?")),
    "system": conversation(("system", " Be brief. "), ("user", "Hi\n"), ("assistant", "  Hello! "), ("user", "Grüße 🦊 <b>&amp;</b>")),
    "answered": conversation(("user", "Hi"), ("assistant", "<think>\nwell\n</think>\n\nHello")),
    "out of turn": conversation(("user", "Hi"), ("user", "Hello?")),
    "tools": conversation(("user", "a 'quoted' \"word\"\tand\\more"), ("tool", "42"), ("assistant", "It is 42"), ("user", "STOP"), ("user", "x")),
}


def render(template, messages, add_generation_prompt):
    try:
        [text], _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=add_generation_prompt, **TOKENS)
        return text
    except TemplateError:
        return None


def main():
    cases = [
        {
            "name": f"{style}: {name}",
            "template": template,
            "tokens": TOKENS,
            "messages": messages,
            "text": render(template, messages, False),
            "prompt": render(template, messages, True),
        }
        for style, template in {"ChatML": CHATML, "Llama 3": LLAMA3, "features": FEATURES}.items()
        for name, messages in CONVERSATIONS.items()
    ]
    path = pathlib.Path(__file__).parents[2] / "tests" / "fixtures" / "chat_template.json"
    path.write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
