"""The settings in general, and how all of them are put together, with what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, PrivateAttr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from rotator.errors import BadInput, Permanent, Problem
from rotator.keys import Issue, Secret, Verify
from rotator.reading import attempted
from rotator.settings.checks import contradictions, doubts, missing_for_vault
from rotator.settings.sections import (
    ECGridSettings,
    HttpSettings,
    LogSettings,
    MetricsSettings,
    NotifySettings,
    SentrySettings,
    VaultSettings,
)
from rotator.settings.sources import Given, Sources, read_secret, variable_of
from rotator.settings.tls import (
    tls_problems,
)
from rotator.settings.values import (
    Count,
    CountOrZero,
    File,
    IssueCall,
    Length,
    LengthOrZero,
    VerifyCall,
)


def _words_of(choices: type[Issue | Verify]) -> str:
    return ", ".join(f"`{one.value}`" for one in choices)


class Settings(BaseSettings):
    """Everything that is set, of one piece and frozen. Made by `Settings.load`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
        validate_default=False,
    )

    policies: File = Field(
        default=Path("policies"),
        description="A file, or a directory: every `*.yaml` and `*.yml` below it is read.",
    )
    issue: IssueCall = Field(
        default=Issue.KEYSET,
        description=f"How a key is issued where a policy does not say: {_words_of(Issue)}. `generate` ends the old "
        "key at once, and is the only way where KeySet and Create Key make no keys; `rotator doctor` "
        "says so.",
    )
    verify: VerifyCall = Field(
        default=Verify.GET_KEY,
        description=f"How a key is read back where a policy does not say: {_words_of(Verify)}. With `generate`, the "
        "default is `get-api-key`.",
    )
    concurrency: Count = Field(
        default=8,
        description="Rotations at once.",
    )
    brake: CountOrZero = Field(
        default=5,
        description="Policies in doubt, or drifted, from which on issuing goes one at a time, or half of the "
        "policies if that is less; `0`: no brake.",
    )
    max_per_run: Count | None = Field(
        default=None,
        description="At most so many keys are issued in one tick; the rest wait for the next.",
    )
    deadline: Length = Field(
        default=timedelta(minutes=2),
        description="How long one rotation goes on retrying what is transient.",
    )
    claim_ttl: Length = Field(
        default=timedelta(minutes=3),
        description="After this a claim may be taken over by another rotator; must be longer than the deadline, and "
        "the same for all rotators of a state path.",
    )
    check_every: LengthOrZero = Field(
        default=timedelta(hours=1),
        description="How often each policy is checked for drift and repaired; `0`: never.",
    )
    ecgrid: ECGridSettings = ECGridSettings()
    vault: VaultSettings = VaultSettings()
    sentry: SentrySettings = SentrySettings()
    http: HttpSettings = HttpSettings()
    notify: NotifySettings = NotifySettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()

    _given: Mapping[str, Given] = PrivateAttr(default_factory=dict)
    _noted: tuple[Problem, ...] = PrivateAttr(())
    _file: Path | None = PrivateAttr(None)
    _unusable: frozenset[str] = PrivateAttr(frozenset())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` has found: the ready-made sources drop misspelt names and forget where a value came from."""
        return (init_settings,)

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] = os.environ,
        cwd: Path | None = None,
        overrides: Mapping[str, str | None] | None = None,
    ) -> Settings:
        """The settings that `environ`, its files, and `rotator.toml` in `cwd` make.

        `overrides` go before everything, by names such as `log.level`; None overrides nothing. Raises BadInput with
        every problem. Needs neither credentials nor a Vault address: see `require_ecgrid` and `require_vault`.
        """
        settings, problems = cls.look(environ, cwd, overrides)
        if problems or settings is None:
            raise BadInput(problems)
        return settings

    @classmethod
    def look(
        cls,
        environ: Mapping[str, str] = os.environ,
        cwd: Path | None = None,
        overrides: Mapping[str, str | None] | None = None,
    ) -> tuple[Settings | None, list[Problem]]:
        """The settings as far as they are good, and every problem; None if what is left says nothing."""
        sources = Sources(environ, cwd or Path(), _names())
        given = sources.find(overrides or {})
        settings = _build(cls, given, sources)
        if settings is not None:
            settings._with_origin(given, sources)  # noqa: SLF001 - its own class
        return settings, list(dict.fromkeys(sources.problems))

    def _with_origin(self, given: Mapping[str, Given], sources: Sources) -> None:
        # Without the values: what is kept for messages must not be a second place where a secret lives.
        self._given = {name: Given(None, one.place, one.file) for name, one in given.items()}
        self._noted, self._file = tuple(sources.warnings), sources.file
        self._unusable = frozenset(sources.unusable)

    @property
    def file(self) -> Path | None:
        """The `rotator.toml` that was read, if there was one."""
        return self._file

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is allowed and still deserves a second look."""
        return (*self._noted, *doubts(self))

    @property
    def places(self) -> Mapping[str, str]:
        """Where each setting that was given came from, by names such as `vault.addr`."""
        return {name: one.place for name, one in self._given.items()}

    def text_again(self, name: str) -> str | None:
        """What the file of the setting `name`, such as `ecgrid.login`, holds now; None if it came from no file.

        Raises BadInput if the file can no longer be used.
        """
        given = self._given.get(name)
        if given is None or given.file is None:
            return None
        text = read_secret(given.file, given.place)
        if isinstance(text, str):
            return text
        raise BadInput([text])

    def read_again(self, name: str) -> Secret | None:
        """The same, of a secret such as `ecgrid.api_key`."""
        text = self.text_again(name)
        if text is None:
            return None
        try:
            return Secret.clean(text, "the file")
        except Permanent as error:
            problem = Problem(self.places[name], str(error))
        raise BadInput([problem])

    def require_ecgrid(self) -> None:
        """Raises BadInput unless there is a credential for ECGrid."""
        tried = {f"ecgrid.{name}" for name in ("api_key", "api_key_vault", "login", "password")}
        given = self.ecgrid.api_key or self.ecgrid.api_key_vault or self.ecgrid.login
        if not given and not tried & self._unusable:
            what = (
                "no credential for ECGrid; set this, or ROTATOR_ECGRID__API_KEY_FILE, "
                "ROTATOR_ECGRID__API_KEY_VAULT, or ROTATOR_ECGRID__LOGIN and __PASSWORD"
            )
            raise BadInput([Problem("ROTATOR_ECGRID__API_KEY", what)])

    def require_vault(self) -> None:
        """Raises BadInput unless Vault's address and the login method's credential are there, and its files good."""
        problems = [
            *missing_for_vault(self.vault, self._unusable),
            *tls_problems(*self.vault.tls_files(self.places)),
        ]
        if problems:
            raise BadInput(problems)


def _build(cls: type[Settings], given: Mapping[str, Given], sources: Sources) -> Settings | None:
    """The settings, or None; a second attempt without what was refused finds the contradictions among the rest."""
    settings, refused = _attempt(cls, given)
    sources.unusable |= refused.keys()
    for name, what in refused.items():
        sources.problems.append(Problem(given[name].place, what))
    rest = {name: value for name, value in given.items() if name not in refused}
    if refused:
        settings, _ = _attempt(cls, rest)
    if settings is None:
        return None
    for name, other, what in contradictions(settings):
        if name not in refused and other not in refused:
            place = rest[name].place if name in rest else variable_of(name)
            sources.problems.append(Problem(place, what))
    # Without these nobody could say where the policies are.
    return None if sources.unread or "policies" in refused else settings


def _attempt(
    cls: type[Settings], given: Mapping[str, Given]
) -> tuple[Settings | None, dict[str, str]]:
    values: dict[str, Any] = {}
    for name, one in given.items():
        section, dot, key = name.rpartition(".")
        target = values.setdefault(section, {}) if dot else values
        target[key] = str(one.value) if _is_number(one.value) else one.value
    settings, refused = attempted(lambda given: cls(**given), values)
    return settings, {".".join(str(part) for part in one.place[:2]): one.what for one in refused}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _names() -> tuple[str, ...]:
    """The names of all settings, such as `deadline` and `vault.addr`."""
    names = []
    for name, part in Settings.model_fields.items():
        section = part.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            names += [f"{name}.{key}" for key in section.model_fields]
        else:
            names.append(name)
    return tuple(names)
