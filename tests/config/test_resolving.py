"""A setting has one name and one meaning, wherever it is said; what is wrong is said with its line, all at once."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from specified import API_KEY, CLIENT, CONTROLLER, JWT, LEGACY

from shadowmesh.config.coercion import duration, stun_server
from shadowmesh.config.resolving import Flag, Given
from shadowmesh.config.roles import (
    ROLES,
    not_here,
    require_secrets,
    resolve_client,
    resolve_controller,
    resolve_relay,
    resolve_role,
    whose,
)
from shadowmesh.config.roles import example as example_of
from shadowmesh.config.setting import settings_of
from shadowmesh.model.errors import Kind, ShadowMeshError


def written(tmp_path: Path, text: str, name: str = "controller-config.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    path.chmod(0o600)
    return path


def given(environment: dict[str, str] | None = None, **more: Any) -> Given:
    return Given(environment=environment or {}, **more)


def wrong(tmp_path: Path, text: str, role: str = "controller", environment: dict[str, str] | None = None) -> list[str]:
    """What is wrong, without the file's name."""
    path = written(tmp_path, text)
    with pytest.raises(ShadowMeshError) as caught:
        resolve_role(ROLES[role], path, given(environment))
    error = caught.value
    assert (error.code, error.kind) == ("bad_config", Kind.USAGE)
    return [line.replace(f"{path}", "") for line in error.details]


def test_the_specified_controller_file_is_taken_as_it_is(tmp_path: Path) -> None:
    found = resolve_controller(written(tmp_path, CONTROLLER), given({"SHADOWMESH_DATABASE_PASSWORD": "s3cret"}))
    config = found.config
    assert config.controller.listen_address == "0.0.0.0:8443"
    assert config.controller.tls.cert_file == Path("/etc/shadowmesh/certs/tls.crt")
    assert config.database_url == "postgresql://shadowmesh@localhost:5432/shadowmesh_controller"
    assert config.database.password is not None and config.database.password.reveal() == b"s3cret"
    assert config.authentication.session_timeout == 86400.0
    assert config.authentication.jwt_secret is None, "the controller has a key of its own"
    assert config.networks.max_per_user == 10
    assert (config.relay.enabled, config.relay.fallback_relay) == (False, "ws://relay.shadowmesh.io:9545")
    assert config.p2p.stun_servers == ("stun:stun.l.google.com:19302", "stun:stun1.l.google.com:19302")
    require_secrets(found)


@pytest.mark.parametrize(
    ("text", "method"),
    [(CLIENT, "api_key"), (CLIENT.replace('  api_key: "sk_prod_abc123..."\n', "") + JWT, "jwt"),
     (CLIENT.replace('  api_key: "sk_prod_abc123..."\n', "") + API_KEY, "api_key")],
)  # fmt: skip
def test_the_specified_client_files_are_taken_as_they_are(tmp_path: Path, text: str, method: str) -> None:
    config = resolve_client(written(tmp_path, text, "client-config.yaml"), given()).config
    assert config.controller.enabled and config.controller.url == "https://controller.shadowmesh.io"
    assert (config.controller.network_id, config.authentication.method) == ("net_xyz789", method)


def test_what_this_version_cant_do_is_said_and_not_passed_over(tmp_path: Path) -> None:
    (line,) = wrong(tmp_path, LEGACY, "client")
    assert line.startswith(":3: relay.enabled: this version needs a controller")
    (line,) = wrong(tmp_path, "authentication: {method: ldap}")
    assert line.startswith(":1: authentication.method: ") and "local" in line


def test_sign_up_goes_with_the_mode_and_a_mail_server(tmp_path: Path) -> None:
    def remark(text: str) -> str:
        (found,) = map(str, resolve_controller(written(tmp_path, text), given()).remarks)
        return found

    cloud = "controller: {mode: cloud}\n"
    assert "nobody can sign up without a mail server" in remark(cloud)
    assert "it has no effect in mode local" in remark("sign_up: {plan: free}\n")
    whole = (
        cloud
        + "sign_up: {smtp_url: 'smtps://u:p@mail.example.org', sender: A <a@example.org>, domains: [Example.org]}\n"
    )
    found = resolve_controller(written(tmp_path, whole), given())
    assert not found.remarks and found.config.sign_up.domains == ("example.org",)
    (line,) = wrong(tmp_path, cloud + "sign_up: {smtp_url: 'smtps://mail.example.org'}")
    assert "a mail needs a sender" in line
    (line,) = wrong(tmp_path, cloud + "sign_up: {sender: nobody}")
    assert "NAME@HOST" in line


