# incident: Rootkits of BPF (ebpfkit, 2021; T1014)
# what: a script gives the kernel a program that sees packets
# rule: bpf-load
## step: Test
python3 - <<'Y'
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
# r0 = 0; exit: a filter of sockets that is attached to none
code = ctypes.create_string_buffer(bytes.fromhex('b700000000000000') + bytes.fromhex('9500000000000000'))
words = ctypes.create_string_buffer(b'GPL\0')
attr = ctypes.create_string_buffer(struct.pack('IIQQIIQII16s', 1, 2, ctypes.addressof(code), ctypes.addressof(words), 0, 0, 0, 0, 0, b'hide_me'), 120)
fd = libc.syscall({'x86_64': 321, 'aarch64': 280}[os.uname().machine], 5, attr, 120)
assert fd >= 0, os.strerror(ctypes.get_errno())
os.close(fd)
Y
