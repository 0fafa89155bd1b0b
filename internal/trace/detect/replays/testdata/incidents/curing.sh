# incident: Curing, a rootkit on io_uring, April 2025
# what: a script sets up an io_uring, through which it could read files unseen
# rule: io-uring
## step: Test
python3 - <<'Y'
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.syscall(425, 1, ctypes.create_string_buffer(120))
assert fd >= 0, os.strerror(ctypes.get_errno())
os.close(fd)
Y
