# incident: T1611 and T1562.001: away from the job's limits
# what: a process of the job moves itself to the cgroup above
# rule: cgroup-left
## step: Test
root=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/self/mounts)
own=$(sed -n 's/^0:://p' /proc/self/cgroup)
bash -c 'echo 0 > "$1/cgroup.procs"; exec true' - "$root$(dirname "$own")"
