"""The JSON Schemas in docs/json-schema: as much of the language as they use, and stricter in one thing.

Readers of an answer are to pass over properties they do not know; here every property must be one that is described.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.house import tree

FOLDER: Final = tree.ROOT / "docs" / "json-schema"
ABOUT: Final = {"$schema", "title", "description", "format"}
RULES: Final = {"$ref", "anyOf", "enum", "type", "pattern", "minimum", "maximum", "items", "minItems", "maxItems"}
RULES_OF_OBJECTS: Final = {"properties", "required", "additionalProperties"}
KNOWN: Final = ABOUT | RULES | RULES_OF_OBJECTS
TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def schema(name: str) -> Any:
    """Return the schema in a file of this name."""
    return json.loads((FOLDER / name).with_suffix(".json").read_text(encoding="utf-8"))


def faults(value: Any, rule: Mapping[str, Any], where: str = "$") -> Iterator[str]:
    """Yield what is wrong with a value, and where."""
    assert rule.keys() <= KNOWN, f"{where}: this checker does not know {rule.keys() - KNOWN}"
    if "$ref" in rule:
        yield from faults(value, schema(rule["$ref"]), where)
    if "anyOf" in rule and all(any(faults(value, one, where)) for one in rule["anyOf"]):
        yield f"{where}: none of the kinds that it may be"
    if "enum" in rule and value not in rule["enum"]:
        yield f"{where}: {value!r} is none of {rule['enum']}"
    if "type" in rule and not _is_of(value, rule["type"]):
        yield f"{where}: {value!r} is not {rule['type']}"
    if isinstance(value, str) and not re.search(rule.get("pattern", ""), value):
        yield f"{where}: {value!r} does not match {rule['pattern']}"
    if isinstance(value, int | float) and not rule.get("minimum", value) <= value <= rule.get("maximum", value):
        yield f"{where}: {value!r} is out of range"
    if isinstance(value, list):
        yield from _faults_of_items(value, rule, where)
    if isinstance(value, dict) and ("properties" in rule or "additionalProperties" in rule):
        yield from _faults_of_properties(value, rule, where)


def _is_of(value: Any, named: str | list[str]) -> bool:
    names = [named] if isinstance(named, str) else named
    if isinstance(value, bool):
        return "boolean" in names
    return any(isinstance(value, TYPES[name]) for name in names)


def _faults_of_items(value: list[Any], rule: Mapping[str, Any], where: str) -> Iterator[str]:
    if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)):
        yield f"{where}: {len(value)} items"
    for place, item in enumerate(value):
        yield from faults(item, rule.get("items", {}), f"{where}[{place}]")


def _faults_of_properties(value: dict[str, Any], rule: Mapping[str, Any], where: str) -> Iterator[str]:
    described = rule.get("properties", {})
    yield from (f"{where}: {name} is missing" for name in rule.get("required", ()) if name not in value)
    for name, item in value.items():
        if name in described:
            yield from faults(item, described[name], f"{where}.{name}")
        elif "additionalProperties" in rule:
            yield from faults(item, rule["additionalProperties"], f"{where}.{name}")
        else:
            yield f"{where}: {name} is not described"
