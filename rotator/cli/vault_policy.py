"""`rotator vault-policy`: what has to be allowed in Vault, for the rotator itself or for those who read its secrets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rotator.cli import Choice, output
from rotator.cli.choice import choose
from rotator.cli.common import exits, input_from
from rotator.letters import visible
from rotator.policy import Policy
from rotator.settings import Settings
from rotator.vault.kv import At
from rotator.vault.layout import Layout
from rotator.vault.least import Rule, least, reading

OURS = """\
# What the rotator has to be allowed in Vault, and nothing else. To give it that:
#   rotator vault-policy | vault policy write rotator -
"""
THEIRS = "# Who reads the key of {}, and nothing else:"


def vault_policy(given: dict[str, str], *, chosen: Choice, reader: bool, json_: bool) -> None:
    """`rotator vault-policy`: asks nobody."""
    with exits():
        settings, every = input_from(given)
        policies = choose(every, chosen)
        layout = Layout(settings.vault.mount, settings.vault.state_path)
        if reader:
            parts = [(THEIRS.format(one.name), reading(layout, one)) for one in policies]
        else:
            own = _own_key(settings, every)
            auth = settings.vault.auth
            login = layout.of_login(auth, settings.vault.auth_mount or auth)
            parts = [(OURS, least(layout, policies, own, login))]
        if json_:
            rules = (rule for _, some in parts for rule in some)
            paths = {rule.path: {"capabilities": list(rule.capabilities)} for rule in rules}
            output.print_json({"path": paths})
        else:
            print("\n".join(line for head, rules in parts for line in _written(head, rules)))


def _own_key(settings: Settings, policies: Iterable[Policy]) -> At | None:
    """Where the rotator's own key is; which part of it is the mount, one of those that are known tells, if it can."""
    if settings.ecgrid.api_key_vault is None:
        return None
    place = settings.ecgrid.api_key_vault.place
    mounts = {settings.vault.mount, *(to.mount for one in policies for to in one.destinations)}
    known = [mount for mount in mounts if place.startswith(f"{mount}/")]
    mount = max(known, key=len) if known else place.partition("/")[0]
    return At(mount, place.removeprefix(f"{mount}/"))


def _written(head: str, rules: Iterable[Rule]) -> Iterator[str]:
    """HCL, as Vault and OpenBao read it."""
    yield head
    for rule in rules:
        if rule.why:
            yield f"# {rule.why}"
        allowed = ", ".join(f'"{one}"' for one in rule.capabilities)
        yield f'path "{visible(rule.path)}" {{ capabilities = [{allowed}] }}'
