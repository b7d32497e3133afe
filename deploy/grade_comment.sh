#!/usr/bin/env bash
# The step "Comment" of action.yml: one comment for each file of answers, written anew by later runs. A hidden first
# line tells it from other comments of the same bot, which are left alone.
set -euo pipefail
[ -s "$OUT/summary.md" ] || exit 0
export MARK="<!-- sightline: $BENCH, ${PROTOCOL:-first protocol}, $RESPONSES -->"
{ echo "$MARK"; cat "$OUT/summary.md"; } > "$OUT/comment.md"
comments="repos/$GITHUB_REPOSITORY/issues"
there="$(gh api --paginate "$comments/$PULL_REQUEST/comments" --jq '.[] | select(.body | startswith(env.MARK)) | .id')"
if [ -n "$there" ]; then
  gh api --method PATCH "$comments/comments/${there##*$'\n'}" -F "body=@$OUT/comment.md" --silent
else
  gh api --method POST "$comments/$PULL_REQUEST/comments" -F "body=@$OUT/comment.md" --silent
fi
