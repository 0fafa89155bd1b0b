# What this provider runs on a host, for any POSIX shell. It arrives over standard
# input, its arguments after it, each quoted by quote in program.go: nothing is in
# the arguments of a process, and nothing that somebody may choose is ever shell text.
#
#   main OPERATION ROOT OWNER MARK RUNNER ARGUMENT...
#
# ROOT/OWNER/RUNNER is a runner's directory:
#
#   spec       what it was made for: one line of JSON, which is not read here
#   starting   the boot of the machine in which the agent may have been started
#   process    pid, start time and boot of the agent, once it is known
#   told       when it was first asked to end, in seconds since 1970
#   log        what the agent and the runner print
#   runner/ home/ tmp/
#
# A runner's directory is locked (flock) by whoever changes it, the owner's by whoever
# makes one. What is answered comes after a line of its own, since a login may print, too.

umask 077
LC_ALL=C
export LC_ALL
set -f
# The connection may end at any time, and what was begun goes on.
trap '' HUP PIPE

die() {
	printf '%s\n' "$*" >&2
	exit 1
}

main() {
	operation=$1 root=$2 owner=$3 mark=$4 runner=$5
	shift 5
	case $root in
	/*) ;;
	*) root=${HOME:?there is no home directory}/$root ;;
	esac
	dir=$root/$owner
	d=$dir/$runner
	name=$runner.$mark
	boot=
	read -r boot </proc/sys/kernel/random/boot_id || die "there is no /proc: the host must be a Linux machine"
	printf '\nmuster answers\n'
	"$operation" "$@"
}

# locked DIRECTORY COMMAND... runs a command with the directory locked. It returns 9
# if there is no such directory, or when there is another one by then.
locked() {
	locking=$1
	shift
	[ -d "$locking" ] || return 9
	{
		tries=0
		until flock -n 8; do
			tries=$((tries + 1))
			[ "$tries" -lt 200 ] || die "another call has locked $locking for long"
			sleep 0.05
		done
		[ /proc/self/fd/8 -ef "$locking" ] || return 9
		"$@"
	} 8<"$locking"
}

# process PID sets p_state, p_parent, p_session, p_start and p_exec. A process names itself
# as it likes, so that the fields are counted from the last ')'.
process() {
	p_text=
	[ -e "/proc/$1/stat" ] || return 1
	while IFS= read -r p_line || [ -n "$p_line" ]; do
		p_text="$p_text$p_line "
	done <"/proc/$1/stat"
	fields "$1" ${p_text##*) }
}

fields() {
	p_pid=$1
	[ $# -gt 20 ] || return 1
	p_state=$2 p_parent=$3 p_session=$5
	shift 20
	# Its code and its environment are written in this order at the end of an execve; p_exec
	# is set if there is no code yet, or an environment by now.
	p_start=$1 p_exec=
	[ "$6" != 0 ] && [ "${29}" = "${30}" ] || p_exec=1
	case $p_state in Z | X) return 1 ;; esac
}

# agent finds the agent of $d: it sets pid and start. One that was started and never
# recorded is found by its tag.
agent() {
	pid= start= at=
	if [ -s "$d/process" ]; then
		read -r pid start at <"$d/process"
		[ "$at" = "$boot" ] && process "$pid" && [ "$p_start" = "$start" ]
		return
	fi
	[ -e "$d/starting" ] || return 1
	read -r at <"$d/starting"
	[ "$at" = "$boot" ] || return 1
	for pid in $(tagged); do
		if process "$pid" && [ "$p_session" = "$pid" ]; then
			start=$p_start
			return 0
		fi
	done
	return 1
}

# tagged prints the pids of everything that was started with the runner's tag. While an
# execve replaces a process the kernel shows nothing of its environment: who has none to
# be seen and is in there is looked at again.
tagged() {
	set +f
	set -- /proc/[0-9]*
	set -f
	looks=0
	while :; do
		again=
		for p in $(whose "$@"); do
			case $p in
			"$$") ;;
			\?*)
				p=${p#?}
				[ -e "/proc/$p/exe" ] && process "$p" && [ -n "$p_exec" ] && again="$again /proc/$p"
				;;
			*) echo "$p" ;;
			esac
		done
		looks=$((looks + 1))
		[ -n "$again" ] && [ "$looks" -lt 20 ] || return 0
		sleep 0.01
		set -- $again
	done
}

# whose /proc/PID... prints the pids of those with the runner's tag, and those without
# any environment after a question mark. Each is read once: what was read at two moments
# could be of two programs.
whose() {
	{
		printf '%s\n' "$@"
		grep -Hzaos '..*' $(printf '%s/environ ' "$@") | tr '\0' '\n'
	} | awk -F/ -v tag="environ:MUSTER_INSTANCE=$name" '
		NF == 3 { all[$3] = 1; next }
		{ seen[$3] = 1 }
		$4 == tag { print $3 }
		END { for (p in all) if (!(p in seen)) print "?" p }'
}

# tree prints PID:START of all that is in the session of a process or descends from it.
tree() {
	set +f
	for p in /proc/[0-9]*; do
		process "${p#/proc/}" && echo "$p_pid $p_parent $p_session $p_start"
	done 2>/dev/null | awk -v root="$1" '
		{ parent[$1] = $2; session[$1] = $3; start[$1] = $4 }
		END {
			for (p in parent) {
				for (q = p; q in parent && q != root && n[p]++ < 4096;) q = parent[q]
				if (q == root || session[p] == root) print p ":" start[p]
			}
		}'
	set -f
}

# kill_all KNOWN... kills what is known as PID:START, and all that has the tag, until
# nothing is left. It fails if something still runs.
kill_all() {
	tries=0
	while :; do
		found=
		for k in "$@"; do
			process "${k%%:*}" && [ "$p_start" = "${k#*:}" ] && found=1 && kill -KILL "$p_pid"
		done 2>/dev/null
		for p in $(tagged); do
			process "$p" && found=1 && kill -KILL "$p"
		done 2>/dev/null
		[ -n "$found" ] || return 0
		tries=$((tries + 1))
		[ "$tries" -lt 50 ] || return 1
		sleep 0.02 # the kernel needs a moment to end them
	done
}

# show prints an instance in three lines: what it is, its spec, and words about it.
show() {
	state=ended words= pid= spec=
	if agent; then
		state=running words="pid $pid"
	elif [ -s "$d/process" ]; then
		read -r pid start at <"$d/process"
		words="its agent has ended"
		if [ "$at" != "$boot" ]; then
			words="the host was restarted"
		elif [ -s "$d/log" ]; then
			words="$words: $(tail -n 1 "$d/log" | tail -c 300 | tr -cs '[:print:]' ' ')"
		fi
	elif [ -e "$d/spec" ] && [ -n "$(find "$d" -maxdepth 0 -mmin -2)" ] && [ ! -e "$d/told" ]; then
		state=starting
	else
		words="its creation was interrupted"
	fi
	[ ! -s "$d/spec" ] || IFS= read -r spec <"$d/spec"
	[ -n "$spec" ] || spec="$(stat -c '"%Y"' "$d" 2>/dev/null)"
	[ ! -d "$d" ] || printf 'instance %s %s\n%s\n%s\n' "$runner" "$state" "$spec" "$words"
}

each() { # each COMMAND... with runner and d set to every runner in turn
	set +f
	for d in "$dir"/*; do
		set -f
		[ -d "$d" ] || continue
		runner=${d##*/}
		name=$runner.$mark
		"$@"
	done
	set -f
}

