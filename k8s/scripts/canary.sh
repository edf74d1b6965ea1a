#!/usr/bin/env bash
# A second version beside the stable one: canary by a small weight, blue/green by weight 100.
# Whole tracks are shared out by weight; live feeds stay with the stable release until it is promoted.
#
# Usage: canary.sh start IMAGE [--weight N] | weight N | promote | abort | status     [--namespace NAMESPACE]
#
#   start IMAGE    NAME:VERSION or NAME@sha256:DIGEST; takes its share once it has scored a track (default 10 %)
#   weight N       share of whole tracks in percent; replicas follow it, 100 is as large as the stable release
#   promote        the stable release becomes this version while the canary carries the traffic, then it goes
#   abort          everything back to the stable release, the canary goes
#   status         what runs, with which share
#
# Example: k8s/scripts/canary.sh start registry.example.com/reentry-triton:0.2.0-cpu --weight 5
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

ANNOTATION=nginx.ingress.kubernetes.io/canary-weight
namespace=reentry weight='' words=()
while [ $# -gt 0 ]; do
    case $1 in
    --namespace)
        namespace=$(value "$1" "${2:-}")
        shift
        ;;
    --weight)
        weight=$(value "$1" "${2:-}")
        shift
        ;;
    --help) usage ;;
    -*) die "unknown option $1; fix: see --help" ;;
    *) words+=("$1") ;;
    esac
    shift
done

k() { kubectl -n "$namespace" "$@"; }

field() { k get "$1" "$2" -o "jsonpath={$3}"; }

there() { [ -n "$(k get deployment reentry-canary --ignore-not-found -o name)" ]; }

check_weight() {
    [[ $1 =~ ^[0-9]+$ ]] && [ "$1" -le 100 ] || die "weight $1; expected 0 to 100 percent"
}

route() {
    say "$1 % of whole tracks to the canary"
    k annotate --overwrite ingress/reentry-http-canary ingress/reentry-grpc-canary "$ANNOTATION=$1"
}

# Replicas before weight, so that nobody meets a canary too small for its share.
shift_to() {
    local stable replicas
    stable=$(field deployment reentry .spec.replicas)
    replicas=$(((stable * $1 + 99) / 100))
    k scale deployment/reentry-canary --replicas="$((replicas > 0 ? replicas : 1))"
    k rollout status deployment/reentry-canary --timeout=10m
    route "$1"
}

start() {
    local image=$1 share=$2 host over
    check_weight "$share"
    ! there || die "a canary is there already; fix: canary.sh promote or abort"
    host=$(field ingress reentry-http '.spec.rules[0].host')
    over=$(mktemp -d "$K8S/.canary.XXXXXX")
    cleanup_paths+=("$over")
    {
        printf 'bases:\n  - ../canary\nnamespace: %s\nimages:\n' "$namespace"
        image_fields reentry-triton "$image"
        printf 'patchesJson6902:\n'
        local route
        for route in reentry-http reentry-grpc; do # their names before the suffix
            printf '  - target: {group: networking.k8s.io, version: v1, kind: Ingress, name: %s}\n' "$route"
            printf '    path: host.yaml\n'
        done
    } >"$over/kustomization.yaml"
    printf -- '- {op: replace, path: %s, value: %s}\n' \
        /spec/rules/0/host "$host" /spec/tls/0/hosts/0 "$host" >"$over/host.yaml"
    say "starting $image beside the stable release at $host, without traffic"
    kubectl kustomize "$over" | kubectl apply -f -
    if ! k rollout status deployment/reentry-canary --timeout=10m ||
        ! "$K8S/scripts/health-check.sh" --namespace "$namespace" --service reentry-canary; then
        die "the canary does not score and takes no traffic; fix: read its log, then canary.sh abort"
    fi
    shift_to "$share"
}

remove() {
    say "removing the canary: its route, then its pods"
    # The gateway drops the route before the pods end; they drain in their preStop.
    k delete ingress -l release=canary
    k delete deployment,service,configmap -l release=canary
}

promote() {
    local image stable canary
    image=$(field deployment reentry-canary '.spec.template.spec.containers[0].image')
    shift_to 100
    stable=$(field deployment reentry .spec.replicas)
    canary=$(field deployment reentry-canary .spec.replicas)
    say "stable release: $image"
    k set image deployment/reentry "triton=$image"
    # Without traffic the autoscaler may have made it small.
    k scale deployment/reentry --replicas="$((stable > canary ? stable : canary))"
    k rollout status deployment/reentry --timeout=10m ||
        die "the stable release does not take it, the canary carries the traffic; fix: rollback.sh, then canary.sh abort"
    "$K8S/scripts/health-check.sh" --namespace "$namespace"
    route 0
    remove
    say "promoted $image; the overlay must say so too, or the next deploy brings the old one again"
}

abort() {
    route 0
    remove
    say "aborted: the stable release $(field deployment reentry '.spec.template.spec.containers[0].image') has all traffic"
}

status() {
    k get deployment -l app.kubernetes.io/name=reentry -o wide
    ! there || say "canary's share: $(field ingress reentry-http-canary \
        '.metadata.annotations.nginx\.ingress\.kubernetes\.io/canary-weight') %"
}

need kubectl
command=${words[0]:-}
case $command in
start)
    [ ${#words[@]} -eq 2 ] || usage 2
    start "${words[1]}" "${weight:-10}"
    ;;
weight)
    [ ${#words[@]} -eq 2 ] || usage 2
    check_weight "${words[1]}"
    there || die "no canary in namespace $namespace; fix: canary.sh start IMAGE"
    shift_to "${words[1]}"
    ;;
promote | abort)
    there || die "no canary in namespace $namespace; fix: canary.sh start IMAGE"
    "$command"
    ;;
status) status ;;
*) usage 2 ;;
esac
