"""The part of the REST API that is about people: signing in, sessions, users, API keys."""

from __future__ import annotations

from fastapi import Request

from shadowmesh import __version__
from shadowmesh.controller.authz import held_everywhere
from shadowmesh.controller.edge.access import At, IdempotencyKey, source, user_agent
from shadowmesh.controller.edge.needs import Administrator, Anyone, Enrolling, SignedIn
from shadowmesh.controller.edge.routing import Name, UserName, UserQuery, router
from shadowmesh.controller.service.idempotency import IdempotentRequest
from shadowmesh.model import accounts, api

# signing in


@router.post("/auth/login", tags=["auth"], dependencies=[Anyone])
async def login(at: At, request: Request, wish: accounts.Login) -> accounts.Session:
    return await at.signing_in.login(wish, source(request), user_agent(request))


@router.post("/auth/signup", tags=["auth"], status_code=202, dependencies=[Anyone])
async def sign_up(at: At, request: Request, wish: accounts.SignUp) -> accounts.SignUpTaken:
    """A mail with an invitation is on its way, where this controller takes sign-ups (`controller.mode: cloud`)."""
    return await at.signing_up.ask(wish, source(request))


@router.post("/auth/accept-invitation", tags=["auth"], dependencies=[Anyone])
async def accept_invitation(at: At, request: Request, wish: accounts.InvitationAcceptance) -> accounts.Session:
    """A new user with a password of their own, signed in."""
    return await at.user_invitations.accept(wish, source(request), user_agent(request))


@router.post("/auth/refresh", tags=["auth"], dependencies=[Anyone])
async def refresh(at: At, wish: accounts.Refresh) -> accounts.Session:
    return await at.sessions.refresh(wish.refresh_token)


@router.post("/auth/logout", tags=["auth"], status_code=204, dependencies=[Anyone])
async def logout(at: At, wish: accounts.Refresh) -> None:
    await at.sessions.logout(wish.refresh_token)


@router.get("/whoami", tags=["auth"])
async def whoami(at: At, who: Enrolling) -> accounts.WhoAmI:
    urls = list(at.context.settings.public_urls)
    return accounts.WhoAmI(
        name=who.name,
        user=who.user_id,
        admin=who.admin,
        controller_urls=urls,
        version=__version__,
        second_factor_missing=who.enrolling,
        administers=who.administers and not who.enrolling,
        permissions=held_everywhere(who),
        read_only=who.read_only,
    )


@router.get("/auth/mfa", tags=["auth"])
async def show_second_factor(at: At, who: Enrolling) -> accounts.SecondFactor:
    return await at.second_factors.show(who)


@router.post("/auth/mfa/enrol", tags=["auth"])
async def enrol_second_factor(
    at: At, who: Enrolling, request: Request, wish: accounts.PasswordProof
) -> accounts.SecondFactorSecret:
    """A secret for an authenticator app; nothing is asked for until `confirm`."""
    return await at.second_factors.enrol(who, wish, source(request))


@router.post("/auth/mfa/confirm", tags=["auth"])
async def confirm_second_factor(at: At, who: Enrolling, wish: accounts.CodeProof) -> accounts.RecoveryCodes:
    """By a code of the new secret. Ends all other sessions of this user."""
    return await at.second_factors.confirm(who, wish)


@router.post("/auth/mfa/recovery-codes", tags=["auth"])
async def renew_recovery_codes(at: At, who: Enrolling, wish: accounts.CodeProof) -> accounts.RecoveryCodes:
    return await at.second_factors.renew_recovery_codes(who, wish)


@router.post("/auth/mfa/disable", tags=["auth"], status_code=204)
async def disable_second_factor(at: At, who: Enrolling, request: Request, wish: accounts.FullProof) -> None:
    await at.second_factors.disable(who, wish, source(request))


