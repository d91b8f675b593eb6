#!/usr/bin/env bash
# Makes the committed results again from nothing. Stopped anywhere, the same line goes on.
#
#   scripts/reproduce.sh IMAGES [EXPERIMENT...]
#
# IMAGES is CIFAR-10 as JPEG files: a folder or an archive, train/CLASS/*.jpg and test/CLASS/*.jpg.
# EXPERIMENT is naive, isolated, groups or long (hours each on two cores), or article; all of them
# without one. THREADS=1 keeps a core free for other work.
set -euo pipefail
cd "$(dirname "$0")/.."
images=${1:?usage: scripts/reproduce.sh IMAGES [EXPERIMENT...]}
shift
[ $# -gt 0 ] || set -- naive isolated groups long article
normbench data verify cifar10-jpeg || normbench data import "$images" --name cifar10-jpeg
for name in "$@"; do
  if [ "$name" = article ]; then
    python scripts/article.py --runs runs/naive --data cifar10-jpeg
    continue
  fi
  normbench sweep "experiment=$name" data=images data.name=cifar10-jpeg "threads=${THREADS:-null}"
  python scripts/keep.py "runs/$name" "results/$name"
  normbench report "results/$name" --papers --out "results/$name"
done
