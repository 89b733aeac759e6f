#!/bin/sh
# launch.sh RECORD COMMAND...: becomes COMMAND after noting its own process id and start time in RECORD.
# The pair names one process for good: a process id alone may be given away again after its process ended.
set -eu
record=$1; shift
read -r stat < /proc/self/stat
pid=${stat%% *}
rest=${stat##*) }
# Start time is field 22 of the line; two fields lie before the state.
start=$(printf '%s\n' "$rest" | cut -d' ' -f20)
printf '%s %s\n' "$pid" "$start" > "$record.new"
mv "$record.new" "$record"
exec "$@"
