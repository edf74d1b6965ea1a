#!/usr/bin/env bash
# Run the image of the data pipeline as a pod does, on two small tracks: ingest, clean, build features, maintain.
#
# Usage: check-pipeline.sh [--image NAME] [--engine PROGRAM]
#
#   --image NAME      image to run (default reentry-pipeline:0.1.0)
#   --engine PROGRAM  docker or podman (default docker)
#
# Example: k8s/scripts/check-pipeline.sh --engine podman
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

image=reentry-pipeline:0.1.0 engine=docker
while [ $# -gt 0 ]; do
    case $1 in
    --image) image=$(value "$1" "${2:-}") ;;
    --engine) engine=$(value "$1" "${2:-}") ;;
    --help) usage ;;
    *) die "unknown argument $1; fix: see --help" ;;
    esac
    shift 2
done
need "$engine"

hour=2026-12-01T08
landing=$(mktemp -d)
cleanup_paths+=("$landing")
mkdir "$landing/$hour"
{
    echo timestamp,track_id,sensor_id,latitude,longitude,altitude,radiometric_intensity,reentry_phase
    for track in 1 2; do
        for step in {0..39}; do
            altitude=$((step < 20 ? step * 5000 : (40 - step) * 5000))
            echo "$((1700000000 + step)),$track,7,10.$step,20.$step,$altitude,0.5,$((step > 30))"
        done
    done
} >"$landing/$hour/radar.csv"
chmod -R a+rX "$landing"

say "ingest, clean, build features, maintain in $image"
commands="reentry privacy new-key keys.json
reentry ingest --hour $hour
reentry lake clean
reentry features build
reentry lake maintain --without-runs
reentry lake status"
printed=$("$engine" run --rm --read-only --tmpfs /tmp:size=256m,mode=1777 --cap-drop all \
    --security-opt no-new-privileges --ulimit nofile=4096:4096 --ulimit nproc=4096:4096 --network none --volume "$landing:/landing:ro" \
    --env REENTRY_PIPELINE_LANDING=/landing --env REENTRY_PIPELINE_LAKE=/tmp/lake \
    --env REENTRY_PIPELINE_PSEUDONYM_KEYS=file:keys.json --entrypoint sh "$image" -euc "$commands")
printf '%s\n' "$printed"
grep --quiet 'lake:features@1: 2 tracks, 80 rows' <<<"$printed" || die "the image has not built the features of two tracks"
say "the image has built the features of two tracks"
