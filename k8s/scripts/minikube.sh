#!/usr/bin/env bash
# Start a Minikube cluster, deploy, and score a file. The kubeconfig is under artifacts/; yours is never changed.
#
# Usage: minikube.sh [--delete]
#
#   --delete    remove the cluster again
#
# Requires minikube, kubectl, curl, make and Python; Docker or another driver of Minikube; 4 CPUs and 6 GB for the node.
# Example: make minikube
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

PROFILE=reentry
# Each run gets an image name of its own, because pods do not notice a changed image of the same name.
IMAGE=reentry-triton:0.1.0-cpu-$(date +%Y%m%d%H%M%S)
OUT=artifacts/minikube

case ${1:-} in
'') ;;
--delete)
    need minikube
    minikube delete --profile "$PROFILE"
    exit
    ;;
--help) usage ;;
*) usage 2 ;;
esac

need minikube kubectl curl make
cd "$K8S/.."
mkdir -p "$OUT"
export KUBECONFIG=$PWD/$OUT/kubeconfig

if ! compgen -G 'model_repository/reentry_lstm/[0-9]*/model.onnx' >/dev/null || [ ! -f artifacts/data/test.csv ]; then
    say "model or file to score is missing: make run creates both"
    make run
fi

say "cluster $PROFILE; Calico enforces the network policies"
minikube start --profile "$PROFILE" --cpus 4 --memory 6g --cni calico --addons ingress,metrics-server

say "the gateway refuses compressed requests"
kubectl apply --server-side -k "$K8S/edge"

say "image $IMAGE, built inside the cluster"
minikube image build --profile "$PROFILE" --tag "$IMAGE" --file Dockerfile.triton --build-opt=target=cpu .

"$K8S/scripts/deploy.sh" minikube --image "$IMAGE"

forward reentry reentry 8001
say "scoring artifacts/data/test.csv by gRPC through 127.0.0.1:$forwarded"
.venv/bin/reentry predict artifacts/data/test.csv --url "grpc://127.0.0.1:$forwarded" --out "$OUT/predictions"

say "scored tracks: $OUT/predictions"
say "look around: KUBECONFIG=$KUBECONFIG kubectl -n reentry get all"
say "remove it:   k8s/scripts/minikube.sh --delete"
