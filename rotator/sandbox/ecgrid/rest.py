"""REST v2.6 of the simulated ECGrid, in both forms: routes, bodies, answers, errors."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import Any

from rotator.sandbox.ecgrid.people import VERSION
from rotator.sandbox.ecgrid.switches import Switches
from rotator.sandbox.ecgrid.wire import STATUS, Answer, Request, retry_after, timestamp
from rotator.sandbox.ecgrid.words import (
    Ask,
    Credential,
    NamedValue,
    One,
    Refusal,
    Result,
    Session,
    ShownKey,
    ShownUser,
)


@dataclass(frozen=True)
class Route:
    """One call: where it is, and its body's properties with the names that they have here."""

    method: str
    path: str
    call: str
    fields: Mapping[str, str] = field(default_factory=dict)


_COMMON = (
    Route("GET", "/v2/users/me", "GetMe"),
    Route(
        "POST",
        "/v2/users/list",
        "ListUsers",
        {
            "networkId": "network_id",
            "mailboxId": "mailbox_id",
            "authLevel": "auth_level",
            "status": "status",
            "pageNo": "page_no",
            "recordsPerPage": "records_per_page",
        },
    ),
    Route("POST", "/v2/auth/refresh", "AuthRefresh", {"refreshToken": "refresh_token"}),
    Route("POST", "/v2/auth/logout", "AuthLogout"),
    Route("POST", "/v2/auth/session", "AuthSession"),
    Route("GET", "/v2/auth/version", "AuthVersion"),
)
_OBJECT = {"systemObject": "system_object", "objectId": "object_id"}
_NAMED = {"key": "key", **_OBJECT, "visibility": "visibility"}
_KEYS: dict[str, tuple[Route, ...]] = {
    "portal": (
        Route(
            "POST",
            "/v2/keys/create",
            "CreateKey",
            {"userId": "user_id", "visibility": "visibility"},
        ),
        Route("POST", "/v2/keys/get-key", "GetKey", {"userId": "user_id"}),
        Route(
            "POST", "/v2/keys/list", "ListKeys", {"userId": "user_id", "visibility": "visibility"}
        ),
        Route("DELETE", "/v2/keys", "DeleteKey", {"keyId": "key_id"}),
    ),
    "service": (
        Route(
            "POST",
            "/v2/keys/create",
            "CreateKey",
            {**_NAMED, "value": "value", "meta": "meta", "daysToLive": "days_to_live"},
        ),
        Route("POST", "/v2/keys/get-key", "GetKey", _NAMED),
        Route("POST", "/v2/keys/list", "ListKeys", _OBJECT),
        Route("DELETE", "/v2/keys", "DeleteKey", _NAMED),
    ),
}
_OWN_KEY = {
    "users/key": (
        Route("GET", "/v2/users/key/{id}", "GetAPIKey"),
        Route("POST", "/v2/users/key-generate/{id}", "GenerateKey"),
    ),
    "users/id": (
        Route("GET", "/v2/users/{id}/api-key", "GetAPIKey"),
        Route("POST", "/v2/users/{id}/generate-api-key", "GenerateKey"),
    ),
}
_EVERY = (*_COMMON, *_KEYS["portal"], *_OWN_KEY["users/key"], *_OWN_KEY["users/id"])
_PATHS = "|".join(sorted({route.path.replace("{id}", r"\d{1,10}") for route in _EVERY}))
_KNOWN = re.compile(rf"({_PATHS}|/v2/auth/login)")


def known(path: str) -> bool:
    """Whether a path is one of ECGrid's, with nothing but digits where an id belongs."""
    return _KNOWN.fullmatch(path) is not None


def routes(switches: Switches) -> tuple[Route, ...]:
    """What is offered, all of it."""
    paths = switches.key_paths if switches.form == "service" else "users/key"
    return _routes(switches.form, paths, switches.rest_login, switches.login_field)


@cache
def _routes(form: str, key_paths: str, rest_login: str, login_field: str) -> tuple[Route, ...]:
    login: dict[str, str] = {} if rest_login == "password" else {"apiKey": "api_key"}
    if rest_login != "api-key":
        names = ("login", "email") if login_field == "both" else (login_field,)
        login.update({**dict.fromkeys(names, "login"), "password": "password"})
    signing_in = Route("POST", "/v2/auth/login", "AuthLogin", login)
    return (*_COMMON, signing_in, *_KEYS[form], *_OWN_KEY[key_paths])


