# incident: T1611, escape to the machine by its first process
# what: a step in a privileged container enters the namespaces of process 1
# rule: container-escape
# needs: nsenter
## step: Test
nsenter --target 1 --mount --uts true
