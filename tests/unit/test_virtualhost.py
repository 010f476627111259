"""Where a task goes that is added behind a virtual host of Zope."""

import pytest

from taskqueue.middleware.zope.virtualhost import hosted

BASE = "/VirtualHostBase/https/example.org:443"


@pytest.mark.parametrize(
    ("target", "root", "prefix", "expected"),
    [
        ("/Plone/page", ("", "Plone"), (), f"{BASE}/Plone/VirtualHostRoot/page"),
        ("/Plone", ("", "Plone"), (), f"{BASE}/Plone/VirtualHostRoot"),
        ("/Plone/", ("", "Plone"), (), f"{BASE}/Plone/VirtualHostRoot/"),
        ("/page", ("", "Plone"), (), f"{BASE}/Plone/VirtualHostRoot/page"),
        ("/Plone2/page", ("", "Plone"), (), f"{BASE}/Plone/VirtualHostRoot/Plone2/page"),
        ("/Plone/page?x=/Plone", ("", "Plone"), (), f"{BASE}/Plone/VirtualHostRoot/page?x=/Plone"),
        ("/our/page", ("", "Plone"), ("our",), f"{BASE}/Plone/VirtualHostRoot/_vh_our/page"),
        ("/Plone/our", ("", "Plone"), ("our",), f"{BASE}/Plone/VirtualHostRoot/_vh_our/our"),
        ("/Plone/page", ("",), (), f"{BASE}/VirtualHostRoot/Plone/page"),
        ("/our/Plone", ("",), ("our",), f"{BASE}/VirtualHostRoot/_vh_our/Plone"),
        ("/a%20b/page", ("", "a b"), (), f"{BASE}/a%20b/VirtualHostRoot/page"),
        (f"{BASE}/x/VirtualHostRoot/y?z", ("", "Plone"), (), f"{BASE}/x/VirtualHostRoot/y?z"),
    ],
)
def test_a_physical_and_a_public_path_go_to_the_same_place(
    target: str, root: tuple[str, ...], prefix: tuple[str, ...], expected: str
) -> None:
    assert hosted(target, server_url="https://example.org", root=root, prefix=prefix) == expected


@pytest.mark.parametrize(
    ("server_url", "base"),
    [
        ("http://example.org", "http/example.org:80"),
        ("https://example.org:8443", "https/example.org:8443"),
        ("http://[::1]:8080", "http/%5B::1%5D:8080"),
    ],
)
def test_the_public_port_is_always_named(server_url: str, base: str) -> None:
    assert hosted("/x", server_url=server_url, root=("",), prefix=()) == f"/VirtualHostBase/{base}/VirtualHostRoot/x"
