"""Network addresses: which proxy leads to them, and which mean this machine. HTTP(S)_PROXY and NO_PROXY are read the same
way for all, since the standard library, requests and aiohttp each differ."""

from ipaddress import ip_address, ip_network
from urllib.request import getproxies


def environment_proxy(scheme: str, host: str, port: int | None) -> str | None:
    """The proxy for an address, None when it is reached directly."""
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    port = port or {"http": 80, "https": 443}.get(scheme, 0)
    return None if not proxy or bypasses(proxies.get("no", ""), host, port) else proxy


def bypasses(no_proxy: str, host: str, port: int) -> bool:
    """Whether NO_PROXY names this host: ``*``, a name with all below it, an address or a network (``10.0.0.0/8``), each
    perhaps with a port."""
    host = host.strip("[]").rstrip(".").lower()
    return any(_covers(entry, host, port) for entry in no_proxy.replace(",", " ").lower().split())


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass  # one of both is a name, or something with a port
    name, colon, number = entry.rpartition(":")
    if colon and number.isdecimal():
        return int(number) == port and _covers(name, host, port)
    name = entry.removeprefix("*").lstrip(".").rstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def is_loopback(host: str) -> bool:
    """Whether a host's name or address can only mean this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ip_address(host.strip("[]").split("%", 1)[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def split_listen(listen: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; an empty host means every address. Raises ``ValueError``."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]") or "0.0.0.0", int(port)
