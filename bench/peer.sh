#!/bin/sh
# What a user would otherwise write: issue, compare, put, with curl and the bao CLI. No claim, no staging, no probe, no
# recovery. The keys go through pipes and the environment, never through an argument list (printf is the shell's own).
#
# Environment: ECGRID_REST_URL, ECGRID_SOAP_URL, ECGRID_KEY, USER_ID, BAO (the binary), BAO_ADDR, BAO_TOKEN, MOUNT, SECRET.
set -eu

ask() { # what to send, as curl's configuration, on standard input
    curl --silent --show-error --fail --max-time 30 --config -
}

body="<?xml version='1.0' encoding='utf-8'?>\
<e:Envelope xmlns:e='http://schemas.xmlsoap.org/soap/envelope/'><e:Body><KeySet xmlns='http://www.ecgridos.net/'>\
<SessionID>$ECGRID_KEY</SessionID><UserID>$USER_ID</UserID><Visibility>Private</Visibility>\
</KeySet></e:Body></e:Envelope>"
issued=$(printf 'url = "%s"\nheader = "Content-Type: text/xml; charset=utf-8"\nheader = "SOAPAction: \\"%s\\""\ndata-raw = "%s"\n' \
    "$ECGRID_SOAP_URL" "http://www.ecgridos.net/KeySet" "$body" | ask)
key=$(printf '%s' "$issued" | sed -n 's/.*<Key>\([^<]*\)<\/Key>.*/\1/p')
key_id=$(printf '%s' "$issued" | sed -n 's/.*<KeyID>\([^<]*\)<\/KeyID>.*/\1/p')

shown=$(printf 'url = "%s/v2/keys/get-key"\nheader = "Content-Type: application/json"\nheader = "X-API-Key: %s"\ndata-raw = "{\\"userId\\": %s}"\n' \
    "$ECGRID_REST_URL" "$ECGRID_KEY" "$USER_ID" | ask | sed -n 's/.*"key": *"\([^"]*\)".*/\1/p')
if [ -z "$key" ] || [ "$key" != "$shown" ]; then
    echo "ECGrid shows another key than it issued" >&2
    exit 1
fi

printf '{"api_key": "%s", "key_id": "%s"}' "$key" "$key_id" | "$BAO" kv put -mount="$MOUNT" "$SECRET" - >/dev/null