tally() { count=$((count + 1)); }

# look [RUNNER]: the host, then one runner or all.
look() {
	wanted=$runner
	count=0
	each tally
	printf 'host %s %s\n' "$(uname -m)" "$count"
	if [ -z "$wanted" ]; then
		each show
	else
		runner=$wanted d=$dir/$wanted name=$wanted.$mark
		[ ! -d "$d" ] || show
	fi
	# Processes whose directory was lost are something to clean up, too.
	set +f
	cat /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n' | grep "^MUSTER_INSTANCE=[a-z0-9-]*\.$mark\$" | sort -u |
		while IFS== read -r _ name; do
			runner=${name%.*} d=$dir/${name%.*}
			case $wanted in '' | "$runner") ;; *) continue ;; esac
			[ -d "$d" ] || printf 'instance %s %s\n%s\n%s\n' "$runner" ended '' 'its directory was lost, and processes of it still run'
		done
	set -f
}

# claim SLOTS SPEC makes the runner's directory if there is room.
claim() {
	mkdir -p "$dir" || die "make $dir"
	locked "$dir" admit "$@"
}

admit() {
	if [ ! -d "$d" ]; then
		mine=$d count=0
		each tally
		d=$mine runner=${mine##*/} name=${mine##*/}.$mark
		if [ "$count" -ge "$1" ]; then
			echo "full $count"
			return
		fi
		# A name with a dot is no runner's. Left over by a crash, it is cleared here.
		rm -rf "$dir/.new"
		mkdir "$dir/.new" && printf '%s\n' "$2" >"$dir/.new/spec" && mv "$dir/.new" "$d" || die "make $d"
		echo claimed
	elif [ ! -e "$d/starting" ] && [ -s "$d/spec" ]; then
		echo claimed # by somebody who has not started it yet, or never will
	fi
	show
}

# create SLOTS SPEC and the arguments of start: both at once, where there is no other
# host that might have the runner.
create() {
	mkdir -p "$dir" || die "make $dir"
	slots=$1 text=$2
	shift 2
	said=$(locked "$dir" admit "$slots" "$text") || die "make $d"
	case $said in
	claimed*) start "$@" ;;
	*) printf '%s\n' "$said" ;;
	esac
}

