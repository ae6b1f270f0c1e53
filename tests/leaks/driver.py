"""Runs the real command after breaking it: `python -m leaks.driver DEED... -- ARGUMENTS`.

A deed is a mistake that the program or a library might make with a secret in its hands (`lib-log`, `raise-vault`), or,
with `no-` before it, a defence that is taken away. What a mistake then shows tells whether the defences hold, and
whether the hunt sees it when they do not.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

Deed = Callable[[], None]
DEEDS: dict[str, Deed] = {}
held: list[Any] = []  # secrets that stay alive


def deed(name: str) -> Callable[[Deed], Deed]:
    """Gives a deed its name."""

    def named(act: Deed) -> Deed:
        DEEDS[name] = act
        return act

    return named


class Carrier(Exception):
    """An exception with a value wherever an exception may have one."""

    def __init__(self, value: str) -> None:
        super().__init__(f"could not use {value}", value)
        self.message = self.detail = value
        self.add_note(f"it was {value}")


class Dropped:
    """Raises when it is collected."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __del__(self) -> None:
        raise Carrier(self.value)


def _when_published(do: Callable[[str], None]) -> None:
    """`do` is called with each new key's value, in the middle of publishing it."""
    from rotator.vault import Vault

    publish = Vault.publish

    def publish_and_err(self: Vault, to: Any, key: Any, *rest: Any) -> int:
        do(key.value.reveal())
        return publish(self, to, key, *rest)

    Vault.publish = publish_and_err  # type: ignore[assignment,method-assign]  # breaking it is the point


def _answers(do: Callable[[bytes, dict[str, str]], None]) -> None:
    """`do` is called with the body of each answer of ECGrid's, before the program has seen it, and what was sent."""
    from rotator.ecgrid import wire

    exchange = wire.Wire._exchange

    def exchange_and_err(self: Any, *call: Any, **options: Any) -> Any:
        outcome = exchange(self, *call, **options)
        if isinstance(outcome, wire.Reply):
            do(outcome.body, dict(options["headers"]))
        return outcome

    wire.Wire._exchange = exchange_and_err  # type: ignore[method-assign]  # breaking it is the point


# mistakes of a library


@deed("lib-log")
def _library_logs() -> None:
    """A library that shows what it sends and gets, at a level, and with a handler, that somebody set late."""

    def log(body: bytes, headers: dict[str, str]) -> None:
        logger = logging.getLogger("httpcore.http11")
        logger.setLevel(1)
        handler = logging.StreamHandler()
        logger.addHandler(handler)
        logger.error("receive_response_body.complete %r %r", body, headers)
        handler.handle(logging.makeLogRecord({"name": "zeep.transports", "msg": repr(body)}))
        logger.removeHandler(handler)

    _answers(log)


@deed("http-debug")
def _http_debug() -> None:
    """Somebody switched on the standard library's own output."""
    http.client.HTTPConnection.debuglevel = 1


# mistakes of ours


@deed("log")
def _log() -> None:
    """In a message, arguments, a broken format, an exception, a stack, extras, and through a handler that came late."""

    def log(value: str) -> None:
        logger = logging.getLogger("rotator.vault")
        logger.error("the key is %s", value)
        logger.error("the key is %d", value)
        logger.error(
            "extras", extra={"fields": {"key": value, "list": [{"in": value}]}, "k": value.encode()}
        )
        try:
            raise Carrier(value)
        except Carrier:
            logger.exception("raised")
        record = logging.makeLogRecord(
            {"name": "rotator", "msg": value, "levelno": 40, "stack_info": value}
        )
        for handler in logging.getLogger("rotator").handlers:
            handler.handle(record)

    _when_published(log)


@deed("event")
def _event() -> None:
    """An event with a value in it."""
    from rotator import reporting

    _when_published(lambda value: reporting.event("policy.drift", policy="edi", message=value))


@deed("log-secret")
def _log_secret() -> None:
    """An event with the `Secret` itself in it, and with what holds one."""
    from rotator import reporting
    from rotator.keys import ApiKey, KeyRef, Secret

    def log(value: str) -> None:
        key = ApiKey(KeyRef(1, 2, None, None), Secret(value))
        reporting.event("policy.drift", key=key, value=key.value, message=f"{key} {key.value}")
        sys.stderr.write(f"{key!r} {key._asdict()}\n")

    _when_published(log)


