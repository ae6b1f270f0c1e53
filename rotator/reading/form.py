"""How a text is read: kinds of single values, forms of mappings, and refusals in words of ours.

pydantic reads, and finds everything that is wrong at once. What it says of its own accord names its types and quotes
the input; so it is replaced here, and nothing of it gets out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from rotator.reading.hints import near

# The kind of an error whose text is ours, and may be shown.
_OURS = "rotator"
_NO_LIST = "must be a list; write it in [ ]"
# What pydantic says of keys is said by a form itself.
_OF_KEYS = ("missing", "extra_forbidden")

Place = tuple[str | int, ...]
F = TypeVar("F", bound="Form")
G = TypeVar("G")
M = TypeVar("M", bound=BaseModel)


class Refusal(NamedTuple):
    """What is wrong at one place: `place` has its keys and positions, from the top."""

    place: Place
    what: str


def unusable(what: str) -> PydanticCustomError:
    """To be raised for a value that cannot be used: it says what to write, and never quotes what was written."""
    return PydanticCustomError(_OURS, what)


def refusals(error: ValidationError) -> list[Refusal]:
    """Everything that pydantic found, in words of ours, but for missing and unknown keys."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        Refusal(one["loc"], _in_our_words(one["type"], one["msg"]))
        for one in details
        if one["type"] not in _OF_KEYS
    ]


def _in_our_words(kind: str, text: str) -> str:
    if kind == _OURS:
        return text
    return _NO_LIST if kind == "tuple_type" else "has a value of the wrong kind"


class Kind:
    """Beside a type: how a text becomes such a value, and what an editor is told of it.

    A value that is of one of `types` already is taken as it is.
    """

    def __init__(
        self, read: Callable[[str], Any], *types: type, schema: Mapping[str, Any] | None = None
    ) -> None:
        self._read, self._types, self._schema = read, types, dict(schema or {})

    def __repr__(self) -> str:
        return type(self).__name__

    def value(self, given: object) -> object:
        """The value; raises `unusable`."""
        if isinstance(given, str):
            return self._read(given)
        if isinstance(given, self._types):
            return given
        raise unusable("must be a single text or number")

    def wrong(self, given: object) -> str | None:
        """What is said of a value that cannot be used; None for one that can."""
        try:
            self.value(given)
        except PydanticCustomError as error:
            return str(error)
        return None

    def __get_pydantic_core_schema__(
        self, _type: Any, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.value)

    def __get_pydantic_json_schema__(
        self, _core: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return dict(self._schema)


class Form(BaseModel):
    """A mapping that people write. What has to stand in it is in `needed`, with an example, and is None until it does.

    `example` is one of the whole.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True
    )
    example: ClassVar[str]
    needed: ClassVar[Mapping[str, str]] = {}

    @classmethod
    @cache
    def keys(cls) -> tuple[str, ...]:
        """What may stand in it."""
        return tuple(field.alias or name for name, field in cls.model_fields.items())

    @classmethod
    def of_keys(cls, given: Mapping[str, Any]) -> Iterator[Refusal]:
        """What is wrong with the keys, whatever they hold; None is under one that something was said of already."""
        yield from unknown_keys(present(given), cls.keys())
        for key, example in cls.needed.items():
            if key not in given:
                yield Refusal((key,), f"is missing; write {example}")


def present(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was written, without what was refused."""
    return {key: value for key, value in given.items() if value is not None}


def unknown_keys(given: Iterable[str], known: Sequence[str]) -> Iterator[Refusal]:
    """Those of the keys that nobody knows, with the likely spelling."""
    for key in given:
        if key not in known:
            hint = near(key, known, f"; possible are {', '.join(known)}")
            yield Refusal((key,), f"unknown key{hint}")


def look(
    form: type[F], given: object, validate: Callable[[Any], F]
) -> tuple[F | None, list[Refusal]]:
    """The form as far as it is good, and everything that is wrong: what is refused counts as not written.

    So one problem hides no other, be it about one value or about how several go together. The form is None if nothing
    can be made of the rest.
    """
    if not isinstance(given, dict):
        return None, [Refusal((), f"must be a mapping such as {form.example}")]
    refused = list(form.of_keys(given))
    rest, known = given, form.keys()
    while True:
        good = {key: value for key, value in rest.items() if key in known and value is not None}
        result, wrong = attempted(validate, good)
        refused += wrong
        before, rest = rest, _without(rest, wrong) if wrong else rest
        if rest is before or rest == before:
            return result, refused


def attempted(make: Callable[[G], M], given: G) -> tuple[M | None, list[Refusal]]:
    """What is made of that, or everything that pydantic refused."""
    try:
        return make(given), []
    except ValidationError as error:
        return None, refusals(error)


def _without(given: Mapping[str, Any], refused: Iterable[Refusal]) -> dict[str, Any]:
    """What was written, with None in place of what was refused."""
    rest: dict[str, Any] = _copied(given)
    for refusal in refused:
        holder: Any = rest
        for part in refusal.place[:-1]:
            holder = None if holder is None else holder[part]
        if refusal.place and holder is not None:
            holder[refusal.place[-1]] = None
    return rest


def _copied(given: Any) -> Any:
    if isinstance(given, Mapping):
        return {key: _copied(inner) for key, inner in given.items()}
    return [_copied(inner) for inner in given] if isinstance(given, list) else given


def whole(form: type[F]) -> WrapValidator:
    """Beside a form's type: a form within another, which is refused with everything that is wrong with it."""

    def validate(given: Any, handler: ValidatorFunctionWrapHandler) -> F | None:
        result, refused = look(form, given, handler)
        if refused:
            raise refusing(refused)
        return result

    return WrapValidator(validate)


def refusing(refused: Iterable[Refusal]) -> ValidationError:
    """To be raised for a part of a form: each of these is told, its place being counted from that part."""
    lines = [
        InitErrorDetails(type=unusable(one.what), loc=one.place, input=None) for one in refused
    ]
    return ValidationError.from_exception_data("a form", lines, hide_input=True)
