"""What only Flask has: settings in its configuration, Flask-Login's users, Flask-WTF's forms, and views of its own."""

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user
from flask_wtf import CSRFProtect, FlaskForm

import taskqueue
from taskqueue.errors import ConfigError
from taskqueue.inprocess import WsgiReplayer
from taskqueue.middleware.flask import TaskQueue, task_only
from taskqueue.middleware.wsgi import USER
from taskqueue.policy import Answered, Outcome
from tests.doors import Consumer, delivery_of, task_queue
from tests.servers import RedisServer

SEEN: list[Any] = []


class User(UserMixin):  # type: ignore[misc]
    def __init__(self, name: str, *, active: bool = True) -> None:
        self.id, self.active = name, active

    @property
    def is_active(self) -> bool:
        return self.active


@pytest.fixture
def users() -> dict[str, User]:
    SEEN.clear()
    return {"ada": User("ada"), "grete": User("grete")}


@pytest.fixture
def app() -> flask.Flask:
    app = flask.Flask("tests")
    app.config.update(SECRET_KEY=secrets.token_hex(), TESTING=False)

    @app.post("/login/<name>")
    def login(name: str) -> str:
        login_user(app.login_manager._user_callback(name), remember=True)  # type: ignore[attr-defined]
        return ""

    @app.post("/order")
    def order() -> str:
        return taskqueue.add(flask.url_for("build", year=2026, _external=False), method="POST", json={"a": 1})

    @app.post("/build/<int:year>")
    def build(year: int) -> str:
        user = current_user.get_id() if hasattr(app, "login_manager") else flask.request.environ.get(USER)
        SEEN.append((year, user, flask.session.get("_user_id"), flask.request.get_json()))
        return ""

    return app


def with_login(app: flask.Flask, users: dict[str, User], **options: Any) -> LoginManager:
    """Give an application users, after its TaskQueue."""
    manager = LoginManager(app)
    for name, value in options.items():
        setattr(manager, name, value)
    manager.user_loader(users.get)
    return manager


async def ordered(app: flask.Flask, login: str | None = None) -> None:
    """Order a report in a browser of one's own."""

    def browse() -> None:
        client = app.test_client()
        if login is not None:
            assert client.post(f"/login/{login}").status_code == 200
        assert client.post("/order").status_code == 200

    await asyncio.to_thread(browse)


async def replayed(app: flask.Flask, tq: taskqueue.TaskQueue) -> Answered:
    """Replay the one task that waits, in process."""
    ((reservation, task),) = await Consumer(tq).reserve()
    async with WsgiReplayer(app, threads=1) as replayer:  # type: ignore[arg-type]
        outcome: Outcome = await replayer.replay(delivery_of(reservation, task))
    assert isinstance(outcome, Answered)
    return outcome


# ---- settings


async def test_the_queue_is_what_the_configuration_says(any_server: RedisServer, app: flask.Flask) -> None:
    secret = secrets.token_hex(32)
    app.config.update(TASKQUEUE_URL=any_server.url, TASKQUEUE_SECRET=secret, TASKQUEUE_QUEUES=["mail"])
    app.config.update(TASKQUEUE_TASK_ONLY=["/build"], TASKQUEUE_CREDENTIALS="drop")
    extension = TaskQueue()
    extension.init_app(app)
    tq: taskqueue.TaskQueue = app.extensions["taskqueue"]
    assert (tq.url, tq.queues) == (any_server.url, ("mail",))
    client = app.test_client()
    with taskqueue.capture() as tasks:
        client.set_cookie("session", "1")
        assert client.post("/order").status_code == 200
    assert tasks.find("/build/2026").queue == "mail"
    assert not [name for name, _ in tasks[0].headers if name == "cookie"]
    assert client.post("/build/2026").status_code == 404


