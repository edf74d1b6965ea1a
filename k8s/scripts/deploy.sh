#!/usr/bin/env bash
# Deploy an overlay: apply, wait for the rollout, score a track. The old pods serve until the new ones are ready.
# Nothing is changed if the cluster rejects any object. A pod that cannot start ends the wait immediately.
#
# Usage: deploy.sh OVERLAY [--image IMAGE] [--dry-run]
#
#   OVERLAY          minikube, staging, production, gpu, or a folder of k8s such as models/s3
#   --image IMAGE    NAME:VERSION or NAME@sha256:DIGEST instead of the overlay's own
#   --dry-run        print what would be applied, touch nothing
#
# Example: k8s/scripts/deploy.sh staging --image registry.example.com/reentry-triton@sha256:0123...
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

overlay='' image='' dry_run=''
while [ $# -gt 0 ]; do
    case $1 in
    --image)
        image=$(value "$1" "${2:-}")
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
if [ -n "$image" ]; then
    # kubectl's kustomize takes no image on its command line; an overlay over the overlay does.
    over=$(mktemp -d "$K8S/.deploy.XXXXXX")
    cleanup_paths+=("$over")
    build=$(basename "$over")
    {
        printf 'bases:\n  - ../%s\nimages:\n' "$folder"
        image_fields reentry-triton "$image"
        image_fields registry.example.com/reentry-triton "$image"
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
# A dry run is not possible in a namespace that does not exist yet.
if [ -n "$(kubectl get namespace "$namespace" --ignore-not-found -o name)" ]; then
    kubectl apply --dry-run=server -f - <<<"$manifests" >/dev/null ||
        die "the cluster rejects an object of $folder, nothing was changed; fix: let an administrator apply it once"
fi
kubectl apply -f - <<<"$manifests"
explain "$namespace" reentry "deploy.sh $overlay: $(field "$namespace" deployment reentry "$IMAGE_PATH")"
say "waiting for the rollout"
rollout "$namespace" reentry ||
    die "the new pods are not ready, the old ones serve; fix: kubectl -n $namespace get pods, then rollback.sh"
"$K8S/scripts/health-check.sh" --namespace "$namespace"