@deed("show-session")
def _show_session() -> None:
    """Whose credential it is, with the session that the answer carried, as soon as it was read."""
    from rotator.ecgrid import surface

    read = surface.read_me

    def read_and_err(*given: Any) -> Any:
        made = read(*given)
        held.append(made)
        sys.stderr.write(f"caller: {made!r} {made._asdict()}\n")
        if made.session is not None:
            sys.stderr.write(f"session: {made.session.reveal()}\n")
            logging.getLogger("rotator.ecgrid").error("session: %s", made.session.reveal())
        return made

    vars(surface)["read_me"] = read_and_err


@deed("print")
def _print() -> None:
    """On stdout and stderr, in pieces that are long enough to hurt."""

    def show(value: str) -> None:
        print(value)  # noqa: T201 - the mistake
        print(value[:14], file=sys.stderr)  # noqa: T201 - the same
        sys.stdout.write(repr({"key": value}))

    _when_published(show)


@deed("warn")
def _warn() -> None:
    """A warning, with every warning switched on."""

    def warn(value: str) -> None:
        warnings.simplefilter("always")
        warnings.warn(f"odd value {value}", stacklevel=1)

    _when_published(warn)


@deed("thread")
def _thread() -> None:
    """In a thread that nobody waits for."""

    def fail(value: str) -> None:
        raise Carrier(value)

    def start(value: str) -> None:
        thread = threading.Thread(target=fail, args=(value,))
        thread.start()
        thread.join()

    _when_published(start)


@deed("del")
def _del() -> None:
    """In `__del__`."""

    def drop(value: str) -> None:
        Dropped(value)

    _when_published(drop)


@deed("exit")
def _exit() -> None:
    """Outside of everything that catches."""
    from rotator import cli

    run = cli.main

    def run_and_err(*given: Any, **options: Any) -> None:
        from rotator.keys import Secret

        value = os.environ["CANARY"]
        held.append(Secret(value))
        with contextlib.suppress(SystemExit):
            run(*given, **options)
        raise Carrier(value)

    cli.main = run_and_err  # type: ignore[assignment]  # breaking it is the point


@deed("sentry")
def _sentry() -> None:
    """Through the SDK's own doors, past everything that we compose."""

    def send(value: str) -> None:
        import sentry_sdk
        from sentry_sdk.crons import capture_checkin

        headers = {"X-API-Key": value}
        sentry_sdk.add_breadcrumb(message=value, data=headers)
        sentry_sdk.get_current_scope().add_attachment(bytes=value.encode(), filename="key.txt")
        sentry_sdk.get_current_scope().add_attachment(bytes=b"harmless", filename=f"{value}.txt")
        sentry_sdk.set_tag("key", value)
        sentry_sdk.set_context("rotation", {"deep": [{"key": value}]})
        capture_checkin(monitor_slug=f"slug-{value}", status="ok")
        try:
            raise Carrier(value)
        except Carrier:
            sentry_sdk.capture_exception()

    _when_published(send)


@deed("show-proxy")
def _show_proxy() -> None:
    """The address of the proxy, as a library's exception has it."""
    from rotator.vault import wire

    pools = wire._pools

    def show(settings: Any) -> Any:
        made = pools(settings)
        sys.stderr.write(
            f"the proxy is {os.environ.get('https_proxy') or os.environ['HTTPS_PROXY']}\n"
        )
        return made

    vars(wire)["_pools"] = show


@deed("early")
def _early() -> None:
    """With the settings in hand, before anybody asked for a log."""
    from rotator.settings import Settings

    look = vars(Settings)["look"].__func__

    def look_and_err(cls: Any, *given: Any, **options: Any) -> Any:
        made, problems = look(cls, *given, **options)
        value = made.vault.token.reveal()
        print(f"early: {value}")  # noqa: T201 - the mistake
        warnings.warn(f"early: {value}", stacklevel=1)
        logging.getLogger("zeep.transports").error("early: %s", value)
        logging.getLogger("rotator").error("early: %d", value)
        return made, problems

    Settings.look = classmethod(look_and_err)  # type: ignore[assignment,method-assign]  # breaking it is the point


