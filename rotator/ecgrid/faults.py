"""What a SOAP fault means: the one table of them.

| what the fault says | meaning | kind |
|---|---|---|
| ASP.NET's own: no detail, an action or a request that it could not read | nothing was done | `ecgrid.NotUnderstood` |
| the portal's `ECGridOSSOAPErrorCode`, one of its words | that word | as REST's code of that meaning |
| words of a failure within: internal, SQL, data, unknown | it may have been carried out | `ecgrid.InternalError` |
| words of a refused session or key | the credential is not accepted | `ecgrid.InvalidAPIKey` |
| access denied | refused | `ecgrid.AccessDenied` |
| ASP.NET's own: an exception in the middle of the call | it may have been carried out | `ecgrid.InternalError` |
| not found, duplicate, invalid | refused | as REST's code of that meaning |
| a number alone | a hint for a call that changes nothing: 2 denied, 3 not found | else `ecgrid.UnknownError` |
| anything else | it may have been carried out | `ecgrid.UnknownError` |

The words are looked for in any case, with or without spaces, in the fault's string, in its detail's string and message,
and in a portal's code that is none of its words.
A number alone never proves that nothing was carried out, nor that a key is dead: the vendor's table of them is not
known. It has been seen once, 8 with "Invalid data length", which fits the order of the service's own list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# The service's own list, in its order, from -1.
NUMBERED = (
    "Unknown",
    "Success",
    "SessionTimeout",
    "AccessDenied",
    "NotFound",
    "InvalidID",
    "Duplicate",
    "IDExistsOnNetwork",
    "InvalidDataType",
    "InvalidDataLength",
    "DataError",
    "SQLError",
    "InternalError",
)
_CALLERS = ("Client", "Sender", "VersionMismatch", "MustUnderstand")
_UNREAD = (
    r"didnotrecognizethevalueofhttpheader|unabletoreadrequest|requestformatisunrecognized"
    r"|soapversionmismatch|mustunderstand|unknownsoapaction|nosuchoperation"
)
# The portal's words, and REST's codes of the same errors.
_NAMED = (
    "Authentication",
    "Authorization",
    "InvalidAPIKey",
    "InvalidSession",
    "AccessDenied",
    "ObjectNotFound",
    "InvalidParameter",
    "DuplicateObject",
    "RateLimitExceeded",
    "SystemError",
    "InternalError",
)
# In this order: the first that fits. A fault is rare, so they are compiled when there is one.
_MEANINGS = (
    (r"internalerror|sql|dataerror|unknownerror", "InternalError"),
    (
        (
            r"(invalid|expired|unknown|bad|wrong)(sessionid|session|apikey)"
            r"|(sessionid|session|apikey)(is|has)?(been)?(invalid|notvalid|expired|timeout|timedout|notfound)"
            r"|loginagain|notloggedin"
        ),
        "InvalidAPIKey",
    ),
    (r"accessdenied|accessisdenied|notauthorized|unauthorized|forbidden", "AccessDenied"),
    # An exception that nobody caught: what it says it did not find, or found invalid, may be anything.
    (r"unabletoprocessrequest", "InternalError"),
    (r"notfound|doesnotexist|nosuch", "ObjectNotFound"),
    (r"duplicate|idexistsonnetwork|alreadyexists", "DuplicateObject"),
    (r"invalid|notunderstood", "InvalidParameter"),
)
_HINTS = {"AccessDenied": "AccessDenied", "NotFound": "ObjectNotFound"}


@dataclass(frozen=True)
class Fault:
    """A fault as it came. What it says is in no repr: it may repeat the request.

    `side` is the fault code without its prefix, `named` the portal's code, `number` and `words` the service's own,
    `text` the fault string; `bare`: there is no detail.
    """

    side: str = field(repr=False)
    named: str = field(default="", repr=False)
    number: str = field(default="", repr=False)
    words: tuple[str, ...] = field(default=(), repr=False)
    text: str = field(default="", repr=False)
    bare: bool = True

    @property
    def unread(self) -> bool:
        """Whether the service could not read the request, or knows no such action: nothing was carried out."""
        callers = self.side.partition(".")[0] in _CALLERS
        return self.bare and callers and bool(re.search(_UNREAD, _folded(self.text)))

    @property
    def code(self) -> str:
        """REST's code of that meaning, by the portal's word, else by the words; empty if they have none."""
        if self.named in _NAMED:
            return self.named
        return meaning(self.named, *self.words, self.text)

    @property
    def hint(self) -> str:
        """REST's code that the number alone hints at; empty if at none."""
        return _HINTS.get(self.listed, "")

    @property
    def listed(self) -> str:
        """The number's name in the service's own list; empty if it is not in it."""
        place = int(self.number) + 1 if re.fullmatch(r"-?\d{1,3}", self.number) else -1
        return NUMBERED[place] if 0 <= place < len(NUMBERED) else ""

    @property
    def shown(self) -> str:
        """What may be shown of it: its number, with the list's name for it, or the portal's."""
        number = self.number or self.named
        if not re.fullmatch(r"-?\d{1,6}", number):
            return ""
        return f"fault {number}" + (f" ({self.listed})" if self.number and self.listed else "")


def meaning(*texts: str) -> str:
    """REST's code of what these words say; empty if they say nothing that is known."""
    folded = [_folded(text) for text in texts]
    for pattern, code in _MEANINGS:
        if any(re.search(pattern, text) for text in folded):
            return code
    return ""


def _folded(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.casefold())
