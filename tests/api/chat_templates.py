"""Writes chat_templates.json: templates in the manner of the ones models bring, rendered by transformers, which is the oracle.

    python tests/api/chat_templates.py        (needs `pip install transformers jinja2`)

Every template here was written for this test; each leans on something that templates in the wild lean on.
"""

import datetime
import json
import pathlib

from transformers.utils import chat_template_utils

NOW = datetime.datetime(2026, 3, 2, 10, 49, 5)


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = FixedClock

TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Wetter für einen Ort \"heute\"\n<b>&</b>", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo", "Zürich", "東京"]}, "days": {"type": ["integer", "null"], "default": 3, "minimum": 0.5},
        "options": {"type": "object", "properties": {"deep": {"type": "array", "items": {"type": "string"}}}}}, "required": ["city"], "additionalProperties": False}}},
    {"type": "function", "function": {"name": "now"}},
]
CALL = {"id": "call12345", "type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": "Zürich", "days": 2, "x": [1.0, 1e20, True, None, "a\"b"]}, ensure_ascii=False)}}
PLAIN = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  Hi there \n"}, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Süß 😀 & <b>?"}]
AGENT = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "Let me look.", "reasoning_content": "They want the weather.", "tool_calls": [CALL, {**CALL, "id": "call67890"}]},
    {"role": "tool", "content": "{\"temp\": 3}", "tool_call_id": "call12345"},
    {"role": "tool", "content": "rain", "tool_call_id": "call67890", "name": "weather"},
    {"role": "assistant", "content": "<think>\nAll known.\n</think>\n\nThree degrees."},
    {"role": "user", "content": "Thanks"},
]

TEMPLATES = {
    "chatml": """{% for message in messages %}
    {% if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}
""",
    "tools_and_thinking": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(looking=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.looking and message.role == "user" and message.content is string and not(message.content.startswith('<r>') and message.content.endswith('</r>')) %}
        {%- set ns.looking = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last or (not loop.last and thought) %}{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}
        {{- content }}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '<call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
                {{- '}\\n</call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<r>\\n' }}{{- content }}{{- '\\n</r>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}""",
    "dates_and_indents": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "Today: " + date_string + strftime_now(" %A %Y-%m-%d %H:%M:%S %j %p") + "\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
{%- endif %}
{{- system_message }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '[' + message['role'] + ']\\n\\n'+ message['content'] | trim + eos_token }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("only one call at once is possible") }}{%- endif %}
    {%- else %}
        {{- message.content | tojson }}
    {%- endif %}
{%- endfor %}""",
    "alternation": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}
{%- for message in loop_messages | rejectattr("role", "equalto", "tool") %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate user/assistant/user/assistant/...') }}{% endif %}
    {%- if loop.index0 == 0 and system is defined %}{% set content = '<<SYS>>\\n' ~ system ~ '\\n<</SYS>>\\n\\n' ~ message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}
    {%- if message['role'] == 'user' %}{{ '[INST] ' ~ content.strip() ~ ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' ~ content | string ~ eos_token }}{% endif %}
{%- endfor %}""",
    "macros": """{%- macro kind(spec, depth=0) -%}
    {%- if spec.enum is defined -%}
        {%- for value in spec.enum -%}"{{ value }}"{%- if not loop.last %} | {% endif -%}{%- endfor -%}
    {%- elif spec.type == "array" -%}{{ kind(spec['items'], depth + 1) }}[]
    {%- elif spec.type is iterable and spec.type is not string -%}{{ spec.type | join(" | ") }}
    {%- elif spec.type == "object" and spec.properties -%}
        {
        {%- for name, inner in spec.properties.items() -%}
            {{ name }}: {{ kind(inner, depth + 1) }}{% if inner.default is defined %} (default {{ inner.default }}){% endif %}{{ ", " if not loop.last else "" }}
        {%- endfor -%}
        }
    {%- else -%}{{ spec.type | default("any") }}{%- endif -%}
{%- endmacro -%}
{%- for tool in tools or [] %}
// {{ (tool.function.description | default("nothing said")).split("\\n") | first }}
type {{ tool.function.name }} = ({{ kind(tool.function.parameters) if tool.function.parameters else "" }}) => any;
{% endfor %}
{%- for message in messages if message.role in ["user", "assistant"] %}
{{ loop.index }}/{{ loop.length }} {{ message.role | capitalize }}: {{ message.content | replace("\\n", " ") | truncate(20) if false else message.content | upper }}
{% endfor -%}""",
    "values": """{{ true }} {{ false }} {{ none }} {{ 1 }} {{ 1.0 }} {{ 2.50 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 2 ** 5 }} {{ -7 % 3 }} {{ 1e20 }}
{{ [1, 'a', None, True, 1.5, "it's", 'say "x"', 'line\\nbreak'] }} {{ {'a': 1, 'b': [1, 2], 'c': {'d': none}} }} {{ (1, 2)[0] }}
{{ 'a' ~ 1 ~ true ~ none ~ 2.0 }} {{ undefined_thing }}{{ messages[0].nothing }} {{ 'x' * 3 }} {{ 'abc'[-1] }}{{ 'abcdef'[1:-1:2] }} {{ 'abc'[::-1] }}
{{ 'a-b-c'.split('-') }} {{ ' x '.strip() }}| {{ 'Hello'.lower() }} {{ 'hello world'.title() }} {{ 'x,y'.split(',', 1)[1] }} {{ 'abc'.find('c') }} {{ 'aXbX'.replace('X', '-') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | map(attribute='role') | join(',') }} {{ (messages | last).role }} {{ messages | length > 2 and 'many' or 'few' }}
{{ {'b': 1, 'a': 2} | tojson }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ {'b': [1, {'a': []}], 'e': {}} | tojson(indent=2) }} {{ [1, 2] | tojson(separators=(',', ':')) }} {{ 'é"\\n\\\\ \\x07' | tojson }} {{ 'é' | tojson(ensure_ascii=true) }}
{{ 3 is odd }} {{ 'x' is string }} {{ [1] is sequence }} {{ {} is mapping }} {{ 5 is number }} {{ none is none }} {{ nope is defined }} {{ 'a' in 'cat' }} {{ 'k' in {'k': 1} }} {{ 3 not in [1, 2] }} {{ 1 if false }} {{ true is boolean }} {{ 1 is integer }} {{ 'abc' is iterable }}
{% set x = 1 %}{% for i in range(3) %}{% set x = x + i %}{% endfor %}{{ x }} {% set block %}captured {{ x }}{% endset %}{{ block | upper }} {% for i in range(10) %}{% if i is even %}{% continue %}{% endif %}{% if i > 6 %}{% break %}{% endif %}{{ i }}{% else %}never{% endfor %} {% for i in [] %}x{% else %}empty{% endfor %}
{% filter upper %}shouted{% endfilter %} {{ {'a': 1}.get('a') }} {{ {'a': 1}.get('z', 'no') }} {% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %} {{ {'a': 1}.keys() | list }} {% for k, v in {'z': 1, 'y': 2} | dictsort %}{{ k }}{{ v }}{% endfor %} {{ {'a': 1} | items | list }}
{{ 'text' | length }} {{ ['a', 'b'] | join('-') }} {{ '  t ' | trim }}| {{ 'abc' | first }}{{ [3, 1, 2] | sort | last }} {{ '5' | int + 1 }} {{ 'x' | default('d') }} {{ nope | default('d') }} {{ '' | default('d', true) }} {{ [1, 2, 3] | sum }} {{ 'ab' | list }} {{ 3.7 | int }} {{ 'a b' | title }} {{ [1, [2]] | string }} {{ 1 | string ~ 'x' }} {{ 3.14159 | round(2) }} {{ ['a', 'a', 'b'] | unique | list }}
""",
    "whitespace": """   {# a comment #}
{% if true %}   
   kept
{% endif %}
  {%- if true -%}
     tight
  {%- endif -%}
{%+ if true %}  plus {% endif %}  
    {% for i in range(2) %}
  {{ i }}  
    {% endfor %}
{{ "a" }}
{{- " b" -}}
   c
{% raw %}{{ raw }}{% endraw %}
{% generation %}
inside
{%- endgeneration %}
tail

""",
}

