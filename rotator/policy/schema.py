"""The policy file's JSON Schema (draft 2020-12), for editors; `load` is the authority and refuses more."""

from __future__ import annotations

from typing import Any

from rotator.keys import Issue, Verify, Visibility
from rotator.policy import fields

_DURATION = r"^(0|[1-9][0-9]*)[smhdw]$"

Schema = dict[str, Any]


def json_schema() -> Schema:
    """What an editor needs: every field with its description; one policy, or `defaults` and `policies`."""
    parts = _properties()
    users = {"oneOf": [{"required": ["user_id"]}, {"required": ["users"]}]}
    shared = {key: {"$ref": f"#/$defs/fields/{key}"} for key in parts}
    needed = ["visibility", "schedule", "vault"]
    own = ("name", "user_id", "users")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:rotator:policies",
        "title": "rotator policies",
        "description": "One rotation policy, or defaults and a list of policies.",
        "oneOf": [{"$ref": "#/$defs/policy"}, {"$ref": "#/$defs/list"}],
        "$defs": {
            "fields": parts,
            "policy": _mapping("One rotation policy.", shared, needed) | users,
            # What is missing here may come from `defaults`, which a schema cannot follow.
            "entry": _mapping("A policy of the list.", shared, ["name"]) | users,
            "list": _mapping(
                "Policies with what they have in common.",
                {
                    "defaults": _mapping(
                        "What every policy of the file has unless it says otherwise: mappings merge, "
                        "lists and scalars replace.",
                        {key: ref for key, ref in shared.items() if key not in own},
                    ),
                    "policies": _list("The policies.", {"$ref": "#/$defs/entry"}, 1),
                },
                ["policies"],
            ),
        },
    }


def _properties() -> Schema:
    user = {"type": "integer", "minimum": 1, "maximum": 2147483647}
    return {
        "name": _text("Name of the policy; defaults to the file's.", f"^{fields.NAME}$"),
        "user_id": user | {"description": "The ECGrid user whose key is rotated."},
        "users": _list(
            "ECGrid users whose keys are rotated in turn, so that one stays valid.", user, 2
        ),
        "visibility": _words("Scope of the key.", [choice.value for choice in Visibility]),
        "schedule": {
            "description": "When a new key is due; manual: only on demand.",
            "oneOf": [{"const": "manual"}, _schedule()],
        },
        "max_age": _duration(
            "A key older than this is overdue: an alarm, first in line, window lifted. "
            "Default: 1.5 x every (cron: x the longest gap) + jitter; manual: none."
        ),
        "grace": _duration_or_0(
            "How long the replaced key stays valid where ECGrid leaves it valid; 0 = none. "
            "Default: 24h, or half of every if that is less."
        ),
        "issue": _words("The call that issues a key.", [choice.value for choice in Issue]),
        "verify": _words("The call that reads it back.", [choice.value for choice in Verify]),
        "probe": _flag(
            "Also call ECGrid with the new key and see that it is this user. Default: true."
        ),
        "first": _words(
            "What to do when the record knows nothing. Default: adopt.", ["adopt", "rotate"]
        ),
        "vault": _destination("Where the key is published."),
        "also": _list("Further destinations in the same Vault.", _destination("A destination."), 0),
        "after": _list("What to do after a rotation.", _hook(), 0),
        "enabled": _flag("false: rotated only on demand by name. Default: true."),
        "owner": _text("Whom to ask about this key."),
        "tags": _list("Words to choose policies by (rotate --tag).", _text("A tag."), 0),
    }


def _schedule() -> Schema:
    clock = f"^{fields.CLOCK}$"
    window = {
        "days": _list("Days it starts on. Default: every day.", _text("A day.", _WEEKDAY), 1),
        "from": _text("When it opens, HH:MM.", clock),
        "to": _text("When it closes, HH:MM; before from: on the next day.", clock),
    }
    freeze = {
        "from": _text("First day, YYYY-MM-DD.", f"^{fields.DATE}$"),
        "to": _text("Last day, included.", f"^{fields.DATE}$"),
    }
    both = ["from", "to"]
    properties = {
        "every": _duration("Time from one rotation to the next, at least 1s."),
        "cron": _text("Five fields as in Vixie cron, such as 0 3 * * SUN."),
        "timezone": _text("Zone of cron, window and freeze, such as Europe/Berlin. Default: UTC."),
        "jitter": _duration_or_0(
            "Spreads policies by their name: up to this much later, the same each time, also in a window. Default: 0."
        ),
        "window": _mapping("Hours in which a rotation may begin.", window, both),
        "freeze": _list("Days without rotations.", _mapping("A freeze.", freeze, both), 0),
    }
    # One of every and cron is needed, but perhaps it stands in `defaults`: only both at once is wrong here.
    return _mapping("An interval or a cron expression, with its limits.", properties) | {
        "not": {"required": ["every", "cron"]}
    }


def _destination(description: str) -> Schema:
    properties = {
        "mount": _text("KV v2 mount. Default: ROTATOR_VAULT__MOUNT."),
        "path": _text("Path of the secret; {name} and {user_id} are replaced."),
        "field": _text("Field that holds the key. Default: api_key.", f"^{fields.FIELD}$"),
        "fields": {
            "description": "Further fields to write beside the key, as they stand here.",
            "type": "object",
            "propertyNames": {"not": {"enum": list(fields.RESERVED_FIELDS)}},
        },
    }
    return _mapping(description, properties)


def _hook() -> Schema:
    properties = {
        "exec": _list("A program and its arguments; no shell.", {"type": ["string", "number"]}, 1),
        "webhook": _text("An http(s) address to post to.", "^https?://"),
    }
    return _mapping("One of exec and webhook.", properties) | {
        "minProperties": 1,
        "maxProperties": 1,
    }


_WEEKDAY = (
    "^([Mm][Oo][Nn]|[Tt][Uu][Ee]|[Ww][Ee][Dd]|[Tt][Hh][Uu]|[Ff][Rr][Ii]|[Ss][Aa][Tt]|[Ss][Uu][Nn])$"
)


def _mapping(description: str, properties: Schema, required: list[str] | None = None) -> Schema:
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        "required": required or [],
        "additionalProperties": False,
    }


def _list(description: str, items: Schema, least: int) -> Schema:
    return {"description": description, "type": "array", "items": items, "minItems": least}


def _words(description: str, words: list[str]) -> Schema:
    return {"description": description, "enum": words}


def _text(description: str, pattern: str = ".") -> Schema:
    return {"description": description, "type": "string", "pattern": pattern}


def _duration(description: str) -> Schema:
    return _text(f"{description} Written as 90s, 15m, 12h, 30d or 8w.", _DURATION)


def _duration_or_0(description: str) -> Schema:
    return {
        "description": description,
        "oneOf": [{"type": "string", "pattern": _DURATION}, {"const": 0}],
    }


def _flag(description: str) -> Schema:
    return {"description": description, "type": "boolean"}
