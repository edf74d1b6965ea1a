# Shared by the scripts of this folder; sourced, not run.
# shellcheck shell=bash

set -euo pipefail

# shellcheck disable=SC2034 # used by those who source this
K8S=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
forwarded=
cleanup_pids=()
cleanup_paths=()

cleanup() {
    local pid path
    for pid in "${cleanup_pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for path in "${cleanup_paths[@]}"; do rm -rf "$path"; done
}
trap cleanup EXIT

say() { printf '==> %s\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# The comment at the top of the calling script is its help.
usage() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    exit "${1:-0}"
}

# need TOOL...: every one of them, or an error that names the missing.
need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "$tool not found; fix: install it and put it on PATH"
    done
}

# value OPTION [VALUE]: print the value, or fail when there is none.
value() {
    [ -n "${2:-}" ] || die "$1 wants a value; fix: see --help"
    printf '%s' "$2"
}

# image_fields NAME IMAGE: an entry of kustomize's `images` that replaces NAME by IMAGE, which must be pinned.
image_fields() {
    local name=$1 image=$2
    printf '  - name: %s\n' "$name"
    case ${image##*/} in
    *@sha256:*) printf '    newName: %s\n    digest: %s\n' "${image%@*}" "${image##*@}" ;;
    *:latest) die "image $image moves; fix: give a version or a digest" ;;
    *:*) printf '    newName: %s\n    newTag: "%s"\n' "${image%:*}" "${image##*:}" ;;
    *) die "image $image is not pinned; fix: NAME:VERSION or NAME@sha256:DIGEST" ;;
    esac
}

# forward NAMESPACE SERVICE PORT: set $forwarded to the local port that leads to one pod of the Service.
forward() {
    local log pid deadline=$((SECONDS + 30))
    log=$(mktemp)
    cleanup_paths+=("$log")
    kubectl -n "$1" port-forward "service/$2" ":$3" >"$log" 2>&1 &
    pid=$!
    cleanup_pids+=("$pid")
    until forwarded=$(sed -n 's/^Forwarding from 127\.0\.0\.1:\([0-9]*\) .*/\1/p' "$log") && [ -n "$forwarded" ]; do
        kill -0 "$pid" 2>/dev/null || die "no way to service/$2 in namespace $1: $(cat "$log")"
        [ $SECONDS -lt $deadline ] || die "service/$2 in namespace $1 did not answer within 30 s"
        sleep 0.2
    done
}
