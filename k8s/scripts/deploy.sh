#!/usr/bin/env bash
# Deploy an overlay: migrate the database, apply, wait for the rollout, score a track. The old pods serve until the new
# ones are ready. Nothing is changed if the cluster rejects any object. A pod that cannot start ends the wait
# immediately.
#
# Usage: deploy.sh OVERLAY [--image IMAGE] [--gateway-image IMAGE] [--dry-run]
#
#   OVERLAY                  minikube, staging, production, gpu, or a folder of k8s such as models/s3 or gateway-api
#   --image IMAGE            server: NAME:VERSION or NAME@sha256:DIGEST instead of the overlay's own
#   --gateway-image IMAGE    the same for the gateway, its workers and the migration
#   --dry-run                print what would be applied, touch nothing
#
# With REENTRY_KEY, a key of the gateway with the scope `score`, the track is also scored through the gateway.
#
# Example: k8s/scripts/deploy.sh staging --image registry.example.com/reentry-triton@sha256:0123...
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

COMPONENT=app.kubernetes.io/component
MIGRATION=reentry-gateway-migration
overlay='' image='' gateway='' dry_run=''
while [ $# -gt 0 ]; do
    case $1 in
    --image)
        image=$(value "$1" "${2:-}")
        shift
        ;;
    --gateway-image)
        gateway=$(value "$1" "${2:-}")
        shift
        ;;
    --dry-run) dry_run=yes ;;
    --help) usage ;;
    -*) die "unknown option $1; fix: see --help" ;;
    *) overlay=$1 ;;
    esac
    shift
done
[ -n "$overlay" ] || usage 2

need kubectl
folder=overlays/$overlay
[ -d "$K8S/$folder" ] || folder=$overlay
[ -f "$K8S/$folder/kustomization.yaml" ] ||
    die "no overlay $overlay; fix: one of $(cd "$K8S/overlays" && echo *), or a folder of k8s"

build=$folder
if [ -n "$image$gateway" ]; then
    # kubectl's kustomize takes no image on its command line; an overlay over the overlay does.
    over=$(mktemp -d "$K8S/.deploy.XXXXXX")
    cleanup_paths+=("$over")
    build=$(basename "$over")
    {
        printf 'bases:\n  - ../%s\nimages:\n' "$folder"
        for registry in '' registry.example.com/; do
            [ -z "$image" ] || image_fields "${registry}reentry-triton" "$image"
            [ -z "$gateway" ] || image_fields "${registry}reentry-gateway" "$gateway"
        done
    } >"$over/kustomization.yaml"
fi
manifests=$(kubectl kustomize "$K8S/$build")
if [ -n "$dry_run" ]; then
    printf '%s\n' "$manifests"
    exit
fi
namespace=$(sed -n 's/^  namespace: //p' <<<"$manifests" | sort -u)
[ -n "$namespace" ] && [ "$(wc -l <<<"$namespace")" = 1 ] ||
    die "$folder has objects of several namespaces or none: ${namespace:-none}; fix: apply it with kubectl apply -k"

say "applying $folder to namespace $namespace of $(kubectl config current-context)"
# A dry run is not possible in a namespace that does not exist yet, and a Job of another release cannot be changed.
if [ -n "$(kubectl get namespace "$namespace" --ignore-not-found -o name)" ]; then
    kubectl apply --dry-run=server -f - --selector "$COMPONENT!=migration" <<<"$manifests" >/dev/null ||
        die "the cluster rejects an object of $folder, nothing was changed; fix: let an administrator apply it once"
fi
say "bringing the tables of the database up to date"
kubectl -n "$namespace" delete job "$MIGRATION" --ignore-not-found
kubectl apply -f - --selector "$COMPONENT notin (server, gateway, worker)" <<<"$manifests"
completed "$namespace" "$MIGRATION" ||
    die "the migration failed, the old pods serve; fix: see its log above, then deploy again"
kubectl apply -f - <<<"$manifests"
for each in reentry reentry-gateway reentry-gateway-worker; do
    explain "$namespace" "$each" "deploy.sh $overlay: $(field "$namespace" deployment "$each" "$IMAGE_PATH")"
done
say "waiting for the rollout"
for each in reentry reentry-gateway reentry-gateway-worker; do
    rollout "$namespace" "$each" ||
        die "the new pods are not ready, the old ones serve; fix: kubectl -n $namespace get pods, then rollback.sh"
done
"$K8S/scripts/health-check.sh" --namespace "$namespace"
