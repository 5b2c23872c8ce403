"""What this dialect is made of: the one object that a composition hands to `make_app`."""

from typing import final

from skerry.kit.record import Record
from skerry.services.accounts import Accounts
from skerry.services.intents.apps import Apps
from skerry.services.intents.assets import AssetSessions

# wrangler up to 4.86 prints `https://<app>.<subdomain>.workers.dev` whatever it is told. With this at the end of the
# subdomain what it prints leads to the app's own address: what follows a # stays in the browser.
FRAGMENT = "/#"


class Addresses(Record):
    """Where apps answer: `http://<app>.<account name>.<suffix>:<port>`."""

    suffix: str = "localhost"
    port: int = 8080
    scheme: str = "http"

    def authority(self, account_name: str) -> str:
        """What follows the app's name and a dot: host and, unless it is the scheme's own, port."""
        default = 443 if self.scheme == "https" else 80
        return f"{account_name}.{self.suffix}" + ("" if self.port == default else f":{self.port}")

    def url(self, app: str, account_name: str) -> str:
        return f"{self.scheme}://{app}.{self.authority(account_name)}"

    def subdomain(self, account_name: str) -> str:
        return self.authority(account_name) + FRAGMENT


@final
class UseCases:
    def __init__(self, *, accounts: Accounts, apps: Apps, assets: AssetSessions, addresses: Addresses) -> None:
        self.accounts = accounts
        self.apps = apps
        self.assets = assets
        self.addresses = addresses
