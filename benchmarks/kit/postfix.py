"""main.cf of a Postfix that is as fast as it can be, for whatever stands beside it."""

from __future__ import annotations

POSTFIX_MAIN = """\
compatibility_level = 3.10
myhostname = {name}
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
mynetworks =
inet_protocols = all
relay_domains = example.com
relay_transport = {transport}
message_size_limit = 0
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
# One client has all the sessions of the benchmark, and brakes would be measured instead of the way.
smtpd_client_connection_count_limit = 0
default_process_limit = 200
in_flow_delay = 0
"""
"""main.cf; `name` of the host, `transport` for example.com."""
