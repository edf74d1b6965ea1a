#!/usr/bin/env bash
# Run a second version beside the stable one: a canary at a small weight, blue/green at weight 100.
# Complete tracks are distributed by weight; live feeds stay with the stable release until it is promoted.
#
# Usage: canary.sh start IMAGE [--weight N] | weight N | promote | abort | status     [--namespace NAMESPACE]
#
#   start IMAGE    NAME:VERSION or NAME@sha256:DIGEST; the stable release as it runs now, with this image;
#                  receives its share of the traffic after it has scored a track (default 10 %)
#   weight N       share of whole tracks in percent; replicas follow it, 100 is as large as the stable release
#   promote        roll the stable release to this version while the canary carries the traffic, then remove the canary
#   abort          return all traffic to the stable release and remove the canary
#   status         show what runs and its share of the traffic
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

# Read a live object of the stable release or of the canary.
live() { field "$namespace" "$@"; }

there() { [ -n "$(k get deployment reentry-canary --ignore-not-found -o name)" ]; }

check_weight() {
    [[ $1 =~ ^[0-9]+$ ]] && [ "$1" -le 100 ] || die "weight $1; expected 0 to 100 percent"
}

route() {
    say "$1 % of whole tracks to the canary"
    k annotate --overwrite ingress/reentry-http-canary ingress/reentry-grpc-canary "$ANNOTATION=$1"
}

resize() {
    k scale deployment/reentry-canary --replicas="$1"
    rollout "$namespace" reentry-canary || die "the canary's pods do not start; fix: canary.sh abort"
}

# The canary is always large enough for its share: add pods before weight, reduce weight before pods.
shift_to() {
    local stable replicas
    stable=$(live deployment reentry .spec.replicas)
    replicas=$(((stable * $1 + 99) / 100))
    replicas=$((replicas > 0 ? replicas : 1))
    if [ "$replicas" -lt "$(live deployment reentry-canary .spec.replicas)" ]; then
        route "$1"
        resize "$replicas"
    else
        resize "$replicas"
        route "$1"
    fi
}

# What the API server wrote into a live object; a merge patch removes what it names null.
OF_THE_SERVER='{"metadata": {"namespace": null, "uid": null, "resourceVersion": null, "generation": null,
    "creationTimestamp": null, "managedFields": null, "annotations": {
        "kubectl.kubernetes.io/last-applied-configuration": null, "kubernetes.io/change-cause": null,
        "deployment.kubernetes.io/revision": null}},
    "spec": {"replicas": null, "clusterIP": null, "clusterIPs": null}, "status": null}'

# write_live KIND NAME FILE: a live object of the stable release as a manifest.
write_live() {
    k get "$1" "$2" -o yaml | kubectl patch --local --type=merge --patch "$OF_THE_SERVER" -f - -o yaml >"$3"
}

start() {
    local image=$1 share=$2 over stable
    check_weight "$share"
    ! there || die "a canary already exists; fix: canary.sh promote or abort"
    over=$(mktemp -d "$K8S/.canary.XXXXXX")
    cleanup_paths+=("$over")
    cp "$K8S"/canary/*.yaml "$over"
    write_live deployment reentry "$over/deployment.yaml"
    write_live service reentry "$over/service.yaml"
    write_live ingress reentry-http "$over/reentry-http.yaml"
    write_live ingress reentry-grpc "$over/reentry-grpc.yaml"
    stable=$(live deployment reentry "$IMAGE_PATH")
    stable=${stable%@*}
    [[ ${stable##*/} != *:* ]] || stable=${stable%:*}
    {
        printf 'namespace: %s\nimages:\n' "$namespace"
        image_fields "$stable" "$image" # also where an init container runs the server's image
    } >>"$over/kustomization.yaml"
    say "starting $image beside the stable release, without traffic"
    kubectl kustomize "$over" | kubectl apply -f -
    explain "$namespace" reentry-canary "canary.sh start: $image"
    if ! rollout "$namespace" reentry-canary ||
        ! "$K8S/scripts/health-check.sh" --namespace "$namespace" --service reentry-canary; then
        die "the canary does not score a track and receives no traffic; fix: read its log, then canary.sh abort"
    fi
    shift_to "$share"
}

remove() {
    say "removing the canary: its route, then its pods"
    # The gateway drops the route before the pods end; they drain in their preStop.
    k delete ingress -l release=canary
    k delete deployment,service -l release=canary
}

promote() {
    local image stable canary containers
    image=$(live deployment reentry-canary "$IMAGE_PATH")
    # Every container of the canary, because an init container may use the server's image too.
    mapfile -t containers < <(k get deployment reentry-canary -o go-template='{{with .spec.template.spec}}
        {{- range .initContainers}}{{.name}}={{.image}}{{"\n"}}{{end}}
        {{- range .containers}}{{.name}}={{.image}}{{"\n"}}{{end}}{{end}}')
    shift_to 100
    stable=$(live deployment reentry .spec.replicas)
    canary=$(live deployment reentry-canary .spec.replicas)
    say "stable release: $image"
    k set image deployment/reentry "${containers[@]}"
    explain "$namespace" reentry "canary.sh promote: $image"
    # Without traffic the autoscaler may have made it small.
    k scale deployment/reentry --replicas="$((stable > canary ? stable : canary))"
    rollout "$namespace" reentry ||
        die "the stable release cannot run this image, the canary carries the traffic; fix: rollback.sh, then canary.sh abort"
    "$K8S/scripts/health-check.sh" --namespace "$namespace"
    route 0
    remove
    say "promoted $image; update the overlay too, or the next deploy restores the old image"
}

abort() {
    route 0
    remove
    say "aborted: the stable release $(live deployment reentry "$IMAGE_PATH") has all traffic"
}

status() {
    k get deployment -l app.kubernetes.io/name=reentry -o wide
    ! there || say "canary's share: $(live ingress reentry-http-canary \
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
