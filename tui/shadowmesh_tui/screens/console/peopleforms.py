"""The windows in which people are added, given roles, and API keys are made; and what is shown once of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model import accounts, api
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh_tui.console.forms import Field, Value
from shadowmesh_tui.screens.console.formwindow import FormWindow
from shadowmesh_tui.view import View

_DAY = 86400
_HOW = (
    ("invite", "an invitation"),
    ("password", "a one-time password"),
    ("service", "API keys (a service)"),
)
_ROLES = (("user", "user"), ("admin", "administrator of all"))
_IN_NETWORK = (("owner", "owner"), ("member", "member"), ("guest", "guest"))
_ENDS = (("30", "in 30 days"), ("7", "in 7 days"), ("90", "in 90 days"), ("365", "in a year"), ("", "never"))
_NONE = ""


Secret = list[str]  # a title, what is shown once, and what is to be said of it


def add_person(view: View, networks: Iterable[api.Network]) -> FormWindow[Secret]:
    fields = (
        Field("email", "E-mail address"),
        Field("name", "Name", hint="what they are called"),
        Field("how", "They get", "choice"),
        Field("role", "Role", "choice", hint="of the whole controller"),
        Field("network", "In a network", "choice"),
        Field("network_role", "Role there", "choice"),
    )
    options = {
        "how": _HOW,
        "role": _ROLES,
        "network": [(_NONE, "none"), *((n.network_id, n.name) for n in networks)],
        "network_role": _IN_NETWORK,
    }
    values: dict[str, Value] = {
        "email": "", "name": "", "how": "invite", "role": "user", "network": _NONE, "network_role": "member",
    }  # fmt: skip
    return FormWindow(
        view, "add a person", fields, values, _added, options=options, button="Add", shown=_shown_of_person
    )


def _shown_of_person(values: Mapping[str, Value]) -> set[str]:
    shown = {"email", "how"}
    shown |= {"role", "network"} if values["how"] == "invite" else {"name"}
    shown |= {"role"} if values["how"] == "password" else set()
    return shown | ({"network_role"} if "network" in shown and values["network"] else set())


def _added(values: dict[str, Value]) -> Callable[[ControllerClient], Secret]:
    if values["how"] == "invite":
        more = {"network": values["network"], "network_role": values["network_role"]} if values["network"] else {}
        invite = accounts.UserInvite.model_validate({"email": values["email"], "role": values["role"]} | more)
        return lambda client: invited(client.user_invite(invite))
    service = values["how"] == "service"
    wish = accounts.UserCreate.model_validate(
        {
            "email": values["email"],
            "name": values["name"],
            "admin": not service and values["role"] == "admin",
            "kind": "service" if service else "person",
        }
    )
    return lambda client: with_password(client.user_create(wish))


def invited(made: accounts.UserInvitationCreated) -> Secret:
    command = f"shadowmesh login {made.url} --fingerprint {made.fingerprint} --accept-invitation {made.token}"
    until = f"{made.expires_at.astimezone():%Y-%m-%d %H:%M}"
    words = f"Hand it over: nothing was sent. It is shown here alone, and good once, until {until}."
    return [f"invitation for {made.email}", command, words]


def with_password(made: accounts.UserCreated) -> Secret:
    if made.password is None:
        return [f"{made.email} is added", "", "A service has no password: make an API key for it."]
    words = "To be used once: at the first sign-in a new one is asked for. It is shown here alone."
    return [f"password of {made.email}", made.password, words]


def give_role(view: View, network: api.Network, member: api.NetworkMember | None) -> FormWindow[api.NetworkMember]:
    """A new one, or another one of a member."""
    fields = [] if member is not None else [Field("email", "E-mail address")]
    fields.append(Field("role", "Role", "choice"))
    email = "" if member is None else member.email
    values: dict[str, Value] = {"email": email, "role": "member" if member is None else member.role}
    words = (
        f"A role in {network.name}. Owners let machines in and configure it, members bring machines, guests look at it."
    )
    if member is not None and member.permissions is not None:
        words += " Their own list of permissions ends."

    def wish(typed: dict[str, Value]) -> Callable[[ControllerClient], api.NetworkMember]:
        put = api.MemberPut.model_validate({"email": email or typed["email"], "role": typed["role"]})
        return lambda client: client.member_set(network.network_id, put)

    title = "give a role" if member is None else f"role of {email}"
    return FormWindow(view, title, fields, values, wish, options={"role": _IN_NETWORK}, words=words, button="Give")


def delete_user(view: View, email: str, others: Iterable[str]) -> FormWindow[accounts.UserDeleted]:
    """`others`: addresses of people who may be given what is theirs."""
    fields = (Field("give_to", "Give to", "choice", hint="their networks and machines"),)
    options = {"give_to": [(_NONE, "nobody: they have none"), *((o, o) for o in others)]}
    words = (
        f"{email} is deleted for good: sessions, API keys, roles, open invites and invitations end at once. Who has networks or machines is deleted only if "
        "somebody gets them. The audit log keeps what they did."
    )

    def wish(typed: dict[str, Value]) -> Callable[[ControllerClient], accounts.UserDeleted]:
        give_to = str(typed["give_to"]) or None
        return lambda client: client.user_delete(email, give_to)

    values: dict[str, Value] = {"give_to": _NONE}
    return FormWindow(view, "delete a user", fields, values, wish, options=options, words=words, button="Delete")


def make_key(
    view: View, who: accounts.WhoAmI, networks: Iterable[api.Network], services: Iterable[str]
) -> FormWindow[Secret]:
    """`services`: addresses of service accounts for which one may be made."""
    others = list(services)
    fields = [Field("name", "Name", hint="what it is for")]
    fields += [Field("user", "Whose", "choice", hint="one's own, or a service's")] if others else []
    fields += [
        Field("expires", "Ends", "choice"),
        Field("network", "In a network", "choice"),
        Field("scopes", "Only for", hint="permissions; empty: all"),
        Field("read_only", "Only to read", "flag"),
    ]
    mine = who.user is not None or not others
    options = {
        "user": [(_NONE, "mine" if who.user is not None else "the first administrator's"), *((o, o) for o in others)],
        "expires": _ENDS,
        "network": [(_NONE, "all of theirs"), *((n.network_id, n.name) for n in networks)],
    }
    values: dict[str, Value] = {
        "name": "", "user": _NONE if mine else others[0], "expires": "30", "network": _NONE, "scopes": "", "read_only": False,
    }  # fmt: skip
    return FormWindow(view, "make an API key", fields, values, _key_made, options=options, button="Make")


def _key_made(values: dict[str, Value]) -> Callable[[ControllerClient], Secret]:
    known = {p.value for p in api.Permission}
    scopes = str(values["scopes"]).replace(",", " ").split()
    strange = [scope for scope in scopes if scope not in known]
    if strange:
        what = f"there is no permission {strange[0]}"
        raise ShadowMeshError("bad_option", what, f"there are {', '.join(sorted(known))}", kind=Kind.USAGE)
    wish = accounts.ApiKeyCreate.model_validate(
        {
            "name": values["name"] or None,
            "user": values.get("user") or None,
            "expires_in": int(str(values["expires"])) * _DAY if values["expires"] else None,
            "networks": [values["network"]] if values["network"] else None,
            "scopes": scopes or None,
            "read_only": values["read_only"],
        }
    )

    def make(client: ControllerClient) -> Secret:
        made = client.api_key_create(wish)
        ends = "never ends" if made.expires_at is None else f"ends on {made.expires_at.astimezone():%Y-%m-%d}"
        words = f"Of {made.user}; it {ends}. It is shown here alone: keep it now."
        return [f"API key {made.name or made.id}", made.key, words]

    return make
