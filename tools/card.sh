# Sourced by the scripts that measure a card in a few minutes: parts of a report, each in the time that is left. They set `out`,
# `binary`, `seconds` and `details`.

# part TITLE NAME COMMAND…: runs a command in the time that is left, keeps what it says, and puts it into the report.
part() {
  local title=$1 name=$2 status=0 begin=$SECONDS left=$((seconds - SECONDS))
  shift 2
  printf '== %s (%s s left)\n' "$title" "$left" >&2
  if [ "$left" -lt 2 ]; then
    printf '\n## %s\n\nleft out: no time\n' "$title" >> "$details"
    return 1
  fi
  timeout "$left" "$@" > "$out/$name.txt" 2> "$out/$name.err" || status=$?
  {
    printf '\n## %s\n\n`%s`\n\n```\n' "$title" "${*//$binary/inazuma}"
    cat "$out/$name.txt"
    [ "$status" = 0 ] || { printf 'exit status %s\n' "$status"; tail -n 5 "$out/$name.err"; }
    printf '```\n(%s s)\n' "$((SECONDS - begin))"
  } >> "$details"
  return "$status"
}

# number KEY FILE: the first number under this key of a JSON object.
number() {
  sed -n "s/.*\"$1\": *\([0-9.e+-]*\).*/\1/p" "$2" | head -n 1
}

# head_of_report TITLE: which program, on which card.
head_of_report() {
  printf '# %s, %s\n\n%s' "$1" "$(date -u +%Y-%m-%d)" "$("$binary" --version)"
  command -v nvidia-smi > /dev/null && printf ', %s' "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader)"
  printf ', %s s in all' "$SECONDS"
}
