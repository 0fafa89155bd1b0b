#!/bin/sh
# One GitHub Actions runner of a Muster control plane. What differs between jobs
# comes by environment, never as text of this script.
set -u
umask 077

fail() {
	echo "muster: $1" >&2
	exit "$2"
}

if [ -z "${MUSTER_JOB_DIR:-}" ]; then
	# First pass: move the boot token out of the environment, which lives as long as
	# the process, into a file that the agent removes.
	[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || fail "Slurm started this job a second time, and its token works once" 12
	[ -n "${MUSTER_BOOT_TOKEN:-}" ] || fail "the job has no boot token" 2
	root=$MUSTER_JOB_ROOT/muster-$(id -u)
	mkdir -m 700 "$root" 2>/dev/null
	[ -d "$root" ] && [ -O "$root" ] && [ ! -L "$root" ] || fail "$root is not a directory of $(id -un): job_root must be a directory that every user may write to, such as /var/tmp" 20
	MUSTER_JOB_DIR=$root/$SLURM_JOB_ID
	rm -rf "$MUSTER_JOB_DIR"
	mkdir "$MUSTER_JOB_DIR" "$MUSTER_JOB_DIR/home" "$MUSTER_JOB_DIR/tmp" || fail "cannot make $MUSTER_JOB_DIR" 20
	printf '%s\n' "$MUSTER_BOOT_TOKEN" >"$MUSTER_JOB_DIR/token"
	unset MUSTER_BOOT_TOKEN
	export MUSTER_JOB_DIR
	exec /bin/sh "$0"
fi

dir=$MUSTER_JOB_DIR
agent=
stopped=
end() {
	code=$?
	trap - EXIT
	trap '' TERM INT # scancel signals rm as well, which inherits this
	cd /
	rm -rf "$dir"
	# A log with nothing wrong in it is only litter.
	case $code$MUSTER_JOB_LOG in
	0*%j*) rm -f "${MUSTER_JOB_LOG%%%j*}$SLURM_JOB_ID${MUSTER_JOB_LOG#*%j}" ;;
	esac
	exit "$code"
}
trap end EXIT
trap 'stopped=1; [ -z "$agent" ] || kill -TERM "$agent" 2>/dev/null' TERM INT

# Whoever holds the lock lives. What killed jobs have left is removed by the next one.
if command -v flock >/dev/null; then
	exec 9>"$dir/lock" && flock -n 9
	find "${dir%/*}" -mindepth 1 -maxdepth 1 -mmin +5 2>/dev/null | while IFS= read -r old; do
		[ "$old" = "$dir" ] || flock -n "$old/lock" rm -rf "$old" 2>/dev/null 9>&-
	done
fi

HOME=$dir/home TMPDIR=$dir/tmp
MUSTER_BOOT_TOKEN_FILE=$dir/token MUSTER_RUNNER_DIR=$dir/runner
export HOME TMPDIR MUSTER_BOOT_TOKEN_FILE MUSTER_RUNNER_DIR
cd "$dir" || exit 20
if [ -n "${MUSTER_RUNNER_SOURCE:-}" ]; then
	[ -f "$MUSTER_RUNNER_SOURCE/run.sh" ] || fail "there is no run.sh in $MUSTER_RUNNER_SOURCE on $(hostname)" 20
	mkdir "$MUSTER_RUNNER_DIR"
	for f in "$MUSTER_RUNNER_SOURCE"/* "$MUSTER_RUNNER_SOURCE"/.[!.]*; do
		case ${f##*/} in
		'*' | '.[!.]*' | _work | _diag) ;;
		externals) ln -s "$f" "$MUSTER_RUNNER_DIR/externals" ;;
		*) cp -a "$f" "$MUSTER_RUNNER_DIR/" || fail "cannot copy GitHub's runner" 20 ;;
		esac
	done
fi
[ -x "$MUSTER_AGENT" ] || fail "there is no program $MUSTER_AGENT on $(hostname): install muster-agent there" 20
[ -z "$stopped" ] || exit 0

"$MUSTER_AGENT" 9>&- &
agent=$!
while :; do
	wait "$agent"
	code=$?
	# A signal ends wait, not the agent.
	[ "$code" -gt 128 ] && kill -0 "$agent" 2>/dev/null || break
done
# 410: the runner is no longer needed, which is no failure.
[ "$code" != 13 ] || code=0
exit "$code"
