"""Typed ids. All are strings; `NewType` keeps one kind from being passed for another."""

from typing import NewType

AccountId = NewType("AccountId", str)  # 32 hex digits, as Cloudflare's
AppName = NewType("AppName", str)  # a DNS label: the app's name inside its account
VersionId = NewType("VersionId", str)  # UUID
DeploymentId = NewType("DeploymentId", str)  # UUID
TokenId = NewType("TokenId", str)  # 32 hex digits
SiteId = NewType("SiteId", str)  # IATA code, lower case: "lhr"
NodeId = NewType("NodeId", str)  # "<site>-<n>": "lhr-1"
InstanceId = NewType("InstanceId", str)  # 16 hex digits, derived from (version, node, ordinal)
PlanId = NewType("PlanId", str)  # 32 hex digits, derived from the plan's content
EvaluationId = NewType("EvaluationId", str)  # 32 hex digits
Digest = NewType("Digest", str)  # SHA-256, hex: the address of a blob
