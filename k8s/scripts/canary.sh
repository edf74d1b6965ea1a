#!/usr/bin/env bash
# Run a second version beside the stable one: a canary at a small weight, blue/green at weight 100.
# The canary has servers and a gateway of its own, and the edge distributes requests by weight. Jobs and live feeds stay
# with the stable release until it is promoted.
#
# Usage: canary.sh start IMAGE [--weight N] | weight N | promote | abort | status     [--namespace NAMESPACE]
#        canary.sh auto IMAGE --prometheus URL [--wait SECONDS] [--config FILE] [--tracks FILE] [--namespace NAMESPACE]
#
#   start IMAGE    NAME:VERSION or NAME@sha256:DIGEST; the stable release as it runs now, with this image;
#                  receives its share of the traffic after it has scored a track (default 10 %)
#   weight N       share of the requests in percent; replicas follow it, 100 is as large as the stable release is, or was
#                  when the canary started if an autoscaler has shrunk it since
#   promote        roll the stable release to this version while the canary carries the traffic, then remove the canary
#   abort          return all traffic to the stable release and remove the canary
#   status         show what runs and its share of the traffic
#   auto IMAGE     start, then 5, 20, 50 and 100 % of the requests, then promote; each step waits until
#                  `reentry canary judge` passes the canary, at most --wait seconds (default 1800). A canary that fails,
#                  has no verdict at the deadline, or whose script is stopped, is aborted. The exit status is the judge's.
#
# --prometheus, --config and --tracks are those of `reentry canary judge`. With --tracks, both releases score that file.
#
# Example: k8s/scripts/canary.sh start registry.example.com/reentry-triton:0.2.0-cpu --weight 5
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

ANNOTATION=nginx.ingress.kubernetes.io/canary-weight
SIZE=reentry/stable-replicas # annotation of a canary's Deployment: replicas of the stable one when the canary started
STEPS=(5 20 50 100)
namespace=reentry weight='' prometheus='' wait=1800 config='' tracks='' words=()
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
    --prometheus)
        prometheus=$(value "$1" "${2:-}")
        shift
        ;;
    --wait)
        wait=$(value "$1" "${2:-}")
        shift
        ;;
    --config)
        config=$(value "$1" "${2:-}")
        shift
        ;;
    --tracks)
        tracks=$(value "$1" "${2:-}")
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

UNKNOWN="the cluster does not say whether a canary exists; fix: check kubectl's access to namespace $namespace, then repeat"

# Whether there is a canary: the status is 1 if there is none, and 2 if kubectl failed, so that it is not known.
there() {
    local found
    found=$(k get deployment reentry-canary --ignore-not-found -o name) || return 2
    [ -n "$found" ]
}

# Fail unless there is a canary.
need_canary() {
    local status=0
    there || status=$?
    case $status in
    1) die "no canary in namespace $namespace; fix: canary.sh start IMAGE" ;;
    2) die "$UNKNOWN" ;;
    esac
}

# Fail unless there is no canary.
need_no_canary() {
    local status=0
    there || status=$?
    case $status in
    0) die "a canary already exists; fix: canary.sh promote or abort" ;;
    2) die "$UNKNOWN" ;;
    esac
}

check_weight() {
    [[ $1 =~ ^[0-9]+$ ]] && [ "$1" -le 100 ] || die "weight $1; expected 0 to 100 percent"
}

# Whether the Gateway API routes, and not ingress-nginx. A cluster without it does not know the kind; any other failure is
# an error, because the weight of a canary must not be left in a route that was not found.
by_route() {
    local found
    if ! found=$(k get httproute reentry-gateway --ignore-not-found -o name 2>&1); then
        [[ $found == *"doesn't have a resource type"* ]] || die "cannot read the route: $found"
        return 1
    fi
    [[ $found == *httproute*/reentry-gateway ]]
}

# The weights of the two releases in the HTTPRoute. A Service that does not exist must not be named, even at weight 0.
weights() {
    local service=reentry-gateway weight=$((100 - $1)) canary=''
    [ "$1" -eq 0 ] || canary=", {\"name\": \"$service-canary\", \"port\": 8080, \"weight\": $1}"
    printf '[{"op": "replace", "path": "/spec/rules/0/backendRefs", "value": [{"name": "%s", "port": 8080, "weight": %s}%s]}]' \
        "$service" "$weight" "$canary"
}

route() {
    say "$1 % of the requests to the canary"
    if by_route; then
        k patch httproute reentry-gateway --type=json --patch "$(weights "$1")"
    else
        k annotate --overwrite ingress/reentry-gateway-canary "$ANNOTATION=$1"
    fi
}

