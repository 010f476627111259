"""What the ancestor's users did with it, on a real site: over HTTP, and with the site called in the consumer."""

from collections.abc import Iterator

import pytest

from tests.plone.instance import Instance
from tests.waiting import wait_until


@pytest.fixture
def private_page(plone: Instance) -> Iterator[str]:
    """A page that only its owner sees."""
    path = "/Plone/page"
    yield path
    plone.fetch(f"{path}/@@retract", user="maria")
    assert plone.fetch(path).status == 302


@pytest.mark.accept("CT17")
def test_a_manager_has_a_page_published_and_then_everybody_sees_it(consumed: Instance, private_page: str) -> None:
    assert consumed.fetch(private_page).status == 302  # to the login
    assert consumed.fetch(f"{private_page}/@@publish-later", user="maria").status == 200
    wait_until(lambda: consumed.fetch(private_page).status == 200, "an anonymous visitor sees the page")


@pytest.mark.accept("CT18")
def test_a_view_for_tasks_is_not_there_for_a_browser(consumed: Instance) -> None:
    assert consumed.fetch("/Plone/@@note").status == 404
    assert consumed.fetch("/Plone/@@note", user="maria").status == 404
    assert consumed.fetch("/Plone/@@note", headers={"X-Task-Id": "1"}).status == 403
    assert consumed.effects() == []
    task_id = consumed.fetch("/Plone/@@do?url=/Plone/@@note").text
    assert [effect["id"] for effect in consumed.done(1)] == [task_id]


def test_a_form_has_a_mail_sent_that_says_what_was_typed(consumed: Instance) -> None:
    sent = consumed.fetch("/Plone/@@send-later", "POST", form={"text": "Grüße & more"})
    assert sent.status == 200
    (mail,) = consumed.done(1)
    assert (mail["mail"], mail["id"]) == ("Grüße & more", sent.text)


@pytest.mark.accept("CT40")
@pytest.mark.timeout(180)
def test_a_thousand_tasks_of_one_request_do_a_thousand_things(consumed: Instance) -> None:
    sent = consumed.fetch("/Plone/@@send-later?times=1000", "POST", form={"text": "hello"})
    assert sent.status == 200
    mails = consumed.done(1000, limit=60)  # the promise: within a minute
    assert sorted(mail["id"] for mail in mails) == sorted(sent.text.splitlines())
    assert {mail["mail"] for mail in mails} == {"hello"}
