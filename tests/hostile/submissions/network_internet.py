# tries: to reach the network: names, TCP, UDP, proxies, pip, and what git would ask
# must: no point; graded
# %% cell after setup
import socket
import urllib.request

socket.setdefaulttimeout(2)
TRY = [
    lambda: socket.getaddrinfo("example.com", 80),
    lambda: socket.create_connection(("192.0.2.1", 80), 2),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", ("192.0.2.1", 53)),
    lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"hello", ("2001:db8::1", 53)),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    lambda: urllib.request.urlopen("http://169.254.169.254/latest/meta-data/", timeout=2).read(),
]
for attempt in TRY:
    try:
        print(attempt())
    except OSError as fault:
        print(type(fault), fault)
