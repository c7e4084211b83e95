"""Small chat templates in the styles that models come with, to try the borders of answers on."""

CHATML = """{{ bos_token }}{% for m in messages -%}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

LLAMA = """{{ bos_token }}{% set ns = namespace(first=true) -%}
{% for m in messages -%}
<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>

{% if m.tool_calls is defined -%}
{% for call in m.tool_calls -%}
{"name": "{{ call.function.name }}", "parameters": {{ call.function.arguments | tojson }}}
{%- endfor %}<|eot_id|>
{%- else -%}
{% if m.role == 'user' and tools and ns.first %}{% set ns.first = false -%}
Functions: {{ tools | tojson }}

{% endif %}{{ m.content | tojson if m.role == 'tool' else m.content | trim }}<|eot_id|>
{%- endif -%}
{% endfor -%}
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""

_QWEN_HEAD = """{% if tools %}<|im_start|>system
{{ messages[0].content if messages[0].role == 'system' else 'Be of use.' }}
<tools>{{ tools | tojson }}</tools><|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}"""
_QWEN_CALLS = """{% for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}"""
_QWEN_TOOL = """{% elif m.role == 'tool' -%}
{% if messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}
<tool_response>
{{ m.content }}
</tool_response>{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>
{% endif %}{% endif %}{% endfor -%}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
QWEN = (
    _QWEN_HEAD
    + """{% for m in messages -%}
{% if m.role == 'user' %}<|im_start|>user
{{ m.content }}<|im_end|>
{% elif m.role == 'assistant' %}<|im_start|>assistant
{{ m.content or '' }}"""
    + _QWEN_CALLS
    + """<|im_end|>
"""
    + _QWEN_TOOL
)
THINKING = (
    _QWEN_HEAD
    + """{% set ns = namespace(query=0) %}{% for m in messages -%}
{% if m.role == 'user' %}{% set ns.query = loop.index0 %}{% endif %}{% endfor -%}
{% for m in messages -%}
{% if m.role == 'user' %}<|im_start|>user
{{ m.content }}<|im_end|>
{% elif m.role == 'assistant' %}<|im_start|>assistant
{% if loop.index0 > ns.query and (loop.last or m.reasoning_content) %}<think>
{{ m.reasoning_content or '' }}
</think>

{% endif %}{{ m.content or '' }}"""
    + _QWEN_CALLS
    + """<|im_end|>
"""
    + _QWEN_TOOL
)

MISTRAL = """{{ bos_token }}{% set ns = namespace(last=0) %}{% for m in messages -%}
{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor -%}
{% for m in messages -%}
{% if m.role == 'user' -%}
{% if tools and loop.index0 == ns.last -%}
[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif -%}
[INST] {% if loop.index0 == ns.last and messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}{{ m.content }}[/INST]
{%- elif m.role == 'tool' -%}
[TOOL_RESULTS] {{ m.content }}[/TOOL_RESULTS]
{%- elif m.role == 'assistant' and m.tool_calls is defined -%}
[TOOL_CALLS] {% for call in m.tool_calls %}{{ call.function | tojson }}{% endfor %}{{ eos_token }}
{%- elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}
{%- endif -%}
{% endfor %}"""

GEMMA = """{{ bos_token }}{% if messages[0].role == 'system' -%}
{{ raise_exception('System role not supported') }}{% endif -%}
{% for m in messages -%}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate') }}{% endif -%}
<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ m.content | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""

CONTROL_TOKENS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
]
