"""The shapes of the REST API that are about people: signing in, sessions, users, API keys. The others: `model.api`."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from shadowmesh.model.api import (
    Answer,
    Email,
    Flag,
    GivenRole,
    KeyName,
    Mailbox,
    NetworkName,
    NetworkWord,
    Permission,
    Request,
    Role,
    Seconds,
    Text,
    described,
)
from shadowmesh.model.userpasswords import scheme_of

MOST_IMPORTED = 1000  # at once


def _known_scheme(text: str) -> str:
    scheme_of(text)
    return text


def _encodable(text: str) -> str:
    """A lone surrogate is no character: JSON can hold one, UTF-8 can't."""
    if re.search("[\ud800-\udfff]", text):
        raise ValueError("is no Unicode text")
    return text


Code = Annotated[str, StringConstraints(min_length=6, max_length=40, pattern=r"^[A-Za-z0-9 -]+$")]
PersonName = Annotated[Text, StringConstraints(max_length=100)]
UserKind = Literal["person", "service"]
UserRole = Literal["admin", "user"]
Password = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_encodable)]


PasswordHash = Annotated[
    str,
    StringConstraints(max_length=400),
    AfterValidator(_known_scheme),
    described(r"^\$(argon2id|2[aby]|scrypt)\$[!-~]+$", "Of argon2id, bcrypt or scrypt, with bounded costs."),
]


# signing in


class Login(Request):
    """`new_password` is required where the old one was given out to be used once. `device_token`: what the last login on this device gave."""

    email: Email
    password: Password
    device_token: Annotated[str, StringConstraints(max_length=200, pattern=r"^[\x21-\x7e]*$")] | None = None
    new_password: Annotated[Password | None, Field(description="Of 10 characters or more.")] = None
    code: Code | None = None  # of the second factor, where there is one
    client_name: KeyName | None = None  # by which the session is known in a list; None: the User-Agent


class Refresh(Request):
    refresh_token: Annotated[str, StringConstraints(max_length=200, pattern=r"^[\x21-\x7e]*$")]


class Session(Answer):
    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - a label of RFC 6750
    expires_in: int
    refresh_token: str
    user: str
    session: str = ""
    device_token: str | None = None  # of a login: shown at the next one, it is tried whatever others tried meanwhile


# the second factor


class PasswordProof(Request):
    password: Password


class CodeProof(Request):
    """A code of the app, or a recovery code."""

    code: Code


class FullProof(PasswordProof, CodeProof):
    pass


class SecondFactor(Answer):
    enabled: bool
    since: datetime | None = None
    recovery_codes_left: int = 0


class SecondFactorSecret(Answer):
    """Shown once: for an app, as base32 and as an otpauth URI."""

    secret: str
    uri: str


class RecoveryCodes(Answer):
    """Shown once; each is good once in place of a code."""

    recovery_codes: list[str]


# sessions


class SessionInfo(Answer):
    """Where someone is signed in. `source` and `client`: from where and with what it began."""

    id: str  # ses_…
    user: str
    created_at: datetime
    expires_at: datetime
    last_used: datetime | None = None
    source: str = ""
    client: str = ""
    current: bool = False  # it is by this one that the list was asked for


# API keys


class ApiKeyCreate(Request):
    name: KeyName | None = None  # None: it goes by its id
    expires_in: Seconds | None = None
    user: Annotated[Text, Field(min_length=1, max_length=400)] | None = None  # a service account; None: oneself
    scopes: Annotated[list[Permission], Field(min_length=1, max_length=50)] | None = None
    networks: Annotated[list[NetworkWord], Field(min_length=1, max_length=100)] | None = None
    read_only: Flag = False


class ApiKey(Answer):
    id: str  # key_…
    name: str
    user: str
    created_at: datetime
    expires_at: datetime | None = None
    last_used: datetime | None = None
    scopes: list[str] | None = None  # None: whatever its owner may do
    networks: list[str] | None = None  # net_…; None: all of its owner's
    read_only: bool = False


class ApiKeyCreated(ApiKey):
    key: str  # sk_…, shown once


class CertificateRequest(Request):
    """`csr`: a certificate signing request, PEM, of a P-256, P-384 or Ed25519 key. What it says of a subject is passed over."""

    csr: Annotated[str, Field(min_length=1, max_length=8192)]


class Certificate(Answer):
    """Signed by the controller's own authority; `certificate` is PEM."""

    certificate: str
    expires_at: datetime


# users


class UserCreate(Request):
    """A `service` is what programs sign in as, by API keys that an administrator makes for it: it has no password."""

    email: Email
    name: PersonName = ""
    admin: Flag = False
    kind: UserKind = "person"


class UserPatch(Request):
    disabled: Flag | None = None
    admin: Flag | None = None
    name: PersonName | None = None


class User(Answer):
    """`last_seen`: by the sessions and API keys that are kept of them, in the list of all users; None: there is none that was used."""

    id: str  # usr_…
    email: str
    name: str = ""
    kind: UserKind = "person"
    admin: bool
    disabled: bool
    second_factor: bool = False
    created_at: datetime
    last_seen: datetime | None = None


