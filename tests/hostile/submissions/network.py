"""The network."""
# must: no point; graded

# === network_internet
# tries: to reach the network: names, TCP, UDP, proxies, pip, and what git would ask
# %% cell after setup
import urllib.request

socket.setdefaulttimeout(2)
for attempt in (
    lambda: socket.getaddrinfo("example.com", 80),
    lambda: socket.create_connection(("192.0.2.1", 80), 2),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", ("192.0.2.1", 53)),
    lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"hello", ("2001:db8::1", 53)),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    lambda: urllib.request.urlopen("http://169.254.169.254/latest/meta-data/", timeout=2).read(),
):
    print(tried(attempt))

# === network_local
# tries: to reach services of the machine: loopback by TCP and UDP, and what listens elsewhere
# %% cell after setup
socket.setdefaulttimeout(2)
for address in ("127.0.0.1", "localhost", "127.0.0.53", "0.0.0.0", socket.gethostname()):
    tried(socket.create_connection, (address, 47113), 2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        tried(datagram.sendto, b"hello", (address, 47113))
for port in (22, 631, 2375, 5432, 6379, 8786, 8888, *range(8000, 8100)):
    with socket.socket() as attempt:
        attempt.settimeout(0.1)
        if attempt.connect_ex(("127.0.0.1", port)) == 0:
            print(port, "answers")

# === network_unix
# tries: abstract and named Unix sockets: the session bus, the display, Docker, and one that listens
# %% cell after setup
names = ["\0hostile-canary", "\0/tmp/.X11-unix/X0", "/run/docker.sock"]
names += ["/run/dbus/system_bus_socket", "/run/systemd/private"]
names += [*glob.glob("/tmp/**/*.sock*", recursive=True), *glob.glob("/run/*/*")]
for line in open("/proc/net/unix").read().splitlines()[1:]:
    names += [field.replace("@", "\0", 1) for field in line.split()[7:]]
for name in names:
    with socket.socket(socket.AF_UNIX) as attempt:
        attempt.settimeout(1)
        tried(attempt.connect, name)
        print(name, "took", tried(attempt.send, b"hello"))
