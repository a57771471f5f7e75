"""The Jinja text of a chat template, and what can be told from it alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError

TULU = """\
{%- for message in messages -%}
{{ '<|' + message['role'] + '|>\\n' + message['content'] }}
{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif -%}
{%- if not (loop.last and message['role'] == 'assistant') %}{{ '\\n' }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif -%}
"""
_SWITCHES = {"enable_thinking", "thinking"}  # Qwen, SmolLM, GLM; DeepSeek, Granite
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # a block of transformers, unknown to Jinja


def template_text(tokenizer: Any, template: str) -> str:
    """The Jinja text of the template that `template` names."""
    if template == "auto" and tokenizer.chat_template is not None:
        return tokenizer.get_chat_template()  # of several named ones, the default
    if template in ("auto", "tulu"):
        return ("{{- bos_token -}}\n" if begins(tokenizer) else "") + TULU
    try:
        return Path(template).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise TutelageError(
            f"chat_template: cannot read `{template}`: {error}; give auto, tulu or the path of a Jinja file"
        ) from error


def switches(template: str) -> set[str]:
    """The variables by which a template lets the model think or not."""
    from jinja2 import Environment, TemplateError, meta

    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        return _SWITCHES & meta.find_undeclared_variables(environment.parse(_GENERATION.sub("", template)))
    except TemplateError:
        return set()


def begins(tokenizer: Any) -> bool:
    """Whether the tokenizer starts every text with its bos token (Llama, Gemma): the model then always needs it."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
