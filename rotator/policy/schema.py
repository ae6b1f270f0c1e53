"""The policy file's JSON Schema (draft 2020-12), for editors; `load` is the authority and refuses more."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from rotator.policy.reader import OWN_KEYS
from rotator.policy.written import WrittenPolicy

Schema = dict[str, Any]


class _Plain(GenerateJsonSchema):
    """Without what a reader of YAML has no use for: titles, and null for what is not written."""

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False

    def nullable_schema(self, schema: Any) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def json_schema() -> Schema:
    """What an editor needs: every field with its description; one policy, or `defaults` and `policies`."""
    model = WrittenPolicy.model_json_schema(schema_generator=_Plain)
    fields = _inlined(model["properties"], model["$defs"])
    users = {"oneOf": [{"required": ["user_id"]}, {"required": ["users"]}]}
    shared = {key: {"$ref": f"#/$defs/fields/{key}"} for key in fields}
    common = {key: ref for key, ref in shared.items() if key not in OWN_KEYS}
    needed = [key for key in WrittenPolicy.needed if key not in OWN_KEYS]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:rotator:policies",
        "title": "rotator policies",
        "description": "One rotation policy, or defaults and a list of policies.",
        "oneOf": [{"$ref": "#/$defs/policy"}, {"$ref": "#/$defs/list"}],
        "$defs": {
            "fields": fields,
            "policy": _mapping("One rotation policy.", shared, needed) | users,
            # What is missing here may come from `defaults`, which a schema cannot follow.
            "entry": _mapping("A policy of the list.", shared, ["name"]) | users,
            "list": _mapping(
                "Policies with what they have in common.",
                {
                    "defaults": _mapping(
                        "What every policy of the file has unless it says otherwise: mappings merge, "
                        "lists and scalars replace.",
                        common,
                        [],
                    ),
                    "policies": {
                        "description": "The policies.",
                        "type": "array",
                        "items": {"$ref": "#/$defs/entry"},
                        "minItems": 1,
                    },
                },
                ["policies"],
            ),
        },
    }


def _mapping(description: str, properties: Schema, required: list[str]) -> Schema:
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _inlined(schema: Any, definitions: Schema) -> Any:
    """The schema with each form written out where it is used, under the description of its field."""
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        named = definitions[schema["$ref"].rpartition("/")[2]]
        schema = {**named, **{key: one for key, one in schema.items() if key != "$ref"}}
        del schema["title"]
    return {key: _inlined(one, definitions) for key, one in schema.items()}
