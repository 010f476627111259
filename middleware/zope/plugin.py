"""The plugin of a user folder (PAS) that logs in a task's user, without a password, for a proved delivery alone."""

from typing import Any, Final

from AccessControl import ClassSecurityInfo
from AccessControl.class_init import InitializeClass
from Products.PluggableAuthService.interfaces.plugins import (
    IAuthenticationPlugin,
    IChallengePlugin,
    IExtractionPlugin,
)
from Products.PluggableAuthService.plugins.BasePlugin import BasePlugin
from zope.interface import implementer

from ...errors import ConfigError
from ...middleware.zope import current
from ...middleware.zope.door import LOGIN
from ...producer import current_task

PLUGIN_ID: Final = "taskqueue"
_INTERFACES: Final = (IExtractionPlugin, IAuthenticationPlugin, IChallengePlugin)


@implementer(*_INTERFACES)
class TaskQueuePlugin(BasePlugin):  # type: ignore[misc]  # Zope has no types
    """Extracts who a delivery runs as, lets in whom its own folder knows, and sends no task to a login form."""

    meta_type = "Task Queue Plugin"
    security = ClassSecurityInfo()
    security.declarePrivate("extractCredentials", "authenticateCredentials", "challenge")

    def __init__(self, id: str, title: str = "") -> None:  # noqa: A002 - Zope's word
        """Take the id in the user folder."""
        self._setId(id)
        self.title = title

    def extractCredentials(self, request: Any) -> dict[str, str]:  # noqa: N802 - see IExtractionPlugin
        """Return who the running delivery is to run as, nothing if it is none, or its user is of another folder."""
        task = current_task()
        if task is None or task.user_id is None:
            return {}
        named = request.environ.get("HTTP_X_ZOPE_USER_FOLDER", current.ANY_FOLDER)
        if named not in (current.ANY_FOLDER, current.folder_path(self._getPAS())):
            return {}
        return {"task_user_id": task.user_id}

    def authenticateCredentials(self, credentials: dict[str, str]) -> tuple[str, str] | None:  # noqa: N802 - as above
        """Return id and login name of a user that the folder has, None for everybody else."""
        if credentials.get("extractor") != self.getId():
            return None
        user_id = credentials["task_user_id"]
        for found in self._getPAS().searchUsers(id=user_id, exact_match=True):
            if found["userid"] == user_id:
                self.REQUEST.environ[LOGIN].known = True
                return user_id, found["login"]
        return None

    def challenge(self, _request: Any, response: Any) -> bool:
        """Answer a delivery that may not do what it asks for as such: a redirect would pass for a success."""
        if current_task() is None:
            return False
        response.setStatus(401)
        return True


InitializeClass(TaskQueuePlugin)


def install(folder: Any) -> None:
    """Put the plugin into a user folder, in front of the others; one that has it stays. Raises ConfigError."""
    if not hasattr(folder, "plugins"):
        raise ConfigError(f"acl_users: {current.folder_path(folder)} takes no plugins; make it a PluggableAuthService")
    if PLUGIN_ID not in folder.objectIds():
        folder._setObject(PLUGIN_ID, TaskQueuePlugin(PLUGIN_ID, "Runs tasks as their users"))
    for interface in _INTERFACES:
        if PLUGIN_ID not in folder.plugins.listPluginIds(interface):
            folder.plugins.activatePlugin(interface, PLUGIN_ID)
        folder.plugins.movePluginsTop(interface, [PLUGIN_ID])


def uninstall(folder: Any) -> None:
    """Take the plugin out of a user folder, if it is there."""
    if PLUGIN_ID in folder.objectIds():
        folder[PLUGIN_ID].manage_activateInterfaces([])
        folder._delObject(PLUGIN_ID)


def install_profile(tool: Any) -> None:
    """Install into the site's user folder, and into the root's, whose users may add tasks in the site."""
    site = tool.aq_parent
    install(site.acl_users)
    root = site.getPhysicalRoot()
    if root is not site and hasattr(root.acl_users, "plugins"):
        install(root.acl_users)


def uninstall_profile(tool: Any) -> None:
    """Take the plugin out of the site's user folder; the root's may serve other sites."""
    uninstall(tool.aq_parent.acl_users)
