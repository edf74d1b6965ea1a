#!/usr/bin/env bash
# Check that the server is live and ready, and score a track, because readiness alone proves nothing.
#
# Usage: health-check.sh [--url http://HOST:PORT] | [--namespace NAMESPACE [--service SERVICE]]
#
#   --url URL        HTTP address of Triton, or of a gateway (default http://127.0.0.1:8000)
#   --namespace NS   reach Triton, then its gateway, through port forwards into this namespace instead
#   --service NAME   Service in that namespace (default reentry; a canary is reentry-canary)
#
# REENTRY_KEY in the environment is a key of the gateway with the scopes `score` and `read`. A gateway scores nothing
# without one; with --namespace, it is then only asked whether it is live and ready.
#
# Example: k8s/scripts/health-check.sh --namespace reentry-staging
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

url=http://127.0.0.1:8000 namespace='' service=reentry key='' insecure=''
while [ $# -gt 0 ]; do
    case $1 in
    --url) url=$(value "$1" "${2:-}") ;;
    --namespace) namespace=$(value "$1" "${2:-}") ;;
    --service) service=$(value "$1" "${2:-}") ;;
    --help) usage ;;
    *) die "unknown argument $1; fix: see --help" ;;
    esac
    shift 2
done

need curl
TLS='.spec.template.spec.containers[0].env[?(@.name=="REENTRY_GATEWAY_TLS_CERTIFICATE")].value'

# The key must not be an argument, which other users of the machine can see.
ask() {
    curl --silent --show-error --fail-with-body --max-time 10 ${insecure:+--insecure} \
        --header @<(printf '%s' "${key:+Authorization: Bearer $key}") "$@"
}

# answers PATH...: fail unless the server at $url answers these paths. While a server replaces a model, it is not ready.
answers() {
    local path
    for path; do
        say "GET /$path"
        ask --retry 5 --retry-delay 1 --retry-all-errors "$url/$path" >/dev/null || die "$url/$path reports a failure; fix: read the server's log"
    done
}

# Score a track of two steps at $url. Columns: timestamp, latitude, longitude, altitude, radiometric intensity, sensor.
score() {
    local answer output version
    answers v2/health/live v2/health/ready v2/models/reentry/ready
    say "POST /v2/models/reentry/infer, a track of two steps"
    answer=$(ask "$url/v2/models/reentry/infer" --header 'Content-Type: application/json' --data '{"inputs": [
        {"name": "track_id", "datatype": "INT64", "shape": [1, 1], "data": [1]},
        {"name": "track_length", "datatype": "INT32", "shape": [1, 1], "data": [2]},
        {"name": "measurements", "datatype": "FP64", "shape": [1, 2, 6],
         "data": [0.0, 10.0, 20.0, 1000.0, 1.0, 1, 0.5, 10.0, 20.0, 1100.0, 1.0, 1]}]}') ||
        die "the server rejected a track: ${answer:-no answer}"
    for output in reentry_probability onset_step model_version; do
        [[ $answer == *"\"$output\""* ]] || die "the answer lacks $output: $answer"
    done
    version=$(sed -n 's/.*"name": *"model_version"[^}]*"data": *\[\([0-9]*\)\].*/\1/p' <<<"$answer")
    say "healthy: reentry_lstm version ${version:-unknown} answered"
}

if [ -z "$namespace" ]; then
    key=${REENTRY_KEY:-}
    score
    exit
fi

need kubectl
key=''
forward "$namespace" "$service" 8000
url=http://127.0.0.1:$forwarded
say "service/$service in namespace $namespace is at $url"
score
gateway=${service/#reentry/reentry-gateway}
forward "$namespace" "$gateway" 8080
url=http://127.0.0.1:$forwarded
if [ -n "$(field "$namespace" deployment "$gateway" "$TLS")" ]; then
    url=https://127.0.0.1:$forwarded
    insecure=yes # the forward leads to the pod; its certificate names the Service
fi
say "service/$gateway in namespace $namespace is at $url"
answers health/live health/ready
key=${REENTRY_KEY:-}
if [ -n "$key" ]; then
    score
else
    say "no track was scored through $gateway, because REENTRY_KEY is not set"
fi