@router.delete("/users/{user:path}/mfa", tags=["people"], status_code=204)
async def reset_second_factor(at: At, who: Administrator, user: UserName) -> None:
    """For somebody who lost theirs."""
    await at.second_factors.reset(who, user)


@router.get("/sessions", tags=["auth"])
async def list_sessions(at: At, who: SignedIn, user: UserQuery = None) -> api.Page[accounts.SessionInfo]:
    """One's own, or for an administrator a user's."""
    return api.Page(items=list(await at.sessions.list(who, user)))


@router.delete("/sessions/{session}", tags=["auth"], status_code=204)
async def end_session(at: At, who: SignedIn, session: Name) -> None:
    await at.sessions.end(who, session)


# people


@router.post("/api-keys", tags=["people"], status_code=201)
async def create_api_key(
    at: At, who: SignedIn, wish: accounts.ApiKeyCreate, key: IdempotencyKey = None
) -> accounts.ApiKeyCreated:
    return await at.api_keys.create(who, wish, IdempotentRequest.of(key, "api keys", wish))


@router.get("/api-keys", tags=["people"])
async def list_api_keys(at: At, who: SignedIn) -> api.Page[accounts.ApiKey]:
    return api.Page(items=list(await at.api_keys.list(who)))


@router.post("/api-keys/{key}/certificate", tags=["people"], status_code=201)
async def certify_api_key(at: At, who: SignedIn, key: Name, wish: accounts.CertificateRequest) -> accounts.Certificate:
    """A certificate for TLS, by which its holder signs in as by the key, and renews it."""
    return await at.api_keys.certificate(who, key, wish)


@router.delete("/api-keys/{key}", tags=["people"], status_code=204)
async def revoke_api_key(at: At, who: SignedIn, key: Name) -> None:
    await at.api_keys.revoke(who, key)


@router.post("/users", tags=["people"], status_code=201)
async def create_user(at: At, who: Administrator, wish: accounts.UserCreate) -> accounts.UserCreated:
    return await at.users.create(who, wish)


@router.post("/users/invitations", tags=["people"], status_code=201)
async def invite_user(at: At, who: Administrator, wish: accounts.UserInvite) -> accounts.UserInvitationCreated:
    return await at.user_invitations.create(who, wish)


@router.get("/users/invitations", tags=["people"])
async def list_user_invitations(at: At, who: Administrator) -> api.Page[accounts.UserInvitation]:
    """Those that can be accepted."""
    return api.Page(items=list(await at.user_invitations.list(who)))


@router.delete("/users/invitations/{invitation}", tags=["people"], status_code=204)
async def revoke_user_invitation(at: At, who: Administrator, invitation: Name) -> None:
    await at.user_invitations.revoke(who, invitation)


@router.post("/users/import", tags=["people"], status_code=201)
async def import_users(at: At, who: Administrator, wish: accounts.UserImport) -> accounts.UserImported:
    """All of them or none; `errors` has a line for each that can't be taken."""
    return await at.user_import.run(who, wish)


@router.get("/users", tags=["people"])
async def list_users(at: At, who: Administrator) -> api.Page[accounts.User]:
    return api.Page(items=list(await at.users.list(who)))


@router.patch("/users/{user:path}", tags=["people"])
async def set_user(at: At, who: Administrator, user: UserName, wish: accounts.UserPatch) -> accounts.User:
    return await at.users.set(who, user, wish)


@router.delete("/users/{user:path}", tags=["people"])
async def delete_user(at: At, who: Administrator, user: UserName, give_to: UserQuery = None) -> accounts.UserDeleted:
    """Their networks and machines are given to somebody (`give_to`), or there are none; all else of them ends. What the audit
    log has of them stays."""
    return await at.user_deletion.delete(who, user, give_to)


@router.post("/users/{user:path}/reset-password", tags=["people"])
async def reset_password(at: At, who: Administrator, user: UserName) -> accounts.UserCreated:
    return await at.users.reset_password(who, user)
