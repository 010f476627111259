"""nginx as a private process in front of an application: one port for each way in which it may hand requests on."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.servers import free_port
from tests.waiting import wait_until

NGINX: Final = shutil.which("nginx", path=f"{os.defpath}:/usr/sbin:/usr/local/bin:/opt/homebrew/bin")

# What stands in `location`, by the name that tests use; {target} is the application's server.
WAYS: Final[Mapping[str, tuple[str, str]]] = {
    "as it came": ("/", "proxy_pass {target}; proxy_set_header Host $http_host;"),
    "without the port": ("/", "proxy_pass {target}; proxy_set_header Host $host;"),
    "another host": ("/", "proxy_pass {target};"),
    "normalised": ("/", "proxy_pass {target}/; proxy_set_header Host $http_host;"),
    "below a prefix": ("/shop/", "proxy_pass {target}/; proxy_set_header Host $http_host;"),
}

_CONF: Final = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; client_max_body_size 8m; underscores_in_headers on;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{servers}
}}
"""
_SERVER: Final = "  server {{ listen 127.0.0.1:{port}; location {location} {{ {rules} {forwarded} }} }}"
# A directive in `location` hides all of its kind further out.
_FORWARDED: Final = "proxy_set_header X-Forwarded-Proto https; proxy_set_header X-Forwarded-For $remote_addr;"


@contextmanager
def nginx(folder: Path, target: str) -> Iterator[Mapping[str, str]]:
    """Run nginx in front of this address; yield its own addresses, one for each way."""
    assert NGINX is not None
    ports = {way: free_port() for way in WAYS}
    servers = [
        _SERVER.format(port=ports[way], location=location, rules=rules.format(target=target), forwarded=_FORWARDED)
        for way, (location, rules) in WAYS.items()
    ]
    conf = folder / "nginx.conf"
    conf.write_text(_CONF.format(folder=folder, servers="\n".join(servers)))
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(conf)], stdout=log, stderr=log)
    try:
        wait_until((folder / "pid").exists, "nginx runs")
        yield {way: f"http://127.0.0.1:{port}" for way, port in ports.items()}
    finally:
        process.terminate()
        process.wait(20)
