"""A task calls things by the addresses that they have for everybody, behind virtual hosts too."""

from collections.abc import Mapping

import pytest

from tests.plone.instance import Instance

HOSTED = "/VirtualHostBase/https/example.org:443/Plone/VirtualHostRoot"


@pytest.mark.accept("CT19")
@pytest.mark.parametrize(
    ("asked", "url", "headers", "public"),
    [
        ("", "/Plone/second/@@note", {"Host": "plone.example:8080"}, "http://plone.example:8080/Plone/second"),
        (HOSTED, "/Plone/second/@@note", {}, "https://example.org/second"),
        (HOSTED, "/second/@@note", {}, "https://example.org/second"),
        (f"{HOSTED}/_vh_our/_vh_site", "/Plone/second/@@note", {}, "https://example.org/our/site/second"),
        (f"{HOSTED}/_vh_our/_vh_site", "/our/site/second/@@note", {}, "https://example.org/our/site/second"),
        (
            "/VirtualHostBase/http/example.org:8080/VirtualHostRoot/Plone",
            "/Plone/second/@@note",
            {},
            "http://example.org:8080/Plone/second",
        ),
    ],
)
def test_an_address_made_in_a_task_is_the_public_one(
    consumed: Instance, asked: str, url: str, headers: Mapping[str, str], public: str
) -> None:
    place = asked if "Root" in asked else "/Plone"
    response = consumed.fetch(f"{place}/@@do?url={url}", user="maria", headers=headers)
    assert response.status == 200, response
    (effect,) = consumed.done(1)
    assert (effect["url"], effect["user"]) == (public, "maria")
    assert effect["address"] == f"{public}/@@note"