# withdraw takes back a claim that nobody has acted on.
withdraw() {
	locked "$d" unclaim
	[ $? = 9 ] || show_if_there
}

unclaim() { [ -e "$d/starting" ] || remove; }

show_if_there() { [ ! -d "$d" ] || show; }

# start AGENT TEMPLATE GRACE URL AGE TRACE DOWNLOAD VARIABLES TOKEN starts the agent,
# in a session of its own.
start() {
	locked "$d" launch "$@"
	case $? in
	0) show_if_there ;;
	9) echo gone ;;
	*) exit 1 ;;
	esac
}

launch() {
	if [ -e "$d/starting" ] || [ ! -s "$d/spec" ]; then
		return 0
	fi
	# Nothing was promised to anybody yet: what fails is undone.
	fill "$2" && printf '%s\n' "$boot" >"$d/starting" && set_off "$@" && return 0
	kill_all $known
	remove
	return 1
}

fill() {
	rm -rf "$d/runner" "$d/home" "$d/tmp" "$d/log" && mkdir "$d/home" "$d/tmp" || return 1
	if [ -z "$1" ]; then
		mkdir "$d/runner"
		return
	fi
	[ -e "$1/run.sh" ] || die_soft "there is no run.sh in $1 (runner_dir)" || return 1
	farm "$1" "$d/runner"
}

die_soft() {
	printf '%s\n' "$*" >&2
	return 1
}

# farm SOURCE TARGET gives a runner its own tree. Small files at the top are
# rewritten in place, and copied; what lies below is only read, and linked.
farm() {
	mkdir "$2" || return 1
	set +f
	for f in "$1"/* "$1"/.[!.]*; do
		set -f
		base=${f##*/}
		[ -e "$f" ] || [ -L "$f" ] || continue
		case $base in
		_* | .runner | .credentials | .credentials_rsaparams | .jitconfig | .runner_migrated | .credentials_migrated | .service) continue ;;
		externals) ln -s "$f" "$2/$base" || return 1 ;;
		*)
			if [ -d "$f" ] && [ ! -L "$f" ]; then
				cp -al "$f" "$2/$base" 2>/dev/null || { rm -rf "$2/$base" && cp -a "$f" "$2/$base"; } || return 1
			else
				cp -a "$f" "$2/$base" || return 1
			fi
			;;
		esac
	done
	set -f
}

set_off() {
	known=
	program=$1 grace=$3 url=$4 age=$5 trace=$6 download=$7 variables=$8 engines=$9 token=${10}
	who=$(id -un) || who=
	set -- "PATH=${PATH:-/usr/local/bin:/usr/bin:/bin}" "LANG=${LANG:-C.UTF-8}" "HOME=$d/home" "TMPDIR=$d/tmp" \
		"USER=$who" "LOGNAME=$who" "MUSTER_INSTANCE=$name" "MUSTER_RUNNER=$runner" "MUSTER_URL=$url" \
		MUSTER_BOOT_TOKEN_FILE=/dev/stdin "MUSTER_RUNNER_DIR=$d/runner" "MUSTER_STOP_GRACE=$grace"
	[ -z "$age" ] || set -- "$@" "MUSTER_MAX_AGE=$age"
	[ -z "$trace" ] || set -- "$@" "MUSTER_TRACE_ID=$trace"
	[ -z "$download" ] || set -- "$@" MUSTER_DOWNLOAD=1 "MUSTER_CACHE_DIR=$root/cache"
	[ -z "$engines" ] || set -- "$@" "MUSTER_ENGINES=$engines"
	for v in $variables; do # names that were checked
		eval "[ -z \"\${$v+set}\" ] || set -- \"\$@\" \"$v=\${$v}\""
	done
	# The token goes from this shell into a pipe: no argument and no environment has it.
	printf '%s\n' "$token" | (
		trap - HUP PIPE
		cd "$d" && exec setsid env -i "$@" "$program"
	) >>"$d/log" 2>&1 8<&- &
	pid=$!
	token=
	# Until it is in its own session; one that has ended by then was started, too.
	tries=0
	start=0
	while process "$pid"; do
		start=$p_start
		[ "$p_session" != "$pid" ] || break
		tries=$((tries + 1))
		[ "$tries" -lt 500 ] || die_soft "the agent did not start" || return 1
		sleep 0.01
	done
	known="$pid:$start"
	printf '%s %s %s\n' "$pid" "$start" "$boot" >"$d/process.new" && mv "$d/process.new" "$d/process"
}

