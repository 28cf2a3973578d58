"""The configuration files of the specification, as they are written there."""

CONTROLLER = """\
controller:
  mode: "local"  # or "cloud"
  listen_address: "0.0.0.0:8443"
  tls:
    cert_file: "/etc/shadowmesh/certs/tls.crt"
    key_file: "/etc/shadowmesh/certs/tls.key"

database:
  host: "localhost"
  port: 5432
  name: "shadowmesh_controller"
  user: "shadowmesh"
  password: "FROM_ENV_OR_SECRET"

authentication:
  method: "local"  # or "oauth2", "ldap", "saml"
  session_timeout: "24h"
  jwt_secret: "FROM_ENV_OR_SECRET"

networks:
  max_per_user: 10
  default_subnet: "10.100.0.0/16"

relay:
  enabled: false  # Local controller doesn't need cloud relay
  fallback_relay: "ws://relay.shadowmesh.io:9545"  # Optional public fallback

p2p:
  enabled: true
  stun_servers:
    - "stun:stun.l.google.com:19302"
    - "stun:stun1.l.google.com:19302"

logging:
  level: "info"
  retention_days: 90
"""

CLIENT = """\
controller:
  enabled: true
  url: "https://controller.shadowmesh.io"
  api_key: "sk_prod_abc123..."
  network_id: "net_xyz789"
"""

JWT = """\
authentication:
  method: "jwt"
  jwt_token: "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9..."
  refresh_url: "https://controller.shadowmesh.io/api/v1/auth/refresh"
"""

API_KEY = """\
authentication:
  method: "api_key"  # or "jwt", "mtls"
  api_key: "sk_prod_abc123..."
"""

LEGACY = """\
# Legacy relay mode (no controller)
relay:
  enabled: true
  server: "ws://94.237.121.21:9545"

controller:
  enabled: false
"""