def test_arguments_stand_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "networks: {max_per_user: 1}\nlogging: {level: warning}\n")
    environment = {"SHADOWMESH_NETWORKS_MAX_PER_USER": "2", "SHADOWMESH_LOGGING_LEVEL": "error"}
    found = resolve_controller(path, given(environment, flags={"logging.level": Flag("debug", "--log-level")}))
    assert (found.config.networks.max_per_user, found.config.logging.level) == (2, "debug")
    assert found.origins["networks.max_per_user"].where == "SHADOWMESH_NETWORKS_MAX_PER_USER"
    assert found.origins["logging.level"].where == "--log-level"
    found = resolve_controller(path, given())
    assert found.origins["networks.max_per_user"].where == f"{path}:1"
    assert found.origins["logging.level"].where == f"{path}:2"
    assert found.origins["relay.enabled"].kind == "default"


@pytest.mark.parametrize("role", ROLES)
def test_every_key_can_be_said_in_the_environment(role: str, tmp_path: Path) -> None:
    """By the example's value: as text it means what it means in the file."""
    environment: dict[str, str] = {}
    names = [s.environment for s in settings_of(ROLES[role].configuration).values()]
    assert len(names) == len(set(names))
    for setting in settings_of(ROLES[role].configuration).values():
        value = setting.says.example if setting.says.example is not None else setting.default
        if setting.secret or value is None or isinstance(value, float) or value in ("", ()):
            continue
        environment[setting.environment] = ",".join(value) if isinstance(value, list) else str(value)
    skipped = {"client": ("REFRESH_URL", "CERT_FILE", "KEY_FILE")}.get(role, ())
    environment = {k: v for k, v in environment.items() if not k.endswith(skipped or ("\0",))}
    found = resolve_role(ROLES[role], None, given(environment))
    assert {o.where for o in found.origins.values() if o.kind == "environment"} == set(environment)


def test_unknown_keys_name_the_nearest_known_one_and_their_line(tmp_path: Path) -> None:
    text = """\
controler: {mode: local}
controller:
  listen_adress: "0.0.0.0:1"
  tls: {cert: x}
cert_file: /x
database: {hosts: a}
p2p: {zzz: 1}
"""
    assert wrong(tmp_path, text) == [
        ":1: there is no key 'controler'; did you mean controller?",
        ":3: there is no key 'controller.listen_adress'; did you mean controller.listen_address?",
        ":4: there is no key 'controller.tls.cert'; did you mean controller.tls.cert_file?",
        ":5: there is no key 'cert_file'; did you mean controller.tls.cert_file?",
        ":6: there is no key 'database.hosts'; did you mean database.host?",
        ":7: there is no key 'p2p.zzz'; the nearest is p2p.enabled; `shadowmesh config example ROLE` has them all",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\n", ":2: it is not YAML"),
        ("- a\n", ":1: it is no mapping"),
        ("controller: 5\n", ":1: controller is a section"),
        ("logging:\n  level: info\n  level: debug\n", ":3: logging.level stands here again, after line 2"),
        ("networks: {max_per_user: ten}", ":1: networks.max_per_user: 'ten' is not a whole number"),
        ("networks: {max_per_user: -1}", ":1: networks.max_per_user: -1 is not between"),
        ("networks: {default_subnet: 10.0.0.0/25}", "prefix of /25"),
        ("networks: {default_subnet: 10.0.0.1/16}", "not an IPv4 subnet"),
        ("authentication: {session_timeout: 24}", "'24' is not a duration: write it as 90s, 30m, 24h or 7d"),
        ("authentication: {session_timeout: [24h]}", "one value, not a list"),
        ("controller: {mode: Local}", "'Local' is none of local, cloud; did you mean 'local'?"),
        ("controller: {listen_address: '0.0.0.0:65535'}", "the port after 65535 is needed"),
        ("controller: {public_urls: [http://x]}", "not https://HOST:PORT"),
        ("controller: {tls: {cert_file: /x}}", "a certificate and its key go together"),
        ("relay: {fallback_relay: 'https://x'}", "neither ws://"),
        ("webhooks: {networks: ['10.20.0.1/16']}", "is not a network as 10.20.0.0/16"),
        ("p2p: {stun_servers: ['turn:x:3478']}", "only STUN over UDP"),
        ("p2p: {enabled: maybe}", "neither true nor false"),
        ("database: {port: 5433}", "it has no effect without database.host"),
        ("database: {host: a, url: 'postgresql://b/c'}", "it has no effect beside database.url"),
        ("database: {host: a, password: x, password_file: y}", "stand both here"),
        ("database: {host: a, password: ''}", "database.password is empty"),
        ("logging: {retention_days: 0}", "0 is not between 1 and 3660"),
    ],
)
def test_what_cant_be_meant_is_refused_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    (line,) = wrong(tmp_path, text)
    assert expected in line, line


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    lines = wrong(tmp_path, "logging: {level: loud}\nnetworks: {max_per_user: x}\nzzz: 1\n")
    assert [line[:3] for line in lines] == [":1:", ":2:", ":3:"]


