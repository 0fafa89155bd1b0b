# incident: BPFDoor, 2022; T1040, network sniffing
# what: a script listens to all packets for one that wakes it
# rule: raw-socket
## step: Test
python3 - <<'Y'
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
s.setblocking(False)
try:
    s.recv(1)
except BlockingIOError:
    pass
Y
