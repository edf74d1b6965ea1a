#!/usr/bin/env bash
# Roll back to the previous revision, or to one by number, and score a track.
#
# Usage: rollback.sh [--namespace NAMESPACE] [--deployment NAME] [--to-revision N]
#
#   --namespace NS       default reentry
#   --deployment NAME    default reentry, the servers; reentry-gateway, or reentry-gateway-worker
#   --to-revision N      default: the one before; `kubectl rollout history deployment/reentry` lists them
#
# Example: k8s/scripts/rollback.sh --namespace reentry-staging
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

namespace=reentry deployment=reentry revision=0
while [ $# -gt 0 ]; do
    case $1 in
    --namespace) namespace=$(value "$1" "${2:-}") ;;
    --deployment) deployment=$(value "$1" "${2:-}") ;;
    --to-revision) revision=$(value "$1" "${2:-}") ;;
    --help) usage ;;
    *) die "unknown argument $1; fix: see --help" ;;
    esac
    shift 2
done

need kubectl
say "revisions in namespace $namespace"
kubectl -n "$namespace" rollout history "deployment/$deployment"
kubectl -n "$namespace" rollout undo "deployment/$deployment" --to-revision="$revision"
rollout "$namespace" "$deployment" || die "the restored revision does not start either; fix: --to-revision N"
"$K8S/scripts/health-check.sh" --namespace "$namespace"
image=$(field "$namespace" deployment "$deployment" "$IMAGE_PATH")
say "rolled back to $image; update the overlay too, or the next deploy restores the other image"
