# Usage: run.sh SUITE NODE. Prints one line per source file.
set -eu
for file in src/*; do
	echo "ok $1 on node $2: $file ($(wc -c < "$file") bytes)"
done
