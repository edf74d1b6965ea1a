#!/usr/bin/env bash
# Check that the server is live and ready, and score a track, because readiness alone proves nothing.
#
# Usage: health-check.sh [--url http://HOST:PORT] | [--namespace NAMESPACE [--service SERVICE]]
#
#   --url URL        HTTP address of Triton (default http://127.0.0.1:8000)
#   --namespace NS   reach it through a port forward into this namespace instead
#   --service NAME   Service in that namespace (default reentry; a canary is reentry-canary)
#
# Example: k8s/scripts/health-check.sh --namespace reentry-staging
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

url=http://127.0.0.1:8000 namespace='' service=reentry
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
if [ -n "$namespace" ]; then
    need kubectl
    forward "$namespace" "$service" 8000
    url=http://127.0.0.1:$forwarded
    say "service/$service in namespace $namespace is at $url"
fi

ask() { curl --silent --show-error --fail-with-body --max-time 10 "$@"; }

for path in v2/health/live v2/health/ready v2/models/reentry/ready; do
    say "GET /$path"
    ask "$url/$path" >/dev/null || die "$url/$path reports a failure; fix: read the server's log"
done

say "POST /v2/models/reentry/infer, a track of two steps"
# Columns: timestamp, latitude, longitude, altitude, radiometric intensity, sensor.
answer=$(ask "$url/v2/models/reentry/infer" --data '{"inputs": [
    {"name": "track_id", "datatype": "INT64", "shape": [1, 1], "data": [1]},
    {"name": "track_length", "datatype": "INT32", "shape": [1, 1], "data": [2]},
    {"name": "measurements", "datatype": "FP64", "shape": [1, 2, 6],
     "data": [0.0, 10.0, 20.0, 1000.0, 1.0, 1, 0.5, 10.0, 20.0, 1100.0, 1.0, 1]}]}') ||
    die "the server rejected a track: ${answer:-no answer}"
for output in reentry_probability onset_step model_version; do
    [[ $answer == *"\"$output\""* ]] || die "the answer lacks $output: $answer"
done
version=$(sed -n 's/.*"name":"model_version"[^}]*"data":\[\([0-9]*\)\].*/\1/p' <<<"$answer")
say "healthy: reentry_lstm version ${version:-unknown} answered"