class Rest:
    """JSON; errors in the portal's envelope of success, data, errorCode and message, or as problem JSON."""

    def decode(self, request: Request, switches: Switches) -> Ask:
        """As `Surface.decode`."""
        for route in routes(switches):
            if route.method != request.method:
                continue
            matched = re.fullmatch(route.path.replace("{id}", "([^/]+)"), request.path)
            if matched:
                args: dict[str, object] = {"user_id": matched[1]} if matched.groups() else {}
                args.update(_json_args(request, route))
                return Ask(route.call, args, presented(request))
        raise Refusal("ObjectNotFound", "There is no such endpoint.")

    def encode(self, ask: Ask, result: Result, switches: Switches) -> Answer:
        """As `Surface.encode`."""
        data = _data(ask, result, switches)
        return _json_answer(200, {"success": True, "data": data}, {})

    def refuse(self, refusal: Refusal, switches: Switches) -> Answer:
        """As `Surface.refuse`."""
        hidden = refusal.code == "AccessDenied" and switches.denied_as_404
        status = 404 if hidden else STATUS[refusal.code]
        headers = retry_after(refusal)
        if switches.rest_errors == "problem":
            problem = {
                "type": "about:blank",
                "title": HTTPStatus(status).phrase,
                "status": status,
                "detail": str(refusal),
                "traceId": f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-00",
            }
            return _json_answer(status, problem, headers, "application/problem+json")
        envelope = {
            "success": False,
            "data": None,
            "errorCode": "ObjectNotFound" if hidden else refusal.code,
            "message": str(refusal),
        }
        return _json_answer(200 if switches.errors_with_200 else status, envelope, headers)


REST = Rest()


def presented(request: Request) -> Credential:
    """The credential in a request's headers."""
    if "x-api-key" in request.headers:
        return Credential("api-key", request.headers["x-api-key"], request.address)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return Credential("token", token.strip(), request.address)
    return Credential("none", "", request.address)


def _json_args(request: Request, route: Route) -> dict[str, object]:
    if not request.body:
        return {}
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise Refusal("InvalidParameter", "The body must be application/json.")
    try:
        data = json.loads(request.body)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise Refusal("InvalidParameter", "The body must be a JSON object.")
    return {ours: data[theirs] for theirs, ours in route.fields.items() if theirs in data}


def _data(ask: Ask, result: Result, switches: Switches) -> object:
    if isinstance(result, list):
        shown = [_one(ask, one, switches) for one in result]
        whole = ask.call == "ListUsers" and switches.user_list == "object"
        return {"users": shown, "pageNo": ask.args.get("page_no", 1)} if whole else shown
    if isinstance(result, ShownKey | ShownUser | NamedValue):
        return _one(ask, result, switches)
    if isinstance(result, Session):
        return _session(ask, result, switches)
    return result


def _one(ask: Ask, one: One, switches: Switches) -> dict[str, Any]:
    if isinstance(one, ShownKey):
        return _key(one, switches)
    return _user(ask, one, switches) if isinstance(one, ShownUser) else _value(one, switches)


def _session(ask: Ask, session: Session, switches: Switches) -> dict[str, Any]:
    name = "sessionKey" if "api_key" in ask.args else "token"
    data = {name: session.token, "userId": session.user_id}
    data["expiresAt"] = timestamp(session.expires, switches, zone=True)
    if session.refresh_token:
        data["refreshToken"] = session.refresh_token
    return data


def _key(shown: ShownKey, switches: Switches) -> dict[str, Any]:
    return {
        "keyId": shown.key_id,
        "userId": shown.user_id,
        "key": shown.value,
        "visibility": shown.visibility,
        "created": timestamp(shown.created, switches, zone=True),
    }


def _value(kept: NamedValue, switches: Switches) -> dict[str, Any]:
    return {
        "key": kept.key,
        "value": kept.value,
        "meta": kept.meta,
        "visibility": kept.visibility,
        "created": timestamp(kept.created, switches, zone=True),
        "expires": timestamp(kept.expires, switches, zone=True),
    }


def _user(ask: Ask, shown: ShownUser, switches: Switches) -> dict[str, Any]:
    user, service = shown.user, switches.form == "service"
    data: dict[str, Any] = {
        "userId": user.user_id,
        "loginName" if service else "login": user.login,
        "networkId": user.network_id,
        "mailboxId": user.mailbox_id,
        "authLevel": user.auth_level.name,
    }
    if ask.call == "AuthSession":
        expires = shown.expires
        data["expiresAt"] = timestamp(expires, switches, zone=True) if expires else None
        return data
    data.update({"email": user.email, "status": user.status})
    if service or ask.call == "ListUsers":
        data.update({"firstName": user.first_name, "lastName": user.last_name})
        data["lockedOut"] = user.locked_out
    if service and ask.call == "GetMe":
        data.update({"sessionId": shown.session_id, "ecgridOsVersion": VERSION})
        data.update({"timeOut": int(shown.time_out), "openSessions": shown.open_sessions})
    if shown.key is not None:
        data[switches.me_key_field] = shown.key
    return data


def _json_answer(
    status: int,
    content: Mapping[str, object],
    headers: Mapping[str, str],
    content_type: str = "application/json",
) -> Answer:
    return Answer(status, json.dumps(content).encode(), f"{content_type}; charset=utf-8", headers)