def test_what_the_queue_may_hold_is_configured_too(app: flask.Flask, tmp_path: Path) -> None:
    app.config.update(TASKQUEUE_MAX_TASKS="5", TASKQUEUE_MAX_BYTES=7, TASKQUEUE_DURABILITY="process")
    app.config.update(TASKQUEUE_URL="redis://127.0.0.1:1/0", TASKQUEUE_STORAGE=str(tmp_path))
    TaskQueue(app)
    tq: taskqueue.TaskQueue = app.extensions["taskqueue"]
    assert (tq.capacity.tasks, tq.capacity.bytes, str(tq.durability)) == (5, 7, "process")
    assert tq.storage_directory == tmp_path


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"TASKQUEUE_STORAGE": "files"}, "TASKQUEUE_STORAGE: 'files' must be the absolute path"),
        ({"TASKQUEUE_MAX_TASKS": "many"}, "TASKQUEUE_MAX_TASKS: 'many' must be a whole number"),
        ({"TASKQUEUE_QUEUS": ["a"]}, "TASKQUEUE_QUEUS: no such setting; did you mean TASKQUEUE_QUEUES?"),
        ({"TASKQUEUE_URL": "redis://x"}, "tq: the configuration says TASKQUEUE_URL as well"),
        ({"TASKQUEUE_CREDENTIALS": "keep"}, "credentials: 'keep' must be"),
        ({"TASKQUEUE_ALLOW_MANUAL": "no"}, "allow_manual: 'no' must be True or False"),
    ],
)
def test_a_wrong_setting_is_refused(app: flask.Flask, config: dict[str, Any], message: str) -> None:
    app.config.update(config)
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        TaskQueue(app, taskqueue.TaskQueue("redis://y"))


def test_settings_of_the_consumer_are_left_alone(app: flask.Flask) -> None:
    app.config.update(TASKQUEUE_TARGET="http://127.0.0.1:1", TASKQUEUE_CONCURRENT_LIMIT="3")
    TaskQueue(app, taskqueue.TaskQueue("redis://y"))
    with pytest.raises(ConfigError, match="its TaskQueue already"):
        TaskQueue(app, taskqueue.TaskQueue("redis://y"))


# ---- Flask-Login


@pytest.mark.accept("CT01")
@pytest.mark.parametrize("options", [{}, {"session_protection": "strong"}])
@pytest.mark.parametrize("credentials", [None, "copy"])
async def test_a_task_runs_as_the_logged_in_user_and_leaves_no_session(
    app: flask.Flask, tq: taskqueue.TaskQueue, users: dict[str, User], options: dict[str, Any], credentials: Any
) -> None:
    TaskQueue(app, tq, credentials=credentials)
    with_login(app, users, **options)
    await ordered(app, "ada")
    outcome = await replayed(app, tq)
    assert (outcome.status, outcome.receipted, outcome.logged_in) == (200, True, True)
    ((year, user, session, sent),) = SEEN
    assert (year, user, sent) == (2026, "ada", {"a": 1})
    assert (session == "ada") == (credentials == "copy")
    assert "set-cookie" not in dict(outcome.headers)


async def test_a_task_for_another_user_is_theirs_whatever_the_cookies_say(
    app: flask.Flask, tq: taskqueue.TaskQueue, users: dict[str, User]
) -> None:
    TaskQueue(app, tq, credentials="copy")
    with_login(app, users)

    def browse() -> None:
        client = app.test_client()
        client.post("/login/ada")
        cookies = (client.get_cookie(name) for name in ("session", "remember_token"))
        cookie = "; ".join(f"{one.key}={one.value}" for one in cookies if one is not None)
        with taskqueue.transaction(tq):
            tq.add("/build/1", json={}, user_id="grete", headers={"Cookie": cookie})

    await asyncio.to_thread(browse)
    await replayed(app, tq)
    assert [seen[:3] for seen in SEEN] == [(1, "grete", "ada")]


@pytest.mark.parametrize("why", ["deleted", "inactive"])
async def test_a_user_who_is_gone_fails_the_task(
    app: flask.Flask, tq: taskqueue.TaskQueue, users: dict[str, User], why: str
) -> None:
    TaskQueue(app, tq)
    with_login(app, users)
    await ordered(app, "ada")
    if why == "deleted":
        del users["ada"]
    else:
        users["ada"].active = False
    outcome = await replayed(app, tq)
    assert (outcome.status, outcome.refused, SEEN) == (403, "user-gone", [])


