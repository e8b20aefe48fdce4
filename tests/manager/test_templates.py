"""Who sees, keeps and changes which templates and dotfiles."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest

from backendai.bridges.postgres import Database
from backendai.core.account import Principal
from backendai.core.dotfiles import Holder, HolderKind
from backendai.core.errors import Forbidden, InvalidParameters, ObjectNotFound, QuotaExceeded
from backendai.core.kernel import Dotfile
from backendai.core.template import MOST_TEMPLATES, TemplateDraft, TemplateKind
from backendai.manager.dotfiles import DotfileService
from backendai.manager.templates import TemplateService
from backendai.storage import accounts as account_store
from backendai.storage.seed import FirstAccounts

TASK = TemplateKind.SESSION
DRAFT = TemplateDraft(name="draft", document={"spec": {}})
NewUser = Callable[..., Awaitable[Principal]]


@pytest.fixture
async def new_user(database: Database, accounts: FirstAccounts) -> NewUser:
    """Makes users of a domain, members of those of its projects that are named."""

    async def make(
        *projects: str, role: str = "user", domain: str = "default", is_admin: bool = False
    ) -> Principal:
        user_id, key = uuid4(), f"AKIA{uuid4().hex[:16].upper()}"
        await database.execute("INSERT INTO domains (name) VALUES ($1) ON CONFLICT DO NOTHING", domain)
        await database.execute(
            "INSERT INTO users (id, username, email, role, domain_name) VALUES ($1, $2, $2, $3, $4)",
            user_id,
            str(user_id),
            role,
            domain,
        )
        await database.execute(
            """
            INSERT INTO keypairs (access_key, secret_key, user_id, is_admin, resource_policy)
            VALUES ($1, 'x', $2, $3, 'default')
            """,
            key,
            user_id,
            is_admin,
        )
        for project in projects:
            await database.execute(
                "INSERT INTO projects (name, domain_name) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                project,
                domain,
            )
            await database.execute(
                """
                INSERT INTO memberships (user_id, project_id)
                SELECT $1, id FROM projects WHERE name = $2 AND domain_name = $3
                """,
                user_id,
                project,
                domain,
            )
        return await principal(database, key)

    return make


async def principal(database: Database, access_key: str) -> Principal:
    found = await account_store.credential(database, access_key)
    assert found is not None
    return found.principal


@pytest.fixture
async def superadmin(database: Database, accounts: FirstAccounts) -> Principal:
    return await principal(database, accounts.admin_access_key)


@pytest.fixture
def templates(database: Database) -> TemplateService:
    return TemplateService(database)


@pytest.fixture
def dotfiles(database: Database) -> DotfileService:
    return DotfileService(database)


async def keep(templates: TemplateService, owner: Principal, project: str) -> UUID:
    return (await templates.create(owner, owner, TASK, [DRAFT], domain=owner.domain_name, project=project))[0]


async def names(templates: TemplateService, owner: Principal, **more: object) -> set[UUID]:
    options = {"everybodys": False, "project_id": None, **more}
    return {each.id for each in await templates.visible(owner, TASK, **options)}  # type: ignore[arg-type]


async def test_templates_are_seen_by_their_project_and_changed_by_their_owner(
    templates: TemplateService, new_user: NewUser, superadmin: Principal
) -> None:
    owner, colleague = await new_user("red", "blue"), await new_user("red")
    stranger = await new_user("green")
    red, blue = await keep(templates, owner, "red"), await keep(templates, owner, "blue")

    assert await names(templates, owner) == {red, blue}
    assert await names(templates, colleague) == {red}
    # What 22.03 does wrong: everybody saw everything.
    assert await names(templates, stranger, everybodys=True) == set()
    assert {red, blue} <= await names(templates, superadmin, everybodys=True)
    assert await names(templates, superadmin) == set()
    found = (await templates.visible(owner, TASK, everybodys=False, project_id=None))[0]
    assert await names(templates, owner, project_id=found.project_id) == {found.id}

    assert (await templates.get(colleague, TASK, red)).project_name == "red"
    with pytest.raises(Forbidden):
        await templates.remove(colleague, TASK, red)
    for nobody, template in ((colleague, blue), (stranger, red)):
        with pytest.raises(ObjectNotFound):
            await templates.get(nobody, TASK, template)
        with pytest.raises(ObjectNotFound):
            await templates.remove(nobody, TASK, template)
    with pytest.raises(ObjectNotFound):
        await templates.get(owner, TemplateKind.CLUSTER, red)

    other = TemplateDraft(name="other", document={"spec": {"changed": True}})
    await templates.replace(owner, owner, TASK, red, other, domain=None, project=None)
    changed = await templates.get(colleague, TASK, red)
    assert (changed.name, changed.project_name, changed.document) == ("other", "red", other.document)
    await templates.replace(owner, owner, TASK, red, other, domain=None, project="blue")
    assert await names(templates, colleague) == set()
    await templates.remove(superadmin, TASK, red)
    assert await names(templates, owner) == {blue}


async def test_where_templates_can_be_kept(
    templates: TemplateService, new_user: NewUser, superadmin: Principal
) -> None:
    owner = await new_user("red")
    domain_admin = await new_user("blue", role="admin", is_admin=True)
    elsewhere = await new_user("far", domain="far")

    async def create(requester: Principal, owner: Principal, domain: str, project: str) -> None:
        await templates.create(requester, owner, TASK, [DRAFT], domain=domain, project=project)

    for requester, acting_as, domain, project in (
        (owner, owner, "default", "blue"),
        (owner, owner, "far", "far"),
        (owner, owner, "default", "nowhere"),
        (domain_admin, owner, "default", "blue"),
        (superadmin, superadmin, "default", "red"),
        (superadmin, domain_admin, "far", "far"),
    ):
        with pytest.raises(InvalidParameters):
            await create(requester, acting_as, domain, project)
    await create(superadmin, domain_admin, "default", "red")
    await create(superadmin, elsewhere, "far", "far")
    foreign = TemplateDraft(name="x", document={}, user_id=superadmin.user_id)
    with pytest.raises(InvalidParameters):
        await templates.create(owner, owner, TASK, [foreign], domain="default", project="red")


async def test_templates_are_not_kept_without_end(templates: TemplateService, new_user: NewUser) -> None:
    owner = await new_user("red")
    many = [DRAFT] * MOST_TEMPLATES
    await templates.create(owner, owner, TASK, many[1:], domain="default", project="red")
    last = await keep(templates, owner, "red")
    with pytest.raises(QuotaExceeded):
        await keep(templates, owner, "red")
    await templates.remove(owner, TASK, last)
    large = TemplateDraft(name="large", document={"x": "y" * (1 << 20)})
    with pytest.raises(QuotaExceeded):
        await templates.create(owner, owner, TASK, [large], domain="default", project="red")


async def test_dotfiles_of_projects_and_domains(
    dotfiles: DotfileService, new_user: NewUser, superadmin: Principal
) -> None:
    user, admin = await new_user("red"), await new_user("blue", role="admin", is_admin=True)
    stranger = await new_user("far", domain="far")
    red = await dotfiles.project(admin, "red", "default", to_change=True)
    assert await dotfiles.project(user, str(red.id), None, to_change=False) == red
    assert await dotfiles.project(superadmin, "red", "default", to_change=True) == red
    for requester, to_change in ((user, True), (stranger, False)):
        with pytest.raises(Forbidden):
            await dotfiles.project(requester, "red", "default", to_change=to_change)
    with pytest.raises(InvalidParameters):
        await dotfiles.project(admin, "red", None, to_change=True)
    with pytest.raises(ObjectNotFound):
        await dotfiles.project(admin, "nowhere", "default", to_change=True)
    with pytest.raises(Forbidden):
        dotfiles.domain(admin, "far")
    with pytest.raises(ObjectNotFound, match="No such"):
        await dotfiles.files(dotfiles.domain(superadmin, "nowhere"))

    file = Dotfile(path=".x", permission="600", data="one")
    for holder in (red, dotfiles.domain(admin, "default"), Holder(HolderKind.KEYPAIR, user.access_key)):
        await dotfiles.add(holder, file)
        assert await dotfiles.file(holder, ".x") == file
        await dotfiles.replace(holder, Dotfile(path=".x", permission="600", data="two"))
        assert [each.data for each in await dotfiles.files(holder)] == ["two"]
        await dotfiles.remove(holder, ".x")
        with pytest.raises(ObjectNotFound):
            await dotfiles.remove(holder, ".x")


async def test_a_bootstrap_script(dotfiles: DotfileService, new_user: NewUser) -> None:
    owner = await new_user()
    assert await dotfiles.bootstrap_script(owner) == ""
    await dotfiles.set_bootstrap_script(owner, "true")
    assert await dotfiles.bootstrap_script(owner) == "true"
    await dotfiles.set_bootstrap_script(owner, "")
    assert await dotfiles.bootstrap_script(owner) == ""
