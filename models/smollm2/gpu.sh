#!/usr/bin/env bash
# Trains smollm2-echo where there is a GPU, for eight minutes, and writes the adapter for the package. README.md says how
# far a GPU gets in that time; a slower machine takes as long, and trains less.
#
#   CORPUS=corpus DATA=data models/smollm2/gpu.sh
#
# May be stopped and called again: it goes on from its checkpoint. PYTHON and ECHOEMBED name other commands, CONFIG another
# configuration, RUN its folder, TEXTS the folder of its texts, TEACHER that of its teacher, SHARDS how much of the corpus
# is read, GROUPS_OF_DOCUMENT how many groups of sentences a document gives, LOOKED_AT how many texts are put beside their
# nearest, MINUTES how long steps 1 to 3 may take, ADAPTER the folder to write.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
config=${CONFIG:-models/smollm2/gpu.toml}
run=${RUN:-runs/smollm2-echo-gpu}
texts=${TEXTS:-runs/smollm2-near-data}
teacher=${TEACHER:-runs/all-mpnet-base-v2}
adapter=${ADAPTER:-src/echoembed/tiny/adapters/smollm2-echo}
left() { echo $((60 * ${MINUTES:-8} > SECONDS ? 60 * ${MINUTES:-8} - SECONDS : 1)); } # seconds, at least 1

# 1. The teacher; texts and pairs, cut to what is read of them.
[ -d "$teacher" ] || "$python" models/smollm2/teacher.py "$teacher"
[ -f "$texts/pairs.jsonl.gz" ] || "$python" models/smollm2/texts.py --corpus "$CORPUS" --data "$DATA" --out "$texts" \
    --shards "${SHARDS:-4}" --groups "${GROUPS_OF_DOCUMENT:-3}"

# 2. Each text beside those that are closest to it for the teacher, whose vectors training then finds in the run's folder.
# At most half of the time is for that.
[ -f "$texts/near.jsonl.gz" ] || ! grep -q near.jsonl.gz "$config" ||
    "$python" models/smollm2/near.py "$config" --limit "${LOOKED_AT:-120000}" --seconds "$(($(left) / 2))" \
        --out "$texts/near.jsonl.gz"

# 3. Training. Ctrl-C, and the time limit, leave a checkpoint.
timeout --foreground "$(left)s" "${ECHOEMBED:-echoembed}" train "$config" --resume --quiet || [ $? = 124 ]
compgen -G "$run/models/step-*" > /dev/null || { echo "No step was trained in time. Call this again, or raise MINUTES."; exit 1; }

# 4. The best step, in half precision, with its card.
"$python" models/smollm2/ship.py "$run" --out "$adapter" ${SCORED-${DATA:+--data "$DATA"}} ${CORPUS:+--corpus "$CORPUS"}
