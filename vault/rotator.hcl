# What the rotator may do in Vault, and nothing else: one fleet whose keys are published below secret/ecgrid/.
#
#   vault policy write rotator vault/rotator.hcl
#
# To fit it to yours: `secret` is the KV v2 mount (ROTATOR_VAULT__MOUNT), `rotator` the state path in it
# (ROTATOR_VAULT__STATE_PATH), `ecgrid` what comes before the last slash of the policies' `vault: {path: ...}`. A further
# mount (`also: [{mount: dr, ...}]`) takes the last three lines once more. `rotator vault-policy` prints one that fits, and
# `rotator doctor` lists whatever is missing.

# The record of each policy: what happened, what is under way, what is still to retire. Never a key's value.
path "secret/data/rotator/record/*"     { capabilities = ["create", "read", "update"] }
# list: records without a policy (`check`); delete: the old name's record (`adopt --from`); read: do versions expire?
path "secret/metadata/rotator/record/*" { capabilities = ["list", "read", "delete"] }
# Which policies need no look now.
path "secret/data/rotator/index/*"      { capabilities = ["create", "read", "update"] }
# What ECGrid speaks, and whose it is: so that another environment's is told from this one.
path "secret/data/rotator/ecgrid"       { capabilities = ["create", "read", "update"] }
# What is wrong, and what was told of it: so that each alarm comes once, whichever rotator notices.
path "secret/data/rotator/told"         { capabilities = ["create", "read", "update"] }
# A key between its issue and its publishing. Nobody else should be given this path.
path "secret/data/rotator/staged/*"     { capabilities = ["create", "read", "update"] }
# Once published, the staged value is gone with all its versions.
path "secret/metadata/rotator/staged/*" { capabilities = ["delete"] }

# Where your applications read their key. No delete, here or above: what was published can only be followed by more.
path "secret/data/ecgrid/*"             { capabilities = ["create", "read", "update"] }
# patch: the mark of the policy that the secret belongs to.
path "secret/metadata/ecgrid/*"         { capabilities = ["read", "patch"] }
# Whether versions delete themselves in this mount.
path "secret/config"                    { capabilities = ["read"] }

# A login's own affairs. Vault's `default` policy has these too; with them here the roles can do without it.
path "sys/capabilities-self"            { capabilities = ["update"] }
path "auth/token/renew-self"            { capabilities = ["update"] }
# Only with ROTATOR_VAULT__AUTH=token: how long does the token live?
path "auth/token/lookup-self"           { capabilities = ["read"] }
# Only with ROTATOR_VAULT__AUTH=approle (mounted under that name): when does its own SecretID end?
path "auth/approle/role/+/secret-id/lookup" { capabilities = ["update"] }
