# Shared by the scripts of this folder; sourced, not run.
# shellcheck shell=bash

set -euo pipefail

# shellcheck disable=SC2034 # used by those who source this
K8S=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034
IMAGE_PATH='.spec.template.spec.containers[0].image'
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

# need TOOL...: fail with an error that names a missing tool.
need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "$tool not found; fix: install it and put it on PATH"
    done
}

# value OPTION [VALUE]: print the value, or fail if it is missing.
value() {
    [ -n "${2:-}" ] || die "$1 requires a value; fix: see --help"
    printf '%s' "$2"
}

# image_fields NAME IMAGE: an entry of kustomize's `images` that replaces NAME by IMAGE, which must be pinned.
image_fields() {
    local name=$1 image=$2
    printf '  - name: %s\n' "$name"
    case ${image##*/} in
    *@sha256:*) printf '    newName: %s\n    digest: %s\n' "${image%@*}" "${image##*@}" ;;
    *:latest) die "the tag of image $image is not fixed; fix: give a version or a digest" ;;
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
        kill -0 "$pid" 2>/dev/null || die "cannot connect to service/$2 in namespace $1: $(cat "$log")"
        [ $SECONDS -lt $deadline ] || die "service/$2 in namespace $1 did not answer within 30 s"
        sleep 0.2
    done
}

# field NAMESPACE KIND NAME PATH: print one field of a live object.
field() { kubectl -n "$1" get "$2" "$3" -o "jsonpath={$4}"; }

# explain NAMESPACE DEPLOYMENT TEXT: what `kubectl rollout history` shows beside the revision.
explain() { kubectl -n "$1" annotate --overwrite "deployment/$2" "kubernetes.io/change-cause=$3"; }

# Reasons for which a container never starts.
HOPELESS='CrashLoopBackOff|ImagePullBackOff|InvalidImageName|ErrImageNeverPull|CreateContainerConfigError'

# stuck NAMESPACE DEPLOYMENT: print why a pod of the newest revision cannot start; fail if none is stuck.
stuck() {
    local labels generation observed revision hash pod container reason message last
    # shellcheck disable=SC2016 # the template's own variables
    read -r labels generation observed revision < <(kubectl -n "$1" get deployment "$2" -o go-template='
        {{- range $key, $value := .spec.selector.matchLabels}}{{$key}}={{$value}},{{end}} {{.metadata.generation}}
        {{- " "}}{{.status.observedGeneration}}
        {{- " "}}{{index .metadata.annotations "deployment.kubernetes.io/revision"}}{{"\n"}}') || return 1
    [ "$generation" = "$observed" ] || return 1 # until then the revision is that of the pods before
    hash=$(kubectl -n "$1" get replicasets -l "${labels%,}" -o go-template='
        {{- range .items}}{{if eq (index .metadata.annotations "deployment.kubernetes.io/revision") "'"$revision"'"}}
        {{- index .metadata.labels "pod-template-hash"}}{{end}}{{end}}') || return 1
    [ -n "$hash" ] || return 1
    # shellcheck disable=SC2016 # the template's own variables
    read -r pod container reason message < <(kubectl -n "$1" get pods -l "pod-template-hash=$hash" -o go-template='
        {{- range .items}}{{$pod := .metadata.name}}
        {{- range .status.initContainerStatuses}}{{$name := .name}}{{with .state.waiting}}
        {{- $pod}} {{$name}} {{.reason}} {{.message}}{{"\n"}}{{end}}{{end}}
        {{- range .status.containerStatuses}}{{$name := .name}}{{with .state.waiting}}
        {{- $pod}} {{$name}} {{.reason}} {{.message}}{{"\n"}}{{end}}{{end}}{{end}}' |
        grep -E -m 1 "^[^ ]+ [^ ]+ ($HOPELESS) ") || return 1
    # The container that crashed; one that never ran has no log.
    last=$(kubectl -n "$1" logs "$pod" -c "$container" --previous --tail=1 2>/dev/null) || last=''
    printf 'pod %s, container %s: %s: %s%s\n' "$pod" "$container" "$reason" "$message" \
        "${last:+; its last line: $last}"
}

# completed NAMESPACE JOB: wait until a Job has succeeded; fail as soon as it has failed, with its last lines.
completed() {
    local state deadline=$((SECONDS + 660))
    while [ $SECONDS -lt $deadline ]; do
        state=$(kubectl -n "$1" get job "$2" -o go-template='
            {{- range .status.conditions}}{{if eq .status "True"}}{{.type}} {{end}}{{end}}')
        case $state in
        *Complete*) return ;;
        *Failed*) break ;;
        esac
        sleep 1
    done
    kubectl -n "$1" logs "job/$2" --tail=5 >&2 || true
    return 1
}

# rollout NAMESPACE DEPLOYMENT: wait until its new pods are ready; fail as soon as one of them cannot start.
rollout() {
    local found waiting looking status=0
    found=$(mktemp)
    cleanup_paths+=("$found")
    kubectl -n "$1" rollout status "deployment/$2" --timeout=10m &
    waiting=$!
    {
        until stuck "$1" "$2" >"$found"; do sleep 2; done
        kill "$waiting"
    } >/dev/null 2>&1 &
    looking=$!
    cleanup_pids+=("$waiting" "$looking")
    wait "$waiting" 2>/dev/null || status=$?
    kill "$looking" 2>/dev/null || true
    wait "$looking" 2>/dev/null || true
    if [ $status -ne 0 ]; then
        # Where no pod could be created, the Deployment says why: a quota, a policy.
        [ -s "$found" ] || kubectl -n "$1" get deployment "$2" -o go-template='
            {{- range .status.conditions}}{{if eq .type "ReplicaFailure"}}{{.message}}{{"\n"}}{{end}}{{end}}' >"$found"
        sed 's/^/error: /' "$found" >&2
    fi
    return $status
}