def test_text_is_taken_as_it_is_written(tmp_path: Path) -> None:
    found = resolve_controller(written(tmp_path, "database: {host: a, name: 007, password: 0123}"), given())
    assert found.config.database.name == "007"
    assert found.config.database.password is not None and found.config.database.password.reveal() == b"0123"


# secrets


def secret(tmp_path: Path, value: str, environment: dict[str, str] | None = None) -> tuple[bytes | None, str]:
    """The database's password, and where it came from."""
    found = resolve_controller(written(tmp_path, f"database:\n  host: a\n  {value}\n"), given(environment))
    password = found.config.database.password
    return None if password is None else password.reveal(), found.origins["database.password"].where


def test_a_secret_comes_from_wherever_it_is_kept(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("from file\n")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "database.password").write_text("from systemd\n")
    name, file = "SHADOWMESH_DATABASE_PASSWORD", str(tmp_path / "pw")
    elsewhere = "password: FROM_ENV_OR_SECRET"
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    assert secret(tmp_path, elsewhere, {name: "from env"}) == (b"from env", name)
    assert secret(tmp_path, elsewhere, {name + "_FILE": file}) == (b"from file", f"{name}_FILE={file}")
    assert secret(tmp_path, elsewhere, credentials) == (b"from systemd", "credential database.password")
    assert secret(tmp_path, "password_file: pw")[0] == b"from file", "beside the configuration file"
    assert secret(tmp_path, f"password: '@{file}'")[0] == b"from file"
    assert secret(tmp_path, "password: ${DB_PW}", {"DB_PW": "named"})[0] == b"named"
    assert secret(tmp_path, "password: literal")[0] == b"literal"
    assert secret(tmp_path, "password: literal", {name: "from env"})[0] == b"from env"


@pytest.mark.parametrize(
    ("value", "looked"),
    [
        ("password: FROM_ENV_OR_SECRET", "SHADOWMESH_DATABASE_PASSWORD"),
        ("password: ${DB_PW}", "DB_PW"),
        ("password_file: /nonexistent/pw", "/nonexistent/pw"),
    ],
)
def test_a_secret_that_isnt_there_is_missed_at_the_start_and_remarked_on_by_the_check(
    tmp_path: Path, value: str, looked: str
) -> None:
    found = resolve_controller(written(tmp_path, f"database:\n  host: a\n  {value}\n"), given())
    with pytest.raises(ShadowMeshError) as caught:
        require_secrets(found)
    assert caught.value.code == "secret_missing" and looked in caught.value.what
    (remark,) = map(str, not_here(found, ROLES["controller"]))
    assert looked in remark


def test_a_secret_in_a_file_that_others_read_is_remarked_on(tmp_path: Path) -> None:
    path = written(tmp_path, "database: {host: a, password: literal}")
    assert not resolve_controller(path, given()).remarks
    path.chmod(0o644)
    (remark,) = map(str, resolve_controller(path, given()).remarks)
    assert "others can read" in remark and "literal" not in remark


def test_secrets_are_in_no_message_and_no_representation(tmp_path: Path) -> None:
    found = resolve_controller(written(tmp_path, "database: {host: a, password: hunter2hunter2}"), given())
    assert "hunter2" not in repr(found.config) and "hunter2" not in repr(found.values)


def test_a_mistyped_name_in_the_environment_is_remarked_on(tmp_path: Path) -> None:
    names = {"SHADOWMESH_NETWORKS_MAX_PER_USR": "3", "SHADOWMESH_RELAY_SERVER": "of the client", "SHADOWMESH_PUMP": "x"}
    (remark,) = map(str, resolve_controller(None, given(names)).remarks)
    assert remark.startswith("SHADOWMESH_NETWORKS_MAX_PER_USR") and "SHADOWMESH_NETWORKS_MAX_PER_USER" in remark


