#!/usr/bin/env bash
# Start a Minikube cluster, deploy servers and gateway with PostgreSQL and Redis, and score a file. The kubeconfig is
# under artifacts/; yours is never changed.
#
# Usage: minikube.sh [--delete]
#
#   --delete    remove the cluster again
#
# Requires minikube, kubectl, curl, make and Python; Docker or another driver of Minikube; 4 CPUs and 8 GB for the node.
# Example: make minikube
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

PROFILE=reentry
# Each run gets image names of its own, because pods do not notice a changed image of the same name.
NOW=$(date +%Y%m%d%H%M%S)
IMAGE=reentry-triton:0.1.0-cpu-$NOW
GATEWAY=reentry-gateway:0.1.0-$NOW
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
minikube start --profile "$PROFILE" --cpus 4 --memory 8g --cni calico --addons ingress,metrics-server

say "the edge refuses compressed requests"
kubectl apply --server-side -k "$K8S/edge"

say "images $IMAGE and $GATEWAY, built inside the cluster"
minikube image build --profile "$PROFILE" --tag "$IMAGE" --file Dockerfile.triton --build-opt=target=cpu .
minikube image build --profile "$PROFILE" --tag "$GATEWAY" --file Dockerfile.triton --build-opt=target=gateway .

kubectl apply -f "$K8S/platform/namespace.yaml"
if [ -z "$(kubectl -n reentry get secret reentry-gateway --ignore-not-found -o name)" ]; then
    say "a random password of the database, in the Secret reentry-gateway"
    password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
    # By file, because other users of the machine can see arguments.
    kubectl -n reentry create secret generic reentry-gateway \
        --from-literal=redis-url=redis://reentry-redis:6379/0 \
        --from-file=database-password=<(printf '%s' "$password") \
        --from-file=database-url=<(printf '%s' "postgresql://reentry:$password@reentry-database:5432/reentry")
fi

"$K8S/scripts/deploy.sh" minikube --image "$IMAGE" --gateway-image "$GATEWAY"

forward reentry reentry 8001
say "scoring artifacts/data/test.csv by gRPC through 127.0.0.1:$forwarded"
.venv/bin/reentry predict artifacts/data/test.csv --url "grpc://127.0.0.1:$forwarded" --out "$OUT/predictions"

say "scored tracks: $OUT/predictions"
say "an account:  KUBECONFIG=$KUBECONFIG kubectl -n reentry exec deployment/reentry-gateway -- reentry gateway accounts create default"
say "a key:       KUBECONFIG=$KUBECONFIG kubectl -n reentry exec deployment/reentry-gateway -- reentry gateway keys create laptop --scope score --scope read"
say "the gateway: KUBECONFIG=$KUBECONFIG kubectl -n reentry port-forward service/reentry-gateway 8080"
say "look around: KUBECONFIG=$KUBECONFIG kubectl -n reentry get all"
say "remove it:   k8s/scripts/minikube.sh --delete"
