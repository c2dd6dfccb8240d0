# tries: to reach services of the machine: loopback by TCP and UDP, and what listens elsewhere
# must: no point; graded
# %% cell after setup
import socket

socket.setdefaulttimeout(2)
PORT = 47113
for address in ("127.0.0.1", "localhost", "127.0.0.53", "0.0.0.0", socket.gethostname()):
    try:
        socket.create_connection((address, PORT), 2).sendall(b"hello")
    except OSError as fault:
        print(address, fault)
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", (address, PORT))
    except OSError as fault:
        print(address, fault)
for port in (22, 631, 2375, 5432, 6379, 8786, 8888, *range(8000, 8100)):
    with socket.socket() as attempt:
        attempt.settimeout(0.1)
        if attempt.connect_ex(("127.0.0.1", port)) == 0:
            print(port, "answers")