async def test_a_task_of_nobody_stays_nobodys(
    app: flask.Flask, tq: taskqueue.TaskQueue, users: dict[str, User]
) -> None:
    TaskQueue(app, tq)
    with_login(app, users)
    app.view_functions["build"] = login_required(app.view_functions["build"])
    await ordered(app)
    assert ((await replayed(app, tq)).status, SEEN) == (401, [])


async def test_users_of_ones_own_are_loaded_in_the_applications_context(
    app: flask.Flask, tq: taskqueue.TaskQueue, users: dict[str, User]
) -> None:
    def load_user(user_id: str) -> str:
        return f"{user_id} of {flask.current_app.name}"

    TaskQueue(app, tq, load_user, lambda request: request.headers.get("X-User", "ada"))
    await ordered(app)
    assert (await replayed(app, tq)).logged_in
    assert SEEN == [(2026, "ada of tests", None, {"a": 1})]


# ---- Flask-WTF


async def test_a_task_passes_csrf_protection_and_a_browser_without_token_does_not(
    app: flask.Flask, tq: taskqueue.TaskQueue, users: dict[str, User]
) -> None:
    class Form(FlaskForm):  # type: ignore[misc]
        pass

    @app.post("/form")
    def form() -> flask.Response:
        SEEN.append(Form().validate_on_submit())
        return flask.Response(status=200)

    TaskQueue(app, tq)
    CSRFProtect(app)

    def browse() -> None:
        client = app.test_client()
        assert client.post("/build/1", json={}).status_code == 400
        assert client.post("/form", headers={"X-Task-Id": "1"}).status_code == 403
        assert SEEN == []

    await asyncio.to_thread(browse)
    for target in ("/form", "/build/1"):
        await tq.push(target, json={})
        assert (await replayed(app, tq)).status == 200
        await tq.reset()
    assert SEEN == [True, (1, None, None, {})]


# ---- views


async def test_a_view_for_tasks_is_hidden_from_all_others(
    app: flask.Flask, tq: taskqueue.TaskQueue, users: dict[str, User]
) -> None:
    TaskQueue(app, tq)
    build: Any = app.view_functions["build"]
    app.view_functions["build"] = task_only(build)
    with pytest.raises(ConfigError, match="decorators"):
        task_only(User)
    client = app.test_client()
    hidden, missing = [await asyncio.to_thread(client.post, path) for path in ("/build/1", "/missing")]
    assert (hidden.status_code, hidden.data) == (404, missing.data)
    await ordered(app)
    assert (await replayed(app, tq)).status == 200


async def test_a_body_that_cannot_be_copied_is_the_clients_fault(any_server: RedisServer, app: flask.Flask) -> None:
    TaskQueue(app, task_queue(any_server.url, limits=taskqueue.Limits(body=10)))
    app.add_url_rule("/copy", "copy", lambda: taskqueue.add("/build/1", method="PUT"), methods=["POST"])
    response = await asyncio.to_thread(app.test_client().post, "/copy", data=b"x" * 11)
    assert response.status_code == 413
    assert "has 11 bytes, over the limit of 10" in response.text


async def test_a_stream_without_context_is_told_how_to_keep_it(
    app: flask.Flask, tq: taskqueue.TaskQueue, users: dict[str, User]
) -> None:
    def stream() -> Iterator[str]:
        yield "a"
        taskqueue.add("/build/1", json={}, user_id="ada")
        with pytest.raises(taskqueue.InvalidTask, match="stream_with_context"):
            taskqueue.add("/build/1", json={})

    app.add_url_rule("/stream", "stream", lambda: flask.Response(stream()))
    TaskQueue(app, tq)
    response = await asyncio.to_thread(lambda: app.test_client().get("/stream").text)
    assert response == "a"
    assert [task.user_id for task in await Consumer(tq).tasks()] == ["ada"]


async def test_an_async_user_id_gets_the_request_at_the_end(
    app: flask.Flask, tq: taskqueue.TaskQueue, users: dict[str, User]
) -> None:
    async def user_id(request: flask.Request) -> str | None:
        await asyncio.sleep(0)
        return request.headers.get("X-User")

    TaskQueue(app, tq, user_id=user_id)
    await asyncio.to_thread(lambda: app.test_client().post("/order", headers={"X-User": "grete"}))
    assert [task.user_id for task in await Consumer(tq).tasks()] == ["grete"]