@deed("tell-process")
def _tell_process() -> None:
    """What the process is allowed to do, as it knows itself."""
    import ctypes
    import json
    import resource

    def tell(_: str) -> None:
        told = {
            "core": list(resource.getrlimit(resource.RLIMIT_CORE)),
            "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
            "raise_exceptions": logging.raiseExceptions,
        }
        sys.stderr.write(f"process: {json.dumps(told)}\n")

    _when_published(tell)


RAISED = {
    "ecgrid": ("rotator.ecgrid.account", "OnWire", "read"),
    "wire": ("rotator.ecgrid.wire", "Wire", "send"),
    "vault": ("rotator.vault", "Vault", "publish"),
    "vault-wire": ("rotator.vault.wire", "Wire", "request"),
    "record": ("rotator.vault", "Vault", "save"),
    "rotation": ("rotator.run.sight", "Sight", "at"),
    "fleet": ("rotator.fleet", "Fleet", "run_of"),
    "settings": ("rotator.settings", "Settings", "require_vault"),
}


def _raise_in(module: str, owner: str, name: str) -> Deed:
    def act() -> None:
        from importlib import import_module

        from rotator.keys import Secret

        held.append(Secret(os.environ["CANARY"]))

        def fail(*_: Any, **__: Any) -> Any:
            raise Carrier(os.environ["CANARY"])

        broken = getattr(import_module(module), owner)
        assert hasattr(broken, name), name
        setattr(broken, name, fail)

    return act


DEEDS |= {f"raise-{where}": _raise_in(*target) for where, target in RAISED.items()}


# defences that are taken away


@deed("no-silence")
def _no_silence() -> None:
    """Libraries may speak."""
    from rotator.secrecy import sinks

    sinks.OURS = ""
    cleaned = sinks._cleaned

    def all_are_ours(handle: Any) -> Any:
        wrapped = cleaned(handle)

        def handle_any(self: Any, record: Any) -> Any:
            name, record.name = record.name, ""
            try:
                return wrapped(self, record)
            finally:
                record.name = name

        return handle_any

    vars(sinks)["_cleaned"] = all_are_ours


@deed("no-net")
def _no_net() -> None:
    """Nothing is watched."""
    from rotator.secrecy.net import NET

    NET.holds = lambda text: False  # type: ignore[method-assign]  # breaking it is the point


@deed("no-log-net")
def _no_log_net() -> None:
    """Records are not cleaned, and the streams below them are not scrubbed."""
    from rotator.secrecy import sinks

    vars(sinks)["clean"] = lambda record: None


@deed("no-stream-net")
def _no_stream_net() -> None:
    """stdout and stderr are the plain ones."""
    from rotator.secrecy import sinks

    sinks._Scrubbed.write = lambda self, text: self.inner.write(text)  # type: ignore[method-assign]  # see no-net


@deed("no-warning-hook")
def _no_warning_hook() -> None:
    """Warnings print their text."""
    from rotator.secrecy import sinks

    vars(sinks)["_warned"] = warnings.showwarning


@deed("no-dropping")
def _no_dropping() -> None:
    """Debugging aids stay in the environment."""
    from rotator.secrecy import process

    vars(process)["drop_orders"] = lambda: None


@deed("no-hooks")
def _no_hooks() -> None:
    """Exceptions that nobody catches print their text."""
    from rotator.secrecy import process

    vars(process)["withhold_texts"] = lambda: None


@deed("no-withholding")
def _no_withholding() -> None:
    """The command line prints what it did not expect, and a result has an exception's text."""
    from rotator.cli import common

    @contextlib.contextmanager
    def exits() -> Iterator[None]:
        yield

    vars(common)["exits"] = exits
    from rotator.cli import act
    from rotator.errors import Failure
    from rotator.rotation import result, tending

    vars(act)["exits"] = exits
    for module in (tending, result):
        vars(module)["unexpected"] = lambda fault: Failure(str(fault))


