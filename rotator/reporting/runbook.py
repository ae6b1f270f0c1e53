"""What a person should do next, for each kind of error; docs/runbook.md has the whole story, by anchor.

Every report of a failure (log line, Sentry, webhook, status page) takes both from here, so they never disagree.
"""

from __future__ import annotations

PAGE = "docs/runbook.md"
WAIT = "Nothing by hand: the next tick tries again. If it lasts, "
DOCTOR = "run `rotator doctor`; it says what is missing, and how to grant it."

STEPS = {
    "daemon.CannotListen": "See who listens at ROTATOR_HTTP__LISTEN (`ss -ltnp`): another rotator, or another program. "
    "Give another address, or an empty one for none.",
    "ecgrid.AcceptsAnything": "Do not rotate: ECGrid, or what stands in its place, accepts keys that nobody issued. "
    "Check ROTATOR_ECGRID__REST_URL and any proxy in between, then ask the ECGrid support.",
    "ecgrid.AccessDenied": "Give the rotator's own user the AuthLevel NetworkAdmin or higher, or the policy a user "
    "that it may manage; `rotator doctor` shows both.",
    "ecgrid.AnswerLost": "Nothing by hand: the key is looked for before anything is issued again. If it lasts, look "
    "at the network between here and ECGrid.",
    "ecgrid.BadAnswer": "Check what stands between here and ECGrid (proxy, ROTATOR_ECGRID__REST_URL, "
    "ROTATOR_ECGRID__SOAP_URL): the answer is not ECGrid's.",
    "ecgrid.DuplicateObject": "See `rotator check`: ECGrid has such a key already. Then `rotator check --repair NAME`.",
    "ecgrid.InternalError": WAIT + "report it to the ECGrid support, with the time.",
    "ecgrid.InvalidAPIKey": "Give the rotator a working key (ROTATOR_ECGRID__API_KEY_FILE), or a login as the way back "
    "in; `rotator doctor` tries it.",
    "ecgrid.InvalidParameter": "Check the policy's `user_id` and `visibility`, and ROTATOR_ECGRID__SOAP_NAMESPACE "
    "where it is set; `rotator doctor` shows what the account has.",
    "ecgrid.InvalidSession": "Check ROTATOR_ECGRID__LOGIN and its password; `rotator doctor` tries them.",
    "ecgrid.NewKeyRefused": "Nothing by hand: a key that is refused in two runs is put away and another is issued. If "
    "that fails too, ask the ECGrid support whether the user is active.",
    "ecgrid.NoCredential": "Give the rotator a credential: ROTATOR_ECGRID__API_KEY_FILE, or _LOGIN and "
    "_PASSWORD_FILE.",
    "ecgrid.NoSuchCall": "Write what the message names (`issue: generate`, and a `verify` that goes with it): this "
    "ECGrid has no such call. `rotator doctor` says what it speaks.",
    "ecgrid.NotConfirmed": WAIT + "see with `rotator check NAME` what ECGrid shows.",
    "ecgrid.NotRemoved": "Remove the key in ECGrid's portal; its id is in the message. The rotator then sees that it "
    "is gone.",
    "ecgrid.NotReplaced": "Set `issue: create-key` or `issue: generate` in the policy: KeySet makes no new key on this "
    "account. Then `rotator rotate NAME`.",
    "ecgrid.NotRetired": "See which key it names: it may still be accepted. Remove it in ECGrid's portal if the next "
    "tick cannot.",
    "ecgrid.NotUnderstood": "Check ROTATOR_ECGRID__SOAP_URL, and ROTATOR_ECGRID__SOAP_NAMESPACE where it is set; "
    "`rotator doctor` reads anew what the service speaks.",
    "ecgrid.ObjectNotFound": "Check the policy's `user_id`: ECGrid does not know it, or the rotator's own user may not "
    "see it.",
    "ecgrid.OtherFamily": "Give the policy `issue` and `verify` of one family; the message names the pairs.",
    "ecgrid.OtherSystem": "Put address and credential right; give another environment a ROTATOR_VAULT__STATE_PATH of "
    "its own; or, if this is the ECGrid from now on, `rotator adopt --ecgrid`.",
    "ecgrid.OtherUser": "Check the policy's `user_id`: the key belongs to somebody else. Nothing was published.",
    "ecgrid.RateLimitExceeded": "Nothing by hand: the rate is lowered by itself. If it lasts, lower "
    "ROTATOR_ECGRID__RATE, and see who else uses the account.",
    "ecgrid.Redirect": "Give the address that ECGrid redirects to, if it is ECGrid's: ROTATOR_ECGRID__REST_URL or "
    "ROTATOR_ECGRID__SOAP_URL. Credentials are never sent along a redirect.",
    "ecgrid.Timeout": WAIT + "raise ROTATOR_ECGRID__TIMEOUT, or see ECGrid's own status.",
    "ecgrid.Unavailable": WAIT + "see ECGrid's own status.",
    "ecgrid.UnknownError": "Run `rotator doctor`, and give its output and the time to the ECGrid support.",
    "ecgrid.Unreachable": "Check network, DNS, HTTPS_PROXY, this machine's clock and certificates, and the address in "
    "ROTATOR_ECGRID__REST_URL or ROTATOR_ECGRID__SOAP_URL.",
    "ecgrid.Unreadable": "Set `first: rotate` in the policy, or use `rotator rotate NAME`: the present key cannot be "
    "read, so a new one has to be issued.",
    "fleet.Braked": "See `rotator status` for the policies in doubt and why they failed: ECGrid, the network, or a "
    "right in Vault. Nothing by hand once that is well; `rotator release --brake` lets go once.",
    "fleet.RecordsLost": "Check ROTATOR_VAULT__MOUNT and ROTATOR_VAULT__STATE_PATH. If the records are really gone, "
    "`rotator adopt --all` builds them anew.",
    "fleet.MassDrift": "See with `rotator check` and at ECGrid whether the keys are really gone. If they are, `rotator "
    "check --repair NAME...` repairs what it names.",
    "input.Bad": "Correct the settings or policies that the message names; `rotator validate` checks them offline.",
    "policy.Drifted": "See `rotator check NAME`; `rotator check --repair NAME` replaces the key.",
    "policy.NoRecord": "Name the policy as it was called before: `rotator check` lists the records without a policy. "
    "If it is claimed, give the command again when the claim is over.",
    "policy.OthersSecret": "Give the policy a path of its own, or, after a renaming, run `rotator adopt NEW --from "
    "OLD`.",
    "policy.OwnKey": "Point ROTATOR_ECGRID__API_KEY_VAULT at what the policy publishes, and give the rotator a login "
    "or `users: [a, b]` as the way back in.",
    "rotation.Busy": "Nothing by hand: another rotator is at work on it; the message says who, and until when.",
    "rotation.Contended": WAIT + "see who else writes the policy's record or secret in Vault.",
    "rotation.Failed": "See the message, and `rotator history NAME`.",
    "rotation.FenceLost": "Nothing by hand: another rotator went on with it. If it repeats, look for processes that "
    "are stopped for minutes (ROTATOR_CLAIM_TTL).",
    "rotation.IssueLimit": "Find out why rotations fail after the key was issued (`rotator history NAME`), then "
    "`rotator rotate NAME`: it is not bound by the limit.",
    "rotation.Stopped": "Nothing by hand: the process was told to stop before it began.",
    "rotation.TickDeadline": "Raise ROTATOR_CONCURRENCY or ROTATOR_ECGRID__RATE, or use shards: there are more due "
    "policies than one tick can rotate.",
    "rotator.Error": "See the message.",
    "rotator.Fault": "Report the line to the project: it is a fault of rotator. The next tick tries again.",
    "sandbox.Control": "Start the sandbox anew.",
    "sandbox.OpenBao": "Install the `sandbox` extra, and see that loopback ports are free.",
    "secret.Malformed": "Correct the value where the message says: it holds what no key can hold.",
    "system.NoFile": "Let the process open more files: `ulimit -n`, or LimitNOFILE= in the unit.",
    "system.NoThread": "Let the process have more threads: `ulimit -u`, TasksMax= in the unit, or the container's pids "
    "limit.",
    "vault.BadAnswer": "Check VAULT_ADDR and what stands before Vault: the answer is not Vault's.",
    "vault.BadRecord": "Restore an earlier version of the record in Vault (`vault kv rollback`), or delete it with "
    "all its versions and run `rotator adopt NAME`.",
    "vault.BadRequest": "Check VAULT_ADDR, VAULT_NAMESPACE and the login method's settings; `rotator doctor` tries "
    "them.",
    "vault.BadStaged": "Delete the staged path of the policy in Vault with all its versions; the next tick starts the "
    "rotation over.",
    "vault.Busy": WAIT + "look at Vault's load and rate quotas.",
    "vault.CheckAndSetMismatch": "Nothing by hand: another writer was faster, and the rotation starts again.",
    "vault.ConnectionLost": WAIT + "look at the network between here and Vault.",
    "vault.Contended": WAIT + "see whether far too many rotators run at once.",
    "vault.Deleted": "Restore the version that was deleted (`vault kv undelete`), or, if that is meant, run `rotator "
    "adopt NAME`.",
    "vault.DestinationMissing": "Nothing by hand: every tick writes the missing destination. If it lasts, "
    + DOCTOR,
    "vault.Forbidden": "Check that the token lives, and what it may: " + DOCTOR,
    "vault.InvalidRequest": "Check mount and path in the policy: " + DOCTOR,
    "vault.LoginRefused": "Check the settings that the message names, and in Vault the role or token: has it, or its "
    "SecretID, ended, or was it used up? `rotator doctor` logs in.",
    "vault.MissingCapability": "Add the capability that the message names to the rotator's policy in Vault: " + DOCTOR,
    "vault.NoJWT": "Mount the service account's token, or name its file in ROTATOR_VAULT__JWT_FILE.",
    "vault.NoMount": "Check `mount` in the policy and ROTATOR_VAULT__MOUNT for a typing error, and that the login may "
    "use it.",
    "vault.NoToken": "Set VAULT_TOKEN, or another ROTATOR_VAULT__AUTH.",
    "vault.NotFound": "Check mount and path for a typing error: " + DOCTOR,
    "vault.NotKV2": "Name a KV version 2 mount, or make it one: `vault kv enable-versioning MOUNT`.",
    "vault.NotVault": "Check VAULT_ADDR: something else than Vault answers there.",
    "vault.Redirect": "Point VAULT_ADDR at the active node, or at what stands before it: redirects are not followed "
    "with a token.",
    "vault.Sealed": "Unseal Vault (`vault operator unseal`). Rotations go on by themselves.",
    "vault.ServerError": WAIT + "look at Vault's own log at that time.",
    "vault.StaleRead": WAIT + "point VAULT_ADDR at the active node: a standby lags behind.",
    "vault.TLS": "Check VAULT_CACERT, the certificate's dates and name, and this machine's clock.",
    "vault.TimeInDoubt": WAIT + "set the clocks of Vault's nodes and of this machine right, and let nothing between "
    "here and Vault answer in its place; `sys/health` must be reachable.",
    "vault.Timeout": WAIT + "look at Vault's load.",
    "vault.TokenExpires": "Give the rotator a renewable or longer-lived token, or another ROTATOR_VAULT__AUTH.",
    "vault.TokenUses": "Give each rotator a login of its own without a limit of uses (`num_uses`, `token_num_uses`), "
    "or with a far higher one.",
    "vault.TooLarge": "Move other fields out of the secret that the message names, or raise the limit of Vault's "
    "storage (raft: `max_entry_size`), then `rotator rotate NAME`.",
    "vault.Unreachable": "Check VAULT_ADDR, DNS, the network, and that Vault runs.",
}  # fmt: skip


def next_step(kind: str) -> str:
    """What a person should do about an error of that kind, in a sentence or two."""
    return STEPS.get(
        kind, "See the message; `rotator doctor` tries everything that a rotation needs."
    )


def link(name: str) -> str:
    """Where the runbook tells more: about a kind of error, or an alert by its name."""
    return f"{PAGE}#{name.lower().replace('.', '')}"