# destroy GRACE PATIENCE ends a runner, and removes it. It answers "gone", or "ending"
# if that takes longer than PATIENCE tenths of a second.
destroy() {
	locked "$d" end "$@"
	case $? in
	0) ;;
	9) kill_all && [ ! -d "$d" ] && echo absent || echo ending ;;
	*) exit 1 ;;
	esac
}

end() {
	known=
	if agent; then
		# While it lives, its descendants can be told; afterwards those that dropped
		# the tag are nobody's.
		known=$(tree "$pid")
		now=$(date +%s)
		if [ ! -s "$d/told" ]; then
			# A full disk must not keep a runner alive.
			printf '%s\n' "$now" >"$d/told" || rm -f "$d/told"
			kill -TERM -"$pid" 2>/dev/null || kill -TERM "$pid"
		fi
		told=0 waited=0
		[ ! -s "$d/told" ] || read -r told <"$d/told"
		left=$2
		while agent && [ "$(($(date +%s) - told))" -le "$1" ]; do
			if [ "$left" -le 0 ]; then
				echo ending
				return 0
			fi
			# The first moments count for those that end at once.
			waited=$((waited + 1))
			if [ "$waited" -le 5 ]; then
				sleep 0.02
				continue
			fi
			left=$((left - 1))
			sleep 0.1
		done
		if agent; then
			known="$known $(tree "$pid")"
		fi
	fi
	if ! kill_all $known; then
		echo ending
		return 0
	fi
	remove || return 1
	echo gone
}

# remove removes a directory that a job has filled, which may hold directories
# without permissions. The spec goes last, so that an interrupted removal is still
# an instance that can be found.
remove() {
	chmod u+rwx "$d"
	set +f
	for f in "$d"/* "$d"/.[!.]* "$d"/..?*; do
		set -f
		[ -e "$f" ] || [ -L "$f" ] || continue
		[ "$f" != "$d/spec" ] || continue
		rm -rf "$f" 2>/dev/null && continue
		find "$f" -type d ! -perm -700 -exec chmod u+rwx {} \; 2>/dev/null
		rm -rf "$f" || return 1
	done
	set -f
	rm -f "$d/spec" && rmdir "$d"
}

# expire ends a runner that is too old, and leaves it to be seen.
expire() {
	locked "$d" overdue
	[ $? = 9 ] || show_if_there
}

overdue() {
	if agent; then
		kill_all $(tree "$pid")
	fi
}

# console LIMIT prints the end of the log.
console() {
	if [ ! -e "$d/log" ]; then
		echo gone
		return
	fi
	echo log
	tail -c "$1" "$d/log"
}

# has FILE SHA256 says whether a program is there, as it was sent; on what machine, and
# where.
has() {
	there=no
	[ -x "$root/$1" ] && [ "$(sum "$root/$1")" = "$2" ] && there=yes
	printf '%s %s\n%s\n' "$there" "$(uname -m)" "$root/$1"
}

sum() {
	s=$(sha256sum "$1") || return 1
	echo "${s%% *}"
}

# put FILE SHA256 makes a program from the rest of standard input.
put() {
	file=$root/$1
	mkdir -p "${file%/*}" || die "make ${file%/*}"
	fresh=$(mktemp "$file.XXXXXX") || die "make $file"
	if cat >"$fresh" && [ "$(sum "$fresh")" = "$2" ] && chmod 700 "$fresh" && mv -f "$fresh" "$file"; then
		printf 'yes %s\n%s\n' "$(uname -m)" "$file"
		# Those of earlier versions; a process that still runs one keeps it.
		find "${file%/*}" -maxdepth 1 -type f -name 'muster-agent-*' -mtime +30 ! -path "$file" -exec rm -f {} \;
		return
	fi
	rm -f "$fresh"
	die "the program arrived incomplete"
}