@deed("no-secret")
def _no_secret() -> None:
    """A Secret shows itself."""
    from rotator.keys import Secret

    def shown(self: Secret, *_: str) -> str:
        return self._value()

    Secret.__repr__ = Secret.__str__ = Secret.__format__ = shown  # type: ignore[method-assign,assignment]  # see no-net
    from rotator import reporting

    vars(reporting)["_plain"] = str


@deed("no-transport")
def _no_transport() -> None:
    """Sentry's own transport."""
    from rotator.reporting import sentry

    vars(sentry)["scrubbed"] = lambda envelope: envelope


@deed("no-cleaning")
def _no_cleaning() -> None:
    """Secrets are taken as the files have them, and what urllib3 says about them is told."""
    from rotator.keys import Secret
    from rotator.settings import sources
    from rotator.vault import wire

    Secret.clean = lambda text, source: Secret(text)  # type: ignore[method-assign]  # see no-net
    vars(sources)["read_secret"] = lambda file, where, direct="": file.read_text()
    _tell_all(wire)


def _tell_all(wire: Any) -> None:
    lost = wire._lost

    def told(operation: str, error: Exception, changes: bool) -> Any:
        made = lost(operation, error, changes)
        made.args = (f"{made}: {error}",)
        return made

    vars(wire)["_lost"] = told


@deed("no-translation")
def _no_translation() -> None:
    """What Vault, or whoever stands before it, said is quoted in our error."""
    from rotator.vault import wire

    answered = wire._answer

    def quoted(what: str, reply: Any, *rest: Any) -> Any:
        try:
            return answered(what, reply, *rest)
        except Exception as error:
            error.args = (f"{error}: {reply.body.decode('latin-1')}",)
            raise

    vars(wire)["_answer"] = quoted


@deed("no-ecgrid-translation")
def _no_ecgrid_translation() -> None:
    """What ECGrid said is quoted in our error."""
    from rotator.ecgrid import answers

    by_status = answers.by_status

    def quoted(call: Any, reply: Any) -> Any:
        error = by_status(call, reply)
        if error is not None:
            error.args = (f"{error}: {reply.body.decode('latin-1')}",)
        return error

    vars(answers)["by_status"] = quoted
    by_code = answers.by_code

    def quoted_by_code(call: Any, code: str, reply: Any, *rest: Any) -> Any:
        error = by_code(call, code, reply, *rest)
        if error is not None:
            error.args = (f"{error}: {reply.body.decode('latin-1')}",)
        return error

    vars(answers)["by_code"] = quoted_by_code
    without_code = answers.without_code

    def quoted_too(call: Any, reply: Any, *rest: Any) -> Any:
        error = without_code(call, reply, *rest)
        error.args = (f"{error}: {reply.body.decode('latin-1')}",)
        return error

    vars(answers)["without_code"] = quoted_too


@deed("follow-redirects")
def _follow_redirects() -> None:
    """Both HTTP clients go where they are sent."""
    import httpx
    import urllib3

    from rotator import http

    handle, urlopen = http._Transport.handle_request, urllib3.PoolManager.urlopen

    def go_there(self: Any, request: Any) -> Any:
        response = handle(self, request)
        where = response.headers.get("Location")
        if where is None:
            return response
        headers = {k: v for k, v in request.headers.items() if k not in ("host", "content-length")}
        return httpx.Client().request(
            request.method, where, headers=headers, content=request.content
        )

    def send(self: Any, *target: Any, **options: Any) -> Any:
        return urlopen(self, *target, **options | {"redirect": True, "retries": 3})

    http._Transport.handle_request = go_there  # type: ignore[method-assign]  # breaking it is the point
    urllib3.PoolManager.urlopen = send  # type: ignore[method-assign]  # the same


@deed("hook-environment")
def _hook_environment() -> None:
    """Hooks inherit the rotator's own environment."""
    from rotator.secrecy import children

    vars(children)["PASSED_ON"] = tuple(os.environ)


def main() -> None:
    """Does the deeds, then what the `rotator` command does."""
    cut = sys.argv.index("--")
    deeds, sys.argv = sys.argv[1:cut], ["rotator", *sys.argv[cut + 1 :]]
    import rotator.reporting

    for name in deeds:
        DEEDS[name]()
    import rotator.__main__

    rotator.__main__.main()


if __name__ == "__main__":
    main()
