#!/bin/sh
# What is worth knowing of an accelerator: whole runs on it, then the tables of growth. Results go to the folder $1.
set -u
for work in "ppo CartPole-v1 --seeds 64" "dqn CartPole-v1 --seeds 8 --steps 20000" "ddpg Pendulum-v1 --seeds 8 --steps 5000"; do
    echo "== $work"
    # shellcheck disable=SC2086
    timeout 120 python3 -m ridgeline.cli train $work --evaluations 0 --device gpu --out /tmp/runs 2>&1 | tail -25
done
timeout 400 python3 -m benchmarks.growth --repeat 1 --axis environments seeds --out "$1/growth.json"
