#!/usr/bin/env bash
# The step "Grade" of action.yml, which sets the variables. Alone:
#   BENCH=pope DATA=pope RESPONSES=answers.jsonl BASELINE=base.jsonl PROTOCOL= FAIL_ON=worse OUT=graded bash deploy/grade.sh
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
case "$FAIL_ON" in
  worse | never) ;;
  *) echo "fail-on is '$FAIL_ON', expected worse or never." >&2; exit 2 ;;
esac
mkdir -p "$OUT"
rm -f "$OUT/summary.md" "$OUT/results.json" "$OUT/diff.json" # of an earlier step of the job
options=(--data "$DATA")
[ -z "$PROTOCOL" ] || options+=(--protocol "$PROTOCOL")

sightline eval grade "$BENCH" --responses "$RESPONSES" "${options[@]}" --json "$OUT/results.json"
[ -z "${GITHUB_OUTPUT:-}" ] || echo "results=$OUT/results.json" >> "$GITHUB_OUTPUT"
compared=()
if [ -n "$BASELINE" ]; then
  sightline eval grade "$BENCH" --responses "$BASELINE" "${options[@]}" --json "$OUT/baseline.json"
  sightline eval diff "$OUT/baseline.json" "$OUT/results.json" --json > "$OUT/diff.json"
  compared=("$OUT/diff.json")
fi
python "$here/grade_summary.py" "$OUT/results.json" ${compared[@]+"${compared[@]}"} > "$OUT/summary.md"
[ -z "${GITHUB_STEP_SUMMARY:-}" ] || cat "$OUT/summary.md" >> "$GITHUB_STEP_SUMMARY"
cat "$OUT/summary.md"
if [ "$FAIL_ON" = worse ] && grep -q '| ✗ worse |' "$OUT/summary.md"; then
  echo "A figure is clearly worse than the baseline's." >&2
  exit 1
fi