# what a client needs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("controller: {enabled: true}", "controller.url is missing"),
        ("controller: {url: 'https://x', network_id: net_x}", "no effect while controller.enabled is not true"),
        ("controller: {enabled: true, url: 'https://x', network_id: n}", "controller.api_key is missing"),
        ("controller: {enabled: true, url: 'https://x', network_id: n, api_key: a}\nauthentication: {api_key: b}",
         "controller.api_key says the same"),
        ("authentication: {refresh_url: 'https://x'}", "unless authentication.method is jwt"),
        ("authentication: {cert_file: a}", "unless authentication.method is mtls"),
        ("controller: {fingerprint: 'sha256:12'}", "not sha256: and 64 hex digits"),
        ("relay: {enabled: true}\ncontroller: {enabled: true, url: 'https://x', network_id: n, api_key: a}",
         "a relay without a controller goes only with controller.enabled: false"),
    ],
)  # fmt: skip
def test_a_client_that_couldnt_enrol_is_told_what_is_missing(tmp_path: Path, text: str, expected: str) -> None:
    lines = wrong(tmp_path, text, "client")
    assert any(expected in line for line in lines), lines


def test_a_client_file_that_is_switched_off_is_good(tmp_path: Path) -> None:
    resolve_client(written(tmp_path, CLIENT.replace("true", "false")), given())


def test_a_relay_needs_its_public_url(tmp_path: Path) -> None:
    (line,) = wrong(tmp_path, "relay: {region: eu}", "relay")
    assert "relay.public_url: it is missing" in line
    assert resolve_relay(written(tmp_path, "relay: {public_url: 'ws://x:9545'}"), given()).config.relay.udp


# examples


@pytest.mark.parametrize("role", ROLES)
def test_the_example_is_complete_and_good(tmp_path: Path, role: str) -> None:
    text = example_of(ROLES[role])
    resolve_role(ROLES[role], written(tmp_path, text), given())
    for setting in settings_of(ROLES[role].configuration).values():
        assert f"{setting.name}:" in text and setting.environment in text and setting.says.text in text
    names = [line.strip().lstrip("#").partition(":")[0] for line in text.splitlines() if ":" in line]
    assert all(names.count(s.name) >= 1 for s in settings_of(ROLES[role].configuration).values())


@pytest.mark.parametrize("role", ROLES)
def test_each_line_of_the_example_may_be_switched_on(tmp_path: Path, role: str) -> None:
    """A line that is commented out is the setting where it belongs: alone it may want another one, unknown it is never."""
    lines = example_of(ROLES[role]).splitlines()
    every = "\n".join(
        line.replace("#", "", 1) if line.lstrip().startswith("#") and not line.lstrip().startswith("# ") else line
        for line in lines
    )
    try:
        resolve_role(ROLES[role], written(tmp_path, every), given())
    except ShadowMeshError as error:
        assert not [line for line in error.details if "no key" in line or "not YAML" in line or "is not" in line], (
            error.details
        )


@pytest.mark.parametrize("role", ROLES)
def test_a_files_role_is_told_by_its_keys(tmp_path: Path, role: str) -> None:
    assert whose(written(tmp_path, example_of(ROLES[role]), "some.yaml")).name == role
    assert whose(written(tmp_path, "", ROLES[role].file_name)).name == role


def test_aliases_that_stand_for_each_other_are_looked_into_once(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    text = "a: &a {p: 1}\n" + "".join(f"{b}: &{b} {{p: *{a}, q: *{a}}}\n" for a, b in pairwise(letters))  # 2²⁵ paths
    for odd in (text, "a: &a\n  b: *a\n"):
        assert whose(written(tmp_path, f"{odd}relay:\n  region: eu\n", "some.yaml")).name == "relay"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("24h", 86400), ("7d", 604800), ("2w", 1209600)]
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "0h", "-1h", "1.5h", "24 hours", "1_0s", "٣s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("stun:stun.example.org", "stun:stun.example.org:3478"),
        ("stun:stun.example.org:19302", "stun:stun.example.org:19302"),
        ("stun.example.org:3478", "stun:stun.example.org:3478"),
        ("192.0.2.1", "stun:192.0.2.1:3478"),
        ("stun:[2001:db8::1]:5349", "stun:[2001:db8::1]:5349"),
    ],
)
def test_stun_servers_have_one_form(text: str, normal: str) -> None:
    assert stun_server(text) == normal


@pytest.mark.parametrize(
    "text", ["stuns:x:1", "turn:x", "stun:", "stun:x:0", "stun:x:99999", "stun:a@b:1", "stun:x/y", "stun:x:1?t=udp"]
)
def test_what_is_no_stun_server_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="stun"):
        stun_server(text)