CASES = [
    ("chatml", PLAIN, None, {}),
    ("chatml", PLAIN[1:], None, {}),
    ("tools_and_thinking", AGENT, TOOLS, {}),
    ("tools_and_thinking", AGENT, TOOLS, {"enable_thinking": False}),
    ("tools_and_thinking", PLAIN, None, {"enable_thinking": True}),
    ("tools_and_thinking", AGENT[:4], TOOLS, {}),
    ("dates_and_indents", PLAIN, TOOLS, {}),
    ("dates_and_indents", PLAIN, None, {"date_string": "1 Jan 2000"}),
    ("dates_and_indents", AGENT, None, {}),
    ("alternation", PLAIN, None, {}),
    ("alternation", PLAIN[1:2] * 2, None, {}),
    ("macros", PLAIN, TOOLS, {}),
    ("macros", PLAIN, None, {}),
    ("values", PLAIN, None, {}),
    ("whitespace", PLAIN, None, {}),
]


def hf_messages(messages):
    """As our own server hands them to the template: no null content, arguments as objects."""
    ready = []
    for message in messages:
        message = json.loads(json.dumps(message))
        message["content"] = message.get("content") or ""
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        ready.append(message)
    return ready


def main():
    fixtures = []
    for name, messages, tools, variables in CASES:
        case = {"name": name, "template": TEMPLATES[name], "messages": messages, "tools": tools, "variables": variables}
        try:
            compiled = chat_template_utils._compile_jinja_template(TEMPLATES[name])
            case["rendered"] = compiled.render(
                messages=hf_messages(messages), tools=tools, documents=None, add_generation_prompt=True, bos_token="<s>", eos_token="</s>", **variables
            )
        except Exception as error:  # the template's own exception
            case["error"] = str(error)
        fixtures.append(case)
    path = pathlib.Path(__file__).with_name("chat_templates.json")
    path.write_text(json.dumps(fixtures, ensure_ascii=False, indent=1) + "\n")
    print(len(fixtures), "cases,", sum("error" in case for case in fixtures), "of them errors ->", path.name)
    for case in fixtures:
        if "error" in case:
            print(case["name"], ":", case["error"])


main()