# replicas_for DEPLOYMENT WEIGHT: replicas that the canary of a Deployment needs for a weight. An autoscaler shrinks the
# stable release while the canary carries the traffic, so its size at the start counts too.
replicas_for() {
    local stable started replicas
    stable=$(live deployment "$1" .spec.replicas) || return
    started=$(live deployment "$1-canary" ".metadata.annotations.$SIZE") || return
    [ "${started:-0}" -le "$stable" ] || stable=$started
    replicas=$(((stable * $2 + 99) / 100))
    echo $((replicas > 0 ? replicas : 1))
}

# resize DEPLOYMENT WEIGHT
resize() {
    local replicas
    replicas=$(replicas_for "$1" "$2")
    k scale "deployment/$1-canary" --replicas="$replicas"
    rollout "$namespace" "$1-canary" || die "the canary's pods do not start; fix: canary.sh abort"
}

# The canary is always large enough for its share: add pods before weight, reduce weight before pods.
shift_to() {
    local needed present
    needed=$(replicas_for reentry "$1")
    present=$(live deployment reentry-canary .spec.replicas)
    if [ "$needed" -lt "$present" ]; then
        route "$1"
        resize reentry "$1"
        resize reentry-gateway "$1"
    else
        resize reentry "$1"
        resize reentry-gateway "$1"
        route "$1"
    fi
}

# What the API server wrote into a live object; a merge patch removes what it names null.
OF_THE_SERVER='{"metadata": {"namespace": null, "uid": null, "resourceVersion": null, "generation": null,
    "creationTimestamp": null, "managedFields": null, "annotations": {
        "kubectl.kubernetes.io/last-applied-configuration": null, "kubernetes.io/change-cause": null,
        "deployment.kubernetes.io/revision": null}},
    "spec": {"replicas": null, "clusterIP": null, "clusterIPs": null}, "status": null}'

# write_live KIND NAME FILE [PATCH]: a live object of the stable release as a manifest.
write_live() {
    k get "$1" "$2" -o yaml | kubectl patch --local --type=merge --patch "${4:-$OF_THE_SERVER}" -f - -o yaml >"$3"
}

# write_deployment NAME FILE: a live Deployment of the stable release as a manifest, with the number of its replicas.
write_deployment() {
    local replicas annotations='"annotations": {'
    replicas=$(live deployment "$1" .spec.replicas)
    write_live deployment "$1" "$2" "${OF_THE_SERVER/$annotations/$annotations\"$SIZE\": \"$replicas\", }"
}

start() {
    local image=$1 share=$2 over stable
    check_weight "$share"
    need_no_canary
    over=$(mktemp -d "$K8S/.canary.XXXXXX")
    cleanup_paths+=("$over")
    cp "$K8S"/canary/*.yaml "$over"
    write_deployment reentry "$over/deployment.yaml"
    write_live service reentry "$over/service.yaml"
    write_live service reentry-feeds "$over/addresses.yaml"
    write_deployment reentry-gateway "$over/gateway.yaml"
    write_live service reentry-gateway "$over/gateway-service.yaml"
    stable=$(live deployment reentry "$IMAGE_PATH")
    stable=${stable%@*}
    [[ ${stable##*/} != *:* ]] || stable=${stable%:*}
    {
        printf 'namespace: %s\nimages:\n' "$namespace"
        image_fields "$stable" "$image" # also where an init container runs the server's image
    } >>"$over/kustomization.yaml"
    if ! by_route; then
        write_live ingress reentry-gateway "$over/ingress.yaml"
        sed -i 's/^resources:$/&\n  - ingress.yaml/; s/^patchesJson6902:$/&\n  - target: {group: networking.k8s.io, version: v1, kind: Ingress, name: reentry-gateway}\n    path: route.yaml/' \
            "$over/kustomization.yaml"
    fi
    say "starting $image beside the stable release, without traffic"
    kubectl kustomize "$over" | kubectl apply -f -
    explain "$namespace" reentry-canary "canary.sh start: $image"
    if ! rollout "$namespace" reentry-canary || ! rollout "$namespace" reentry-gateway-canary ||
        ! "$K8S/scripts/health-check.sh" --namespace "$namespace" --service reentry-canary; then
        die "the canary does not score a track and receives no traffic; fix: read its log, then canary.sh abort"
    fi
    shift_to "$share"
}

remove() {
    say "removing the canary: its route, then its pods"
    # The edge drops the route before the pods end; they drain in their preStop.
    k delete ingress -l release=canary &&
        k delete deployment,service,poddisruptionbudget -l release=canary
}

