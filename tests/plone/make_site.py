"""Makes the site of the tests in the instance that is configured here: ``python -m tests.plone.make_site``."""

import transaction
import Zope2
from AccessControl.SecurityManagement import newSecurityManager
from AccessControl.users import system
from Products.CMFPlone.factory import addPloneSite
from Testing.makerequest import makerequest
from zope.component.hooks import setSite
from zope.globalrequest import setRequest
from Zope2.Startup.run import configure_wsgi

PASSWORD = "Secret-9876!"


def main() -> None:
    configure_wsgi("zope.conf")
    app = makerequest(Zope2.app())
    setRequest(app.REQUEST)
    newSecurityManager(None, system.__of__(app.acl_users))
    if "virtual_hosting" not in app.objectIds():
        app.manage_addProduct["SiteAccess"].manage_addVirtualHostMonster("virtual_hosting")
    extensions = (
        "plone.app.contenttypes:default",
        "plonetheme.barceloneta:default",
        "taskqueue.middleware.zope:default",
    )
    site = addPloneSite(app, "Plone", extension_ids=extensions)
    setSite(site)
    site.portal_workflow.setDefaultChain("simple_publication_workflow")
    for name, role in (("maria", "Manager"), ("bob", "Member")):
        site.acl_users._doAddUser(name, PASSWORD, [role], [])
    app.acl_users._doAddUser("root", PASSWORD, ["Manager"], [])
    for page in ("page", "second"):
        site.invokeFactory("Document", page, title=page)
    transaction.commit()


if __name__ == "__main__":
    main()
