"""What Zope gets of a request's body, and a task's copy of it."""

from urllib.parse import quote

import pytest

from tests.plone.instance import Instance


@pytest.mark.parametrize("conflicts", [0, 1])
def test_a_body_is_read_by_zope_again_and_copied_once(consumed: Instance, conflicts: int) -> None:
    text = "Grüße " * 20_000
    body = f"text={quote(text)}".encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = consumed.fetch(f"/Plone/@@body?conflicts={conflicts}", "POST", body=body, headers=headers)
    assert (response.status, response.text) == (200, body.decode())
    assert [effect["mail"] for effect in consumed.done(1)] == [text]


def test_an_upload_is_copied_whole(consumed: Instance) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\nhello\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert consumed.fetch("/Plone/@@send-later", "POST", body=body, headers=headers).status == 200
    assert [effect["mail"] for effect in consumed.done(1)] == ["hello"]
