#!/usr/bin/env bash
# Makes the committed results again from nothing. Stopped anywhere, the same line goes on.
#
#   scripts/reproduce.sh IMAGES [EXPERIMENT...]
#
# IMAGES is CIFAR-10 as JPEG files: a folder or an archive, train/CLASS/*.jpg and test/CLASS/*.jpg.
# EXPERIMENT is naive, isolated, groups, long, batch-size or momentum (hours each on two cores), or article,
# which looks into the networks of batch-size; all of them without one. resnet20, for a GPU, runs
# only where it is named. Cells train with one thread, as the committed ones were; THREADS=null
# takes all cores, and rounds otherwise.
#
# Where seeds diverge or fail, their experiment is kept and reported as it is and the others go on;
# the last line then says which, and the exit code is 1. A mistake or an interruption ends this at
# once, with its own exit code.
set -euo pipefail
images=${1:?usage: scripts/reproduce.sh IMAGES [EXPERIMENT...]}
[[ $images = /* ]] || images=$PWD/$images
shift
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- naive isolated groups long batch-size momentum article
incomplete=()

# Runs a step of the experiment $name. Only 1 means that something there did not come to a good end.
step() {
  local status=0
  "$@" || status=$?
  [ "$status" -le 1 ] || exit "$status"
  if [ "$status" -eq 1 ] && [[ " ${incomplete[*]-} " != *" $name "* ]]; then
    incomplete+=("$name")
  fi
}

status=0
normbench data verify cifar10-jpeg || status=$?
case $status in
  0) ;;
  1 | 2) normbench data import "$images" --name cifar10-jpeg ;; # damaged, or not there
  *) exit "$status" ;;
esac
for name in "$@"; do
  if [ "$name" = article ]; then
    step python scripts/article.py --data cifar10-jpeg
    step python scripts/keep.py runs/article results/article
    continue
  fi
  stack=()
  [ "$name" != momentum ] || stack=(stack=3) # so that its cells have the same weights
  step normbench sweep "experiment=$name" data=images data.name=cifar10-jpeg \
    "threads=${THREADS:-1}" ${stack[@]+"${stack[@]}"}
  step python scripts/keep.py "runs/$name" "results/$name"
  papers=--papers
  case $name in batch-size | momentum) papers= ;; esac # without published numbers in the figures
  step normbench report "results/$name" $papers --out "results/$name"
done
if [ ${#incomplete[@]} -gt 0 ]; then
  echo "reproduce.sh: not everything came to a good end, see above: ${incomplete[*]}" >&2
  exit 1
fi