promote() {
    local image stable canary containers each
    image=$(live deployment reentry-canary "$IMAGE_PATH")
    # Every container of the canary, because an init container may use the server's image too.
    mapfile -t containers < <(k get deployment reentry-canary -o go-template='{{with .spec.template.spec}}
        {{- range .initContainers}}{{.name}}={{.image}}{{"\n"}}{{end}}
        {{- range .containers}}{{.name}}={{.image}}{{"\n"}}{{end}}{{end}}')
    # The canary may carry traffic already, so it grows here and never shrinks.
    for each in reentry reentry-gateway; do
        stable=$(replicas_for "$each" 100)
        canary=$(live deployment "$each-canary" .spec.replicas)
        [ "$stable" -le "$canary" ] || resize "$each" 100
    done
    route 100
    say "stable release: $image"
    k set image deployment/reentry "${containers[@]}"
    explain "$namespace" reentry "canary.sh promote: $image"
    # Without traffic the autoscaler may have made them small.
    for each in reentry reentry-gateway; do
        stable=$(live deployment "$each" .spec.replicas)
        canary=$(live deployment "$each-canary" .spec.replicas)
        k scale "deployment/$each" --replicas="$((stable > canary ? stable : canary))"
        rollout "$namespace" "$each" ||
            die "the stable release cannot run this image, the canary carries the traffic; fix: rollback.sh, then canary.sh abort"
    done
    "$K8S/scripts/health-check.sh" --namespace "$namespace"
    route 0
    remove
    say "promoted $image; update the overlay too, or the next deploy restores the old image"
}

abort() {
    local found
    # An abort that was interrupted may have deleted the Ingress, and with it the route, but not the pods.
    found=$(k get ingress reentry-gateway-canary --ignore-not-found -o name)
    if [ -n "$found" ] || by_route; then route 0; fi
    remove
    say "aborted: the stable release $(live deployment reentry "$IMAGE_PATH") has all traffic"
}

status() {
    local share status=0
    k get deployment -l 'app.kubernetes.io/name in (reentry,reentry-gateway)' -o wide
    there || status=$?
    [ $status -ne 2 ] || die "$UNKNOWN"
    [ $status -eq 0 ] || return 0
    if by_route; then
        share=$(live httproute reentry-gateway '.spec.rules[0].backendRefs[?(@.name=="reentry-gateway-canary")].weight')
    else
        share=$(live ingress reentry-gateway-canary '.metadata.annotations.nginx\.ingress\.kubernetes\.io/canary-weight')
    fi
    say "canary's share: ${share:-0} %"
}

child=''

# wait_for COMMAND...: run a command in the background, so that a signal ends the wait at once.
wait_for() {
    local status=0
    "$@" &
    child=$!
    wait "$child" || status=$?
    child=''
    return $status
}

# step COMMAND...: a command of this script, in a process of its own.
step() { wait_for "${BASH_SOURCE[0]}" "$@" --namespace "$namespace"; }

# Abort the canary that no judge has passed. If the cluster does not say whether it exists, the abort is tried too.
undo() {
    local status=0
    trap cleanup EXIT
    if [ -n "$child" ]; then
        kill "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    there || status=$?
    [ $status -eq 1 ] || step abort || printf 'error: the canary could not be removed; fix: canary.sh abort\n' >&2
    cleanup
}

# Wait for the verdict on the present share; anything but a pass ends the script, which aborts the canary.
judge() {
    local options=("$@") status=0
    if [ -n "$tracks" ]; then
        forward "$namespace" reentry 8001
        options+=(--tracks "$tracks" --stable "grpc://127.0.0.1:$forwarded")
        forward "$namespace" reentry-canary 8001
        options+=(--canary "grpc://127.0.0.1:$forwarded")
    fi
    say "judging the canary, at most $wait s"
    wait_for reentry canary judge "${options[@]}" --wait "$wait" || status=$?
    case $status in
    0) return ;;
    1) printf 'error: the canary failed\n' >&2 ;;
    3) printf 'error: no verdict on the canary within %s s; only a canary that is known to be good stays\n' "$wait" >&2 ;;
    *) printf 'error: the judge ended with status %s\n' "$status" >&2 ;;
    esac
    exit "$status"
}

auto() {
    local image=$1 share status=0 options=(--prometheus "$prometheus" --namespace "$namespace")
    need_no_canary
    [ -z "$config" ] || options+=(--config "$config")
    reentry canary judge "${options[@]}" >/dev/null || status=$? # without a canary there is no verdict yet
    [ $status -ne 2 ] || die "the judge refuses its options; nothing was changed"
    trap undo EXIT
    step start "$image" --weight "${STEPS[0]}"
    judge "${options[@]}"
    for share in "${STEPS[@]:1}"; do
        step weight "$share"
        judge "${options[@]}"
    done
    trap cleanup EXIT # from here on the canary carries the traffic
    step promote
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
    need_canary
    shift_to "${words[1]}"
    ;;
promote | abort)
    need_canary
    "$command"
    ;;
status) status ;;
auto)
    [ ${#words[@]} -eq 2 ] && [ -n "$prometheus" ] || usage 2
    PATH=$PATH:$K8S/../.venv/bin
    need reentry
    auto "${words[1]}"
    ;;
*) usage 2 ;;
esac