class UserDeleted(Answer):
    """What became of what was theirs: `networks` (names) and `clients` (how many) went to `given_to`; the rest, by ids, ended."""

    id: str
    email: str
    given_to: str | None = None
    networks: list[str] = Field(default_factory=list)
    clients: int = 0
    memberships_ended: int = 0
    sessions_ended: list[str] = Field(default_factory=list)
    api_keys_ended: list[str] = Field(default_factory=list)
    invites_ended: list[str] = Field(default_factory=list)
    invitations_ended: list[str] = Field(default_factory=list)
    relay_tokens_ended: list[str] = Field(default_factory=list)
    sinks_ended: list[str] = Field(default_factory=list)


class UserCreated(User):
    password: str | None = None  # to be used once; a service has none


class _RoleInNetwork(Request):
    """`network_role` is the role in `network`."""

    network: NetworkWord | None = None
    network_role: Role | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.network is None) != (self.network_role is None):
            raise ValueError("network and network_role go together")
        return self


class ImportedUser(_RoleInNetwork):
    """Somebody from another system, with the hash of their password there."""

    email: Email
    name: PersonName = ""
    password_hash: PasswordHash
    role: UserRole = "user"


class UserInvite(_RoleInNetwork):
    email: Email
    role: UserRole = "user"
    expires_in: Seconds = 7 * 86400


class UserInvitation(Answer):
    id: str  # uin_…
    email: str
    role: UserRole
    network: str | None = None  # net_…
    network_role: Role | None = None
    created_at: datetime
    created_by: str
    expires_at: datetime


class UserInvitationCreated(UserInvitation):
    """The only answer that has the token; `url` and `fingerprint` are where it is accepted."""

    token: str  # smu_…
    url: str
    fingerprint: str


class SignUp(Request):
    email: Mailbox


class SignUpTaken(Answer):
    """The same whether or not there is a user of this address; a mail says what to do."""

    email: str
    expires_at: datetime  # of what the mail holds


class InvitationAcceptance(Request):
    token: Annotated[str, StringConstraints(max_length=200, pattern=r"^[\x21-\x7e]+$")]
    password: Annotated[Password, Field(description="Of 10 characters or more.")]
    name: PersonName = ""
    client_name: KeyName | None = None


class UserImport(Request):
    users: Annotated[list[ImportedUser], Field(min_length=1, max_length=MOST_IMPORTED)]


class UserImported(Answer):
    users: list[User]


class WhoAmI(Answer):
    name: str
    user: str | None = None
    admin: bool
    controller_urls: list[str]
    version: str
    second_factor_missing: bool = False  # their role asks for one: until it is set up they may do nothing else
    administers: bool = False  # an administrator, by something without limits
    permissions: list[Permission] = Field(default_factory=list)  # in every network; network.create is of none
    read_only: bool = False  # what they showed only reads


# groups, and what people may do


class GroupCreate(Request):
    name: NetworkName
    description: Text = ""


class GroupPatch(Request):
    """What isn't named stays."""

    name: NetworkName | None = None
    description: Text | None = None


class GroupRole(Answer):
    network_id: str
    network_name: str
    role: Role
    permissions: list[Permission] | None = None  # None: the role's


class Group(Answer):
    id: str  # grp_…
    name: str
    description: str = ""
    created_at: datetime
    users: list[str]  # by address
    networks: list[GroupRole]


class PolicyRole(Answer):
    role: Role
    permissions: list[Permission] | None = None


class PolicyDocument(Answer):
    """A user's own roles, by the networks' names; by their ids (net_…) where names are alike.

    `permissions`: what they may do there, whatever role and groups give; null: all that these give.
    """

    user_id: str
    networks: dict[str, PolicyRole]


class PolicyDocumentPut(Request):
    """The whole of it: in networks that it doesn't name the user has no role of their own any more."""

    user_id: Annotated[Text, Field(min_length=1, max_length=400)] | None = None  # if given, the same as in the path
    networks: Annotated[dict[NetworkWord, GivenRole], Field(max_length=1000)]


class AccessSource(Answer):
    """What gives a permission or takes it: being an administrator; a role of one's own; a group, by its role; one's own list of
    permissions (`policy`); that everybody makes networks here (`everybody`); the API key that is shown; being disabled."""

    kind: Literal["administrator", "everybody", "role", "group", "policy", "api_key", "disabled"]
    name: str | None = None  # of the group or the key
    role: Role | None = None


class PermissionExplained(Answer):
    permission: Permission
    allowed: bool
    given_by: list[AccessSource]
    taken_by: list[AccessSource]
    why: str  # one sentence


class AccessExplained(Answer):
    """What somebody may do in a network, and why. To who is no administrator nobody else shows as one, or as disabled."""

    user: str
    user_id: str | None = None
    network_id: str
    network_name: str
    admin: bool
    role: Role | None = None  # the highest that counts
    listed: bool = False  # their own list of permissions decides
    groups: list[str]
    api_key: str | None = None  # by which the question is answered
    permissions: list[PermissionExplained]


# settings of the controller

MfaRole = Literal["admin", "owner", "member", "guest"]


class ControllerSettings(Answer):
    """`mfa_required`: who holds one of these roles needs a second factor; `mfa_required_by_file`: those of them that stand in
    the controller's configuration, and can't be taken out here. `mfa_missing`: the people who have none and need one."""

    mfa_required: list[MfaRole]
    mfa_required_by_file: list[MfaRole]
    mfa_missing: list[str]


class ControllerSettingsPatch(Request):
    """What isn't named stays."""

    mfa_required: Annotated[list[MfaRole], Field(max_length=50)] | None = None
