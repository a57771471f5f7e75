"""Write the tables of keys in docs/*.md from the descriptions in `tutelage.recipe`: `make docs`.

A table is between `<!-- keys: SftStage -->` and `<!-- end -->`; `<!-- keys: DistillStage beyond SftStage -->` leaves
out the keys that are the same in SftStage.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tutelage.recipe import RecipeConfig
from tutelage.recipe.study import StudyConfig

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"(<!-- keys: (\w+)(?: beyond (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)
PLAIN = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "map",
    "null": "`null`",
}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def sections() -> dict[str, dict[str, Any]]:
    """The JSON schema of every section of a recipe and of a study, by the name of its class."""
    found: dict[str, dict[str, Any]] = {}
    for model in (RecipeConfig, StudyConfig):
        schema = model.model_json_schema()
        found |= schema.pop("$defs") | {model.__name__: schema}
    return found


def section_name(reference: str) -> str:
    """`#/$defs/AnswerSamplingConfig` as `answer sampling`."""
    words = re.findall(r"[A-Z][a-z]+", reference.rsplit("/", 1)[-1])
    return " ".join(word.lower() for word in words if word != "Config")


def plural(words: str) -> str:
    return re.sub(r"^(text|whole number|number|map|stage|[a-z ]+ section)\b", r"\1s", words)


def escaped(cell: str) -> str:
    """Markdown that shows `|` and, outside of code, `<` as they are."""
    return re.sub(r"`[^`]*`|<", lambda match: "\\<" if match[0] == "<" else match[0], cell).replace("|", "\\|")


def type_words(schema: dict[str, Any]) -> str:
    """The type of a value in plain words."""
    if "$ref" in schema:
        return f"{section_name(schema['$ref'])} section"
    if "discriminator" in schema:
        return "stage"
    if "anyOf" in schema:
        nullable = schema.get("default") is not None  # else null is the default, and the table says `none`
        kinds = [type_words(kind) for kind in schema["anyOf"] if nullable or kind != {"type": "null"}]
        return " or ".join(dict.fromkeys(kinds))
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"{len(schema['prefixItems'])} {type_words(schema['prefixItems'][0])}s"
        return f"list of {plural(type_words(schema['items']))}" if schema.get("items") else "list"
    if isinstance(schema.get("additionalProperties"), dict) and schema["additionalProperties"]:
        return f"map of name to {type_words(schema['additionalProperties'])}"
    if (schema.get("minimum"), schema.get("maximum")) == (0, 1):
        return "number from 0 to 1"
    bounds = ", ".join(f"{sign} {schema[key]:g}" for key, sign in BOUNDS.items() if key in schema)
    return " ".join([PLAIN.get(schema.get("type", ""), "any value"), bounds]).strip()


def default_words(key: str, section: dict[str, Any], known: dict[str, dict[str, Any]]) -> str:
    """The default as a recipe would have it; of a nested section only what differs from that section's own defaults."""
    schema = section["properties"][key]
    if key in section.get("required", ()):
        return "required"
    default = schema.get("default")
    if isinstance(default, dict) and "$ref" in schema:
        own = {name: p.get("default") for name, p in known[schema["$ref"].rsplit("/", 1)[-1]]["properties"].items()}
        default = {name: value for name, value in default.items() if value != own[name]}
        return ", ".join(f"`{name}: {value:g}`" for name, value in default.items()) or "its defaults"
    if default is None:
        return "none"
    text = default if isinstance(default, str) else json.dumps(default).replace("e-0", "e-")
    return f"`{text}`" if text else "empty"


def table(name: str, beyond: str | None, known: dict[str, dict[str, Any]]) -> str:
    """The keys of a section as a Markdown table."""
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    properties = known[name]["properties"]
    shown = {key: (default_words(key, known[name], known), schema) for key, schema in properties.items()}
    if beyond is not None:
        base = known[beyond]
        same = {key: (default_words(key, base, known), schema) for key, schema in base["properties"].items()}
        shown = {key: value for key, value in shown.items() if value != same.get(key)}
    for key, (default, schema) in shown.items():
        if "const" not in schema:  # `kind`, which the heading names
            cells = [f"`{key}`", type_words(schema), default, schema.get("description", "")]
            rows.append("| " + " | ".join(escaped(cell) for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def rendered(text: str) -> str:
    """The text of a page with each of its tables made anew."""
    known = sections()
    return BLOCK.sub(lambda match: match[1] + table(match[2], match[3], known) + match[4], text)


if __name__ == "__main__":
    for page in sorted(DOCS.glob("*.md")):
        old = page.read_text(encoding="utf-8")
        if (new := rendered(old)) != old:
            page.write_text(new, encoding="utf-8")
            print(f"{page}: tables of keys written")
