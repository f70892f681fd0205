"""docs/reference/api.md, from the CRDs: every field with what the API server says and checks of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("registrymirrors", "registrymirrorpolicies", "noderegistryconfigs")
_INTRODUCTION = """\
# API

<!-- Generated from crds/ by `python -m tests.docs.generate`. -->

Everything that can be written and read, as the [CRDs](../../crds) have it; `kubectl explain` shows the same. A field
that is not required may be left out. Rules are checked by the API server, with the messages that stand here.
[Conditions](../conditions.md) has the reasons that `status.conditions` may give, and what to do about each.
"""

Schema = Mapping[str, Any]


def page() -> str:
    """The whole page."""
    bodies = [yaml.safe_load((ROOT / "crds" / f"{name}.yaml").read_text()) for name in KINDS]
    kinds = [body["spec"]["names"]["kind"] for body in bodies]
    contents = " ·\n".join(f"[{kind}](#{_slug(kind)})" for kind in kinds)
    return "\n".join([_INTRODUCTION, f"{contents}\n", *(line for body in bodies for line in _kind(body["spec"]))])


def _kind(spec: Schema) -> Iterator[str]:
    names, (version,) = spec["names"], spec["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    short = ", ".join(f"`{name}`" for name in names["shortNames"])
    yield f"## {names['kind']}\n\n{_text(schema['description'])}\n"
    yield f"`{spec['group']}/{version['name']}`, {spec['scope'].lower()}-scoped, `{names['plural']}`, short {short}.\n"
    example = _example(names["kind"])
    if example:
        yield f"```yaml\n{example}```\n"
    yield from _messages({"": schema})
    for part in ("spec", "status"):
        yield from _object(f"{names['kind']}.{part}", schema["properties"][part])
    yield f"### {names['kind']}: columns of `kubectl get`\n\n| column | shown | what it is |\n| --- | --- | --- |"
    for column in version["additionalPrinterColumns"]:
        shown = "with `-o wide`" if column.get("priority") else "always"
        yield f"| {column['name']} | {shown} | {_text(column.get('description', 'The age of the object.'))} |"
    yield ""


def _object(path: str, schema: Schema) -> Iterator[str]:
    """A heading with a table of the fields, the rules, and then the objects in it."""
    yield f"### {path}\n\n{_text(schema.get('description', ''))}\n"
    yield "| field | type | default | what it means |\n| --- | --- | --- | --- |"
    fields = schema.get("properties", {})
    for name, field in fields.items():
        anchor = f'<a id="{f"{path}.{name}".lower().replace("[]", "")}"></a>'
        required = "required" if name in schema.get("required", ()) else _default(field)
        yield f"| {anchor}`{name}` | {_type(f'{path}.{name}', field)} | {required} | {_text(field['description'])} |"
    yield ""
    rules = {"": schema}
    for name, field in fields.items():
        rules |= {name: field, f"{name}[]": field.get("items", {})}
    # Those of an object that has a table of its own stand there.
    yield from _messages({name: rule for name, rule in rules.items() if not name or "properties" not in rule})
    for name, field in fields.items():
        items = field.get("items", {})
        if "properties" in field:
            yield from _object(f"{path}.{name}", field)
        elif "properties" in items:
            yield from _object(f"{path}.{name}[]", {**items, "description": field["description"]})


def _messages(schemas: Mapping[str, Schema]) -> Iterator[str]:
    """What the API server says when a rule does not hold, by field."""
    lines = [
        f"- {f'`{name}`: ' if name else ''}{_text(rule['message'])}"
        for name, schema in schemas.items()
        for rule in schema.get("x-kubernetes-validations", ())
    ]
    if lines:
        yield "Refused with:\n\n" + "\n".join(dict.fromkeys(lines)) + "\n"


def _default(field: Schema) -> str:
    if "default" not in field:
        return ""
    value = field["default"]
    return f"`{yaml.safe_dump(value, default_flow_style=True).removesuffix(chr(10)).removesuffix('...').strip()}`"


def _type(path: str, field: Schema) -> str:
    """The type of a field with its limits; an object links to its own table."""
    if "properties" in field:
        return f"[object](#{_slug(path)})"
    if "items" in field:
        items = field["items"]
        one = f"[objects](#{_slug(path)})" if "properties" in items else f"{_type(path, items)}"
        limit = _between(field.get("minItems"), field.get("maxItems"), "")
        return f"list of {one}{f', {limit}' if limit else ''}"
    if "additionalProperties" in field:
        return f"map of {_type(path, field['additionalProperties'])}"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field.get("x-kubernetes-int-or-string"):
        return "number or text"
    name = {"string": "text", "integer": "number"}.get(field["type"], field["type"])
    if field.get("format") == "date-time":
        return "time"
    limit = _between(field.get("minLength"), field.get("maxLength"), " characters")
    limit = limit or _between(field.get("minimum"), field.get("maximum"), "")
    return f"{name}{f', {limit}' if limit else ''}"


def _between(least: int | None, most: int | None, unit: str) -> str:
    if least is None and most is None:
        return ""
    if most is None:
        return f"at least {least}{unit}"
    return f"at most {most}{unit}" if least is None else f"{least} to {most}{unit}"


def _example(kind: str) -> str:
    """The first document of that kind in the examples, or else in the documentation; empty if there is none."""
    texts = [path.read_text() for path in sorted((ROOT / "examples").glob("*.yaml"))]
    pages = [path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))]
    texts += [block for text in pages for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    for document in (document for text in texts for document in re.split(r"^---\n", text, flags=re.MULTILINE)):
        if re.search(rf"^kind: {kind}$", document, re.MULTILINE):
            return re.sub(r"\A(#.*\n)+", "", document)
    return ""


def _slug(text: str) -> str:
    """The anchor that GitHub makes of such a heading."""
    return re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")


def _text(text: str) -> str:
    """A text in one line of Markdown, as it stands."""
    return re.sub(r"([*|<\[\]_`$\\])", r"\\\1", " ".join(text.split()))
